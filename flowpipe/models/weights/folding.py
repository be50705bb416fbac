"""Batch normalisation folded into the convolutions before it, for testing only."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMALISATIONS = (nn.BatchNorm2d, nn.BatchNorm3d)


Run = Callable[[nn.Module, Tensor], Tensor]


def fold_batch_norm(
    network: nn.Module, example: Tensor, *, run: Run = nn.Module.__call__
) -> nn.Module:
    """Give a copy in evaluation mode whose normalisations are part of its convolutions.

    What follows what is seen on a run: a normalisation is folded where its input is the output
    of a convolution that fed no other layer. Results are the network's within rounding; where
    the example shows otherwise (an operation that is no layer reads the convolution too), a
    plain copy is given; a network that cannot be copied is given back itself.

    Parameters
    ----------
    network
        Left as it is.
    example
        A batch of one input, of the network's layout and on its device.
    run
        Called with (network, inputs), where not all of the network is to be run; what is not run
        is not folded, so that the output of a convolution at its end stays.
    """
    try:
        folded = copy.deepcopy(network).eval()
    except (RuntimeError, TypeError):  # old-style weight normalisation; handles, locks
        return network.eval()
    names = {layer: name for name, layer in folded.named_modules()}
    expected, pairs = _follow(folded, example, run)
    for convolution, normalisation in pairs.items():
        fused = fuse_conv_bn_eval(convolution, normalisation)  # type: ignore[type-var,arg-type]
        folded.set_submodule(names[convolution], fused)
        folded.set_submodule(names[normalisation], nn.Identity())
    with torch.inference_mode():
        same = torch.allclose(run(folded, example), expected, rtol=1e-3, atol=1e-4)
    return folded if same else copy.deepcopy(network).eval()


def _follow(
    network: nn.Module, example: Tensor, run: Run
) -> tuple[Tensor, dict[nn.Module, nn.Module]]:
    """Run a network; return its output, and what can be folded: convolution → normalisation."""
    pairs: dict[nn.Module, nn.Module] = {}
    readers: dict[nn.Module, int] = {}
    times_run: dict[nn.Module, int] = {}

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        made_by = getattr(inputs[0], "_made_by", None) if inputs else None
        if made_by is None:
            return
        readers[made_by] = readers.get(made_by, 0) + 1
        if isinstance(layer, _NORMALISATIONS):
            pairs[made_by] = layer

    def after(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        times_run[layer] = times_run.get(layer, 0) + 1
        # Subclasses may do more than convolve.
        if type(layer) in _CONVOLUTIONS:
            output._made_by = layer  # type: ignore[attr-defined]

    hooks = []
    for layer in network.modules():
        if not any(True for _ in layer.children()):
            hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    with torch.inference_mode():
        output = run(network, example)
    for hook in hooks:
        hook.remove()
    once = {
        convolution: normalisation
        for convolution, normalisation in pairs.items()
        if times_run[convolution] == times_run.get(normalisation) == readers[convolution] == 1
    }
    return output, once
