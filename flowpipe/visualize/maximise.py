"""The input that a network likes best for a class: slow or fast by one weight.

C. Feichtenhofer, A. Pinz, R. Wildes, A. Zisserman, "What have we learned from deep representations
for action recognition?", CVPR 2018, doi:10.1109/CVPR.2018.00818: gradient ascent on the input
under a penalty of its variation, κ for space and χ for time. χ = 0 leaves time free and finds fast
motion, χ much above κ slow one. Norm bound and jitter as in A. Mahendran, A. Vedaldi, IJCV 2016,
doi:10.1007/s11263-016-0911-8. No picture of the training data takes part.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowpipe.clips.parts import PartCache
from flowpipe.clips.streams import StreamInput
from flowpipe.errors import InvalidArgument
from flowpipe.visualize.explain import centres_along, clip_at
from flowpipe.visualize.network import check_class, class_logits, from_BTCHW, to_BTCHW, untouched

# χ / κ.
SPEEDS = MappingProxyType({"fast": 0.0, "medium": 1.0, "slow": 10.0})
STEP_SIZE, LAST_FIFTH = 0.05, 0.1
# Of the gradient and of its mean square, as in Adam. The mean square is one number for the whole
# clip: with one for every pixel, those that the class does not care for walk at random as fast as
# the others, and classes of weak evidence drown in them.
MOMENTUM, MEMORY = 0.9, 0.99
NOISE = 0.02  # deviation of the start, of the bound
LEAST_SLOPE = 1e-12
JITTER_PX = 2
NOISE_CLIPS = 8
LEAST_STEPS = 10
# The penalty's weight is raised at each step at which the class keeps more than it must, and never
# lowered below where it began: else what grows first without a penalty stays.
RAISE = 1.05
# Shares of that weight, until the class exceeds noise: under too much of it nothing grows at all.
LIGHTER = (1.0, 0.25, 0.0625)
WARM_UP = 2  # one step in so many goes without penalty, to tell what the class can gain


@dataclass(frozen=True)
class Maximised:
    """An input that a class likes, and how much.

    Attributes
    ----------
    values_TCHW : array of float32
        As the network takes them, with time as an axis.
    activation, noise_activation : float
        The class's logit, and its mean for noise of the same strength.
    chi, kappa, weight : float
        The penalty of variation: weight · mean of (κ · space² + χ · time²); its last weight.
    seed, steps : int
    """

    values_TCHW: NDArray[np.float32]
    activation: float
    noise_activation: float
    chi: float
    kappa: float
    weight: float
    seed: int
    steps: int

    def __post_init__(self) -> None:
        if not self.activation > self.noise_activation:
            raise InvalidArgument(
                f"the best input found has activation {self.activation:.3g}, noise of its strength "
                f"{self.noise_activation:.3g}: it shows nothing; give more steps"
            )


def variation(values_TCHW: Tensor, *, kappa: float, chi: float) -> Tensor:
    """Return the mean over all values of κ((∇x)² + (∇y)²) + χ(∇t)², without wrapping round."""
    total = values_TCHW.new_zeros(())
    for axis, weight in ((0, chi), (2, kappa), (3, kappa)):
        if weight and values_TCHW.shape[axis] > 1:
            total = total + weight * values_TCHW.diff(dim=axis).square().sum()
    return total / values_TCHW.numel()


def maximise(
    model: nn.Module,
    stream: StreamInput,
    number: int,
    *,
    chi: float,
    kappa: float = 1.0,
    steps: int = 300,
    seed: int = 0,
    keep: float = 0.5,
    bound: float = 2.0,
) -> Maximised:
    """Return an input that a class likes, of as little variation as leaves it a share of its rise.

    Parameters
    ----------
    model : nn.Module
        Left as it was.
    stream : StreamInput
    number : int
        The class.
    chi, kappa : float
        Weights of variation along time and in space.
    steps, seed : int
    keep : float
        That share; the rise is that of the logit from noise, without a penalty.
    bound : float
        Largest length of a pixel's channels, in the network's own scale.

    Raises
    ------
    InvalidArgument
        For values out of range, a class that is not there, and where nothing better than noise of
        the same strength was found.
    """
    for name, value, least in (("chi", chi, 0), ("kappa", kappa, 0)):
        if not value >= least:
            raise InvalidArgument(f"{name} {value} must be ≥ {least}", parameter=name)
    if steps < LEAST_STEPS or not bound > 0:
        raise InvalidArgument(f"steps {steps} must be ≥ {LEAST_STEPS} and bound {bound} > 0")
    if not 0 < keep <= 1:
        raise InvalidArgument(f"keep {keep} must be in (0, 1]; 0.5 is the usual choice")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    start = NOISE * bound * torch.randn((1, *stream.input_shape), generator=generator)
    start_TCHW = _bounded(to_BTCHW(start.to(device), stream)[0], stream, bound)

    def logit(values_BTCHW: Tensor) -> Tensor:
        return class_logits(model, from_BTCHW(values_BTCHW, stream))[:, number]

    def climb(count: int, least: float, target: float) -> tuple[Tensor, float]:
        weight = least
        values_TCHW = start_TCHW.clone().requires_grad_()
        mean_TCHW, square = torch.zeros_like(start_TCHW), start_TCHW.new_zeros(())
        for step in range(count):
            shifts = torch.randint(-JITTER_PX, JITTER_PX + 1, (2,), generator=generator).tolist()
            score = logit(values_TCHW.roll(shifts, (2, 3))[None])[0]
            loss = weight * variation(values_TCHW, kappa=kappa, chi=chi) - score
            (slope_TCHW,) = torch.autograd.grad(loss, values_TCHW)
            mean_TCHW.lerp_(slope_TCHW, 1 - MOMENTUM)
            square.lerp_(slope_TCHW.square().mean(), 1 - MEMORY)
            is_last = step >= 0.8 * count
            size = STEP_SIZE * (LAST_FIFTH if is_last else 1)
            size *= (1 - MEMORY ** (step + 1)) ** 0.5 / (1 - MOMENTUM ** (step + 1))
            if not is_last:
                weight = max(least, weight * (RAISE if score.item() > target else 1 / RAISE))
            with torch.no_grad():
                moved_TCHW = values_TCHW - size * mean_TCHW / square.sqrt().clamp_min(LEAST_SLOPE)
                values_TCHW.copy_(_bounded(moved_TCHW, stream, bound))
        return values_TCHW.detach(), weight

    with untouched(model), torch.backends.cudnn.flags(enabled=device.type != "cuda"):
        with torch.no_grad():
            check_class(number, class_logits(model, from_BTCHW(start_TCHW[None], stream)))
        with torch.enable_grad():
            free_TCHW, _ = climb(steps // WARM_UP, 0.0, math.inf)
        with torch.no_grad():
            first, most = logit(torch.stack([start_TCHW, free_TCHW])).tolist()
            varied = float(variation(free_TCHW, kappa=1.0, chi=1.0))
        gain = max(most - first, 0.0)
        for lighter in LIGHTER:
            with torch.enable_grad():
                found_TCHW, weight = climb(steps, lighter * gain / varied, first + keep * gain)
            with torch.no_grad():
                reach = found_TCHW.square().mean().sqrt()
                noise = torch.randn((NOISE_CLIPS, *found_TCHW.shape), generator=generator)
                both = logit(torch.cat([found_TCHW[None], reach * noise.to(device)])).double()
            activation, noise_activation = float(both[0]), float(both[1:].mean())
            if activation > noise_activation:
                break
    return Maximised(
        found_TCHW.cpu().float().numpy(),
        activation,
        noise_activation,
        chi,
        kappa,
        weight,
        seed,
        steps,
    )


def best_clip(
    model: nn.Module,
    stream: StreamInput,
    cache: PartCache,
    videos: Iterable[str],
    number: int,
) -> tuple[float, str]:
    """Return the highest logit of a class over clips of videos, and which clip has it.

    Clips overlap by half; a clip is named by its video and the time of its middle.

    Parameters
    ----------
    model : nn.Module
        Left as it was.
    stream : StreamInput
    cache : PartCache
    videos : iterable of str
        Ids.
    number : int
        The class.
    """
    best = -math.inf, ""
    with untouched(model), torch.no_grad():
        for name in videos:
            entry = cache[name]
            (view, *_) = stream.test_views(entry)
            assert view is not None
            other = functools.partial(cache.backward, name)
            for centre in centres_along(stream, entry):
                clip = clip_at(stream, entry, centre, view, other)
                logit = float(class_logits(model, clip[None])[0, number])
                best = max(best, (logit, f"{name}, {float(entry.pts_s[centre]):.2f} s"))
    return best


def _bounded(values_TCHW: Tensor, stream: StreamInput, bound: float) -> Tensor:
    """Shorten every pixel that is longer than the bound; frames and flow each by themselves."""
    pieces = torch.split(values_TCHW, [part.channels for part in stream.parts], 1)
    kept = [p * (bound / p.norm(dim=1, keepdim=True).clamp_min(bound)) for p in pieces]
    return torch.cat(kept, 1)
