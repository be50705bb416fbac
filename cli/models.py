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
    from flowpipe.models import TABLE

    records = {
        name: {
            "input_layout": row.input_layout,
            "input": list(row.clip_CTHW),
            "classes": row.num_classes,
            "parameters": row.num_parameters,
            "macs": row.macs,
            "paper": row.paper,
            "year": row.year,
        }
        for name, row in TABLE.items()
    }
    if as_json:
        print_json({"models": records})
        return
    rows = [
        [
            name,
            f"{row.paper.split(',')[0]} {row.year}",
            row.input_layout,
            "×".join(map(str, row.clip_CTHW)),
            str(row.num_classes),
            f"{row.num_parameters:,}",
            f"{row.macs / 1e9:#.4g}",
        ]
        for name, row in TABLE.items()
    ]
    header = ["name", "paper", "layout", "C×T×H×W", "classes", "parameters", "GMAC"]
    print_table("", header, rows, text_columns=4)
