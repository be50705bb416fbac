"""What several test files share: the command line in this process, pictures, class labels."""

from importlib import import_module
from importlib.metadata import entry_points
from types import SimpleNamespace
from typing import Any

import click
import cv2
import numpy as np
from click.testing import CliRunner


def app() -> click.Group:
    """Return the command group of the console script."""
    (script,) = entry_points(group="console_scripts", name="flowpipe")
    group: click.Group = import_module(script.module).app
    return group


def run_cli(*arguments: Any) -> SimpleNamespace:
    """Run the console script's function in this process; return status, out and err."""
    (script,) = entry_points(group="console_scripts", name="flowpipe")
    main = script.load()

    @click.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("given", nargs=-1, type=click.UNPROCESSED)
    def whole(given: tuple[str, ...]) -> None:
        main(list(given))

    done = CliRunner().invoke(whole, [str(argument) for argument in arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    if "--traceback" not in arguments:
        assert "Traceback" not in done.stdout + done.stderr
    return SimpleNamespace(status=done.exit_code, out=done.stdout, err=done.stderr)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a smooth random picture of the whole grey range, H×W uint8."""
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def moving_texture(frames: int = 6, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Return frames of coarse random cells that move 2 px to the right per frame, T×H×W×3."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (height // 8 + 2, (width + 64) // 8 + 2))
    fine = np.kron(coarse, np.ones((8, 8)))
    steps = [fine[:height, 40 - 2 * t : 40 - 2 * t + width, None] for t in range(frames)]
    return np.stack([step.repeat(3, 2) for step in steps]).astype(np.uint8)
