"""Fitting of the classifier of histograms: at once, with the penalty chosen by validation.

Logistic regression (softmax or one sigmoid for each class) on how like each training person is to
the landmarks, some of them: as they are, and with moved boxes earlier, later and in the mirror
(where an action is the same there). Several penalties of the weights are compared on videos that
were held out; the one of the lowest loss is fitted to all.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from flowpipe.detection.clips import DetectStream, jittered, joined, see
from flowpipe.detection.examples import Example
from flowpipe.detection.histogram import HistogramNetwork
from flowpipe.detection.learning import DetectTrain, criterion, person_weights
from flowpipe.errors import InvalidArgument
from flowpipe.training.checkpoint import (
    CHECKPOINT,
    METRICS,
    load_checkpoint,
    save_checkpoint,
    write_metrics,
)
from flowpipe.training.devices import choose_device

# Of the squared weights, beside the mean loss.
PENALTIES = (1e-4, 1e-5, 1e-6)
FOLDS, LOOKS = 3, 4
MOST_STEPS = 150
# More persons than this say little that is new, and their descriptions must fit into memory.
MOST_PERSONS = 20_000


def fit_network(
    network: HistogramNetwork,
    stream: DetectStream,
    examples: Sequence[Example],
    cache: Any,
    options: DetectTrain,
    out: Path,
    *,
    softmax: bool,
    flip: bool,
    fingerprint: Mapping[str, Any],
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Fit the network's classifier, or load it from `out`; arguments as `train_network`.

    Raises
    ------
    InvalidArgument
        If fewer than two persons are there.
    WeightsError
        If the checkpoint in `out` is of other settings.
    """
    settings = {"train": options.learnt(), **fingerprint}
    network.to(choose_device(options.device))
    if (history := load_checkpoint(out / CHECKPOINT, network, None, settings)) is not None:
        network.eval()
        return history
    started = time.perf_counter()
    rng = np.random.default_rng(options.seed)
    examples = [example for example in examples if len(example.boxes)]
    if sum(len(example.boxes) for example in examples) < 2:
        raise InvalidArgument("fewer than 2 persons are too few to learn from")
    chosen = [examples[place] for place in rng.permutation(len(examples)).tolist()]
    room = np.cumsum([len(example.boxes) for example in chosen])
    chosen = chosen[: max(1, int((room <= MOST_PERSONS).sum()))]
    most = round(stream.frames * options.shift)
    described_RD = _described(network, stream, chosen, cache, options.jitter, rng, flip, most)
    targets_RK = np.tile(np.concatenate([example.targets for example in chosen]), (LOOKS, 1))
    videos = np.repeat([example.video for example in chosen], [len(e.boxes) for e in chosen])
    order = torch.from_numpy(rng.permutation(len(described_RD))).to(described_RD.device)
    network.remember(described_RD[order])
    compared_RM = network.compare(described_RD)
    outputs = network.fc.out_features
    fit = Fit(compared_RM, torch.from_numpy(targets_RK).to(compared_RM.device), outputs, softmax)
    penalty = fit.choose(np.tile(videos, LOOKS), rng)
    weights_KD, bias_K = fit(slice(None), penalty)
    with torch.no_grad():
        network.fc.weight.copy_(weights_KD)
        network.fc.bias.copy_(bias_K)
        loss, right = criterion(network.fc(compared_RM), fit.targets_RK, softmax)
    record = {
        "epoch": 1,
        "epochs": 1,
        "loss": float(loss),
        "accuracy": right / len(fit.targets_RK),
        "penalty": penalty,
        "seconds": round(time.perf_counter() - started, 3),
    }
    out.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out / CHECKPOINT, network, None, settings, [record])
    write_metrics(out / METRICS, [record])
    network.eval()
    if on_epoch is not None:
        on_epoch(record)
    return [record]


def _described(
    network: HistogramNetwork,
    stream: DetectStream,
    examples: Sequence[Example],
    cache: Any,
    jitter: float,
    rng: np.random.Generator,
    flip: bool,
    most: int,
) -> Tensor:
    """Return the descriptions of all persons as they are, and of `LOOKS` - 1 other looks at them.

    Boxes of these are moved; one is in the mirror, one later, one earlier and in the mirror.
    """
    device = network.fc.weight.device
    longer = replace(stream, frames=stream.frames + 2 * most)
    looks: list[list[Tensor]] = [[] for _ in range(LOOKS)]
    with torch.no_grad():
        for example in examples:
            entry = cache[example.video]
            cells, moved = (
                network.cells(*joined([see(longer, entry, example.frame, boxes, network, device)]))
                for boxes in (example.boxes, jittered(example.boxes, jitter, rng))
            )
            other = network.mirrored(moved) if flip else moved
            starts = ((cells, most), (other, most), (moved, 2 * most), (other, 0))
            for (seen, start), descriptions in zip(starts, looks, strict=True):
                descriptions.append(network.describe(seen[:, start : start + stream.frames]))
    return torch.cat([description for look in looks for description in look])


class Fit:
    """Logistic regression on persons.

    Parameters
    ----------
    described_RD, targets_RK : Tensor
    outputs : int
        K, or one more: of `softmax`, that of persons who do nothing of the classes.
    softmax : bool
    """

    def __init__(
        self, described_RD: Tensor, targets_RK: Tensor, outputs: int, softmax: bool
    ) -> None:
        self.described_RD, self.targets_RK = described_RD, targets_RK
        self.outputs, self.softmax = outputs, softmax

    def choose(self, videos_R: npt.NDArray[Any], rng: np.random.Generator) -> float:
        """Return the penalty of the lowest loss on videos held out; the middle one of one video."""
        names = np.unique(videos_R)
        if len(names) < 2:
            return PENALTIES[len(PENALTIES) // 2]
        fold_of = dict(zip(rng.permutation(names), np.arange(len(names)) % FOLDS, strict=True))
        folds_R = torch.from_numpy(np.array([fold_of[name] for name in videos_R]))
        losses = []
        for penalty in PENALTIES:
            total = 0.0
            for fold in range(min(FOLDS, len(names))):
                held = (folds_R == fold).nonzero()[:, 0]
                weights_KD, bias_K = self((folds_R != fold).nonzero()[:, 0], penalty)
                logits = self.described_RD[held] @ weights_KD.T + bias_K
                total += float(criterion(logits, self.targets_RK[held], self.softmax)[0])
            losses.append(total)
        return PENALTIES[int(np.argmin(losses))]

    def __call__(self, rows: Tensor | slice, penalty: float) -> tuple[Tensor, Tensor]:
        """Return weights K×D and biases K fitted to some rows."""
        described_RD, targets_RK = self.described_RD[rows], self.targets_RK[rows]
        share_R = person_weights(targets_RK)
        weights_KD = described_RD.new_zeros(self.outputs, described_RD.shape[1])
        bias_K = described_RD.new_zeros(self.outputs)
        parameters = [weights_KD.requires_grad_(), bias_K.requires_grad_()]
        update = torch.optim.LBFGS(
            parameters, max_iter=MOST_STEPS, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            update.zero_grad()
            logits_RK = described_RD @ weights_KD.T + bias_K
            loss, _ = criterion(logits_RK, targets_RK, self.softmax, share_R)
            loss = loss + penalty * weights_KD.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            update.step(closure)  # type: ignore[no-untyped-call]
        return weights_KD.detach(), bias_K.detach()
