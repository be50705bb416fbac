"""Write aside, fsync, rename in: a file exists only when it is complete."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

NAME_BYTES = 100


@contextmanager
def write_aside(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; where the block ends well it takes the name `path`.

    Bytes and rename are forced to the disk (fsync of file and folder), so that after a power cut
    the old or the new content stands there, whole. If the block raises, `path` is as it was and
    nothing is left behind. What is no file (a terminal, a pipe, /dev/null) is written as it is,
    and a link keeps its place: the file that it leads to is replaced.

    Parameters
    ----------
    path : path
        In a folder that exists.
    mode : "wb" or "w"
        Text is written as UTF-8 with `\\n`.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    target = Path(path)
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    if is_device(target):
        with target.open(mode, **text) as file:
            yield file
        return
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    aside = target.with_name(aside_name(target.name))
    try:
        try:
            opened = aside.open(mode.replace("w", "x"), **text)
        except OSError as error:  # of the file that was asked for, not of the one beside it
            raise OSError(error.errno, error.strerror, str(target)) from error
        try:
            with opened as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a full disk names no file
            if error.filename is None and error.errno:
                raise OSError(error.errno, error.strerror, str(target)) from error
            raise
        aside.replace(target)
        fsync_folder(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def is_device(path: Path) -> bool:
    """Return whether a path is a terminal, a pipe or a device, or one of a process's own files."""
    place = str(path.absolute())
    if place.startswith(("/proc/", "/dev/")) and not place.startswith("/dev/shm/"):
        return True  # /dev/stdout may lead to a file, which others hold open
    return path.exists() and not (path.is_file() or path.is_dir())


def aside_name(name: str) -> str:
    """Return a hidden name for what will be called `name`; no longer than file systems take."""
    start = name.encode("utf-8", "surrogateescape")[:NAME_BYTES].decode("utf-8", "ignore")
    return f".{start}.{os.getpid()}-{secrets.token_hex(4)}.part"


def make_folder(path: Path) -> None:
    """Make a folder and those it lies in, lastingly: each new one is synced in its parent."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Make a rename in a folder last; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
