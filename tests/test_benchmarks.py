"""The benchmark scripts run on tiny input, and give the numbers they announce."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def run(tmp_path):
    """Give `run(script, *arguments)`, which gives what the script wrote with --json."""

    def run(script: str, *arguments: str) -> dict:
        file = tmp_path / "numbers.json"
        command = [sys.executable, BENCHMARKS / f"{script}.py", "--json", file, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        numbers = json.loads(file.read_text("utf-8"))
        assert "|\n| --" in done.stdout
        assert done.stdout.endswith(json.dumps(numbers, indent=1) + "\n")
        return numbers

    return run


@pytest.mark.slow
def test_scaling(run):
    numbers = run("scaling", "--frames", "4", "7", "--videos", "2", "--frames-each", "3")
    assert [row["flows"] for row in numbers["one_video"]] == [3, 6]
    assert [row["flows"] for row in numbers["many_videos"]] == [4]
    assert numbers["many_videos"][0]["× last"] == 1


@pytest.mark.slow
@pytest.mark.data
def test_extraction_and_sum_of_parts(run, tmp_path, shared_data):
    part = tmp_path / "part.json"
    part.write_text(json.dumps(run("extraction", "--clips", "4", "--part", "2/2")), "utf-8")
    numbers = run("extraction", "--sum", str(part), str(part))
    assert numbers["clips"] == 4
    flows = {row["run"]: row["flows"] for row in numbers["table"]}
    assert len(flows) == 4
    assert len(set(flows.values())) == 1, "every run computes the same flows"
    assert all(0 <= row["outside, of worker time"] < 1 for row in numbers["table"][1:3])


@pytest.mark.slow
@pytest.mark.data
def test_storage(run, shared_data):
    numbers = run("storage", "--clips", "1", "--flows", "2", "--rounds", "1")
    table = {row["form"]: row for row in numbers["table"]}
    assert numbers["flows"] == 2
    assert table["u8 jpegls"]["largest px"] <= 0.1115
    assert table["u8 zstd"]["mean error px"] == table["u8 jpegls"]["mean error px"]
    assert table["i16 zstd"]["largest px"] < table["i16 jpegls, tolerance 0.04 px"]["largest px"]
    assert table["PNG pairs"]["kB per flow"] > table["JPEG q95 pairs"]["kB per flow"]


@pytest.mark.slow
@pytest.mark.data
def test_loader(run, shared_data):
    numbers = run("loader", "--clips", "1", "--stacks", "40", "--rounds", "1")
    table = {row["form"]: row for row in numbers["table"]}
    assert len(table) == 10
    assert {"u8 zstd, packed", "u8 jpegls, packed"} < table.keys()
    assert all(table["JPEG q95 pairs"][f"threads {n}: × JPEG"] == 1 for n in (1, 2))
    assert all(row["workers 2: stacks/s"] > 0 for row in table.values())


@pytest.mark.slow
def test_front_door(run):
    numbers = run("front_door", "quickstart", "--clips", "36", "--folds", "2", "--minutes", "0.2")
    right = {row["scores"]: row["accuracy"] for row in numbers["scores"]}
    assert set(right) == {"motion", "still", "whole-clip", "fused"}
    assert right["fused"] > 1 / 3  # nine classes
    assert {row["folder"] for row in numbers["scores"]} == {"quickstart"}
