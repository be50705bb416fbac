"""Is every file of a run what was written?"""

import contextlib
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path

from flowpipe.cache.verify import Finding
from flowpipe.errors import ConfigError, FlowpipeError
from flowpipe.experiment.results import (
    RESULTS_FILE,
    SCORES_FOLDER,
    SETTINGS_FILE,
    read_history,
    read_metrics,
    read_results,
    stream_folder,
)
from flowpipe.experiment.settings import read_run_settings
from flowpipe.experiment.sharing import read_file
from flowpipe.scores import load_scores
from flowpipe.sealed import FILES, check_zip, checksums_of, read_table
from flowpipe.training.checkpoint import CHECKPOINT, METRICS, read_settings

# What a run of another command is, in place of settings.json.
OTHER_SETTINGS = ("localiser.json", "detector.json")


def verify_run(out: Path) -> list[Finding]:
    """Check settings, results, checkpoints, histories and scores of a run, or an exported file.

    Raises
    ------
    ConfigError
        If there is no run in the folder.
    """
    if out.is_file():
        return [Finding(out, _problem(out, partial(read_file, out)))]
    if not out.is_dir():
        raise ConfigError(f"no run at {out}; flowpipe train makes one")
    if not (out / SETTINGS_FILE).exists():
        return _verify_other(out)
    files: list[tuple[Path, Callable[[], object]]] = [
        (out / SETTINGS_FILE, partial(read_run_settings, out)),
        (out / RESULTS_FILE, partial(read_results, out)),
    ]
    for folder in sorted(path for path in out.glob("fold-*/*") if path.is_dir()):
        fold, stream = folder.parent.name.removeprefix("fold-"), folder.name
        files += [
            (folder / CHECKPOINT, partial(read_settings, folder / CHECKPOINT)),
            (folder / METRICS, partial(read_history, out, fold, stream)),
        ]
    for pattern in ("fold-*/*/*.npz", f"{SCORES_FOLDER}/*.npz", f"*/{SCORES_FOLDER}/*.npz"):
        files += [(path, partial(_check_scores, path)) for path in sorted(out.glob(pattern))]
    findings = [Finding(path, _problem(path, read)) for path, read in files if path.exists()]
    return findings + [Finding(path, why) for path in _trained(out) if (why := _absent(path))]


def _verify_other(out: Path) -> list[Finding]:
    """Check a run of `flowpipe localise` or `flowpipe detect`: its tables, and what they list."""
    tables = [out / name for name in (*OTHER_SETTINGS, RESULTS_FILE) if (out / name).exists()]
    if not tables:
        raise ConfigError(f"no run at {out}; flowpipe train makes one")
    files: list[tuple[Path, Callable[[], object]]] = [(p, partial(read_table, p)) for p in tables]
    for path in sorted(out.glob(f"*/{CHECKPOINT}")):
        files.append((path, partial(_check_tensors, path)))
    for path in sorted(out.glob(f"*/{METRICS}")):
        files.append((path, partial(read_metrics, path)))
    findings = {path: _problem(path, read) for path, read in files}
    for path, checksum in _listed(out).items():
        findings[path] = findings.get(path) or _absent(path) or _differs(out, path, checksum)
    return [Finding(path, problem) for path, problem in findings.items()]


def _listed(out: Path) -> dict[Path, object]:
    """Return the checksums of files that the results of a run list; those of 0.1 list none."""
    with contextlib.suppress(FlowpipeError, OSError):  # told of its own
        files = read_table(out / RESULTS_FILE).get(FILES, {})
        return {out / name: checksum for name, checksum in files.items()}
    return {}


def _differs(out: Path, path: Path, checksum: object) -> str:
    """Return why a file is not the one that results list; "" where it is."""
    if not path.resolve().is_relative_to(out.resolve()) or not path.is_file():
        return f"{path} is no file of this run"
    if checksums_of(out, [path])[path.relative_to(out).as_posix()] != checksum:
        return f"{path} is not what was written; copy it back, or train again"
    return ""


def _check_tensors(path: Path) -> None:
    check_zip(path)
    read_settings(path)


def _trained(out: Path) -> list[Path]:
    """Return the checkpoints that the results of a run speak of."""
    with contextlib.suppress(FlowpipeError):  # told of its own
        streams, folds = read_run_settings(out).streams, read_results(out)["folds"]
        names = itertools.product((str(row["fold"]) for row in folds), streams)
        return [stream_folder(out, *each) / CHECKPOINT for each in names]
    return []


def _absent(path: Path) -> str:
    """Return why there is no file; "" where there is one."""
    try:
        path.lstat()
    except FileNotFoundError:
        return f"{path} is gone; copy it back, or train again"
    except OSError as error:  # its folder may not be read
        return f"{path} cannot be read: {error.strerror}"
    return ""


def _check_scores(path: Path) -> None:
    load_scores(path)
    check_zip(path)


def _problem(path: Path, read: Callable[[], object]) -> str:
    try:
        read()
    except (FlowpipeError, OSError) as error:
        return str(error) if str(path) in str(error) else f"{path}: {error}"
    return ""
