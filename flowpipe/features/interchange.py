"""Features as `.npy`, T×D, with a JSON of their times: what temporal-localisation code reads.

::

    OUT/bend/daria_bend.npy      T×D float32
    OUT/bend/daria_bend.json     fps, feature_stride, offset, start_s, centre_s, stop_s, columns, …

Row k is the snippet whose middle lies at `(offset + k · feature_stride) / fps` seconds; `offset`,
`feature_stride` and `snippet_frames` count frames at `fps`. The JSON
holds every row's [start, stop) and middle in seconds as well, which are exact where the formula is
not (videos of varying rate), and which columns are which network's, with the digest of its weights.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowpipe._version import __version__
from flowpipe.atomic import write_aside
from flowpipe.cache import Cache, Entry, FeatureRecipe, entry_path, write_recipe
from flowpipe.cache.export import folder_of
from flowpipe.cache.header import STORAGES
from flowpipe.cache.manifest import ManifestRow
from flowpipe.cache.part import remove_abandoned
from flowpipe.cache.store import name_network, read_weights
from flowpipe.cache.write import FeatureWriter
from flowpipe.errors import CacheError, EntryCorrupt, EntryNotFound, FlowpipeError, InvalidArgument
from flowpipe.features.align import AlignedFeatures, align
from flowpipe.features.computing import FeaturesResult
from flowpipe.runs import Progress, Run, reporting
from flowpipe.video import content_digest
from flowpipe.video.files import files_below

BLOCK_ROWS = 1024
MOST_FRAMES = 1e9  # of a snippet, or from one to the next


@dataclass(frozen=True)
class ExportedFeatures:
    """One video as files: the array, and what the JSON beside it says."""

    path: Path
    record: dict[str, Any]


def export_features(
    store: Cache,
    out: str | os.PathLike[str],
    *,
    networks: Sequence[str],
    videos: Sequence[str] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ExportedFeatures]:
    """Write one `.npy` and one `.json` per video; several networks stand side by side in D.

    Parameters
    ----------
    store : Cache
    out : path
        A folder; made when missing.
    networks : sequence of str
        Names in the store.
    videos : sequence of str, optional
        Names of videos; by default all that every network has.
    overwrite : bool
        Replace files that are there.
    on_progress : callable, optional
        Called with (videos done, videos).

    Raises
    ------
    InvalidArgument
        If a file is there already, or a name leads out of `out`.
    EntryNotFound
        If a network or a video has no features.
    CacheError
        If a file cannot be written.
    """
    opened = [store.select(name) for name in networks]
    common = set.intersection(*(set(network.names()) for network in opened))
    names = sorted(common) if videos is None else [opened[0].row(name).name for name in videos]
    targets = {name: Path(out) / f"{folder_of(name)}.npy" for name in names}
    names_of: dict[Path, str] = {}
    for name, path in targets.items():
        if (other := names_of.setdefault(path, name)) != name:
            raise InvalidArgument(
                f'"{other}" and "{name}" would both become {path}; export them one by one into '
                "different folders",
                parameter="out",
            )
    taken = [path for path in targets.values() if path.exists()]
    if taken and not overwrite:
        raise InvalidArgument(
            f"{taken[0]} is there already; overwrite it, or choose another folder",
            parameter=("overwrite", "out"),
        )
    written = []
    for done, (name, path) in enumerate(targets.items()):
        entries = [network[name] for network in opened]
        found = align(entries)
        record = _record(store.path, name, entries, found, networks)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_aside(path.with_suffix(".json"), "w") as file:
                file.write(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
            with write_aside(path) as file:
                np.save(file, found.features, allow_pickle=False)
        except OSError as error:
            raise CacheError(f"{path} cannot be written: {error}") from error
        written.append(ExportedFeatures(path, record))
        if on_progress is not None:
            on_progress(done + 1, len(targets))
    return written


def _record(
    store: Path,
    name: str,
    entries: Sequence[Entry],
    found: AlignedFeatures,
    networks: Sequence[str],
) -> dict[str, Any]:
    """Return what stands in the JSON of a video."""
    grid = max(entries, key=lambda entry: float(entry.attributes["step_frames"]))
    fps, clip_step = float(grid.attributes["fps"]), float(grid.attributes["step_frames"])
    return {
        "video": name,
        "label": grid.label,
        "features": list(networks),
        "fps": fps,
        "feature_stride": clip_step,
        "offset": float(found.centre_s[0] * fps),
        "snippet_frames": float(grid.attributes["snippet_frames"]),
        "num_snippets": len(found.centre_s),
        "centre_s": _rounded(found.centre_s),
        "start_s": _rounded(found.span_s[:, 0]),
        "stop_s": _rounded(found.span_s[:, 1]),
        "recipes": [entry.recipe.id for entry in entries],
        "columns": _columns(store, entries, networks),
        "made_by": f"flowpipe {__version__}",
    }


def _columns(
    store: Path, entries: Sequence[Entry], networks: Sequence[str]
) -> list[dict[str, Any]]:
    """Return, for each network, which columns are its own and how they were made."""
    columns, start = [], 0
    for network, entry in zip(networks, entries, strict=True):
        recipe = entry.recipe
        assert isinstance(recipe, FeatureRecipe)
        weights = read_weights(store, recipe.id)
        stop = start + int(entry.features.shape[1])
        columns.append(
            {
                "features": network,
                "columns": [start, stop],
                "network": recipe.network,
                "input": recipe.input,
                "layer": recipe.layer,
                "weights": weights.get("weights"),
                "weights_sha256": recipe.weights_sha256,
                # Not known of features that were computed before this was recorded.
                "random_weights": weights["weights"] is None if weights else None,
            }
        )
        start = stop
    return columns


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 6) for value in values]


def import_features(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str,
    fps: float,
    clip_step: float,
    offset: float,
    frames: float | None = None,
    storage: str = "f32",
    on_progress: Callable[[Progress], None] | None = None,
) -> FeaturesResult:
    """Take `.npy` files from elsewhere into a cache of features, so that they can be trained on.

    Parameters
    ----------
    folder : path
        Searched for `.npy` files, T×D or T×D×H×W; a file's path without `.npy` is the video's
        name, which may lack the folders and the extension that annotations have.
    out : path
        The cache of features; made when missing.
    name : str
        What the features are called in it.
    fps, clip_step, offset : float
        Frames per second; frames from row to row; the middle of the first row's snippet, in
        frames.
    frames : float, optional
        Frames that a snippet covers; by default twice the offset, or `clip_step` where that is 0.
    storage : "f16" or "f32"
    on_progress : callable, optional
        Called with a `Progress` about four times a second.

    Returns
    -------
    FeaturesResult

    Raises
    ------
    InvalidArgument
        For numbers outside their rules, or a folder without `.npy` files.
    CacheError
        If the cache cannot be written.
    """
    source, store = Path(folder), Path(out).absolute()
    lengths = (clip_step, 1.0 if frames is None else frames)
    if not (
        0 < fps < 10_000 and all(0 < n < MOST_FRAMES for n in lengths) and 0 <= offset < MOST_FRAMES
    ):
        raise InvalidArgument(
            f"fps {fps:g}, clip_step {clip_step:g} and frames must be > 0, offset {offset:g} ≥ 0; "
            "for 16-frame snippets every 8 frames at 25 fps give 25, 8 and 8",
            parameter=("fps", "clip_step", "offset"),
        )
    if storage not in STORAGES:
        raise InvalidArgument(
            f'storage "{storage}" must be one of {", ".join(STORAGES)}', parameter="storage"
        )
    below = files_below(source) if source.is_dir() else []
    files = sorted(path for path in below if path.suffix.lower() == ".npy")
    if not files:
        raise InvalidArgument(f"{source} holds no .npy file; give the folder of the features")
    recipe = FeatureRecipe(
        source="import",
        input="",
        network="import",
        network_parameters={"offset": float(offset)},
        weights_sha256="",
        layer="",
        spatial=False,
        frames=float(frames or 2 * offset or clip_step),
        stride=1,
        fps=float(fps),
        step=float(clip_step),
        crop_size=(0, 0),
        crop_scale=0.0,
        crops="",
        values="",
        storage=storage,
    )
    write_recipe(store, recipe)
    name_network(store, name, recipe)
    remove_abandoned(store / recipe.id)
    run = Run(store, FeaturesResult(recipe.id, videos=len(files), name=name))
    with reporting(run.progress, on_progress):
        for path in files:
            _import(path, path.relative_to(source).with_suffix("").as_posix(), recipe, offset, run)
    return run.finish()


def _import(
    path: Path, video: str, recipe: FeatureRecipe, offset: float, run: Run[FeaturesResult]
) -> None:
    """Take one file, unless it is there already."""
    try:
        digest = content_digest(path)
        target = entry_path(run.cache, recipe.id, digest)
        computed = False
        try:
            entry = Entry(target)
        except (EntryNotFound, EntryCorrupt):
            _take(path, target, video, digest, recipe, offset)
            entry, computed = Entry(target), True
        status = path.stat()
    except CacheError:
        raise
    except (FlowpipeError, OSError, ValueError, EOFError) as error:
        reason = str(error) if str(path) in str(error) else f"{path}: {error}"
        run.fail(ManifestRow(video, None, "", recipe.id, str(path.absolute()), 0, 0, 0.0), reason)
        return
    run.result.shape = run.result.shape or entry.features.shape[1:]
    if entry.features.shape[1:] != run.result.shape:
        shapes = ["×".join(map(str, s)) for s in (entry.features.shape[1:], run.result.shape)]
        reason = f"{path}: rows of {shapes[0]}, where those before are of {shapes[1]}: not one kind"
        run.fail(ManifestRow(video, None, "", recipe.id, str(path.absolute()), 0, 0, 0.0), reason)
        return
    row = ManifestRow(
        video,
        None,
        digest,
        recipe.id,
        str(path.absolute()),
        status.st_size,
        status.st_mtime_ns,
        time.time(),
    )
    size = target.stat().st_size
    run.add(row, computed=computed, items=len(entry.features), num_bytes=size)


def _take(
    path: Path, target: Path, video: str, digest: str, recipe: FeatureRecipe, offset: float
) -> None:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if values.ndim not in (2, 4) or min(values.shape) < 1 or values.dtype.kind != "f":
        raise InvalidArgument(
            f"{path} holds {values.shape} {values.dtype}; features are T×D or T×D×H×W of floats"
        )
    fps = float(recipe.fps or 1.0)
    centre_s = ((offset + recipe.step * np.arange(len(values))) / fps).astype(np.float64)
    half_s = recipe.frames / 2 / fps
    with FeatureWriter(target, tuple(map(int, values.shape[1:])), recipe.storage) as writer:
        for start in range(0, len(values), BLOCK_ROWS):
            writer.add(np.asarray(values[start : start + BLOCK_ROWS]))
        writer.finish(
            centre_s,
            np.stack([centre_s - half_s, centre_s + half_s], axis=1),
            {
                "recipe": recipe.to_json(),
                "source_name": video,
                "source_sha256": digest,
                "source": json.dumps({"file": path.name, "dtype": str(values.dtype)}),
                "fps": fps,
                "offset_frames": float(offset),
                "step_frames": recipe.step,
                "snippet_frames": recipe.frames,
                "problem": "",
                "software": json.dumps({"flowpipe": __version__, "numpy": np.__version__}),
            },
        )
