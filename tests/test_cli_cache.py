"""`flowpipe cache` as a person uses it: what is printed where, statuses, sentences for errors."""

import importlib
import json
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import run_cli as run

from flowpipe import open_cache
from flowpipe.cache.export import FORMATS
from flowpipe.cache.manifest import FAILURES_FILE
from flowpipe.cache.recipe import DEFAULT_RGB_QUALITY
from flowpipe.datasets import synthetic

NAMES = [
    "checks-rotate/checks-rotate-000.mp4",
    "checks-rotate/checks-rotate-001.mp4",
    "stripes-zoom/stripes-zoom-000.mp4",
]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three generated videos in two class folders, and a text called .mp4."""
    made = tmp_path_factory.mktemp("generated")
    synthetic.write_videos(made, clips=18)
    root = tmp_path_factory.mktemp("videos")
    for name in NAMES:
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(made / name, root / name)
    (root / "stripes-zoom" / "list.mp4").write_text("no video\n")
    return root


@pytest.fixture(scope="module")
def whole_cache(tmp_path_factory, videos):
    cache = tmp_path_factory.mktemp("whole") / "flow.cache"
    done = run("extract", videos, "--out", cache, "--flow", "farneback", "--workers", 1)
    assert done.status == 1, done.err  # the text
    return cache


@pytest.fixture
def cache(tmp_path, whole_cache):
    """A copy, for a test to damage."""
    return shutil.copytree(whole_cache, tmp_path / "flow.cache")


def files_of(cache: Path) -> dict[str, Path]:
    opened = open_cache(cache)
    return {name: opened[name].path for name in opened}


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def first_chunk(path: Path) -> int:
    from flowpipe.cache import Entry

    return int(Entry(path).flow.chunks[0, 0]) + 20


def test_ls(whole_cache):
    done = run("cache", "ls", whole_cache)
    assert done.status == 0
    lines = [line.split() for line in done.out.splitlines() if line.strip()]
    assert lines[0] == ["name", "label", "recipe", "length", "size", "bytes"]
    shown = {line[0]: line[1:] for line in lines}
    for name in NAMES:
        label, _, frames, size, *_ = shown[name]
        assert (label, frames, size) == (name.split("/")[0], "24", "96×96")
    assert "farneback, source size, every frame, u8 ±20 px, RGB q95" in done.out
    assert f"1 video has no entry; {whole_cache / FAILURES_FILE} says why" in done.err


def test_ls_json(whole_cache):
    done = run("cache", "ls", whole_cache, "--json")
    told = json.loads(done.out)
    assert [record["name"] for record in told["videos"]] == NAMES
    for record in told["videos"]:
        assert record["flows"] == 23
        assert record["bytes"] == Path(record["file"]).stat().st_size
        assert Path(record["source"]).is_file()
        assert record["problem"] == record["partial"] == ""
    (recipe,) = told["recipes"]
    assert (recipe["videos"], recipe["flow"], recipe["storage"]) == (3, "farneback", "u8")
    assert recipe["id"] == told["videos"][0]["recipe"]


def test_ls_of_a_damaged_entry(cache):
    path = files_of(cache)[NAMES[1]]
    path.write_bytes(path.read_bytes()[:4000])
    done = run("cache", "ls", cache)
    assert done.status == 1
    assert "damaged" in next(line for line in done.out.splitlines() if NAMES[1] in line)
    assert f"{NAMES[1]}: {path} is not an entry of a flowpipe cache, or a damaged one" in done.err
    broken = [
        r for r in json.loads(run("cache", "ls", cache, "--json").out)["videos"] if r["problem"]
    ]
    assert [record["name"] for record in broken] == [NAMES[1]]


@pytest.mark.parametrize("name", [NAMES[2], "stripes-zoom-000.mp4", "stripes-zoom-000"])
def test_info_says_all_the_file_says(whole_cache, videos, name):
    done = run("cache", "info", whole_cache, name)
    assert (done.status, done.err) == (0, "")
    entry = open_cache(whole_cache)[NAMES[2]]
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert lines[0] == f"{NAMES[2]}: {entry.recipe.describe()}"
    for key, value in entry.attributes.items():
        if key not in ("recipe", "source", "software"):
            assert f"{key} {value if value != '' else '–'}" in lines
    for text in ("recipe", "source", "software"):
        for key, value in json.loads(entry.attributes[text]).items():
            shown = json.dumps(value) if isinstance(value, dict) else value
            assert f"{key} {'–' if value is None else shown}" in lines
    assert f"path {videos / NAMES[2]}" in lines
    told = json.loads(run("cache", "info", whole_cache, name, "--json").out)
    assert told["entry"]["source_sha256"] == entry.path.stem
    assert told["recipe"] == json.loads(entry.attributes["recipe"])
    assert told["reproduce"] == lines[-1]


@pytest.mark.parametrize(
    "options",
    [
        ["--flow", "farneback"],
        ["--flow", "dis", "--flow-arg", "preset=fast", "--short-side", "64", "--no-rgb"],
        ["--flow", "dis", "--storage", "i16", "--tolerance", "0.04", "--fps", "12.5"],
        ["--flow", "farneback", "--storage", "f16", "--codec", "zstd", "--size", "48x64"],
        ["--flow", "dis", "--bound", "7.5", "--codec", "zstd"],
    ],
    ids=" ".join,
)
def test_info_gives_a_command_that_computes_the_same(tmp_path, videos, options, monkeypatch):
    odd = tmp_path / "a name, with 'quotes'.mp4"
    shutil.copy(videos / NAMES[0], odd)
    assert run("extract", odd, "--out", tmp_path / "first", "--workers", 1, *options).status == 0
    told = run("cache", "info", tmp_path / "first", odd.stem, "--json")
    command = shlex.split(json.loads(told.out)["reproduce"])
    assert command[:3] == ["flowpipe", "extract", str(odd)]
    monkeypatch.chdir(tmp_path)
    assert run(*command[1:], "--workers", 1).status == 0
    first = open_cache(tmp_path / "first")[odd.name]
    again = open_cache(tmp_path / command[command.index("--out") + 1])[odd.name]
    assert again.recipe == first.recipe
    assert again.path.relative_to(tmp_path / "again.cache") == first.path.relative_to(
        tmp_path / "first"
    )
    assert again.attributes["content_sha256"] == first.attributes["content_sha256"]


def test_the_copy_of_the_default_is_right():
    info = importlib.import_module("flowpipe.cli.cache.info")
    export = importlib.import_module("flowpipe.cli.cache.export")
    assert info.RGB_QUALITY == DEFAULT_RGB_QUALITY
    assert export.FORMATS == FORMATS


@pytest.mark.parametrize("deep", [False, True])
def test_verify_of_a_sound_cache(whole_cache, deep):
    done = run("cache", "verify", whole_cache, *(["--deep"] if deep else []))
    assert (done.status, done.out) == (0, "")
    how = "every byte" if deep else "headers; --deep reads every byte"
    assert done.err == f"3 entries checked ({how}), 0 wrong\n"


def test_verify_lists_what_is_wrong(cache):
    files = files_of(cache)
    flip(files[NAMES[0]], first_chunk(files[NAMES[0]]))
    files[NAMES[1]].unlink()
    files[NAMES[2]].write_bytes(b"")
    stray = files[NAMES[0]].with_name(".0123.45-6789.part")
    stray.write_bytes(b"half")

    fast = run("cache", "verify", cache)
    assert fast.status == 1
    assert [line.split(":")[0] for line in fast.out.splitlines()] == [NAMES[2], NAMES[1]]
    assert f"{files[NAMES[1]]} is gone; compute it again" in fast.out
    assert f"note: {stray}: left by a process that was killed" in fast.err
    assert "2 entries checked (headers; --deep reads every byte), 2 wrong" in fast.err
    assert "delete its file, then give the extract command again" in fast.err

    deep = run("cache", "verify", cache, "--deep", "--json")
    assert deep.status == 1
    told = json.loads(deep.out)
    assert {record["name"] for record in told["wrong"]} == set(NAMES)
    assert (told["checked"], told["deep"], told["left_over"]) == (2, True, [str(stray)])
    problem = {record["name"]: record["problem"] for record in told["wrong"]}
    assert "flow 0: its bytes are not what was written" in problem[NAMES[0]]


def test_what_verify_advises_helps(cache, videos):
    files = files_of(cache)
    flip(files[NAMES[0]], first_chunk(files[NAMES[0]]))
    assert run("cache", "verify", cache, "--deep").status == 1
    files[NAMES[0]].unlink()
    command = ("extract", videos, "--out", cache, "--flow", "farneback", "--workers", 1, "--json")
    told = json.loads(run(*command).out)
    assert (told["done"], told["skipped"]) == (1, 2)
    assert run("cache", "verify", cache, "--deep").status == 0


def test_an_entry_without_a_name_is_told(cache):
    for file in (cache / "manifest").iterdir():
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:1]))
    unnamed = 3 - len(open_cache(cache))
    assert unnamed == 2
    done = run("cache", "verify", cache)
    assert done.status == 0
    assert "note: 2 entries have no name; the next extract of the video gives it one" in done.err


@pytest.mark.parametrize("format", FORMATS)
def test_export(tmp_path, whole_cache, format):
    done = run("cache", "export", whole_cache, "--format", format, "--out", tmp_path / "out")
    assert done.status == 0, done.err
    folders = [tmp_path / "out" / name.removesuffix(".mp4") for name in NAMES]
    assert done.out.split() == [str(folder) for folder in folders]
    assert f"3 videos as {format} in {tmp_path / 'out'}" in done.err
    assert ('rounding family "round", ±20 px' in done.err) == (format in ("tsn", "denseflow"))
    for folder in folders:
        assert len(list(folder.iterdir())) > 1


def test_export_of_one_by_its_stem(tmp_path, whole_cache):
    command = ("cache", "export", whole_cache, "stripes-zoom-000", "--format", "tsn")
    options = ("--bound", "4", "--quality", "100", "--json", "--out", tmp_path / "out")
    told = json.loads(run(*command, *options).out)
    (record,) = told["exported"]
    assert (record["name"], record["bound_px"], record["quality"]) == (NAMES[2], 4.0, 100)
    value = cv2.imread(f"{record['folder']}/flow_x_00003.jpg", cv2.IMREAD_UNCHANGED).astype(float)
    flow = np.clip(open_cache(whole_cache)[NAMES[2]].flow[1:4][..., 0], -4, 4)
    error = np.sqrt(((value * 2 * 4 / 255 - 4 - flow) ** 2).mean(axis=(1, 2)))
    assert error[1] < 1.5 * 4 / 255  # zero has no code of its own: half a step
    assert error[1] < error[0]  # TSN counts from 1
    assert error[1] < error[2]
    again = run(*command, "--out", tmp_path / "out")
    assert again.status == 2
    assert "is there already; overwrite replaces it" in again.err
    assert run(*command, "--out", tmp_path / "out", "--overwrite").status == 0


def test_export_looks_before_it_writes(tmp_path, whole_cache):
    last = tmp_path / "out" / NAMES[2].removesuffix(".mp4")
    last.mkdir(parents=True)
    done = run("cache", "export", whole_cache, "--format", "npy", "--out", tmp_path / "out")
    assert done.status == 2
    assert f"flowpipe: {last} is there already" in done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["stripes-zoom"]


def test_export_of_a_damaged_entry(tmp_path, cache):
    path = files_of(cache)[NAMES[0]]
    flip(path, first_chunk(path))
    done = run("cache", "export", cache, "--format", "flo", "--out", tmp_path / "out")
    assert done.status == 1
    assert f"flowpipe: {path} ({NAMES[0]}): flow 0: its bytes are not" in done.err
    written = {p.parent.name for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert written == {Path(name).stem for name in NAMES[1:]}  # one does not end the others


def test_two_names_of_one_folder(tmp_path, videos, cache):
    (tmp_path / "more").mkdir()
    for extension in ("mp4", "avi"):
        shutil.copy(videos / NAMES[0], tmp_path / "more" / f"same.{extension}")
    source = tmp_path / "more"
    run("extract", source, "--out", cache, "--flow", "farneback", "--workers", 1)
    done = run("cache", "export", cache, "--format", "npy", "--out", tmp_path / "out")
    assert done.status == 2
    assert '"same.avi" and "same.mp4" would both become' in done.err


COMMANDS = [["ls"], ["info", "NAME"], ["verify"], ["export", "--format", "npy", "--out", "OUT"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("nowhere", "no cache at {path}; flowpipe extract makes one"),
        ("folder", "{path} is a directory but no cache; flowpipe extract makes one"),
        ("file", "no cache at {path}: it is neither a directory nor a packed cache"),
    ],
)
def test_what_is_no_cache(tmp_path, command, place, sentence):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    path = tmp_path / place
    words = [str(tmp_path / "out") if word == "OUT" else word for word in command[1:]]
    done = run("cache", command[0], path, *words)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"flowpipe: {sentence.format(path=path)}\n"
    told = run("cache", command[0], path, *words, "--traceback")
    assert told.status == 2
    assert "Traceback (most recent call last)" in told.err


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("stripes-zoom-001", 'no video "stripes-zoom-001" in CACHE (did you mean '
         '"stripes-zoom/stripes-zoom-000.mp4"'),
        ("ROTATE", f'(did you mean "{NAMES[0]}" or "{NAMES[1]}"?); flowpipe cache ls lists the'),
        ("xyz", 'no video "xyz" in CACHE; flowpipe cache ls lists the names'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", [["info"], ["export", "--format", "npy", "--out", "out"]])
def test_unknown_name(whole_cache, command, name, sentence):
    done = run("cache", command[0], whole_cache, name, *command[1:])
    assert (done.status, done.out) == (2, "")
    assert sentence.replace("CACHE", str(whole_cache)) in done.err


def test_ambiguous_stem_and_recipe(tmp_path, videos, cache):
    for folder in ("a", "b"):
        (tmp_path / "more" / folder).mkdir(parents=True)
        shutil.copy(videos / NAMES[0], tmp_path / "more" / folder / "walk.mp4")
    source = tmp_path / "more"
    for method in ("farneback", "dis"):
        run("extract", source, "--out", cache, "--flow", method, "--workers", 1)
    done = run("cache", "info", cache, "walk")
    assert done.status == 2
    assert '"walk" is the name of 2 videos: a/walk.mp4, b/walk.mp4; give one of these' in done.err
    done = run("cache", "info", cache, "a/walk.mp4")
    assert done.status == 2
    assert '"a/walk.mp4" stands for 2 entries' in done.err
    assert "open the cache with recipe=..." in done.err
    recipes = {r["flow"]: r for r in json.loads(run("cache", "ls", cache, "--json").out)["recipes"]}
    assert (recipes["farneback"]["videos"], recipes["dis"]["videos"]) == (5, 2)
    for method, recipe in recipes.items():
        done = run("cache", "info", cache, "a/walk.mp4", "--recipe", recipe["id"][:6])
        assert done.status == 0
        assert f"--flow {method} " in done.out
    done = run("cache", "ls", cache, "--recipe", "zz")
    assert done.status == 2
    assert 'recipe "zz" is the start of 0 of the recipes' in done.err
    listed = json.loads(run("cache", "ls", cache, "--json", "--recipe", recipes["dis"]["id"]).out)
    assert [record["name"] for record in listed["videos"]] == ["a/walk.mp4", "b/walk.mp4"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "CACHE", "--format", "avi", "--out", "out"], "'avi' is not one of"),
        (["export", "CACHE", "--format", "tsn"], "Missing option '--out'"),
        (["export", "CACHE", "--format", "tsn", "--out", "out", "--quality", "0"], "range 1<=x"),
        (["export", "CACHE", "--format", "tsn", "--out", "out", "--bound", "-1"], "must be > 0"),
        (["info", "CACHE"], "Missing argument 'NAME'"),
        (["ls"], "Missing argument 'CACHE'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["ls", "CACHE", "--deep"], "No such option"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_misuse(tmp_path, whole_cache, words, told, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("cache", *(whole_cache if word == "CACHE" else word for word in words))
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert not (tmp_path / "out").exists()
