"""The networks of a run as ONNX files, each compared with torch where onnxruntime is installed."""

import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowpipe.atomic import write_aside
from flowpipe.errors import InvalidArgument
from flowpipe.experiment.settings import HISTOGRAMS
from flowpipe.experiment.sharing import open_run

OPSET = 18
SAMPLES = 2
# Logits may differ from torch's by this share of their root mean square.
TOLERANCE = 1e-4


def export_onnx(run: Path, folder: Path, *, fold: str | None = None) -> list[dict[str, Any]]:
    """Write NAME.onnx and NAME.json (input shape, classes) for each network of a run.

    Parameters
    ----------
    run : Path
        A finished run or an exported file.
    folder : Path
        Made when missing.
    fold : str, optional
        Whose networks.

    Returns
    -------
    list of dict
        `file`, `stream`, `input_shape`, `classes`, `largest_difference` of logits from torch's on
        random clips, as a share of their root mean square (None without onnxruntime).

    Raises
    ------
    InvalidArgument
        If the package onnx is not installed, the run has no network, or what was written gives
        other logits than torch.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 — torch writes with it
    except ImportError as error:
        raise InvalidArgument(
            'writing ONNX needs the extra onnx: pip install "flowpipe[onnx]"'
        ) from error
    experiment = open_run(run)
    fold = experiment.fold_name(fold)
    classes = experiment.results["classes"]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, settings in experiment.settings.streams.items():
        if settings.input in HISTOGRAMS:
            continue  # an SVM on histograms: no network
        stream = experiment.stream(name, fold)
        model = experiment.trained(stream, fold, len(classes)).eval()
        shape = stream.input.input_shape
        clips = torch.from_numpy(
            np.random.default_rng(0).normal(size=(SAMPLES, *shape)).astype(np.float32)
        )
        batch = torch.export.Dim("batch", min=1, max=1024)
        try:
            with _quiet():
                program = torch.onnx.export(
                    model,
                    (clips,),
                    input_names=["clips"],
                    output_names=["logits"],
                    dynamic_shapes=({0: batch},),
                    opset_version=OPSET,
                    dynamo=True,
                    verbose=False,
                )
        except torch.onnx.OnnxExporterError as error:
            unknown = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(error))
            reason = f"ONNX has no {unknown[1]}" if unknown else type(error).__name__
            raise InvalidArgument(
                f'stream "{name}": {settings.model} cannot be written as ONNX ({reason})'
            ) from error
        assert program is not None
        target = folder / f"{name}.onnx"
        with write_aside(target) as file:
            file.write(program.model_proto.SerializeToString())
        onnx.checker.check_model(str(target))
        difference = _difference(target, model, clips)
        if difference is not None and not difference <= TOLERANCE:
            raise InvalidArgument(
                f"{target} gives logits that differ from torch's by {difference:.1e} of their root "
                f"mean square, more than {TOLERANCE:g}; do not use it"
            )
        facts = {
            "file": str(target),
            "stream": name,
            "input_shape": ["batch", *shape],
            "classes": classes,
            "largest_difference": difference,
        }
        with write_aside(folder / f"{name}.json", "w") as file:
            file.write(json.dumps(facts, indent=2) + "\n")
        written.append(facts)
    if not written:
        raise InvalidArgument(f"{run} has no network that could be written as ONNX")
    return written


def _difference(path: Path, model: torch.nn.Module, clips: torch.Tensor) -> float | None:
    """Return the largest difference of logits from torch's, as a share of their rms."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model(clips).numpy()
    # Together and one alone: the number of clips must not have become a part of the network.
    seen = session.run(None, {"clips": clips.numpy()})[0]
    alone = session.run(None, {"clips": clips[:1].numpy()})[0]
    largest = max(np.abs(seen - expected).max(), np.abs(alone - expected[:1]).max())
    return float(largest / np.sqrt(np.square(expected).mean()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from speaking of packages that are not needed, and of its own parts."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (FutureWarning, DeprecationWarning))
            yield
    finally:
        logger.setLevel(before)
