"""`flowpipe inflate-check`: a still video through an inflated network, beside its 2D network."""

import dataclasses
import json

import click


@click.command("inflate-check")
@click.argument("model")
@click.option("--kt", default=3, show_default=True, help="Temporal extent of the filters; odd.")
@click.option("--size", type=int, help="Side of the picture in px; the published one by default.")
@click.option("--json", "as_json", is_flag=True, help="Print the result for programs.")
def inflate_check(model: str, kt: int, size: int | None, as_json: bool) -> int:
    """Inflate the 2D network MODEL and show that a still video gives the 2D answer.

    Frames up to which zeros padded in time can reach are left out of the comparison. Exit status
    1 if the error is 1e-5 of the largest logit or more.
    """
    from flowpipe.models.weights.inflation import TOLERANCE, check_inflation

    found = check_inflation(model, kt=kt, size=None if size is None else (size, size))
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "passed": found.passed}))
    else:
        click.echo(
            f"{found.model}, filters of {found.kt}×k×k, still video of {found.frames} frames: "
            f"largest error {found.error:.1e} at the {found.interior} interior frames "
            f"({'below' if found.passed else 'NOT below'} {TOLERANCE:.0e}), "
            f"{found.edge_error:.1e} at the ends"
        )
    return 0 if found.passed else 1
