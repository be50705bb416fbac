"""A network over clips × crops of each video → Scores, always at video level."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from flowpipe.clips.dataset import TestClips, to_network_input
from flowpipe.clips.streams import AnyInput, CacheLike
from flowpipe.datasets.video import Dataset
from flowpipe.errors import InvalidArgument
from flowpipe.models.weights.folding import fold_batch_norm
from flowpipe.scores import Scores
from flowpipe.training import TestOptions
from flowpipe.training.devices import choose_device, place
from flowpipe.training.loop import check_logits

# Folding runs two clips; it saves 5 to 15 % of each clip after it.
BATCHES_WORTH_FOLDING = 4


def predict_scores(
    model: nn.Module,
    data: Dataset,
    cache: CacheLike,
    stream: AnyInput,
    options: TestOptions,
    *,
    device: str = "auto",
    workers: int = 0,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    protocol: Mapping[str, Any] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score videos by the mean softmax (or sigmoid) over S clips × V crops.

    Parameters
    ----------
    model : nn.Module
    data : Dataset
        The videos, and the classes in the order of the network's outputs. Without a label a
        video gets label −1.
    cache : Cache
        `cache[video.id]` gives a video's entry.
    stream : StreamInput or FeatureInput
        What the network looks at.
    options : TestOptions
        How many clips, which crops.
    device, workers
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
        `protocol` has `clip_accuracy` where videos are labelled: the share of their single clips
        (the crops averaged) whose most probable class is right.

    Raises
    ------
    InvalidArgument
        If the network has another number of outputs than there are classes, or an output is not
        finite.

    References
    ----------
    K. Simonyan, A. Zisserman, "Two-stream convolutional networks for action recognition in
    videos", 2014, section 5. https://doi.org/10.48550/arXiv.1406.2199
    """
    if workers < 0:
        raise InvalidArgument(f"workers {workers} must be ≥ 0", parameter="workers")
    records, classes = data.videos, data.classes
    clips = TestClips(
        records,
        cache,
        [stream],
        classes=classes,
        clips=options.clips,
        crops=options.crops,
        crop_scale=options.crop_scale,
        flip=options.flip,
    )
    target = torch.device(choose_device(device))
    quantiser = clips.quantiser if stream.has_flow else None
    loader = DataLoader(
        clips,
        batch_size=options.batch_size,
        num_workers=workers,
        pin_memory=target.type == "cuda",
        generator=torch.Generator(),  # a loader without one draws from torch's global generator
    )
    shape_NK = (len(records), len(classes))
    probabilities_NK, logits_NK = np.zeros(shape_NK), np.zeros(shape_NK)
    sigmoid = activation == "sigmoid"
    targets_NK = clips.record_targets
    known_NK = clips.record_labels[:, None] == np.arange(len(classes))
    if targets_NK is not None:
        known_NK = targets_NK
    right = 0
    modes = [(module, module.training) for module in model.modules()]
    network = place(model, target, single=options.batch_size * clips.protocol["views"] == 1).eval()
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
                answer = network(values)
                check_logits(answer, len(values), len(classes))
                logits = answer.double()
                if logits.ndim == 3:  # a score per frame; averaged as the crops are
                    views *= logits.shape[1]
                    logits = logits.flatten(0, 1)
                logits_BVK = logits.unflatten(0, (-1, views))
                shares_BVK = logits_BVK.sigmoid() if sigmoid else logits_BVK.softmax(-1)
                shares_BK = shares_BVK.mean(1).cpu().numpy()
                rows = batch["index"].numpy()
                right += int(known_NK[rows, shares_BK.argmax(1)].sum())
                np.add.at(probabilities_NK, rows, shares_BK / options.clips)
                np.add.at(logits_NK, rows, logits_BVK.mean(1).cpu().numpy() / options.clips)
                done += len(rows)
                if on_progress is not None:
                    on_progress(done, len(clips))
    finally:
        for module, training in modes:
            module.training = training
    if sigmoid:
        probabilities_NK = probabilities_NK.clip(0.0, 1.0)
    else:
        probabilities_NK /= probabilities_NK.sum(axis=1, keepdims=True)
    labelled = int((clips.record_labels >= 0).sum()) * options.clips
    return Scores(
        ids=tuple(record.id for record in records),
        labels_N=clips.record_labels,
        probabilities_NK=probabilities_NK,
        logits_NK=logits_NK.astype(np.float32),
        classes=tuple(classes),
        stream=stream.name,
        protocol={
            **clips.protocol,
            **stream.protocol,
            **({"clip_accuracy": right / labelled} if labelled else {}),
            **(protocol or {}),
        },
        activation=activation,
        targets_NK=targets_NK,
    )
