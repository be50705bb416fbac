"""Displacements ↔ codes: bounds of the error on noise, constants, one pixel and real flow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flowpipe.cache.codec import decode_field, encode_field, from_stored, stored_dtype, to_stored
from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow import create
from flowpipe.flow.quantise import Quantiser, to_8bit
from flowpipe.video import VideoReader

U8_ENDPOINT_PX = 0.112
"""√2 · 20/254, what unclipped flow may be off at ±20."""


def through(uv_HWC, quantiser, codec):
    """Quantise, compress and back, as an entry does."""
    codes = to_stored(quantiser.encode(np.ascontiguousarray(uv_HWC.transpose(2, 0, 1))))
    stacked = codes.reshape(-1, codes.shape[2])
    chunk, mask = encode_field(stacked, codec, near=quantiser.near if codec == "jpegls" else 0)
    read = np.empty(stacked.shape, stored_dtype(quantiser))
    decode_field(chunk, codec, mask, read)
    return quantiser.decode(from_stored(read).reshape(codes.shape)).transpose(1, 2, 0)


def fields():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:48, :64]
    return {
        "noise": rng.uniform(-20, 20, (37, 53, 2)).astype(np.float32),
        "small noise": rng.normal(0, 0.05, (37, 53, 2)).astype(np.float32),
        "constant": np.full((20, 30, 2), 3.14159, np.float32),
        "zero": np.zeros((20, 30, 2), np.float32),
        "1×1": np.float32([[[-7.3, 19.99]]]),
        "one row": rng.uniform(-20, 20, (1, 200, 2)).astype(np.float32),
        "waves": np.stack([9 * np.sin(x / 9 + y / 5), 4 * np.cos(y / 7)], axis=-1).astype("f4"),
        "ends": np.float32([[[-20, 20], [20, -20], [0, -0.0]]]),
    }


@pytest.fixture(scope="session")
def real_flow(shared_data):
    """Fields of a clip that moves much and of one that hardly moves."""
    found = []
    for pattern in ("ucf101_sample/**/*.avi", "weizmann/**/*.avi"):
        frames = []
        for frame in VideoReader(sorted(shared_data.glob(pattern))[3]):
            frames.append(frame.grey_HW)
            if len(frames) == 6:
                break
        method = create("farneback")
        found += [method(frames[i], frames[i + 1]) for i in (0, 4)]
    return found


@pytest.mark.parametrize("codec", ["jpegls", "zstd"])
@pytest.mark.parametrize("kind", fields())
def test_u8(kind, codec):
    uv = fields()[kind]
    error = through(uv, Quantiser("u8", bound_px=20.0), codec) - uv
    assert np.abs(error).max() <= 20 / 254 + 1e-5
    assert np.hypot(*error.reshape(-1, 2).T).max() <= U8_ENDPOINT_PX


@pytest.mark.parametrize("tolerance_px", [0.0, 1 / 128, 0.02, 0.03, 0.04, 0.1, 1.0])
@pytest.mark.parametrize("kind", fields())
def test_i16_is_never_off_by_more_than_its_tolerance(kind, tolerance_px):
    uv = fields()[kind]
    read = through(uv, Quantiser("i16", tolerance_px=tolerance_px), "jpegls")
    assert np.abs(read.astype(np.float64) - uv).max() <= (tolerance_px or 1 / 128)


@pytest.mark.parametrize("kind", fields())
def test_lossless_forms(kind):
    uv = fields()[kind]
    assert np.abs(through(uv, Quantiser("i16"), "zstd") - uv).max() <= 1 / 128
    halves = through(uv, Quantiser("f16"), "zstd")
    np.testing.assert_array_equal(halves, uv.astype(np.float16).astype(np.float32))


@pytest.mark.data
@pytest.mark.parametrize("codec", ["jpegls", "zstd"])
def test_real_flow(real_flow, codec):
    assert max(np.abs(uv).max() for uv in real_flow) > 4
    for uv in real_flow:
        unclipped = (np.abs(uv) <= 20).all(axis=-1)
        error = through(uv, Quantiser("u8", bound_px=20.0), codec) - uv
        assert np.hypot(error[..., 0], error[..., 1])[unclipped].max() <= U8_ENDPOINT_PX
        assert np.abs(through(uv, Quantiser("i16"), codec) - uv).max() <= 1 / 128
    for uv in real_flow:
        for tolerance_px in (0.02, 0.05):
            near = Quantiser("i16", tolerance_px=tolerance_px)
            error = through(uv, near, "jpegls").astype(np.float64) - uv
            assert np.abs(error).max() <= tolerance_px


@pytest.mark.parametrize(
    ("tolerance_px", "near"),
    [(0.0, 0), (1 / 128, 0), (1.49 / 64, 0), (1.5 / 64, 1), (0.04, 2), (2.5 / 64, 2), (1.0, 63)],
)
def test_near_is_the_largest_that_keeps_the_tolerance(tolerance_px, near):
    quantiser = Quantiser("i16", tolerance_px=tolerance_px)
    assert quantiser.near == near
    assert near == 0 or (near + 0.5) / 64 <= tolerance_px < (near + 1.5) / 64


@pytest.mark.parametrize(
    "quantiser",
    [Quantiser("u8", bound_px=20.0), Quantiser("u8", bound_px=0.7), Quantiser("i16"),
     Quantiser("f16")],
    ids=lambda quantiser: f"{quantiser.storage}",
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    flow=arrays(np.float32, st.integers(1, 20), elements=st.floats(-(2.0**99), 2.0**99, width=32))
)
def test_any_finite_flow(quantiser, flow):
    codes = quantiser.encode(flow)
    assert codes.dtype == quantiser.dtype
    read = quantiser.decode(codes)
    assert np.abs(read).max() <= np.float32(quantiser.largest_px) * (1 + 1e-6)
    # Odd: mirrored flow has mirrored codes; monotone; codes of codes stay.
    np.testing.assert_array_equal(quantiser.decode(quantiser.encode(-flow)), -read)
    order = np.argsort(flow, kind="stable")
    assert (np.diff(read[order]) >= 0).all()
    np.testing.assert_array_equal(quantiser.encode(read), codes)
    assert quantiser.clipped(flow) == np.count_nonzero(np.abs(flow) > quantiser.largest_px)


@pytest.mark.parametrize(
    ("quantiser", "zero", "extremes"),
    [
        (Quantiser("u8", bound_px=20.0), 128, (1, 255)),
        (Quantiser("i16"), 0, (-32767, 32767)),
        (Quantiser("f16"), 0, (-65504, 65504)),
    ],
)
def test_codes(quantiser, zero, extremes):
    assert quantiser.encode(0.0) == zero
    assert quantiser.decode(quantiser.encode(np.zeros(1)))[0] == 0.0
    assert tuple(quantiser.encode([-1e9, 1e9]).tolist()) == extremes


@pytest.mark.parametrize(
    "codes", [np.int16([0, 1, -1, 32767, -32767, -32768]), np.uint8([0, 255]), np.float16([1])]
)
def test_offset_binary(codes):
    np.testing.assert_array_equal(from_stored(to_stored(codes)), codes)


def test_offset_binary_puts_zero_in_the_middle():
    assert to_stored(np.int16([-32768, 0, 32767])).tolist() == [0, 32768, 65535]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"storage": "u9"}, 'storage "u9" must be one of u8, i16, f16'),
        ({"storage": "u8"}, "bound None px of storage u8 must be > 0; 20 is the usual choice"),
        ({"storage": "u8", "bound_px": 0.0}, r"bound 0.0 px of storage u8 must be > 0"),
        ({"storage": "u8", "bound_px": float("inf")}, "bound inf px"),
        ({"storage": "i16", "bound_px": 20.0}, "bound 20 px does not go with storage i16"),
        ({"storage": "f16", "tolerance_px": 0.1}, "does not go with storage f16; it belongs to"),
        ({"storage": "i16", "tolerance_px": 0.001}, r"must be 0 or from 0.0078125"),
        ({"storage": "i16", "tolerance_px": 1.5}, "to 1; 0.04 halves the size"),
        ({"storage": "i16", "tolerance_px": float("nan")}, "tolerance nan px"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_forms_that_make_no_sense(arguments, match):
    with pytest.raises(InvalidArgument, match=match):
        Quantiser(**arguments)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_broken_flow_is_refused(broken):
    flow = np.zeros((3, 4, 2), np.float32)
    flow[1, 2, 0] = broken
    for encode in (Quantiser("u8", bound_px=20.0).encode, lambda uv: to_8bit(uv, 20)):
        with pytest.raises(FlowError, match="1 of 24 displacements are not finite"):
            encode(flow)


def test_codes_of_another_type_are_refused():
    with pytest.raises(InvalidArgument, match="codes of type int16 must be uint8"):
        Quantiser("u8", bound_px=20.0).decode(np.zeros(3, np.int16))


# The literature's two families.


@pytest.mark.parametrize(
    ("flow", "value"),
    [(0.0, 128), (20.0, 255), (-20.0, 0), (-21.0, 0), (400.0, 255), (0.0785, 128), (-0.08, 127)],
)
def test_values_of_other_tools(flow, value):
    assert to_8bit(flow, 20) == value


@pytest.mark.parametrize("bound_px", [1.0, 15.0, 20.0, 32.0])
def test_values_of_other_tools_are_within_half_a_step(bound_px):
    flow = np.linspace(-bound_px, bound_px, 100_001, dtype=np.float32)
    half_step = bound_px / 255
    error = to_8bit(flow, bound_px) * (2 * half_step) - bound_px - flow
    assert np.abs(error).max() <= half_step * 1.0001
    assert abs(error.mean()) < half_step / 100


def test_values_of_other_tools_need_a_bound():
    with pytest.raises(InvalidArgument, match=r"bound 0 px must be > 0; 20 is the usual choice"):
        to_8bit(np.zeros(1), 0)
