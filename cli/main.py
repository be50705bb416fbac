"""`flowpipe`: the group of commands, and what a person sees when something fails."""

import os
import re
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import click

import flowpipe
from flowpipe.errors import (
    AnnotationError,
    CacheNotFound,
    ConfigError,
    EntryNotFound,
    FlowpipeError,
    InvalidArgument,
    UnknownName,
)
from flowpipe.registry import OWN_FOLDERS, trust

from .late import LateGroup
from .output import current_folder, prepare_streams, printable, say

# Before torch is imported. A thread that waits for another by spinning takes the core that the
# other needs: beside other work, training is three times as fast without.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Command → (module of this package, one line). Listing the commands imports none of them.
COMMANDS = {
    "quickstart": ("quickstart", "The whole pipeline on generated videos, in a few minutes."),
    "extract": ("extract", "Compute the flow of videos into a cache."),
    "flow": ("flow", "Measure flow methods: speed, error, differences."),
    "cache": ("cache", "List, inspect, verify and export a cache."),
    "features": ("features", "Compute a network's features of every video of a cache."),
    "probe": ("probe", "Score features with a linear classifier, by fold."),
    "train": ("train", "Train, test and fuse the streams of a configuration."),
    "test": ("test", "Test a trained run again, perhaps with other clips and crops."),
    "fuse": ("fuse", "Fuse score files of several streams."),
    "predict": ("predict", "Predict the classes of new videos, or what happens when."),
    "localise": ("localise", "Say when what happens in long videos, and how well."),
    "detect": ("detect", "Say who does what, where, and how well."),
    "see": ("see", "Look into a trained run: filters, evidence in a video, what a class likes."),
    "view": ("view", "Look at a cache, a run or findings in the browser."),
    "export": ("export", "Write a trained run as one file to hand on."),
    "report": ("report", "Write the page of a run."),
    "verify": ("verify", "Check that every file of a run is what was written."),
    "configs": ("configs", "List, print or copy the configurations that come with flowpipe."),
    "models": ("models", "List the networks."),
    "weights": ("weights", "List public files of weights; check one."),
    "describe": ("describe", "Show a network layer by layer: sizes, receptive fields, costs."),
    "inflate-check": ("inflate_check", "Show that an inflated network is the 2D one when still."),
}

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
# A batch system or a terminal that closes ends a run as Ctrl-C does: nothing half is left.
ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
INTERRUPTION = "interrupted; what was done is kept, the same command goes on"
EMPTY = re.compile(r"(--[\w-]+=)?")
MISUSES = (
    AnnotationError,
    CacheNotFound,
    ConfigError,
    EntryNotFound,
    InvalidArgument,
    UnknownName,
)


@click.group(
    cls=LateGroup,
    table=COMMANDS,
    package=__package__,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(flowpipe.__version__, prog_name="flowpipe")
@click.option("--traceback", is_flag=True, help="Show Python's traceback when something fails.")
@click.option(
    "--trust",
    metavar="MODULE:CALLABLE",
    help="Run this code where a run or a cache names it; may be repeated.",
)
def app(traceback: bool, trust: str | None) -> None:
    """Dense optical flow of videos, extracted in parallel and cached; two-stream networks on it.

    Results go to stdout, progress and messages to stderr. Exit status: 0 all went well, 1 some
    of it failed, 2 misuse, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; ends the process with its exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    # One option for all commands, wherever it stands.
    wants_traceback = "--traceback" in given
    given = _trusting([argument for argument in given if argument != "--traceback"])
    if empty := next((n for n, each in enumerate(given, 1) if EMPTY.fullmatch(each)), None):
        # Path("") is the current folder.
        after = f', after "{given[empty - 2]}"' if empty > 1 else ""
        say(f"flowpipe: argument {empty}{after} is empty, such as a shell's variable not set")
        sys.exit(MISUSED)
    # The current folder may hold package.module:callable of the person's own. Our own place goes
    # before it: an editable install would lose to a folder called flowpipe, in workers too.
    sys.path.append(str(Path(flowpipe.__file__).parents[1]))
    OWN_FOLDERS[:] = current_folder()
    prepare_streams()
    _obey_endings()
    try:
        status: Any = _run(given)
    except click.exceptions.Exit as done:
        status = done.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(INTERRUPTION, err=True)
        status = INTERRUPTED
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    except Exception as error:
        if _was_interrupted(error):
            click.echo(INTERRUPTION, err=True)
            sys.exit(INTERRUPTED)
        if wants_traceback:
            traceback.print_exc()
        elif isinstance(error, FlowpipeError):
            click.echo(printable(f"flowpipe: {error}{_options_named(error, given)}"), err=True)
        elif isinstance(error, OSError) and error.errno:  # of the system: no permission, no space
            say(f"flowpipe: {error.strerror}: {error.filename or error}")
        elif _is_out_of_memory(error):
            reason = next(iter(str(error).splitlines()), "")
            say(f"flowpipe: out of memory: {reason}; take smaller sizes, batches or fewer workers")
        else:
            told = f"{type(error).__name__}: {error}"
            say(f"flowpipe: {told}\nThis is a fault of flowpipe; --traceback shows where.")
        status = MISUSED if isinstance(error, MISUSES) else FAILED
    sys.exit(status if isinstance(status, int) else 0)


def _run(given: list[str]) -> Any:
    try:
        return app.main(given, prog_name="flowpipe", standalone_mode=False)
    except click.Abort as error:
        if isinstance(error.__cause__, EOFError):  # click takes it for Ctrl-D
            raise FlowpipeError("a file ends too early; --traceback shows where") from error
        raise


def _obey_endings() -> None:
    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        for number in ENDINGS:
            if signal.getsignal(number) is signal.SIG_DFL:  # not what nohup has set
                signal.signal(number, end)


def _trusting(arguments: list[str]) -> list[str]:
    """Take out --trust MODULE:CALLABLE, an option of all commands too, and obey it."""
    left = list(arguments)
    while "--trust" in left[:-1]:
        place = left.index("--trust")
        trust(left[place + 1])
        del left[place : place + 2]
    return left


def _options_named(error: FlowpipeError, arguments: list[str]) -> str:
    """Return ' (--out)' for an error about the parameter "out" of the command that was given."""
    command: click.Command = app
    for argument in arguments:
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), argument) or command
    options = {
        str(option.name): max(option.opts, key=len)
        for option in command.params
        if isinstance(option, click.Option)
    }
    options["trust"] = "--trust"
    named = [options[name] for name in error.parameters if name in options]
    return f" ({', '.join(named)})" if named else ""


def _is_out_of_memory(error: Exception) -> bool:
    """Return whether numpy, torch on a CPU or torch on a GPU found no memory."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(word in text for word in words)


def _was_interrupted(error: BaseException | None) -> bool:
    """Return whether an error followed Ctrl-C: closing what had not yet begun can fail."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
