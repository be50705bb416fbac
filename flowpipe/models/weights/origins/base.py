"""What an origin is: rules of names, a reading of shapes, and a record of pre-processing."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from flowpipe.errors import InvalidArgument
from flowpipe.models.weights.families import Network, match_row

Shapes = Mapping[str, tuple[int, ...]]
# A pattern for the beginning of a name, and what stands there in ours; a callable makes it.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Preprocessing:
    """How the input of a network was made when its weights were trained.

    A value is (pixel / `scale` − `mean`) / `std`, a channel each or one for all.

    Attributes
    ----------
    input
        "rgb" or "flow".
    order
        Of the channels of a picture.
    scale
        255 for pictures in 0..1, 1 for 0..255; for flow the pixels that make 1.
    mean, std
        After the scale.
    resize
        Short side, or (height, width), in px; in training, before cropping.
    crop
        (height, width).
    frames, frame_step
        Of a clip: frames (or flows), and frames from one to the next.
    fps
        Frames per second where clips are taken by time.
    flow, bound_px
        Method, and where it is cut off.
    remark
        What the fields do not say.
    """

    input: Literal["rgb", "flow"] = "rgb"
    order: Literal["RGB", "BGR"] = "RGB"
    scale: float = 255.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    resize: int | tuple[int, int] = 256
    crop: tuple[int, int] = (224, 224)
    frames: int = 1
    frame_step: int = 1
    fps: float | None = None
    flow: str | None = None
    bound_px: float | None = None
    remark: str = ""

    def apply(self, frames_THWC: Tensor) -> Tensor:
        """Return frames as the network takes them, T×3×H×W: resized, cropped in the middle, scaled.

        Parameters
        ----------
        frames_THWC
            RGB, uint8.

        Raises
        ------
        InvalidArgument
            If the network looks at flow.
        """
        if self.input != "rgb":
            raise InvalidArgument("this network takes flow, not frames; compute it first")
        values = frames_THWC.permute(0, 3, 1, 2).float()
        height, width = values.shape[-2:]
        if isinstance(self.resize, int):
            size = tuple(round(side * self.resize / min(height, width)) for side in (height, width))
        else:
            size = self.resize
        values = functional.interpolate(
            values, size=size, mode="bilinear", antialias=True, align_corners=False
        )
        top, left = ((side - crop) // 2 for side, crop in zip(size, self.crop, strict=True))
        values = values[..., top : top + self.crop[0], left : left + self.crop[1]]
        if self.order == "BGR":
            values = values.flip(1)
        mean, std = (values.new_tensor(part).reshape(1, -1, 1, 1) for part in (self.mean, self.std))
        return (values / self.scale - mean) / std

    def __str__(self) -> str:
        def joined(values: Iterable[float]) -> str:
            return ", ".join(f"{value:g}" for value in values)

        size = self.resize if isinstance(self.resize, int) else "×".join(map(str, self.resize))
        parts = [
            f"{self.flow} cut off at ±{self.bound_px:g} px"
            if self.input == "flow" and self.bound_px
            else self.order,
            f"(value / {self.scale:g} − ({joined(self.mean)})) / ({joined(self.std)})",
            f"{'short side ' if isinstance(self.resize, int) else ''}{size} px, "
            f"crop {self.crop[0]}×{self.crop[1]}",
        ]
        if self.frames > 1:
            rate = f" at {self.fps:g} frames per second" if self.fps else ""
            parts.append(f"{self.frames} frames, every {self.frame_step}{rate}")
        return "; ".join([*parts, *([self.remark] if self.remark else [])])


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Recognised:
    """What a file was recognised as.

    Attributes
    ----------
    origin, title
        Name and title of the origin.
    model, parameters
        The row of the table, and what differs from it.
    names
        Name in the file → name in the network.
    preprocessing
        Of the published weights; None where it is not known.
    columns
        Of a classifier whose inputs lie in another order: name in the network → that order.
    note
        What could not be seen and was taken for granted.
    """

    origin: str
    title: str
    model: str
    parameters: Mapping[str, Any]
    names: Mapping[str, str]
    preprocessing: Preprocessing | None = None
    columns: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    note: str = ""

    @property
    def summary(self) -> str:
        """Origin, network and what differs from its row."""
        differing = ", ".join(f"{key} {value}" for key, value in self.parameters.items())
        return f"{self.title} {self.model}{f' ({differing})' if differing else ''}"


def rename_by(rules: Sequence[Rule], names: Iterable[str]) -> dict[str, str]:
    """Return our names; the first rule that fits the beginning of a name counts.

    A name that no rule fits is left out.
    """
    renamed = {}
    for name in names:
        for pattern, new in rules:
            if match := re.match(pattern, name):
                start = match.expand(new) if isinstance(new, str) else new(match)
                renamed[name] = start + name[match.end() :]
                break
    return renamed


@dataclass(frozen=True)
class Origin:
    """Where weights come from.

    Attributes
    ----------
    name, title, url
        Short name, name for people, where its authors offer it.
    rename
        Names in a file → our names of those that are known; what stands before a colon is for
        `read` alone.
    read
        Network and parameters from the shapes under our names, and the file (whose name may tell
        apart what shapes do not); None if it is none of theirs.
    preprocessing
        From the network that was read and the shapes.
    signs
        Patterns each of which must fit a name in the file.
    columns
        See `Recognised`.
    """

    name: str
    title: str
    url: str
    rename: Callable[[Iterable[str]], dict[str, str]]
    read: Callable[[Shapes, str], Network | None]
    preprocessing: Callable[[Network, Shapes], Preprocessing | None]
    signs: Sequence[str] = ()
    columns: Callable[[Network], Mapping[str, Callable[[Tensor], Tensor]]] = lambda network: {}

    def recognise(self, shapes: Shapes, *, where: str) -> Recognised | None:
        """Return what a file of this origin holds; None if it is of another."""
        for sign in self.signs:
            if not any(re.match(sign, name) for name in shapes):
                return None
        names = self.rename(shapes)
        ours = {new: tuple(shapes[old]) for old, new in names.items()}
        network = self.read(ours, where)
        if network is None:
            return None
        model, parameters = match_row(network)
        return Recognised(
            self.name,
            self.title,
            model,
            parameters,
            {old: network.prefix + new.rpartition(":")[2] for old, new in names.items()},
            self.preprocessing(network, ours),
            {network.prefix + name: order for name, order in self.columns(network).items()},
            network.note,
        )
