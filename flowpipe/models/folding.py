"""Batch normalisation folded into the convolutions before it, for testing only."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMALISATIONS = (nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(network: nn.Module, example: Tensor) -> nn.Module:
    """Give a copy in evaluation mode whose normalisations are part of its convolutions.

    What follows what is seen on a run: a normalisation is folded where its input is the output
    of a convolution that fed no other layer. Results are the network's within rounding; where
    the example shows otherwise (an operation that is no layer reads the convolution too), a
    plain copy is given.

    Parameters
    ----------
    network
        Left as it is.
    example
        A batch of one input, of the network's layout and on its device.
    """
    folded = copy.deepcopy(network).eval()
    names = {layer: name for name, layer in folded.named_modules()}
    made_by: dict[int, nn.Module] = {}
    kept: list[Tensor] = []  # so that no other tensor gets the same id
    pairs: dict[nn.Module, nn.Module] = {}
    readers: dict[nn.Module, int] = {}
    times_run: dict[nn.Module, int] = {}

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        made = made_by.get(id(inputs[0])) if inputs else None
        if made is None:
            return
        readers[made] = readers.get(made, 0) + 1
        if isinstance(layer, _NORMALISATIONS):
            pairs[made] = layer

    def after(layer: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        times_run[layer] = times_run.get(layer, 0) + 1
        if isinstance(layer, _CONVOLUTIONS) and isinstance(output, Tensor):
            made_by[id(output)] = layer
            kept.append(output)

    hooks = []
    for layer in folded.modules():
        if not any(True for _ in layer.children()):
            hooks += [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
    with torch.inference_mode():
        expected = folded(example)
    for hook in hooks:
        hook.remove()
    for convolution, normalisation in pairs.items():
        once = times_run[convolution] == times_run[normalisation] == readers[convolution] == 1
        if once and type(convolution) in _CONVOLUTIONS:
            fused = fuse_conv_bn_eval(convolution, normalisation)  # type: ignore[arg-type,type-var]
            folded.set_submodule(names[convolution], fused)
            folded.set_submodule(names[normalisation], nn.Identity())
    with torch.inference_mode():
        same = torch.allclose(folded(example), expected, rtol=1e-3, atol=1e-4)
    return folded if same else copy.deepcopy(network).eval()
