"""From a folder of videos to an experiment: what is in it, what is chosen, where the run goes."""

import glob
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from flowpipe.atomic import write_aside
from flowpipe.config import apply_overrides, read_toml
from flowpipe.errors import ConfigError
from flowpipe.experiment.automatic import DEFAULT_MINUTES, Plan, choose, run_folder
from flowpipe.experiment.data import read_dataset
from flowpipe.experiment.results import RESULTS_FILE
from flowpipe.experiment.settings import FRAME_HISTOGRAM, DataSettings, Settings, settings_from

CONFIG_FILE = "config.toml"


@dataclass(frozen=True)
class Start:
    """What `train FOLDER` does: the settings, the plan they came of, and the folder of the run.

    `plan` is None where an unfinished run of the same folder goes on.
    """

    settings: Settings
    out: Path
    fold: str
    plan: Plan | None
    description: str


def start(
    folder: Path,
    *,
    out: Path | None = None,
    runs: Path = Path("runs"),
    minutes: float | None = None,
    num_folds: int | None = None,
    fold: str | None = None,
    overrides: Sequence[str] = (),
    weights: Sequence[str] = (),
    workers: int = 1,
) -> Start:
    """Look at a folder of videos and choose settings, or go on with its unfinished run.

    Parameters
    ----------
    folder : Path
    out : Path, optional
        Folder of the run; by default the first of NAME, NAME-2 … in `runs` that is free or holds
        an unfinished run of the same folder. One that is given is gone on with.
    minutes : float, optional
        About how long training may take.
    num_folds : int, optional
        Folds to make at random.
    fold : str, optional
        One fold only; by default all.
    overrides : sequence of str
        `key.sub=value`, after what was chosen.
    weights : sequence of str
        Files of weights: `FILE` of a network of pictures, for the still stream, or `STREAM=FILE`.
    workers : int
        Processes of the extraction.

    Raises
    ------
    ConfigError
        If the folder is the folder of a run, or `out` holds a config.toml of something else.
    AnnotationError
        If there are no videos of two classes in it.
    """
    if (folder / RESULTS_FILE).is_file() or (folder / CONFIG_FILE).is_file():
        raise ConfigError(
            f"{folder} is the folder of a run; give its {CONFIG_FILE} to train it again"
        )
    overrides = [*overrides, *(_override_of(each) for each in weights)]
    data: dict[str, Any] = {"root": str(folder.resolve())}
    given = _given(minutes, num_folds, overrides)
    unfinished = _unfinished(data["root"], given, out, runs, folder.resolve().name)
    if unfinished is not None:
        settings = read_config(unfinished / CONFIG_FILE)
        return Start(settings, unfinished, fold or "all", None, f"{unfinished}: resumed")
    if out is not None and (out / CONFIG_FILE).exists():
        raise ConfigError(
            f"{out / CONFIG_FILE} is there already, of other videos or settings; choose another "
            "folder, or train from that file",
            parameter="out",
        )
    dataset = read_dataset(DataSettings(folder.resolve()))
    plan = choose(
        dataset,
        data,
        minutes=minutes or DEFAULT_MINUTES,
        num_folds=num_folds,
        workers=workers,
    )
    plan.reasons[:0] = dataset.notes
    plan.given = given
    plan.table["title"] = folder.resolve().name
    plan.table["data"]["cache"] = "cache"
    _fit_to_models(plan.table["streams"], overrides)
    apply_overrides(plan.table, overrides)
    if overrides:
        plan.reasons.append(f"in place of what was chosen: {', '.join(overrides)}")
    target = out or run_folder(runs, folder.resolve().name)
    settings = settings_from(plan.table, where=CONFIG_FILE, folder=target)
    counts = {len([v for v in dataset.videos if v.label == name]) for name in dataset.classes}
    each = f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{counts.pop()}"
    description = (
        f"{folder}: {len(dataset)} videos of {len(dataset.classes)} classes ({each} of each)"
    )
    return Start(settings, target, fold or "all", plan, description)


def _override_of(weights: str) -> str:
    """Return "[STREAM=]FILE" as the change of a key."""
    name, equals, path = weights.partition("=")
    if not equals or Path(weights).is_file():
        name, path = "still", weights  # the name of a file may hold a "="
    return f"streams.{name}.weights={json.dumps(str(Path(path).absolute()))}"


def _fit_to_models(streams: dict[str, Any], overrides: Sequence[str]) -> None:
    """Prepare the streams that are given another network: own parameters, a frame to look at."""
    for name, stream in streams.items():
        if any(each.startswith(f"streams.{name}.model=") for each in overrides):
            stream.pop("model_parameters", None)
            if stream["input"] == FRAME_HISTOGRAM:
                stream |= {"input": "rgb", "crop_size": streams["motion"]["crop_size"]}


def write_config(out: Path, plan: Plan) -> Path:
    """Write config.toml, from which the same run comes again."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / CONFIG_FILE
    head = f"{plan.given}\n" + "".join(f"# {reason}\n" for reason in plan.reasons)
    with write_aside(path, "w") as file:
        file.write(f"{head}\n{tomli_w.dumps(plan.table)}")
    return path


def read_config(path: Path) -> Settings:
    """Read a config.toml; its paths are relative to its folder."""
    return settings_from(read_toml(path), where=path.name, folder=path.parent)


def _given(minutes: float | None, num_folds: int | None, overrides: Sequence[str]) -> str:
    """Return the first line of a config.toml: what a person asked for, to find the run by."""
    asked = {"minutes": minutes, "folds": num_folds, "set": list(overrides)}
    return f"# train FOLDER with {json.dumps(asked)}"


def _unfinished(root: str, given: str, out: Path | None, runs: Path, name: str) -> Path | None:
    """Return the folder of a run of the same videos, asked for alike: cut off, or named."""
    places = [out] if out is not None else sorted(runs.glob(f"{glob.escape(name)}*"))
    for place in places:
        config = place / CONFIG_FILE
        finished = out is None and (place / RESULTS_FILE).is_file()
        if not config.is_file() or finished or _root_of(config) != root:
            continue
        if given == _given(None, None, ()) or config.read_text("utf-8").startswith(f"{given}\n"):
            return place
    return None


def _root_of(config: Path) -> Any:
    return read_toml(config).get("data", {}).get("root")
