"""Is every entry what was written? Header always; every chunk, and the whole file, with `deep`."""

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flowpipe.cache import schema
from flowpipe.cache.entry import Entry
from flowpipe.errors import EntryCorrupt, FlowpipeError

BATCH = 64


@dataclass(frozen=True)
class Finding:
    """What verification says of one entry file: `problem` is empty where all is well."""

    path: Path
    problem: str


def verify_entry(path: Path, *, deep: bool = False) -> Finding:
    """Check one entry file.

    Parameters
    ----------
    path : Path
    deep : bool
        Also decode every field and frame and compare the digest of the whole file.
    """
    try:
        entry = Entry(path)
        if entry.path.stem != entry.attributes["source_sha256"]:
            raise EntryCorrupt(f"{path}: its name is not the digest of its video")
        if entry.path.parent.parent.name != entry.recipe.id:
            raise EntryCorrupt(f"{path}: it stands in the folder of another recipe")
        if deep:
            for row in range(entry.num_flows):
                entry.flow.codes([row])
            for row in range(entry.num_frames if entry.has_rgb else 0):
                entry.rgb[row]
            _check_trailer(path)
    except (FlowpipeError, OSError) as error:
        return Finding(path, str(error))
    return Finding(path, "")


def verify(cache: Path, *, deep: bool = False) -> Iterator[Finding]:
    """Check all entry files of a cache, in processes of their own.

    HDF5 may crash on a malformed file; that then costs the answer for this file only.
    """
    paths = sorted(path for path in cache.glob("*/*/*.h5") if not path.name.startswith("."))
    for start in range(0, len(paths), BATCH):
        batch = paths[start : start + BATCH]
        told = _in_process(batch, deep)
        for path in batch[len(told) :] if len(told) < len(batch) else ():
            # The process died somewhere in this batch: ask again, one by one.
            alone = _in_process([path], deep)
            told += alone or [Finding(path, f"{path}: HDF5 crashed on it; delete it")]
        yield from told


def _in_process(paths: list[Path], deep: bool) -> list[Finding]:
    done = subprocess.run(
        [sys.executable, "-m", "flowpipe.cache.verify", *(["--deep"] if deep else []), "--"]
        + [str(path) for path in paths],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    answers = [line for line in done.stdout.split("\x1e") if line.endswith("\x1f")]
    return [Finding(path, text[:-1]) for path, text in zip(paths, answers, strict=False)]


def _check_trailer(path: Path) -> None:
    size = path.stat().st_size - schema.TRAILER_BYTES
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while size > 0 and (block := file.read(min(size, 2**20))):
            digest.update(block)
            size -= len(block)
        if file.read() != schema.TRAILER_MAGIC + digest.digest():
            raise EntryCorrupt(f"{path}: the file is not what was written; extract it again")


if __name__ == "__main__":
    wanted = sys.argv[sys.argv.index("--") + 1 :]
    for name in wanted:
        finding = verify_entry(Path(name), deep="--deep" in sys.argv[: sys.argv.index("--")])
        sys.stdout.write(finding.problem + "\x1f\x1e")
        sys.stdout.flush()
