"""Video files on disk: which there are, and the digest of one."""

import hashlib
import os
from pathlib import Path

from flowpipe.errors import VideoError, VideoNotFound

VIDEO_EXTENSIONS = frozenset(
    [
        *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2ts", ".m2v", ".m4v"),
        *(".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts"),
        *(".vob", ".webm", ".wmv", ".y4m"),
    ]
)


def find_videos(directory: str | Path) -> list[Path]:
    """List the videos below a directory, sorted by path.

    A video is a file with an extension of `VIDEO_EXTENSIONS`, in whatever case. Hidden files
    and folders are skipped. Links to videos are taken; links to folders are followed where they
    lead out of `directory`, each folder once.

    Raises
    ------
    VideoNotFound
        If there is no such directory.
    VideoError
        If it, or a folder in it, cannot be read: its videos would be missing without a word.
    """
    root = Path(directory)
    if not root.is_dir():
        raise VideoNotFound(f"{root} is not a directory; give the folder that holds the videos")
    seen = {root.resolve()}

    def is_new(folder: Path) -> bool:
        """Whether a folder is no link, or a link to where nothing was looked at yet."""
        if not folder.is_symlink():
            return True
        real = folder.resolve()
        inside = any(real.is_relative_to(known) or known.is_relative_to(real) for known in seen)
        seen.add(real)
        return not inside

    found = []
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        visible = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in visible if is_new(Path(folder, name))]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix.lower() in VIDEO_EXTENSIONS:
                found += [path] if path.is_file() else []
    return sorted(found)


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
