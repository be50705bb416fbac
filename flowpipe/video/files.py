"""Video files on disk: which there are, and the digest of one."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from flowpipe.errors import VideoError, VideoNotFound

VIDEO_EXTENSIONS = frozenset(
    """
    .264 .265 .3g2 .3gp .amv .asf .avi .divx .dv .f4v .flv .h264 .h265 .hevc .ivf .m1v .m2t
    .m2ts .m2v .m4v .mj2 .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg .mpg .mpv .mts .mxf .nut
    .ogm .ogv .qt .rm .rmvb .tod .tp .trp .ts .vob .webm .wmv .wtv .xvid .y4m
    """.split()  # noqa: SIM905 — a table
)

# What lies beside videos and is not missed.
OTHER_EXTENSIONS = frozenset(
    """
    .aac .bmp .bz2 .cfg .csv .db .doc .docx .flac .flo .gif .gz .h5 .html .ini .ipynb .jpeg
    .jpg .json .jsonl .log .m4a .mat .md .mp3 .npy .npz .ogg .part .pdf .pickle .pkl .png
    .pt .pth .py .sh .srt .tar .tif .tiff .toml .tsv .txt .url .vtt .wav .webp .xls .xlsx
    .xml .yaml .yml .zip
    """.split()  # noqa: SIM905 — a table
)


def find_videos(directory: str | Path) -> list[Path]:
    """List the videos below a directory, sorted by path.

    A video is a file with an extension of `VIDEO_EXTENSIONS`, in whatever case. Hidden files
    and folders are skipped; links are followed, but those to folders inside of `directory`.

    Raises
    ------
    VideoNotFound
        If there is no such directory.
    VideoError
        If it, or a folder in it, cannot be read: its videos would be missing without a word.
    """
    paths = files_below(Path(directory))
    return sorted(p for p in paths if p.suffix.lower() in VIDEO_EXTENSIONS and p.is_file())


def left_out(directory: str | Path) -> str:
    """Return a sentence about files below a directory that may be videos and are not taken.

    Empty where there are none: what has an extension of `OTHER_EXTENSIONS` is not counted.
    """
    counts: Counter[str] = Counter()
    for path in files_below(Path(directory)):
        extension = path.suffix.lower()
        if not path.is_file():
            counts["links that lead nowhere"] += path.is_symlink()
        elif extension not in VIDEO_EXTENSIONS | OTHER_EXTENSIONS:
            counts[extension or "without an extension"] += 1
    kinds = ", ".join(f"{kind} ({count})" for kind, count in counts.most_common(8) if count)
    return kinds and f"files that were left out: {kinds}; name those that are videos"


def files_below(root: Path) -> Iterator[Path]:
    """Yield what is not hidden and no folder; each folder outside is entered once."""
    if not root.is_dir():
        raise VideoNotFound(f"{root} is not a directory; give the folder that holds the videos")
    real_root, entered = root.resolve(), set()
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        real = Path(folder).resolve()
        by_link = real != real_root / Path(folder).relative_to(root)
        if real in entered or (by_link and real.is_relative_to(real_root)):
            folders[:] = []  # its videos are there already, or will be
            continue
        entered.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise VideoError(
        f"{error.filename} cannot be read: {error.strerror}; make it readable, or give the folders "
        "that are"
    ) from error


def content_digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits.

    Raises
    ------
    VideoNotFound
        If there is no such file.
    VideoError
        If it cannot be read.
    """
    source = existing_file(path)
    try:
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise VideoError(f"{source} cannot be read: {error.strerror}") from error


def existing_file(path: str | Path) -> Path:
    source = Path(path)
    try:
        if not source.exists():
            raise VideoNotFound(f"{source} does not exist; check the path")
        if not source.is_file():
            raise VideoError(f"{source} is not a file; find_videos lists the videos of a folder")
    except OSError as error:  # no permission, a name that is too long
        if isinstance(error, VideoNotFound):
            raise
        raise VideoError(f"{source} cannot be read: {error.strerror}") from error
    return source
