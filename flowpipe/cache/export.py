"""Entries in the forms of other tools: their 8-bit JPEGs, .flo, .npy, and pictures for people.

==========  =========================================================  ==========  ==========
format      files in `<out>/<name without extension>/`                 index base  rounding
==========  =========================================================  ==========  ==========
tsn         flow_x_00001.jpg, flow_y_00001.jpg, img_00001.jpg          1           round
denseflow   flow_x_00000.jpg, flow_y_00000.jpg, img_00000.jpg          0           round
flo         flow_00000.flo (Middlebury)                                0           none
npy         flow.npy (F×H×W×2 float32), pts_s.npy (N float64)          0           none
            confidence.npy (F×H×W uint8, 0 to 15) where there is one
color-png   flow_scale-3px_00000.png: frame, flow, caption             0           none
color-mp4   flow_scale-3px.mp4: the same as video                      0           none
==========  =========================================================  ==========  ==========

Frame i and flow i have the same number: flow i goes from frame i to frame i + 1. denseflow keeps
all N frames, TSN as many frames as flows, since its lists have one count for both. Beside them
stands flowpipe-export.json, which says how to read them. The colour forms are for people: each
frame beside its flow in Middlebury's colours, on one scale for the whole video, above a caption
with the time, the scale and the legend.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, get_args

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe._version import __version__
from flowpipe.atomic import aside_name, fsync_folder
from flowpipe.cache.entry import Entry
from flowpipe.errors import CacheError, FlowError, InvalidArgument
from flowpipe.flow.color import color_key, flow_to_color
from flowpipe.flow.confidence import TRUSTED
from flowpipe.flow.files import write_flo
from flowpipe.flow.quantise import to_8bit
from flowpipe.video import VIDEO_EXTENSIONS

Format = Literal["tsn", "denseflow", "flo", "npy", "color-mp4", "color-png"]
FORMATS: tuple[str, ...] = get_args(Format)
RECORD_FILE = "flowpipe-export.json"

# Both tools round; those that truncate (I3D, mmaction2) have no layout of their own.
FAMILY = "round"
BLOCK_FLOWS = 8
SCALE_PERCENT = 99
# Magnitudes are counted in 1/64 px up to this; a scale is a whole number of px anyway.
COUNTED_PER_PX, COUNTED_LARGEST_PX = 64, 4096
VIDEO_TICKS_PER_S = 90_000
CAPTION_PX, CAPTION_MARGIN_PX, LETTER_SCALE = 28, 4, 0.4


@dataclass(frozen=True)
class ExportResult:
    """What one entry became.

    Attributes
    ----------
    folder : Path
    files : tuple of Path
        All files in it but flowpipe-export.json, in order.
    note : str
        What a person should know before using them; empty for nothing.
    record : dict
        The content of flowpipe-export.json.
    """

    folder: Path
    files: tuple[Path, ...]
    note: str
    record: dict[str, Any]


def export(
    entry: Entry,
    out: str | os.PathLike[str],
    format: Format,
    *,
    bound_px: float = 20.0,
    quality: int = 95,
    overwrite: bool = False,
) -> ExportResult:
    """Write one entry in another tool's form.

    Parameters
    ----------
    entry : Entry
    out : path
        The folder in which the entry gets a folder of its own, named as `folder_of` says.
    format : str
        One of `FORMATS`; see the module.
    bound_px : float
        B of the 8-bit forms (tsn, denseflow): components beyond ±B are clipped.
    quality : int
        Of the flow's JPEGs, 1–100. Frames are copied as they stand in the entry.
    overwrite : bool
        Replace an earlier export of this name.

    Raises
    ------
    InvalidArgument
        For an unknown format, a bound or quality out of range, a name that leads out of `out`, or
        a folder that is there already.
    CacheError
        If the files cannot be written; nothing is left then.
    EntryCorrupt
        If the entry's bytes are not what was written.
    """
    if format not in FORMATS:
        raise InvalidArgument(f'format "{format}" must be one of {", ".join(FORMATS)}')
    if not 1 <= quality <= 100:
        raise InvalidArgument(f"quality {quality} must be 1 to 100; 95 is the usual choice")
    to_8bit(0.0, bound_px)  # checks the bound, also where there is no flow to be coded
    folder = Path(out) / folder_of(entry.name)
    check_target(folder, overwrite)
    aside = folder.with_name(aside_name(folder.name))
    try:
        aside.mkdir(parents=True)
        record = _record(entry, format)
        notes = _write_files(entry, aside, format, record, bound_px=bound_px, quality=quality)
        files = sorted(path.name for path in aside.iterdir())
        record |= {"num_files": len(files), "note": "; ".join(notes)}
        text = json.dumps(record, indent=2, ensure_ascii=False)
        (aside / RECORD_FILE).write_text(text + "\n", encoding="utf-8")
        _move_in(aside, folder)
    except (OSError, FlowError, av.FFmpegError) as error:
        raise CacheError(f'"{entry.name}" cannot be exported to {folder}: {error}') from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return ExportResult(folder, tuple(folder / name for name in files), record["note"], record)


def folder_of(name: str) -> PurePosixPath:
    """Return the folder of a name inside `out`: the name without a video's extension.

    Raises
    ------
    InvalidArgument
        If it would lie outside.
    """
    path = PurePosixPath(name)
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        path = path.with_suffix("")
    # A Windows path too, where this runs on Windows: drives, backslashes.
    outside = any(p.anchor or ".." in p.parts for p in (path, Path(name)))
    if outside or not path.name or "\0" in name:
        raise InvalidArgument(
            f'name "{name}" must be a path inside the folder of the export; the manifest of this '
            "cache was not written by flowpipe"
        )
    return path


def color_scale_px(entry: Entry) -> int:
    """Return the magnitude (px) that is painted fully saturated: one scale for the whole video.

    The 99th percentile of all magnitudes, rounded up to whole px, at least 1.
    """
    counts: NDArray[np.int64] = np.zeros(COUNTED_PER_PX * COUNTED_LARGEST_PX + 1, np.int64)
    for _, uv_THWC in _blocks(entry):
        ticks = np.ceil(np.linalg.norm(uv_THWC, axis=-1) * COUNTED_PER_PX)
        ticks = np.minimum(ticks, len(counts) - 1).astype(np.int64)
        counts += np.bincount(ticks.ravel(), minlength=len(counts))
    reached = np.cumsum(counts)
    tick = int(np.searchsorted(reached, reached[-1] * (SCALE_PERCENT / 100)))
    return max(1, math.ceil(tick / COUNTED_PER_PX))


def _write_files(
    entry: Entry,
    folder: Path,
    format: Format,
    record: dict[str, Any],
    *,
    bound_px: float,
    quality: int,
) -> list[str]:
    """Write all but the record, complete the record, and give the notes."""
    if format in ("tsn", "denseflow"):
        clipped_share = _write_jpegs(entry, folder, record["index_base"], bound_px, quality)
        num_images = entry.num_flows if format == "tsn" else entry.num_frames
        record |= {
            "bound_px": bound_px,
            "rounding_family": FAMILY,
            "decode": "px = value · 2 · bound_px / 255 − bound_px",
            "clipped_share": clipped_share,
            "quality": quality,
            "num_images": num_images if entry.has_rgb else 0,
        }
        if entry.has_rgb:
            for row in range(num_images):
                name = f"img_{row + record['index_base']:05d}.jpg"
                (folder / name).write_bytes(entry.rgb.jpeg(row))
        return _notes_8bit(entry, bound_px, clipped_share)
    if format == "flo":
        for start, uv_THWC in _blocks(entry):
            for row, uv_HWC in enumerate(uv_THWC, start):
                write_flo(folder / f"flow_{row:05d}.flo", uv_HWC)
        return []
    if format == "npy":
        with (folder / "flow.npy").open("xb") as file:
            _write_npy(entry, file)
        np.save(folder / "pts_s.npy", entry.pts_s, allow_pickle=False)
        if "confidence" in entry.tracks:
            with (folder / "confidence.npy").open("xb") as file:
                _write_confidence(entry, file)
        return []
    scale_px = color_scale_px(entry)
    record["scale_px"] = scale_px
    if format == "color-png":
        for row, rgb_HWC in enumerate(_pictures(entry, scale_px)):
            path = folder / f"flow_scale-{scale_px}px_{row:05d}.png"
            path.write_bytes(_encoded(".png", rgb_HWC[..., ::-1]))
    elif entry.num_flows:
        _write_mp4(entry, folder / f"flow_scale-{scale_px}px.mp4", scale_px)
    return [] if entry.has_rgb else ["no RGB in this entry: the pictures show the flow alone"]


def _write_jpegs(entry: Entry, folder: Path, base: int, bound_px: float, quality: int) -> float:
    """Write flow_x and flow_y; give the share of components beyond the bound."""
    clipped = 0
    for start, uv_THWC in _blocks(entry):
        clipped += int(np.count_nonzero(np.abs(uv_THWC) > bound_px))
        for row, values_HWC in enumerate(to_8bit(uv_THWC, bound_px), start + base):
            for axis, values_HW in zip("xy", np.moveaxis(values_HWC, -1, 0), strict=True):
                path = folder / f"flow_{axis}_{row:05d}.jpg"
                path.write_bytes(_encoded(".jpg", values_HW, cv2.IMWRITE_JPEG_QUALITY, quality))
    return clipped / max(1, math.prod(entry.flow.shape))


def _notes_8bit(entry: Entry, bound_px: float, clipped_share: float) -> list[str]:
    notes = []
    stored_px = entry.flow_recipe.bound_px
    if stored_px is not None and stored_px < bound_px:
        notes.append(
            f"the entry itself was clipped at ±{stored_px:g} px, below the bound {bound_px:g} px"
        )
    if clipped_share > 0.01:
        notes.append(f"{clipped_share:.1%} of the components are clipped at ±{bound_px:g} px")
    if not entry.has_rgb:
        notes.append("no RGB in this entry: no img files")
    return notes


def _write_npy(entry: Entry, file: IO[bytes]) -> None:
    """Stream the array; a memory map would end in SIGBUS, not in an error, on a full disk."""
    header = {"descr": "<f4", "fortran_order": False, "shape": entry.flow.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for _, uv_THWC in _blocks(entry):
        file.write(np.ascontiguousarray(uv_THWC, "<f4").tobytes())


def _write_confidence(entry: Entry, file: IO[bytes]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": entry.confidence.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for start in range(0, entry.num_flows, BLOCK_FLOWS):
        file.write(np.ascontiguousarray(entry.confidence[start : start + BLOCK_FLOWS]).tobytes())


def _write_mp4(entry: Entry, path: Path, scale_px: int) -> None:
    times_s = entry.pts_s - entry.pts_s[0]
    span_s = float(times_s[-1])
    rate = Fraction(entry.num_flows / span_s if span_s > 0 else 25).limit_denominator(1001)
    last = -1
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=max(rate, Fraction(1, 1001)))
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, VIDEO_TICKS_PER_S)
        stream.options = {"crf": "16"}
        for row, rgb_HWC in enumerate(_pictures(entry, scale_px)):
            # yuv420p has half the colour resolution, so both sides must be even.
            height, width = rgb_HWC.shape[:2]
            even = np.pad(rgb_HWC, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if row == 0:  # later the codec is open, and refuses
                stream.height, stream.width = even.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            last = max(last + 1, round(float(times_s[row]) * VIDEO_TICKS_PER_S))
            frame.pts, frame.time_base = last, Fraction(1, VIDEO_TICKS_PER_S)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(entry: Entry, scale_px: int) -> Iterator[NDArray[np.uint8]]:
    """Return (H + 28)×2W×3 for each flow: its frame, its colours, a caption; W wide without RGB.

    Where the entry has confidence, what is not to be trusted is black, as unknown flow.
    """
    for start, uv_THWC in _blocks(entry):
        for row, uv_HWC in enumerate(uv_THWC, start):
            if "confidence" in entry.tracks:
                trusted = entry.confidence[row] >= TRUSTED
                uv_HWC = np.where(trusted[..., None], uv_HWC, np.float32(np.nan))
            picture = flow_to_color(uv_HWC, scale_px)
            if entry.has_rgb:
                picture = np.concatenate([entry.rgb[row], picture], axis=1)
            caption = _caption(entry, row, scale_px, picture.shape[1])
            yield np.concatenate([picture, caption], axis=0)


def _caption(entry: Entry, row: int, scale_px: int, width_px: int) -> NDArray[np.uint8]:
    """Return 28×W×3: as much of name, time and scale as there is room for, and the legend."""
    strip: NDArray[np.uint8] = np.full((CAPTION_PX, width_px, 3), 255, np.uint8)
    key = color_key(CAPTION_PX - CAPTION_MARGIN_PX)
    left = width_px - key.shape[1] - CAPTION_MARGIN_PX // 2
    if left < 0:
        return strip
    strip[CAPTION_MARGIN_PX // 2 :, left:][: key.shape[0], : key.shape[1]] = key
    when = f"{entry.pts_s[row]:.2f} s"
    stem = PurePosixPath(entry.name).stem
    texts = [
        f"{stem}   flow {row}   {when}   full colour: {scale_px} px per frame",
        f"flow {row}   {when}   full colour: {scale_px} px per frame",
        f"{when}   full colour: {scale_px} px",
        f"{when}  {scale_px} px",
        f"{scale_px} px",
    ]
    for text in texts:
        (length, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, LETTER_SCALE, 1)
        if text.isascii() and length + 2 * CAPTION_MARGIN_PX <= left:  # OpenCV's letters
            place = CAPTION_MARGIN_PX, (CAPTION_PX + height) // 2
            black = (0, 0, 0)
            font = cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(strip, text, place, font, LETTER_SCALE, black, 1, cv2.LINE_AA)
            break
    return strip


def _blocks(entry: Entry) -> Iterator[tuple[int, NDArray[np.float32]]]:
    for start in range(0, entry.num_flows, BLOCK_FLOWS):
        yield start, entry.flow[start : start + BLOCK_FLOWS]


def _encoded(extension: str, picture: NDArray[np.uint8], *options: int) -> bytes:
    done, data = cv2.imencode(extension, np.ascontiguousarray(picture), list(options))
    if not done:
        raise CacheError(f"OpenCV could not encode {extension} of {picture.shape}")
    encoded: bytes = data.tobytes()
    return encoded


def _record(entry: Entry, format: Format) -> dict[str, Any]:
    """Return what is known before anything is written."""
    return {
        "format": format,
        "flowpipe": __version__,
        "name": entry.name,
        "label": entry.label,
        "source_sha256": entry.attributes["source_sha256"],
        "recipe_id": entry.recipe.id,
        "recipe": json.loads(entry.recipe.to_json()),
        "num_flows": entry.num_flows,
        "num_frames": entry.num_frames,
        "height": entry.height,
        "width": entry.width,
        "index_base": 1 if format == "tsn" else 0,
        "bound_px": None,
        "rounding_family": None,
        "clipped_share": 0.0,
        "stored_clipped_share": entry.attributes["clipped_share"],
        "scale_px": None,
    }


def check_target(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that is there, unless it is an earlier export that may be replaced.

    Raises
    ------
    InvalidArgument
    """
    if not folder.exists():
        return
    if not overwrite:
        raise InvalidArgument(
            f"{folder} is there already; overwrite replaces it, or choose another",
            parameter="overwrite",
        )
    # Whoever mistypes `out` must not lose a folder that no export has made.
    inside = list(folder.iterdir()) if folder.is_dir() else []
    if not (folder / RECORD_FILE).is_file() or any(path.is_dir() for path in inside):
        raise InvalidArgument(
            f"{folder} is there and no export alone, so it stays; choose another folder"
        )


def _move_in(aside: Path, folder: Path) -> None:
    if folder.exists():
        old = aside.with_suffix(".old")
        folder.replace(old)
        aside.replace(folder)
        shutil.rmtree(old)
    else:
        aside.replace(folder)
    fsync_folder(folder.parent)
