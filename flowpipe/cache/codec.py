"""Codes of a field, or features ↔ the bytes of one HDF5 chunk: JPEG-LS or zstd, raw if smaller.

JPEG-LS is ISO 14495-1, lossless or within NEAR codes; zstd comes with HDF5's byte shuffle for
16-bit codes. Both are registered HDF5 filters, so any HDF5 reader with hdf5plugin reads them.
"""

import functools
import threading
from typing import Any

import cv2
import numpy as np
import zstandard
from numpy.typing import NDArray

from flowpipe.cache.schema import CODECS, FILTER_JPEGLS, FILTER_SHUFFLE, FILTER_ZSTD
from flowpipe.errors import CacheError, EntryCorrupt, InvalidArgument
from flowpipe.flow.quantise import Quantiser

ZSTD_LEVEL = 6
JPEGLS_LEAST_SIDE = 16

# The zstd objects are costly to make and not to be shared by threads.
_local = threading.local()


def filters_of(codec: str, itemsize: int) -> tuple[int, ...]:
    """Return the HDF5 filter pipeline of a codec, first to last at writing."""
    if codec == "jpegls":
        return (FILTER_JPEGLS,)
    return (FILTER_SHUFFLE, FILTER_ZSTD) if itemsize > 1 else (FILTER_ZSTD,)


def encode_field(
    codes_RW: NDArray[Any], codec: str, *, near: int, level: int = ZSTD_LEVEL
) -> tuple[bytes, int]:
    """Compress one field.

    Parameters
    ----------
    codes_RW : array of 2H×W
        u above v; uint8, uint16 or (zstd only) float16, contiguous.
    codec : "jpegls" or "zstd"
    near : int
        Largest difference in codes that JPEG-LS may make; zstd is always lossless.

    Returns
    -------
    chunk : bytes
    filter_mask : int
        HDF5's mask of *skipped* filters: 0, or all of them where the field would grow.
    """
    if codec == "jpegls":
        size = codes_RW.nbytes * 2 + 1024  # noise overflows the library's own guess
        chunk = bytes(_imagecodecs().jpegls_encode(codes_RW, level=near, out=size))
    else:
        compressor = _thread_object(f"compressor{level}", zstandard.ZstdCompressor, level=level)
        chunk = compressor.compress(_shuffled(codes_RW))
    if len(chunk) >= codes_RW.nbytes or _too_small(codes_RW, codec):
        return codes_RW.tobytes(), (1 << len(filters_of(codec, codes_RW.itemsize))) - 1
    return chunk, 0


def decode_field(
    chunk: bytes | memoryview, codec: str, filter_mask: int, out_RW: NDArray[Any]
) -> None:
    """Decode a chunk into the codes (2H×W, contiguous) of a field, or into features.

    Raises
    ------
    EntryCorrupt
        If the bytes do not decode to the shape and type of `out_RW`.
    """
    try:
        if filter_mask:
            raw: Any = chunk
        elif codec == "jpegls":
            _decode_jpegls(bytes(chunk), out_RW)
            return
        else:
            claimed = zstandard.frame_content_size(chunk)
            if claimed not in (-1, out_RW.nbytes):
                raise EntryCorrupt(f"a chunk claims {claimed} bytes, not {out_RW.nbytes}")
            decompressor = _thread_object("decompressor", zstandard.ZstdDecompressor)
            raw = decompressor.decompress(chunk, max_output_size=out_RW.nbytes)
    except (zstandard.ZstdError, ValueError) as error:
        if isinstance(error, EntryCorrupt):
            raise
        raise EntryCorrupt(f"a chunk does not decode ({error})") from error
    if len(raw) != out_RW.nbytes:
        raise EntryCorrupt(f"a chunk decodes to {len(raw)} bytes, not {out_RW.nbytes}")
    if filter_mask or out_RW.itemsize == 1:
        out_RW[:] = np.frombuffer(raw, out_RW.dtype).reshape(out_RW.shape)
        return
    # HDF5's byte shuffle undone; OpenCV interleaves forty times faster than numpy.
    planes = np.frombuffer(raw, np.uint8).reshape(out_RW.itemsize, *out_RW.shape)
    cv2.merge(tuple(planes), out_RW.view(np.uint8).reshape(*out_RW.shape, out_RW.itemsize))


def _decode_jpegls(chunk: bytes, out_RW: NDArray[Any]) -> None:
    library = _imagecodecs()
    try:
        # Into an array of our own: a chunk may claim any size.
        library.jpegls_decode(chunk, out=out_RW)
    except library.JpeglsError as error:
        raise EntryCorrupt(f"a chunk does not decode ({error})") from error


@functools.cache
def _imagecodecs() -> Any:
    """Import what JPEG-LS alone needs: zstd works on machines without it."""
    try:
        import imagecodecs
    except ImportError as error:
        raise CacheError(
            f"JPEG-LS needs the package imagecodecs, which does not import ({error}); install it, "
            "or take codec zstd"
        ) from error
    return imagecodecs


def check_codec(quantiser: Quantiser, codec: str) -> None:
    """Refuse combinations of storage and codec that make no sense.

    Raises
    ------
    InvalidArgument
    """
    if codec not in CODECS:
        raise InvalidArgument(f'codec "{codec}" must be one of {", ".join(CODECS)}')
    if codec == "jpegls" and quantiser.storage == "f16":
        raise InvalidArgument(
            "storage f16 cannot be JPEG-LS, which knows whole numbers only; use codec zstd"
        )
    if codec == "zstd" and quantiser.tolerance_px:
        raise InvalidArgument(
            f"tolerance {quantiser.tolerance_px:g} px needs codec jpegls; zstd is lossless and "
            "would not get smaller by it"
        )


def stored_dtype(quantiser: Quantiser) -> np.dtype[Any]:
    """Type in the file: i16 codes stand as unsigned 16 bit with zero at 32768 (JPEG-LS)."""
    return np.dtype({"u8": "u1", "i16": "<u2", "f16": "<f2"}[quantiser.storage])


def to_stored(codes: NDArray[Any]) -> NDArray[Any]:
    """Signed 16-bit codes → offset binary; others as they are."""
    if codes.dtype != np.int16:
        return codes
    return codes.view(np.uint16) ^ np.uint16(0x8000)


def from_stored(stored: NDArray[Any]) -> NDArray[Any]:
    """Undo `to_stored`, in place: a second array of a clip's size would go back to the system at
    once, and its pages cost more than the decoding."""
    if stored.dtype != np.uint16:
        return stored
    stored ^= np.uint16(0x8000)
    return stored.view(np.int16)


def code_rule(quantiser: Quantiser) -> tuple[int, float]:
    """Return (code of zero, px per code) as they stand in the file."""
    if quantiser.storage == "u8":
        return 128, float(quantiser.bound_px or 0.0) / 127
    return (32768, 1 / 64) if quantiser.storage == "i16" else (0, 0.0)


def _too_small(codes_RW: NDArray[Any], codec: str) -> bool:
    """HDF5's JPEG-LS filter refuses tiny images, which other readers could then not read."""
    return codec == "jpegls" and min(codes_RW.shape) < JPEGLS_LEAST_SIDE


def _shuffled(codes: NDArray[Any]) -> bytes:
    """HDF5's byte shuffle: all first bytes, then all second bytes."""
    if codes.itemsize == 1:
        return codes.tobytes()
    return codes.reshape(-1).view(np.uint8).reshape(-1, codes.itemsize).T.tobytes()


def _thread_object(name: str, make: Any, **arguments: Any) -> Any:
    if not hasattr(_local, name):
        setattr(_local, name, make(**arguments))
    return getattr(_local, name)
