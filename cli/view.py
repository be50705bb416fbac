"""`flowpipe view`."""

import webbrowser
from pathlib import Path

import click

from .output import printable, say


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--cache", type=click.Path(path_type=Path), help="Take flow and frames from here.")
@click.option(
    "--videos",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Show frames of the videos in this folder; without it no video file is opened.",
)
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Annotations that belong to localisations.",
)
@click.option(
    "--port",
    type=int,
    default=0,
    metavar="N",
    help="Port on 127.0.0.1. [default: one that is free]",
)
@click.option("--no-browser", is_flag=True, help="Only print the address.")
def view(
    path: Path,
    cache: Path | None,
    videos: Path | None,
    truth: Path | None,
    port: int,
    no_browser: bool,
) -> None:
    """Look at a cache, a run, features or findings in the browser: videos beside their flow.

    PATH is a cache, the folder of a run, or a JSON or CSV file of localisations, boxes or scores
    over time. The page is served to this machine only, reads only, and shows nothing outside PATH
    but what is given by an option. Ctrl-C ends it.
    """
    from flowpipe.view import PageServer, open_catalogue

    catalogue = open_catalogue(path, cache=cache, videos=videos, truth=truth)
    with PageServer(catalogue, port) as server:
        click.echo(printable(server.url))
        say(f"{catalogue.kind} {path}: {len(catalogue)} rows; Ctrl-C ends")
        if not no_browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
