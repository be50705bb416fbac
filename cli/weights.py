"""`flowpipe weights`: public files, and what a file is."""

from pathlib import Path

import click

from .options import json_option
from .output import print_json, print_table


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def weights(context: click.Context, as_json: bool) -> None:
    """List public files of weights that are known; `weights check FILE` says what a file is.

    Nothing is downloaded: the address is where the authors offer their files. Accuracies are
    theirs, by their own protocol.
    """
    if context.invoked_subcommand is not None:
        return
    from dataclasses import asdict

    from flowpipe.models.weights.known import FILES
    from flowpipe.models.weights.origins import origin_named

    urls = {file.origin: origin_named(file.origin).url for file in FILES}
    if as_json:
        print_json({"files": [{**asdict(file), "url": urls[file.origin]} for file in FILES]})
        return
    rows = [
        [
            file.file,
            file.model,
            file.data,
            file.origin,
            file.licence,
            file.sha256,
            "–" if file.top1 is None else f"{file.top1:.1f}",
        ]
        for file in FILES
    ]
    header = ["file", "model", "data", "origin", "licence", "sha256", "top-1 %"]
    print_table("", header, rows, text_columns=6)
    for origin, url in urls.items():
        click.echo(f"{origin:18} {url}")


@weights.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--origin", metavar="NAME", help="Where it comes from, if that is not plain.")
@json_option
def check(file: Path, origin: str | None, as_json: bool) -> int:
    """Say what FILE is: origin, network, what it computes otherwise, input, completeness.

    Then its network is run on weights and input made by rule, and compared with what its authors'
    code gives for them, where that is recorded. Exit status 1 if they differ.
    """
    from dataclasses import asdict

    from flowpipe.models.weights import load_network, read_state
    from flowpipe.models.weights.parity import TOLERANCE, check_parity

    network = load_network(file, origin)
    shapes = {name: tuple(value.shape) for name, value in read_state(file).items()}
    parity = check_parity(shapes, where=str(file), origin=origin)
    prepared = network.preprocessing
    if as_json:
        print_json(
            {
                "file": str(file),
                "origin": network.origin,
                "model": network.model,
                "parameters": network.build_parameters,
                "classes": network.num_classes,
                "channels": network.in_channels,
                "sha256": network.weights_sha256,
                "report": network.report,
                "preprocessing": None if prepared is None else asdict(prepared),  # type: ignore[call-overload]
                "parity": None if parity is None else {**asdict(parity), "passed": parity.passed},
            }
        )
    else:
        click.echo(f"{file}: {network.report}")
        click.echo(f"input: {'not known' if prepared is None else prepared}")
        if parity is None:
            click.echo("parity: no run of the authors' code on such a network is recorded")
        else:
            click.echo(
                f"parity: {parity.name}, largest difference of a logit {parity.error:.1e} of their "
                f"rms ({'below' if parity.passed else 'NOT below'} {TOLERANCE:.0e})"
            )
    return 1 if parity is not None and not parity.passed else 0
