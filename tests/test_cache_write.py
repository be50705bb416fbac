"""Entries as they are written: whole, or not there at all."""

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowpipe.cache.codec import check_codec
from flowpipe.cache.part import remove_abandoned
from flowpipe.cache.write import EntryWriter
from flowpipe.errors import CacheError, InvalidArgument
from flowpipe.flow.quantise import Quantiser

U8 = Quantiser("u8", bound_px=20.0)


def left_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def noise():
    return np.random.default_rng(0).uniform(-30, 30, (20, 24, 32, 2)).astype(np.float32)


def test_writer_that_fails_leaves_nothing(tmp_path):
    def fail() -> None:
        sizes = {"height": 8, "width": 8, "rgb_quality": 90}
        with EntryWriter(tmp_path / "ab" / "x.h5", quantiser=U8, codec="zstd", **sizes) as w:
            w.add_flow(np.zeros((8, 8, 2), np.float32))
            w.add_rgb(np.zeros((8, 8, 3), np.uint8))
            assert left_in(tmp_path)
            raise RuntimeError("the decoder gave up")

    with pytest.raises(RuntimeError, match="the decoder gave up"):
        fail()
    assert left_in(tmp_path) == []


def test_writer_refuses_counts_that_do_not_fit(tmp_path):
    def fail() -> None:
        with EntryWriter(tmp_path / "x.h5", quantiser=U8, codec="zstd", height=8, width=8) as w:
            w.add_flow(np.zeros((8, 8, 2), np.float32))
            w.finish(np.zeros(3), {})

    with pytest.raises(InvalidArgument, match=r"1 fields and 0 RGB frames do not go with 3 times"):
        fail()
    assert left_in(tmp_path) == []


KILLED = """
import os, sys, numpy as np
from pathlib import Path
from flowpipe.cache.write import EntryWriter
from flowpipe.flow.quantise import Quantiser
writer = EntryWriter(Path(sys.argv[1]), quantiser=Quantiser("u8", bound_px=20.0), codec="zstd",
                     height=8, width=8)
with writer:
    writer.add_flow(np.zeros((8, 8, 2), np.float32))
    os.kill(os.getpid(), 9)
"""


def test_killed_writer_leaves_only_what_can_be_removed(tmp_path):
    path = tmp_path / "ab" / "x.h5"
    assert subprocess.run([sys.executable, "-c", KILLED, path], check=False).returncode == -9
    (part,) = left_in(tmp_path)
    assert part.endswith(".part")
    with EntryWriter(path.with_name("y.h5"), quantiser=U8, codec="zstd", height=8, width=8):
        remove_abandoned(tmp_path)
        assert [name for name in left_in(tmp_path) if name == part] == []
        assert len(left_in(tmp_path)) == 1  # that of the writer which lives


class FullDisk:
    """A file on a disk with room for `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        if self._file.tell() + memoryview(data).nbytes > self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return int(self._file.write(data))


@pytest.mark.parametrize("room", [0, 40, 100, 1000, 3000, 6000, 20000, -3000, -100, -1])
def test_full_disk_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, room, write_entry, noise):
    path = write_entry(tmp_path / "whole", noise, U8, "zstd")
    room %= path.stat().st_size
    opened: Callable[..., Any] = Path.open

    def open_on_full_disk(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        file = opened(path, mode, *rest, **options)
        return FullDisk(file, room) if path.suffix == ".part" else file

    monkeypatch.setattr(Path, "open", open_on_full_disk)
    with pytest.raises(CacheError, match=r"ab\.h5 cannot be .*No space left on device; make room"):
        write_entry(tmp_path / "cache", noise, U8, "zstd")
    assert left_in(tmp_path / "cache") == []


LIMITED = """
import resource, sys, numpy as np
from pathlib import Path
from flowpipe.cache.write import EntryWriter
from flowpipe.errors import CacheError
from flowpipe.flow.quantise import Quantiser
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
noise = np.random.default_rng(0).uniform(-30, 30, (24, 32, 2)).astype(np.float32)
try:
    with EntryWriter(Path(sys.argv[1]), quantiser=Quantiser("u8", bound_px=20.0), codec="zstd",
                     height=24, width=32) as writer:
        for _ in range(200):
            writer.add_flow(noise)
        writer.finish(np.arange(201.0), {})
except CacheError as error:
    sys.exit(str(error))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
@pytest.mark.parametrize("limit", [10, 5000, 100_000, 250_000])
def test_what_the_system_refuses_is_an_error(tmp_path, limit):
    path = tmp_path / "ab" / "x.h5"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, path, str(limit)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == f"{path} cannot be written: [Errno 27] File too large\n"
    assert done.returncode == 1
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("form", "match"),
    [
        ((U8, "gzip"), 'codec "gzip" must be one of jpegls, zstd'),
        ((Quantiser("f16"), "jpegls"), "storage f16 cannot be JPEG-LS"),
        ((Quantiser("i16", tolerance_px=0.04), "zstd"), r"tolerance 0\.04 px needs codec jpegls"),
    ],
)
def test_forms_that_make_no_sense(form, match):
    with pytest.raises(InvalidArgument, match=match):
        check_codec(*form)


WITHOUT = """
import sys
sys.modules["imagecodecs"] = None
from pathlib import Path
import numpy as np
from flowpipe.cache import Entry, FlowRecipe
from flowpipe.cache.codec import encode_field
from flowpipe.errors import CacheError
from flowpipe.extraction.tasks import Job, Task
from flowpipe.extraction.worker import process_task
job = Job(Path(sys.argv[2]), FlowRecipe.make("dis", rgb=False), "zstd")
done = process_task(job, Task(0, Path(sys.argv[1]), "clip.mp4", 1), lambda flows, share: None)
assert not done.failed, done
(file,) = job.cache.rglob("*.h5")
assert len(Entry(file).flow[:]) == 3
try:
    encode_field(np.zeros((32, 16), np.uint8), "jpegls", near=0)
except CacheError as error:
    print(error)
"""


def test_zstd_needs_no_imagecodecs(tmp_path, write_video):
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 48, 3), np.uint8)
    video = write_video(tmp_path / "clip.mp4", noise)
    command = [sys.executable, "-c", WITHOUT, str(video), str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "install it, or take codec zstd" in done.stdout
