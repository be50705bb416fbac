"""docs/difficult_videos.md is what happens, and what happens is right."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "difficult_videos.py"


# The collection's list counts the first track; players show the best one, as flowpipe does.
SEVERAL_TRACKS = {"`codec/nasa_13013.mp4`": "390"}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("difficult_videos", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(text: str, first: str) -> list[list[str]]:
    """Give the cells of the table whose header begins with `first`."""
    table = next(part for part in text.split("\n\n") if part.lstrip().startswith(f"| {first} |"))
    lines = table.strip().splitlines()[2:]
    return [[cell.strip() for cell in line[1:-1].split(" | ")] for line in lines]


@pytest.mark.slow
@pytest.mark.data
def test_the_page_tells_what_becomes_of_each_video(script, shared_data, tmp_path):
    rows = script.collection_rows(shared_data / "robustness", tmp_path / "c")
    assert [[c.strip() for c in row] for row in rows] == rows_of(script.PAGE.read_text(), "video")
    assert len(rows) == 50
    for name, counts, frames, _, note in rows:
        decoded = counts.split(" / ")[0]
        if frames == "–":
            assert decoded in ("–", "0", "1"), name
            assert "no flow" in note
        elif name in SEVERAL_TRACKS:
            assert frames == SEVERAL_TRACKS[name], name
        elif not note:
            assert frames == decoded, name
        else:
            assert int(frames) >= int(decoded), name


@pytest.mark.slow
def test_the_page_tells_what_becomes_of_generated_videos(script, tmp_path):
    rows = script.generated_rows(tmp_path / "videos", tmp_path / "c")
    table = rows_of(script.PAGE.read_text(), "generated")
    assert [[c.strip() for c in row] for row in rows] == table
    for what, written, frames, *_ in rows:
        assert written == frames, what


def test_the_page_has_the_texts_of_the_script(script):
    page = script.PAGE.read_text()
    assert page.startswith(script.HEAD)
    assert script.EXPLAINED in page
