"""The options of training and of testing, as a configuration, a checkpoint and Python have them."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from flowpipe.errors import InvalidArgument

# scikit-learn takes no larger seed.
LARGEST_SEED = 2**32 - 1
# Options that change how fast a network is trained, and not what it learns.
NOT_LEARNT: dict[str, Any] = {"learnt": False}


@dataclass(frozen=True)
class TrainOptions:
    """How a stream is trained; the table `[train]` of a configuration.

    Attributes
    ----------
    epochs : int
        Passes over the training videos.
    batch_size : int
        Clips of an update, of all processes together.
    optimiser : "sgd" or "adamw"
        SGD with momentum, or AdamW.
    learning_rate : float
        The largest rate; each update takes the rate of its middle, so that none has rate zero.
    momentum : float
        Of SGD.
    weight_decay : float
        Of kernels only, not of biases and normalisation.
    schedule : "cosine" or "steps"
        The rate falls to zero along a cosine, or to a tenth after each epoch of `steps`.
    steps : tuple of int
        Epochs after which the rate falls.
    warmup_epochs : float
        Epochs over which the rate rises from zero.
    gradient_clip : float, optional
        Largest norm of the gradient.
    label_smoothing : float
        Share of the target that is spread over all classes.
    loss : "softmax" or "sigmoid"
        Cross-entropy over the classes, of which a video with n labels has 1/n each; or of each
        class by itself, summed.
    balanced : bool
        Draw classes, not videos, with equal probability; of several labels the first counts.
    clips_per_video : int
        Clips of each video in an epoch.
    sampling : "random" or "segments"
        A clip lies anywhere in its video, or the k-th in the k-th of `clips_per_video` equal
        parts (TSN).
    scales : tuple of float
        Sides of the training box, as shares of the largest that fits.
    max_distortion : int
        How many steps of `scales` the two sides of a box may differ by.
    crop : "corners", "random" or "center"
        Where the training box lies.
    validation : float
        Share of the training videos that is held out, in whole groups, to choose by; 0 for none.
    keep : "best", "last" or "refit"
        With validation: the weights of the epoch with the least held-out loss, of the last, or of
        a second training, on all training videos, whose last epoch counts.
    patience : int
        With validation: training ends after so many epochs without a lower held-out loss; 0 for
        never.
    seed : int
        Of initial weights, order and clips.
    mixed_precision : bool
        bfloat16 where the device is a GPU.
    workers : int
        Processes that read clips; 0 reads in this one.
    memory_mb : float
        Room for decoded frames, flow and features, in 10⁶ bytes.
    device : "auto", "cpu" or "cuda"
        Where the network runs.

    Raises
    ------
    InvalidArgument
        If a value breaks its rule.
    """

    epochs: int = 30
    batch_size: int = 16
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "steps"] = "cosine"
    steps: tuple[int, ...] = ()
    warmup_epochs: float = 1.0
    gradient_clip: float | None = None
    label_smoothing: float = 0.0
    loss: Literal["softmax", "sigmoid"] = "softmax"
    balanced: bool = False
    clips_per_video: int = 1
    sampling: Literal["random", "segments"] = "random"
    scales: tuple[float, ...] = (1.0, 0.875, 0.75)
    max_distortion: int = 1
    crop: Literal["corners", "random", "center"] = "random"
    validation: float = 0.0
    keep: Literal["best", "last", "refit"] = "best"
    patience: int = 0
    seed: int = 0
    mixed_precision: bool = True
    workers: int = field(default=0, metadata=NOT_LEARNT)
    memory_mb: float = field(default=2000.0, metadata=NOT_LEARNT)
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", metadata=NOT_LEARNT)

    def __post_init__(self) -> None:
        check_rules(self, TRAIN_RULES)
        if self.loss == "sigmoid" and self.label_smoothing:
            raise InvalidArgument(
                f"label_smoothing {self.label_smoothing} must be 0 with loss sigmoid",
                parameter="label_smoothing",
            )

        if self.keep == "refit" and self.patience:
            raise InvalidArgument(
                f"patience {self.patience} must be 0 with keep refit: both trainings go to the end",
                parameter="patience",
            )

    def learnt(self) -> dict[str, Any]:
        """Return the options that determine what a network learns."""
        names = [f.name for f in fields(self) if f.metadata.get("learnt", True)]
        return {name: asdict(self)[name] for name in names}


@dataclass(frozen=True)
class TestOptions:
    """How videos are scored: S clips × crops of each; the table `[test]` of a configuration.

    Attributes
    ----------
    clips : int
        Clips per video, equally spaced; 25 in the two-stream paper.
    crops : "center", "three", "five" or "ten"
        Boxes of each clip; "ten" are five and their mirror images.
    crop_scale : float
        Side of a box, as a share of the largest that fits.
    flip : bool
        Score the mirror image of each box too.
    batch_size : int
        Clips (of all their crops) at a time; does not change the result beyond rounding.

    Raises
    ------
    InvalidArgument
        If a value breaks its rule.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    clips: int = 10
    crops: Literal["center", "three", "five", "ten"] = "center"
    crop_scale: float = 1.0
    flip: bool = False
    batch_size: int = 16

    def __post_init__(self) -> None:
        check_rules(self, TEST_RULES)


Rule = tuple[str, Callable[[Any], bool]]


def is_count(value: object, least: int = 1) -> bool:
    """Return whether a value is a whole number ≥ `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


COUNT: Rule = ("be a whole number ≥ 1", is_count)
SHARE: Rule = ("be > 0 and ≤ 1", lambda v: 0 < v <= 1)
MOST_CLIPS = 10_000
CLIPS: Rule = (
    f"be a whole number from 1 to {MOST_CLIPS}",
    lambda v: is_count(v) and v <= MOST_CLIPS,
)
TRAIN_RULES: dict[str, Rule] = {
    "epochs": COUNT,
    "batch_size": COUNT,
    "optimiser": ("be sgd or adamw", ("sgd", "adamw").__contains__),
    "learning_rate": ("be > 0; 0.01 is usual for sgd", lambda v: 0 < v < math.inf),
    "momentum": ("be in [0, 1); 0.9 is usual", lambda v: 0 <= v < 1),
    "weight_decay": ("be ≥ 0; 0.0005 is usual", lambda v: 0 <= v < math.inf),
    "schedule": ("be cosine or steps", ("cosine", "steps").__contains__),
    "steps": ("be epochs ≥ 0", lambda v: all(0 <= step < math.inf for step in v)),
    "warmup_epochs": ("be ≥ 0; 0 is none", lambda v: 0 <= v < math.inf),
    "gradient_clip": ("be > 0, or None for no limit", lambda v: v is None or 0 < v < math.inf),
    "label_smoothing": ("be in [0, 1); 0 is none", lambda v: 0 <= v < 1),
    "loss": ("be softmax or sigmoid", ("softmax", "sigmoid").__contains__),
    "clips_per_video": CLIPS,
    "sampling": ("be random or segments", ("random", "segments").__contains__),
    "scales": ("be shares > 0 and ≤ 1", lambda v: len(v) > 0 and all(0 < s <= 1 for s in v)),
    "max_distortion": ("be a whole number ≥ 0", lambda v: is_count(v, 0)),
    "crop": ("be corners, random or center", ("corners", "random", "center").__contains__),
    "validation": ("be ≥ 0 and < 1; 0.2 is usual, 0 is none", lambda v: 0 <= v < 1),
    "keep": ("be best, last or refit", ("best", "last", "refit").__contains__),
    "patience": ("be a whole number ≥ 0; 0 is never", lambda v: is_count(v, 0)),
    "seed": (f"be in [0, {LARGEST_SEED}]", lambda v: is_count(v, 0) and v <= LARGEST_SEED),
    "workers": ("be a whole number ≥ 0; 0 reads clips in this process", lambda v: is_count(v, 0)),
    "memory_mb": ("be ≥ 0; 0 keeps nothing", lambda v: v >= 0),
    "device": ("be auto, cpu or cuda", ("auto", "cpu", "cuda").__contains__),
}
TEST_RULES: dict[str, Rule] = {
    "clips": CLIPS,
    "crops": ("be center, three, five or ten", ("center", "three", "five", "ten").__contains__),
    "crop_scale": SHARE,
    "batch_size": COUNT,
}


def check_rules(record: object, rules: dict[str, Rule]) -> None:
    """Refuse a record with a field that breaks its rule, with InvalidArgument."""
    for name, (rule, holds) in rules.items():
        value = getattr(record, name)
        if not holds(value):
            raise InvalidArgument(f"{name} {value!r} must {rule}", parameter=name)
