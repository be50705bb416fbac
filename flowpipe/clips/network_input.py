"""From the codes of a clip to the float32 input of a network, on the device where they lie."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from flowpipe.clips import transforms
from flowpipe.clips.streams import FeatureInput, QuantiserLike, StreamInput
from flowpipe.errors import InvalidArgument

RGBDIFF_STD = 0.226


def to_network_input(
    batch: Mapping[str, Any],
    stream: StreamInput | FeatureInput,
    quantiser: QuantiserLike | None = None,
) -> torch.Tensor:
    """Turn the codes of one stream into the network's float32 input, on the codes' device.

    RGB is normalised by `stream.rgb_range`; differences are divided by 255 · 0.226; flow is
    decoded to pixels, read along trajectories if the stream stacks them, freed of each field's
    mean if the stream says so, and divided by `stream.flow_scale_px`; features stay as they are.

    Parameters
    ----------
    batch : mapping
        A sample or a collated batch, with any axes in front of the clip's own.
    stream : StreamInput or FeatureInput
    quantiser : Quantiser
        That of the data set (`dataset.quantiser`); needed for flow only.

    Returns
    -------
    (…, *stream.input_shape) float32 tensor

    Raises
    ------
    InvalidArgument
        If the batch lacks the stream, its shape is another, or flow comes without quantiser.
    """
    if stream.name not in batch:
        raise InvalidArgument(f'batch has no stream "{stream.name}"; it has {", ".join(batch)}')
    codes: torch.Tensor = batch[stream.name]
    shape = stream.input_shape
    if tuple(codes.shape[-len(shape) :]) != shape:
        raise InvalidArgument(
            f'stream "{stream.name}": batch of shape {tuple(codes.shape)} must end in {shape}'
        )
    if isinstance(stream, FeatureInput):
        return codes.to(torch.float32)
    if stream.input == "rgb+flow":
        channels = [part.in_channels for part in stream.parts]
        pieces = torch.split(codes, channels, stream.channel_axis)
        inputs = [
            to_network_input({stream.name: piece}, part, quantiser)
            for piece, part in zip(pieces, stream.parts, strict=True)
        ]
        return torch.cat(inputs, stream.channel_axis)
    values = codes.to(torch.float32)
    if stream.input == "flow":
        if quantiser is None:
            raise InvalidArgument(
                f'stream "{stream.name}": flow codes need a quantiser; give dataset.quantiser'
            )
        zero, step_px = _code_scale(quantiser)
        values = (values - zero) * step_px
        if stream.stacking == "trajectory":
            values = follow_trajectories(values, stream.layout)
        if stream.mean_subtraction:
            values = values - values.mean(dim=(-2, -1), keepdim=True)
        return values / stream.flow_scale_px
    if stream.input == "rgbdiff":
        return values / (255.0 * RGBDIFF_STD)
    return _normalised(values, stream)


def _normalised(values: torch.Tensor, stream: StreamInput) -> torch.Tensor:
    """Return pixels as the network was trained on them."""
    wanted = stream.pixel_values
    frames = stream.frames if stream.layout == "CHW" else 1
    trailing = (1, 1, 1) if stream.layout == "CTHW" else (1, 1)

    def per_channel(numbers: tuple[float, ...]) -> torch.Tensor:
        repeats = frames if len(numbers) == 3 else 1
        return torch.tensor(numbers * repeats, device=values.device).reshape(-1, *trailing)

    if wanted.order == "BGR":
        axis = stream.channel_axis
        split = values.unflatten(axis, (-1, 3))  # type: ignore[no-untyped-call]
        values = split.flip(axis).flatten(axis - 1, axis)
    values = values / wanted.scale - per_channel(wanted.mean)
    return values if wanted.deviation == (1.0,) else values / per_channel(wanted.deviation)


def follow_trajectories(flow: torch.Tensor, layout: transforms.Layout = "TCHW") -> torch.Tensor:
    """Read each field where the fields before it have moved every point of the first frame to.

    p₁ = p, p_{k+1} = p_k + d_k(p_k); the k-th output at p is d_k(p_k), read bilinearly, and at
    the border where a path leaves the picture.

    Parameters
    ----------
    flow : (…, T, 2, H, W), (…, 2, T, H, W) or (…, 2·T, H, W) tensor
        Consecutive fields in px, in the given layout.
    layout : {"TCHW", "CTHW", "CHW"}

    Returns
    -------
    Tensor of the same shape

    References
    ----------
    Simonyan and Zisserman (2014), section 3.1, "trajectory stacking", arXiv:1406.2199.
    """
    if layout == "CHW":
        fields = flow.unflatten(-3, (-1, 2))  # type: ignore[no-untyped-call]
        return follow_trajectories(fields).flatten(-4, -3)
    if layout == "CTHW":
        return follow_trajectories(flow.transpose(-4, -3)).transpose(-4, -3)
    height, width = flow.shape[-2:]
    fields_NTCHW = flow.reshape(-1, *flow.shape[-4:])
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=flow.dtype, device=flow.device),
        torch.arange(width, dtype=flow.dtype, device=flow.device),
        indexing="ij",
    )
    points_N2HW = torch.stack([columns, rows]).expand(len(fields_NTCHW), 2, height, width)
    # grid_sample wants −1 and 1 at the centres of the first and last pixels.
    half = torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=flow.device) / 2
    found = []
    for field_N2HW in fields_NTCHW.unbind(1):
        grid_NHW2 = points_N2HW.permute(0, 2, 3, 1) / half - 1
        moved = torch.nn.functional.grid_sample(
            field_N2HW, grid_NHW2, padding_mode="border", align_corners=True
        )
        found.append(moved)
        points_N2HW = points_N2HW + moved
    return torch.stack(found, 1).reshape(flow.shape)


def _code_scale(quantiser: QuantiserLike) -> tuple[float, float]:
    """Return the code of zero flow and the pixels per code, as the quantiser itself decodes."""
    if quantiser.storage == "f16":
        return 0.0, 1.0
    zero, reach, dtype = (128, 127, np.uint8) if quantiser.storage == "u8" else (0, 64, np.int16)
    decoded = quantiser.decode(np.array([zero + reach], dtype=dtype))
    return float(zero), float(decoded[0]) / reach
