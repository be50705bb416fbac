"""Which flow was it? Trained on one method's flow, tested on that of another: Weizmann.

A row is trained on one flow, nine folds; a column is the flow that it is tested on. The diagonal is
the accuracy by method. Every method has its own defaults, which for Farnebäck are not those of
configs/weizmann_two_stream.toml. Two classifiers: `network`, the temporal stream of that
configuration (its seed and clips, but fewer epochs), and `histogram`, whole clips by histograms of
their flow under a kernel SVM, which takes minutes where networks take hours.

python benchmarks/flow_swap.py --work DIR [--classifier histogram] [--epochs N] [--methods A,B]

What is done is kept in --work and not done again.
"""

import json
from dataclasses import replace
from typing import Any

import common

from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.settings import Settings, StreamSettings, load_settings

CONFIG = common.HERE.parent / "configs" / "weizmann_two_stream.toml"
METHODS = "dis,farneback,tvl1-fast,dis+tvl1"


def settings_of(method: str, given: Any) -> Settings:
    changes = [
        f'extract.flow="{method}"',
        "extract.flow_parameters={}",
        f"data.cache={given.work / 'cache'}",
        f"streams.temporal.epochs={given.epochs}",
    ]
    settings = load_settings(CONFIG, changes).only("temporal")
    if given.classifier == "network":
        return settings
    return replace(settings, streams={"temporal": StreamSettings("flow-histogram")})


def tested(experiment: Experiment, method: str) -> float:
    """Return the top-1 of a run, in %, on the flow of a method."""
    out = experiment.out / f"on {method}"
    if not (out / "results.json").is_file():
        other = Experiment.of_run(experiment.out)
        other.use_flow(method, {}, other_flow=True)
        other.test(out=out)
    folds = json.loads((out / "results.json").read_text("utf-8"))["folds"]
    # Folds have unequal numbers of videos: of all videos, as results have it.
    right = sum(row["temporal"] * row["videos"] for row in folds)
    return 100 * float(right / sum(row["videos"] for row in folds))


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--classifier", choices=("network", "histogram"), default="network")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--fold", default="all")
    given = parser.parse_args()
    if given.work is None:
        parser.error("--work DIR is needed: the caches and networks stay there")
    names = given.methods.split(",")
    rows: list[dict[str, Any]] = []
    for name in names:
        out = given.work / given.classifier / name
        experiment = Experiment(settings_of(name, given), out, on_message=print)
        if not (out / "results.json").is_file():
            experiment.run(given.fold)
        rows.append({"trained on": name, **{n: tested(experiment, n) for n in names}})
        common.show("So far: top-1 over the folds, %", rows)
    common.show("Flow-swap matrix: Weizmann, top-1 over the folds, %; tested on", rows)
    common.deliver(
        {"flow_swap": rows, "classifier": given.classifier, "epochs": given.epochs}, given.json
    )


if __name__ == "__main__":
    main()
