"""One file of a trained run: `NAME.flowpipe`, to hand on and to predict with.

It is a safetensors file: the weights of one fold's networks, the scores that its fusion was fitted
to and those of the tested videos, and JSON text in the header: settings without paths, results,
classes, and a card of what it was trained on and what it reached. No code, no video, no pickle;
names of videos are replaced by numbers. A digest over all of it is checked when it is read.
"""

import atexit
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from flowpipe._version import __version__
from flowpipe.atomic import write_aside
from flowpipe.errors import ConfigError, WeightsError, is_refusal
from flowpipe.experiment.experiment import FITTED_TO, Experiment
from flowpipe.experiment.histograms import without_names
from flowpipe.experiment.results import (
    MOVING,
    RESULTS_FILE,
    SCORES_FOLDER,
    SETTINGS_FILE,
    accuracy,
    fused_file,
    stream_folder,
)
from flowpipe.experiment.settings import HISTOGRAMS
from flowpipe.metrics import accuracy_interval
from flowpipe.scores import Scores, load_scores
from flowpipe.sealed import write_table
from flowpipe.training.checkpoint import CHECKPOINT, read_weights, save_tensors

SUFFIX = ".flowpipe"
FORMAT = "flowpipe model"
VERSION = 1
FACTS = "flowpipe"
# Keys of the settings that lead to files of the machine it was trained on.
PATHS = ("root", "annotations", "cache", "features")


def export_run(run: Path, out: Path, *, fold: str | None = None) -> dict[str, Any]:
    """Write one file with everything that predicting needs, and return its card.

    Parameters
    ----------
    run : Path
        Folder of a finished run.
    out : Path
        The file; its name should end in ".flowpipe".
    fold : str, optional
        Whose networks; the run's first by default.

    Raises
    ------
    ConfigError
        If the run is not finished, or has a stream on cached features, which new videos lack.
    """
    experiment = Experiment.of_run(run)
    settings, results = experiment.settings, experiment.results
    fold = experiment.fold_name(fold)
    if cached := [name for name, s in settings.streams.items() if s.input == "features"]:
        raise ConfigError(
            f"streams {', '.join(cached)} look at cached features, which new videos have not; "
            "a run with them cannot be exported"
        )
    tensors: dict[str, torch.Tensor] = {}
    kept: dict[str, Any] = {}
    for name in settings.streams:
        weights = read_weights(stream_folder(run, fold, name) / CHECKPOINT)
        if settings.streams[name].input in HISTOGRAMS:
            weights = without_names(weights)
        tensors |= {f"stream/{name}/{key}": value.contiguous() for key, value in weights.items()}
        for file in set(FITTED_TO.values()):
            path = stream_folder(run, fold, name) / file
            if path.is_file():
                _add_scores(tensors, kept, f"fit/{name}/{file}", load_scores(path))
        _add_scores(
            tensors, kept, f"scores/{name}", load_scores(run / SCORES_FOLDER / f"{name}.npz")
        )
    for method in results["fusions"]:
        _add_scores(tensors, kept, f"fused/{method}", load_scores(fused_file(run, method)))
    table = json.loads(settings.to_json())
    table["data"] = {k: v for k, v in table["data"].items() if k not in PATHS} | {"root": "."}
    table["extract"]["workers"] = None  # one per core of the machine that predicts
    for stream in table["streams"].values():
        stream["weights"] = None
    results = {**results, "out": "", "folds": [r for r in results["folds"] if r["fold"] == fold]}
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "fold": fold,
        "settings": table,
        "results": results,
        "scores": kept,
        "card": _card(run, results, settings.title, fold),
        "flow": experiment.flow_facts(),
    }
    facts["sha256"] = _digest(facts, tensors)
    content = save(tensors, {FACTS: json.dumps(facts)})
    with write_aside(out) as target:
        target.write(content)
    card: dict[str, Any] = facts["card"]
    return card


def _card(run: Path, results: Mapping[str, Any], title: str, fold: str) -> dict[str, Any]:
    """Return what a person should know of the model."""
    headline = results["headline"]
    own = results["fusions"]
    path = fused_file(run, headline) if own else run / SCORES_FOLDER / f"{headline}.npz"
    scores = load_scores(path)
    low, high = accuracy_interval(accuracy(scores), len(scores.ids))
    return {
        "title": title or run.resolve().name,
        "classes": list(results["classes"]),
        "accuracy": accuracy(scores),
        "interval_95": [low, high],
        "test_videos": len(scores.ids),
        "fusion": headline,
        "fold": fold,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "flowpipe": __version__,
        "torch": str(torch.__version__),
    }


def _add_scores(
    tensors: dict[str, torch.Tensor], kept: dict[str, Any], key: str, scores: Scores
) -> None:
    arrays: dict[str, Any] = {
        "labels": scores.labels_N,
        "probabilities": scores.probabilities_NK,
        "logits": scores.logits_NK,
    }
    if scores.targets_NK is not None:
        arrays["targets"] = scores.targets_NK
    tensors |= {f"{key}/{name}": torch.from_numpy(a.copy()) for name, a in arrays.items()}
    kept[key] = {
        "stream": scores.stream,
        "protocol": dict(scores.protocol),
        "activation": scores.activation,
        "classes": list(scores.classes),
    }


def _scores_of(tensors: Mapping[str, torch.Tensor], key: str, facts: Mapping[str, Any]) -> Scores:
    arrays = {
        name.rpartition("/")[2]: tensor.numpy()
        for name, tensor in tensors.items()
        if name.rpartition("/")[0] == key
    }
    kind = key.split("/")[0]
    return Scores(
        ids=tuple(f"{kind} {number}" for number in range(len(arrays["labels"]))),
        labels_N=arrays["labels"],
        probabilities_NK=arrays["probabilities"],
        logits_NK=arrays["logits"],
        classes=tuple(facts["classes"]),
        stream=facts["stream"],
        protocol=facts["protocol"],
        activation=facts["activation"],
        targets_NK=arrays.get("targets"),
    )


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the facts and the tensors of an exported file.

    Raises
    ------
    WeightsError
        If it is no such file, or not what was written.
    """
    try:
        path.open("rb").close()  # safetensors' own errors do not say why
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if is_refusal(error):
            raise WeightsError(f"{path} cannot be read: {error.strerror}") from error
        raise WeightsError(f"{path} is no exported run, or a damaged one: {error}") from error
    try:
        facts = json.loads(metadata[FACTS])
        if (facts["format"], facts["version"]) != (FORMAT, VERSION):
            raise WeightsError(
                f"{path} is {facts['format']}, version {facts['version']}; this flowpipe reads "
                f"{FORMAT}, version {VERSION}"
            )
        sound = _digest(facts, tensors) == facts["sha256"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path} is a safetensors file, but no exported run") from error
    if not sound:
        raise WeightsError(f"{path} is not what was exported: its digest differs; copy it again")
    return facts, tensors


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the facts (but the digest itself) and of every tensor, by name."""
    told = {key: value for key, value in facts.items() if key != "sha256"}
    text = json.dumps(json.loads(json.dumps(told)), sort_keys=True)
    whole = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        values = tensors[name].contiguous()
        whole.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        whole.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def _refuse_places(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse names that lead out of the folder of the run, before a file is written."""
    names = [facts["fold"], *facts["settings"]["streams"]]
    for key in facts["scores"]:
        kind, _, rest = key.partition("/")
        names += rest.split("/", 1) if kind == "fit" else [rest]
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or set("/\\:\0") & set(name):
            raise WeightsError(f"{path}: {name!r} cannot be the name of a fold, a stream or scores")


def unpack(path: Path, folder: Path) -> Path:
    """Lay an exported file out as the folder of a run, and return it."""
    facts, tensors = read_file(path)
    try:
        _refuse_places(path, facts)
        fold = facts["fold"]
        for name in facts["settings"]["streams"]:
            own = stream_folder(folder, fold, name)
            own.mkdir(parents=True, exist_ok=True)
            prefix = f"stream/{name}/"
            weights = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            # Files of before have no facts of the flow.
            save_tensors(own / CHECKPOINT, weights, facts.get("flow", {}).get(name, {}), [])
        (folder / SCORES_FOLDER).mkdir(exist_ok=True)
        for key, about in facts["scores"].items():
            scores = _scores_of(tensors, key, about)
            kind, _, rest = key.partition("/")
            if kind == "fit":
                name, _, file = rest.partition("/")
                scores.save(stream_folder(folder, fold, name) / file)
            elif kind == "fused":
                scores.save(fused_file(folder, rest))
            else:
                scores.save(folder / SCORES_FOLDER / f"{rest}.npz")
        results = dict(facts["results"].items())
        facts["settings"]["extract"]["workers"] = None  # files of before have the exporter's
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{path}: {error} is missing in it or of another kind") from error
    for name, table in ((SETTINGS_FILE, facts["settings"]), (RESULTS_FILE, results)):
        write_table(folder / name, table, MOVING)
    return folder


@cache
def _unpacked(path: Path, changed_ns: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="flowpipe-model-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return unpack(path, folder)


def open_run(path: Path, **callbacks: Any) -> Experiment:
    """Return the experiment of a finished run: of its folder, or of an exported file.

    Raises
    ------
    ConfigError
        If there is no finished run.
    WeightsError
        If the file is no exported run, or not what was exported.
    """
    if not path.is_file():
        return Experiment.of_run(path, **callbacks)
    folder = _unpacked(path.resolve(), path.stat().st_mtime_ns)
    experiment = Experiment.of_run(folder, **callbacks)
    data = replace(experiment.settings.data, cache=None)
    experiment.settings = replace(experiment.settings, data=data)
    return experiment
