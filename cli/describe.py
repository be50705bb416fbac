"""`flowpipe describe`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .output import print_json, print_table, say


@click.command()
@click.argument("model", required=False)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="The network that a file of weights belongs to, as it computes there, and its input.",
)
@click.option("--classes", type=click.IntRange(min=1), help="Classes. [default: as published]")
@click.option("--input", "clip", metavar="C,T,H,W", help="The clip. [default: as published]")
@click.option(
    "--set", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of the network."
)
@click.option("--depth", type=click.IntRange(min=1), help="Join layers: 1 gives a row per stage.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def describe(
    model: str | None,
    weights: Path | None,
    classes: int | None,
    clip: str | None,
    parameters: tuple[str, ...],
    depth: int | None,
    as_json: bool,
) -> None:
    """Show MODEL layer by layer: output size, receptive field, parameters, multiply-adds.

    MODEL is a name of `flowpipe models`, or your own as package.module:callable. Outputs are
    C×T×H×W. A receptive field T×H×W is that of the formula, and may exceed the input; behind a
    layer that joins the whole clip it is the input.
    """
    from flowpipe.config import parse_value
    from flowpipe.errors import InvalidArgument
    from flowpipe.models import TABLE
    from flowpipe.models.analysis import describe as describe_model

    given: dict[str, Any] = {}
    prepared: Any = None
    if (model is None) == (weights is None):
        raise click.UsageError("give a MODEL, or the file of a network as --weights FILE")
    if weights is not None:
        from flowpipe.models.weights import load_network

        network: Any = load_network(weights)
        say(f"{weights}: {network.report}")
        model, classes = str(network.model), classes or int(network.num_classes)
        given, prepared = dict(network.build_parameters), network.preprocessing
    assert model is not None
    for item in parameters:
        key, _, value = item.partition("=")
        given[key] = parse_value(value)
    size = None
    if clip is not None:
        try:
            size = tuple(int(number) for number in clip.split(","))
        except ValueError as error:
            raise InvalidArgument(
                f'--input "{clip}" must be C,T,H,W, four whole numbers, such as 3,16,112,112'
            ) from error
    if classes is None:
        classes = TABLE[model].num_classes if model in TABLE else 101
    summary = describe_model(
        model,
        num_classes=classes,
        clip=size,
        **given,
    )
    if depth is not None:
        summary = summary.at_depth(depth)
    if as_json:
        made = None if prepared is None else asdict(prepared)
        print_json(
            {"model": model, "classes": classes, **summary.as_record(), "preprocessing": made}
        )
        return
    several = any(layer.calls > 1 for layer in summary.layers)
    rows = [
        [
            layer.name,
            layer.kind,
            "×".join(map(str, layer.output)),
            "×".join(map(str, layer.receptive_field)),
            f"{layer.parameters:,}" if layer.parameters else "",
            f"{layer.macs / 1e6:,.2f}" if layer.macs else "",
            *([str(layer.calls)] if several else []),
        ]
        for layer in summary.layers
    ]
    total = ["total", "", "", "", f"{summary.parameters:,}", f"{summary.macs / 1e6:,.2f}"]
    header = ["layer", "kind", "output", "receptive field", "parameters", "MMAC"]
    print_table(
        f"{model}: {summary.layout} from {'×'.join(map(str, summary.input))}, {classes} classes, "
        f"{summary.parameters:,} parameters, {summary.macs / 1e9:.4g} GMAC",
        header + (["calls"] if several else []),
        [*rows, total + ([""] if several else [])],
        text_columns=2,
    )
    if prepared is not None:
        say(f"input: {prepared}")
    if summary.without_rule:
        say(
            f"no rule for {', '.join(summary.without_rule)}: fields behind them are upper bounds, "
            "their multiply-adds are not counted"
        )
