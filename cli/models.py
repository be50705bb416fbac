"""`flowpipe models`."""

import click

from .options import json_option
from .output import print_json, print_table


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the networks: input, parameters, multiply-adds of one clip, paper.

    The numbers are those of the published input and classes, which `flowpipe describe` changes.
    """
    from flowpipe.models import FACTS, MODELS
    from flowpipe.models.costs import COSTS

    records = {
        name: {
            "input_layout": FACTS[name].input_layout,
            "input": list(FACTS[name].clip_CTHW),
            "classes": FACTS[name].num_classes,
            "parameters": COSTS[name][0],
            "macs": COSTS[name][1],
            "paper": FACTS[name].paper,
            "year": FACTS[name].year,
        }
        for name in MODELS
    }
    if as_json:
        print_json({"models": records})
        return
    rows = [
        [
            name,
            f"{facts.paper.split(',')[0]} {facts.year}",
            facts.input_layout,
            "×".join(map(str, facts.clip_CTHW)),
            str(facts.num_classes),
            f"{COSTS[name][0]:,}",
            f"{COSTS[name][1] / 1e9:#.4g}",
        ]
        for name, facts in ((name, FACTS[name]) for name in MODELS)
    ]
    header = ["name", "paper", "layout", "C×T×H×W", "classes", "parameters", "GMAC"]
    print_table("", header, rows, text_columns=4)
