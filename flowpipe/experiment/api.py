"""Trained runs for Python users: `flowpipe.train`, `flowpipe.load`, `flowpipe.predict`."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowpipe.experiment import folder as front
from flowpipe.experiment.experiment import Experiment, OnMessage, OnProgress
from flowpipe.experiment.results import Predictions, RunResult
from flowpipe.experiment.settings import load_settings
from flowpipe.experiment.sharing import SUFFIX, export_run, open_run
from flowpipe.experiment.timeline import Timeline, TimelineReader
from flowpipe.notebook import html_table

Source = str | os.PathLike[str]


class Run:
    """A finished run, or one that was exported.

    Attributes
    ----------
    path : Path
        Folder of the run, or the exported file.
    classes : tuple of str
    accuracy : float
        Top-1 of the headline score on videos that no choice saw, as a share.
    accuracies : dict of str to float
        Of each stream, and "fused".
    """

    def __init__(self, path: Path, experiment: Experiment) -> None:
        self.path, self._experiment = path, experiment
        results = experiment.results
        self.classes = tuple(results["classes"])
        self.accuracies: dict[str, float] = dict(results["accuracy"])
        self.accuracy = self.accuracies.get("fused", next(iter(self.accuracies.values())))

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self.classes)} classes, accuracy {self.accuracy:.3f})"

    def _repr_html_(self) -> str:
        rows = [(name, f"{100 * value:.1f} %") for name, value in self.accuracies.items()]
        title = f"{self.path.name}: {self._experiment.results['videos']} test videos"
        return html_table(title, ("", "videos right"), rows)

    @property
    def results(self) -> dict[str, Any]:
        """What results.json holds."""
        return self._experiment.results

    def predict(
        self, sources: Source | Sequence[Source], *, fold: str | None = None
    ) -> Predictions:
        """Return the scores of videos, folders or lists; `.to_csv(path)` writes them."""
        given = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        return self._experiment.predict([Path(each) for each in given], fold)

    def over_time(
        self,
        video: Source,
        *,
        every_s: float = 0.5,
        window_s: float | None = None,
        fold: str | None = None,
        on_window: Callable[[Timeline], None] | None = None,
    ) -> Timeline:
        """Return the scores of a long video over time; `.segments()` has what happens when."""
        reader = TimelineReader(self._experiment, every_s=every_s, window_s=window_s, fold=fold)
        return reader.read(Path(video).name, reader.frames(Path(video)), on_window=on_window)

    def export(self, out: Source | None = None, *, fold: str | None = None) -> Path:
        """Write one file with everything that predicting needs, and return its path."""
        target = Path(out) if out is not None else Path(f"{self.path.resolve().name}{SUFFIX}")
        export_run(self.path, target, fold=fold)
        return target

    def report(self, out: Source | None = None) -> Path:
        """Write the page of the run and return its path."""
        if out is None and self.path.is_file():
            out = Path(f"{self.path.stem}.html")
        return self._experiment.report(None if out is None else Path(out))


def train(
    source: Source,
    *,
    out: Source | None = None,
    fold: str | None = None,
    num_folds: int | None = None,
    minutes: float | None = None,
    settings: Sequence[str] = (),
    quiet: bool = False,
) -> Run:
    """Train a classifier of videos, test it and write its page.

    Parameters
    ----------
    source : path
        A folder of videos, one folder for each class (settings are chosen), or a TOML file.
    out : path, optional
        Folder of the run; by default runs/NAME, or the next free name.
    fold : str, optional
        A fold's name, or "all"; by default all folds of a folder, the first of a configuration.
    num_folds : int, optional
        Of a folder without folds: how many to make.
    minutes : float, optional
        Of a folder: about how long training may take.
    settings : sequence of str
        Changes of single settings, "train.epochs=5".
    quiet : bool
        Say nothing on stderr.

    Returns
    -------
    Run

    Raises
    ------
    ConfigError, AnnotationError
        If the folder or the file cannot be used.
    """
    path = Path(source)
    with _bar("train", quiet) as (say, show):
        return _train(path, out, fold, num_folds, minutes, settings, say, show)


def _train(
    path: Path,
    out: Source | None,
    fold: str | None,
    num_folds: int | None,
    minutes: float | None,
    settings: Sequence[str],
    say: OnMessage,
    show: OnProgress,
) -> Run:
    if path.is_dir():
        begun = front.start(
            path,
            out=None if out is None else Path(out),
            minutes=minutes,
            num_folds=num_folds,
            fold=fold,
            overrides=settings,
            workers=os.cpu_count() or 1,
        )
        say(begun.description)
        if begun.plan is not None:
            for reason in begun.plan.reasons:
                say(f"  {reason}")
            front.write_config(begun.out, begun.plan)
        chosen, target, fold = begun.settings, begun.out, begun.fold
    else:
        chosen = load_settings(path, settings)
        target = Path("runs") / path.stem if out is None else Path(out)
    experiment = Experiment(chosen, target, on_message=say, on_progress=show)
    result: RunResult = experiment.run(fold)
    experiment.report()
    return load(result.out)


@contextmanager
def _bar(title: str, quiet: bool) -> Iterator[tuple[OnMessage, OnProgress]]:
    """Give functions for sentences and for progress: a bar in terminals and notebooks."""
    if quiet:
        yield lambda text: None, lambda stage, share, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=1.0, text="")

        def show(stage: str, share: float, text: str) -> None:
            # Extraction is about a sixth of it all.
            whole = share / 6 if stage == "extract" else 1 / 6 + 5 / 6 * share
            progress.update(task, completed=whole, text=text)

        yield (
            lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True),
            show,
        )


def load(path: Source) -> Run:
    """Return a finished run: of its folder, or of an exported .flowpipe file.

    Raises
    ------
    ConfigError, WeightsError
        If there is none, or it is not what was written.
    """
    return Run(Path(path), open_run(Path(path)))


def predict(model: Source, sources: Source | Sequence[Source]) -> Predictions:
    """Return the scores of videos by a run's folder or an exported file."""
    return load(model).predict(sources)
