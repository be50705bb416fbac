"""Which flow was it? Networks trained on one method's flow, tested on that of another: Weizmann.

The network, its seed and its clips are those of configs/weizmann_two_stream.toml (temporal stream
alone), but with fewer epochs; every method has its own defaults, which for Farnebäck are not those
of the configuration. A row is trained on one flow, nine folds; a column is the flow that its
networks are tested on. The diagonal is the accuracy by method.

python benchmarks/flow_swap.py [--epochs N] [--methods dis,farneback,...] --work DIR

What is done is kept in --work and not done again.
"""

import json
from pathlib import Path
from typing import Any

import common
import numpy as np

from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.settings import Settings, load_settings

CONFIG = common.HERE.parent / "configs" / "weizmann_two_stream.toml"
METHODS = "dis,farneback,tvl1-fast,dis+tvl1"


def settings_of(method: str, work: Path, epochs: int) -> Settings:
    changes = [
        f'extract.flow="{method}"',
        "extract.flow_parameters={}",
        f"data.cache={work / 'cache'}",
        f"streams.temporal.epochs={epochs}",
    ]
    return load_settings(CONFIG, changes).only("temporal")


def tested(experiment: Experiment, method: str, fold: str) -> float:
    """Return the top-1 of the networks of a run, in %, on the flow of a method."""
    out = experiment.out / f"on {method}"
    if not (out / "results.json").is_file():
        other = Experiment.of_run(experiment.out)
        other.use_flow(method, {}, other_flow=True)
        other.test(out=out)
    folds = json.loads((out / "results.json").read_text("utf-8"))["folds"]
    return float(np.mean([row["temporal"] for row in folds]))


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--fold", default="all")
    given = parser.parse_args()
    if given.work is None:
        parser.error("--work DIR is needed: the caches and networks stay there")
    names = given.methods.split(",")
    rows: list[dict[str, Any]] = []
    for name in names:
        out = given.work / name
        experiment = Experiment(settings_of(name, given.work, given.epochs), out, on_message=print)
        if not (out / "results.json").is_file():
            experiment.run(given.fold)
        rows.append({"trained on": name, **{n: tested(experiment, n, given.fold) for n in names}})
        common.show("So far: top-1 of nine folds, %", rows)
    common.show("Flow-swap matrix: Weizmann, top-1 of nine folds, %; tested on", rows)
    common.deliver({"flow_swap": rows, "epochs": given.epochs}, given.json)


if __name__ == "__main__":
    main()
