"""What the commands of `see` share: the networks of a run that look at pictures, and options."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..output import say

if TYPE_CHECKING:
    from torch import nn

    from flowpipe.clips.streams import StreamInput
    from flowpipe.experiment.experiment import Experiment

run_argument = click.argument("run", type=click.Path(path_type=Path), metavar="RUN|MODEL")
stream_option = click.option("--stream", help="Only this stream. [default: all]")
fold_option = click.option("--fold", help="The fold whose networks. [default: the run's first]")
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder."
)


def networks(
    experiment: "Experiment", stream: str | None, fold: str | None
) -> Iterator[tuple[str, "StreamInput", "nn.Module"]]:
    """Give name, input and trained network of each stream that looks at pictures."""
    from flowpipe.clips.streams import StreamInput
    from flowpipe.experiment.settings import HISTOGRAMS

    fold = experiment.fold_name(fold)
    for name, settings in experiment.settings.only(stream).streams.items():
        if settings.input in ("features", *HISTOGRAMS):
            say(f"{name}: skipped, it looks at {settings.input}, not at pictures")
            continue
        own: Any = experiment.stream(name, fold)
        assert isinstance(own.input, StreamInput)
        model = experiment.trained(own, fold, len(experiment.results["classes"]))
        yield name, own.input, model


def class_number(experiment: "Experiment", name: str) -> int:
    """Return the number of a class."""
    from flowpipe.errors import UnknownName, nearest_name

    classes = list(experiment.results["classes"])
    if name not in classes:
        raise UnknownName(
            f'no class "{name}"{nearest_name(name, classes)}; there are {", ".join(classes)}'
        )
    return classes.index(name)


def write_json(path: Path, record: Any) -> None:
    """Write numbers beside pictures."""
    import json

    from flowpipe.atomic import write_aside

    with write_aside(path, "w") as file:
        json.dump(record, file, indent=1, ensure_ascii=False)
        file.write("\n")
