"""Is every entry what was written? Header always; every chunk, and the whole file, with `deep`.

HDF5 may crash or hang on a malformed file, so entries are opened in processes of their own: that
then costs the answer for one file only.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from flowpipe.cache.cache import Cache
from flowpipe.cache.entry import Entry
from flowpipe.cache.hdf import DAMAGED, PACK_DAMAGED, check_trailer
from flowpipe.cache.manifest import (
    FAILURE_KINDS,
    FAILURES_FILE,
    manifest_files,
    manifest_lines,
)
from flowpipe.cache.part import is_abandoned
from flowpipe.cache.store import (
    NETWORK_KINDS,
    NETWORKS_FILE,
    WEIGHTS_FILE,
    read_recipe_file,
    read_weights,
    recipe_files,
)
from flowpipe.errors import CacheError, CacheNotFound, EntryCorrupt, FlowpipeError
from flowpipe.sealed import read_bytes, read_lines

Opened = TypeVar("Opened")

BATCH = 64
# Signals by which a process ends that reads a malformed file.
CRASHES = [
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGBUS", "SIGABRT", "SIGFPE", "SIGILL", "SIGSYS")
    if hasattr(signal, name)
]
HEADER_LIMIT_S = 60
LINE_WAY_OUT = "give the same command again, then delete this line"


@dataclass(frozen=True)
class Finding:
    """What verification says of one entry: `problem` is empty where all is well.

    `name` is that of a video in a packed cache, where `path` is that of the pack. `unread` is
    whether the file could not be read now, which says nothing of its content.
    """

    path: Path
    problem: str
    name: str = ""
    unread: bool = False


def verify(cache: Path, *, deep: bool = False) -> Iterator[Finding]:
    """Check all entries of a cache, in the order of their paths; of a pack by name.

    Raises
    ------
    CacheNotFound
        If there is neither a directory nor a file at `cache`.
    CacheError
        If the checking itself fails, which says nothing of the files.
    """
    if cache.is_file():
        return _verify_pack(cache, deep)
    if not cache.is_dir():
        raise CacheNotFound(f"no cache at {cache}; flowpipe extract makes one")
    paths = sorted(path for path in cache.glob("*/*/*.h5") if not path.name.startswith("."))
    return _verify(paths, deep)


def left_over(cache: Path) -> list[Finding]:
    """Return the files in the recipes' folders that are neither entries nor being written.

    They do no harm: nothing reads them.
    """
    findings = []
    for file in recipe_files(cache):
        for path in sorted(path for path in file.parent.rglob("*") if path.is_file()):
            if path.name.startswith(".") and path.suffix == ".part":
                if is_abandoned(path):
                    why = "left by a process that was killed; the next extract removes it"
                    findings.append(Finding(path, f"{path}: {why}"))
            elif path.name == WEIGHTS_FILE and path.parent == file.parent:
                continue
            elif path != file and (path.suffix != ".h5" or path.parent.parent != file.parent):
                findings.append(Finding(path, f"{path}: no part of a cache; move it elsewhere"))
    return findings


def damaged_texts(cache: Path) -> list[Finding]:
    """Return what is wrong with the texts of a directory: recipes, manifest, failures, networks.

    A line that is not what was written is not read: the video that it names has none.
    """
    findings = []
    for file in recipe_files(cache):
        for path, read in (
            (file, partial(read_recipe_file, file)),
            (file.with_name(WEIGHTS_FILE), partial(read_weights, cache, file.parent.name)),
        ):
            try:
                read()
            except (FlowpipeError, OSError) as error:
                findings.append(Finding(path, str(error)))
    texts = [(file, manifest_lines(file)) for file in manifest_files(cache)]
    for name, kinds in ((FAILURES_FILE, FAILURE_KINDS), (NETWORKS_FILE, NETWORK_KINDS)):
        texts.append((cache / name, read_lines(read_bytes(cache / name), kinds)))
    for file, lines in texts:
        for number, record in lines.damaged:
            problem = f"{file}: line {number} is not what was written; {LINE_WAY_OUT}"
            findings.append(Finding(file, problem, str(record.get("name", ""))))
        findings.extend(
            Finding(file, f"{file}: line {number} was cut short; {LINE_WAY_OUT}")
            for number in lines.cut
        )
    return findings


def verify_entry(
    path: Path,
    *,
    deep: bool = False,
    open_entry: Callable[[Path], Entry] = Entry,
) -> Finding:
    """Check one entry file, in this process.

    Parameters
    ----------
    path : Path
    deep : bool
        Also decode every field and frame and compare the digest of the whole file.
    """
    try:
        entry = open_entry(path)
        if entry.path.stem != entry.attributes["source_sha256"]:
            raise EntryCorrupt(f"{path}: its name is not the digest of its video; {DAMAGED}")
        if entry.path.parent.parent.name != entry.recipe.id:
            raise EntryCorrupt(f"{path}: it stands in the folder of another recipe; {DAMAGED}")
        if deep:
            entry.check()
            check_trailer(path)
    except (FlowpipeError, OSError) as error:
        return Finding(path, str(error), unread=not isinstance(error, EntryCorrupt))
    return Finding(path, "")


def _verify_pack(path: Path, deep: bool) -> Iterator[Finding]:
    for answer in _answers([path], deep, pack=True):
        if isinstance(answer, int):
            if answer:
                yield Finding(path, f"{path}: HDF5 {_how(answer)} on it; {PACK_DAMAGED}")
            return
        yield Finding(path, **answer)


def _findings_of_pack(path: Path, deep: bool) -> Iterator[Finding]:
    """Return what is said of each entry, and of the file where something is wrong with it."""
    try:
        pack = _in_time(lambda: Cache(path))
        rows = pack.rows()
    except (FlowpipeError, OSError) as error:
        yield Finding(path, str(error), unread=not isinstance(error, EntryCorrupt))
        return
    done: set[tuple[str, str]] = set()
    for row in rows:
        if (row.recipe, row.digest) in done:
            continue
        done.add((row.recipe, row.digest))
        finding = Finding(path, "", row.name)
        try:
            entry = pack.entry_of(row)
            if deep:
                entry.check()
        except (FlowpipeError, OSError) as error:
            unread = not isinstance(error, EntryCorrupt)
            finding = Finding(path, str(error), row.name, unread)
        yield finding
    if deep:
        try:
            check_trailer(path)
        except EntryCorrupt as error:
            yield Finding(path, str(error))


def _verify(paths: list[Path], deep: bool) -> Iterator[Finding]:
    for start in range(0, len(paths), BATCH):
        rest = paths[start : start + BATCH]
        while rest:
            done = 0
            status = 0
            for answer in _answers(rest, deep):
                if isinstance(answer, int):
                    status = answer
                else:
                    yield Finding(rest[done], **answer)
                    done += 1
            if done < len(rest):  # the process died on this one
                yield Finding(rest[done], f"{rest[done]}: HDF5 {_how(status)} on it; {DAMAGED}")
                done += 1
            rest = rest[done:]


def _how(status: int) -> str:
    """Return what HDF5 did to the process that verifies; one that others ended is no answer."""
    if status not in (-_alarm(), *(-number for number in CRASHES)):
        raise CacheError(
            f"the process that verifies was ended by signal {-status}, which says nothing of the "
            "files; is there memory enough?"
        )
    return "hangs" if status == -_alarm() else f"crashes (signal {-status})"


def _answers(
    paths: list[Path], deep: bool, *, pack: bool = False
) -> Iterator[dict[str, Any] | int]:
    """Return what is said of each file as it is found, then the status of the process."""
    options = ["--deep"] if deep else []
    options += ["--pack"] if pack else []
    with subprocess.Popen(
        # -P: a module that lies beside the data is none of ours.
        [sys.executable, "-P", "-m", "flowpipe.cache.verify", *options, "--", *map(str, paths)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.endswith("\n"):
                yield json.loads(line)
        status = process.wait()
    if status > 0:
        raise CacheError(f"the process that verifies ended with status {status}; see above")
    yield status


def _open_in_time(path: Path) -> Entry:
    return _in_time(lambda: Entry(path))


def _in_time(opened: Callable[[], Opened]) -> Opened:
    """Open, or end this process: HDF5 gives Python no chance to interrupt it."""
    if not _alarm():
        return opened()
    signal.signal(_alarm(), signal.SIG_DFL)
    signal.alarm(HEADER_LIMIT_S)
    try:
        return opened()
    finally:
        signal.alarm(0)


def _alarm() -> int:
    return int(getattr(signal, "SIGALRM", 0))  # Windows has none


def _answer(arguments: list[str]) -> None:
    options, names = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    for name in names:
        if "--pack" in options:
            findings = _findings_of_pack(Path(name), "--deep" in options)
        else:
            deep = "--deep" in options
            findings = iter([verify_entry(Path(name), deep=deep, open_entry=_open_in_time)])
        for finding in findings:
            record = {key: value for key, value in vars(finding).items() if key != "path"}
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    _answer(sys.argv[1:])
