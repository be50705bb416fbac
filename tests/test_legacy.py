"""What earlier versions wrote stays readable, with the same values: see tests/data/README.md."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowpipe

ARCHIVE = Path(__file__).parent / "data" / "legacy.zip"
CACHES = (
    "caches/backward", "caches/f16", "caches/i16-tolerance", "caches/run", "caches/u8-jpegls",
    "caches/u8-zstd", "pack.h5",
)  # fmt: skip


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the files to where they have never been."""
    folder = tmp_path_factory.mktemp("legacy")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def expected(legacy: Path) -> dict[str, Any]:
    return json.loads((legacy / "expected.json").read_text("utf-8"))


def sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "flowpipe", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("path", CACHES)
def test_flow_entries_read_as_before(legacy, expected, path):
    cache = flowpipe.open_cache(legacy / path)
    assert sorted(cache.names()) == sorted(expected["caches"][path])
    for name, values in expected["caches"][path].items():
        entry = cache[name]
        assert entry.attributes["content_sha256"] == values["content_sha256"]
        assert entry.recipe.id == values["recipe"]
        assert sha256(entry.flow[:].astype(np.float32)) == values["flow"]
        assert sha256(entry.pts_s) == values["pts_s"]
        if "frame" in values:
            assert sha256(entry.rgb[1]) == values["frame"]
        if "backward" in values:
            assert sha256(cache.backward(name).flow[:].astype(np.float32)) == values["backward"]


def test_features_read_as_before(legacy, expected):
    cache = flowpipe.open_cache(legacy / "features", recipe="motion")
    assert sorted(cache.names()) == sorted(expected["features"])
    for name, values in expected["features"].items():
        entry = cache[name]
        assert entry.attributes["content_sha256"] == values["content_sha256"]
        assert sha256(entry.features[:]) == values["features"]
        assert sha256(entry.centre_s) == values["centre_s"]


@pytest.mark.parametrize("path", ["caches/backward", "caches/run", "pack.h5", "features"])
def test_every_byte_is_verified(legacy, path):
    assert ", 0 wrong" in command(legacy, "cache", "verify", "--deep", path).stderr


def test_score_files_read_as_before(legacy, expected):
    for path, values in expected["scores"].items():
        scores = flowpipe.load_scores(legacy / path)
        assert list(scores.ids) == values["ids"]
        assert list(scores.classes) == values["classes"]
        np.testing.assert_allclose(scores.probabilities_NK, values["probabilities"], atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "run"), [("config.toml", "run"), ("svm.toml", "run-svm")])
def test_a_finished_run_is_gone_on_with(legacy, expected, config, run):
    checkpoints = sorted((legacy / run).rglob("checkpoint.pt"))
    before = [file.read_bytes() for file in checkpoints]
    done = command(legacy, "train", config, "--fold", "test", "--out", run, "--json")
    record = json.loads(done.stdout)
    assert record["accuracy"] == pytest.approx(expected[run])
    assert [file.read_bytes() for file in checkpoints] == before  # nothing was trained anew


@pytest.mark.slow
def test_a_finished_run_predicts_and_reports(legacy):
    video = next((legacy / "videos").rglob("*.mp4"))
    record = json.loads(command(legacy, "predict", "run", str(video), "--json").stdout)
    assert record["failed"] == 0
    assert len(record["videos"]) == 1
    command(legacy, "report", "run")
    assert (legacy / "run" / "report.html").stat().st_size > 10_000
