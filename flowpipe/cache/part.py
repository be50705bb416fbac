"""A file being written: `.NAME.….part`, with a lock that dies with its writer."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from flowpipe.atomic import aside_name, fsync_folder
from flowpipe.errors import CacheError, FlowpipeError

fcntl: Any = None
with contextlib.suppress(ImportError):  # absent on Windows
    import fcntl


class PartFile:
    """An unfinished file, for HDF5 to write through.

    On a full disk HDF5 says no more than that a write failed, and may crash when it then closes:
    the first error is kept in `failure`, and after `discard` writes are thrown away.
    """

    def __init__(self, target: Path, name: str | None = None) -> None:
        # Same folder, so that the rename stays inside one file system.
        self.path = target.with_name(aside_name(name or target.stem))
        self._target = target
        self.file = create_locked(self.path)
        self.failure: OSError | None = None
        self._abandoned = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes if self._abandoned else self._noted(self.file.write, data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return 0 if self._abandoned else self._noted(self.file.seek, offset, whence)

    def truncate(self, size: int | None = None) -> int:
        return 0 if self._abandoned else self._noted(self.file.truncate, size)

    def flush(self) -> None:
        if not self._abandoned:
            self._noted(self.file.flush)

    def move_in(self) -> None:
        """Force the bytes to the disk and give the file its name."""
        self.flush()
        os.fsync(self.fileno())
        self.path.replace(self._target)
        fsync_folder(self._target.parent)

    def discard(self, hdf: Any) -> None:
        """Close HDF5's file and this one, and remove it where it has not got its name."""
        self._abandoned = True
        try:
            if hdf:
                hdf.close()
        finally:
            with contextlib.suppress(OSError):  # its buffer, which nobody wants any more
                self.file.close()
            self.path.unlink(missing_ok=True)

    def _noted(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            self.failure = self.failure or error
            raise


@contextlib.contextmanager
def write_errors(path: Path, part: PartFile | None = None) -> Iterator[None]:
    """Turn what the file system said into a CacheError, also where HDF5 hid it."""
    try:
        yield
    except FlowpipeError:
        raise
    except (OSError, RuntimeError) as error:
        cause = (part and part.failure) or error
        full = getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        way_out = "; make room, then give the same command again" if full else ""
        raise CacheError(f"{path} cannot be written: {cause}{way_out}") from cause


def remove_abandoned(folder: Path, pattern: str = "*/.*.part") -> None:
    """Remove unfinished files whose writer is gone: it held a lock on each, which died with it."""
    for path in folder.glob(pattern):
        # Not ours to touch, or no file. While it is locked here, its maker waits to lock it.
        with contextlib.suppress(OSError), _opened(path) as file:
            if _lock(file.fileno()):
                path.unlink(missing_ok=True)


def create_locked(path: Path) -> IO[bytes]:
    """Create an unfinished file, which is not abandoned for as long as it stays open."""
    while True:
        file = path.open("xb+")
        _lock(file.fileno(), wait=True)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()  # taken for abandoned before it was locked


def is_abandoned(path: Path) -> bool:
    """Whether no process is writing this unfinished file; False where that cannot be known."""
    try:
        with _opened(path) as file:
            return _lock(file.fileno())
    except OSError:
        return False


def _opened(path: Path) -> IO[bytes]:
    """Open a file to lock it; a pipe is not waited for."""
    return os.fdopen(os.open(path, os.O_RDWR | getattr(os, "O_NONBLOCK", 0)), "rb+", buffering=0)


def _lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock a file for as long as it is open; False where another process has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
