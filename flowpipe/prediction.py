"""A network over clips × crops of each video → Scores, always at video level."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from flowpipe.clips.dataset import TestClips, to_network_input
from flowpipe.clips.streams import AnyInput, CacheLike
from flowpipe.datasets.video import Video, some
from flowpipe.errors import AnnotationError, InvalidArgument
from flowpipe.models.folding import fold_batch_norm
from flowpipe.scores import Scores
from flowpipe.training import choose_device, place

# Folding runs two clips; it saves 5 to 15 % of each clip after it.
BATCHES_WORTH_FOLDING = 4


def predict_scores(
    model: nn.Module,
    records: Sequence[Video],
    cache: CacheLike,
    stream: AnyInput,
    *,
    classes: Sequence[str],
    clips: int = 25,
    crops: Any = "ten",
    crop_scale: float = 0.875,
    flip: bool = False,
    batch_size: int = 16,
    workers: int = 0,
    device: str = "auto",
    activation: Literal["softmax", "sigmoid"] = "softmax",
    protocol: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score videos by the mean softmax (or sigmoid) over S clips × V crops.

    Parameters
    ----------
    model : nn.Module
    records : sequence of Video
        Without a label a video gets label −1.
    cache : Cache
    stream : StreamInput
        What the network looks at.
    classes : sequence of str
        In the order of the network's outputs.
    clips, crops, crop_scale, flip
        S and the crops, see `flowpipe.clips.TestClips`; 25 × "ten" is the two-stream protocol.
    batch_size : int
        Clips (of all their crops) at a time; does not change the result beyond rounding.
    workers, device
        As for training.
    activation : {"softmax", "sigmoid"}
        "sigmoid" for a network trained with that loss, whose classes do not exclude each other.
    protocol : mapping, optional
        Further facts to be stored beside the scores.
    on_progress : callable, optional
        Called with (clips done, clips in all).

    Returns
    -------
    Scores
        Probabilities are means over clips and crops of the softmax, logits means of the logits.
        `protocol` has `clip_accuracy` where all videos are labelled: the share of single clips
        (their crops averaged) whose most probable class is right.

    Raises
    ------
    AnnotationError
        If there is no record, an id stands twice or a label is not among the classes.
    InvalidArgument
        If a number is outside its rule, the network has another number of outputs than there
        are classes, or an output is not finite.

    References
    ----------
    K. Simonyan, A. Zisserman, "Two-stream convolutional networks for action recognition in
    videos", 2014, section 5. https://doi.org/10.48550/arXiv.1406.2199
    """
    if batch_size < 1 or workers < 0:
        raise InvalidArgument(f"batch_size {batch_size} must be ≥ 1 and workers {workers} ≥ 0")
    counts = Counter(record.id for record in records)
    twice = [video_id for video_id, count in counts.items() if count > 1]
    if twice:
        raise AnnotationError(f"{some(twice)} given more than once; give each video once")
    dataset = TestClips(
        records,
        cache,
        [stream],
        classes=classes,
        clips=clips,
        crops=crops,
        crop_scale=crop_scale,
        flip=flip,
    )
    target = torch.device(choose_device(device))
    quantiser = dataset.quantiser if stream.has_flow else None
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=target.type == "cuda",
        generator=torch.Generator(),  # a loader without one draws from torch's global generator
    )
    shape_NK = (len(records), len(classes))
    probabilities_NK, logits_NK = np.zeros(shape_NK), np.zeros(shape_NK)
    sigmoid = activation == "sigmoid"
    targets_NK = dataset.record_targets
    known_NK = dataset.record_labels[:, None] == np.arange(len(classes))
    if targets_NK is not None:
        known_NK = targets_NK
    right = 0
    modes = [(module, module.training) for module in model.modules()]
    network = place(model, target, single=batch_size * dataset.protocol["views"] == 1).eval()
    done = 0
    try:
        with torch.inference_mode():
            for batch in loader:
                codes = batch[stream.name].to(target, non_blocking=True)  # B × V × clip
                views = codes.shape[1]
                moved = {stream.name: codes.flatten(0, 1)}
                values = to_network_input(moved, stream, quantiser)
                if not done and len(loader) >= BATCHES_WORTH_FOLDING:
                    network = fold_batch_norm(model, values[:1])
                logits = network(values).double()
                if logits.ndim == 3:  # a score per frame; averaged as the crops are
                    views *= logits.shape[1]
                    logits = logits.flatten(0, 1)
                _check_outputs(logits, len(codes) * views, classes)
                logits_BVK = logits.unflatten(0, (-1, views))
                shares_BVK = logits_BVK.sigmoid() if sigmoid else logits_BVK.softmax(-1)
                shares_BK = shares_BVK.mean(1).cpu().numpy()
                rows = batch["index"].numpy()
                right += int(known_NK[rows, shares_BK.argmax(1)].sum())
                np.add.at(probabilities_NK, rows, shares_BK / clips)
                np.add.at(logits_NK, rows, logits_BVK.mean(1).cpu().numpy() / clips)
                done += len(rows)
                if on_progress is not None:
                    on_progress(done, len(dataset))
    finally:
        for module, training in modes:
            module.training = training
    if sigmoid:
        probabilities_NK = probabilities_NK.clip(0.0, 1.0)
    else:
        probabilities_NK /= probabilities_NK.sum(axis=1, keepdims=True)
    labelled = bool((dataset.record_labels >= 0).all())
    return Scores(
        ids=tuple(record.id for record in records),
        labels_N=dataset.record_labels,
        probabilities_NK=probabilities_NK,
        logits_NK=logits_NK.astype(np.float32),
        classes=tuple(classes),
        stream=stream.name,
        protocol={
            **dataset.protocol,
            **stream.protocol,
            **({"clip_accuracy": right / len(dataset)} if labelled else {}),
            **(protocol or {}),
        },
        activation=activation,
        targets_NK=targets_NK,
    )


def _check_outputs(logits: torch.Tensor, num_inputs: int, classes: Sequence[str]) -> None:
    # One output would be spread over all classes without a word.
    if logits.shape != (num_inputs, len(classes)):
        raise InvalidArgument(
            f"the network gave {tuple(logits.shape)} for {num_inputs} inputs and {len(classes)} "
            f"classes; it must give {(num_inputs, len(classes))}: build it with "
            f"num_classes={len(classes)}"
        )
