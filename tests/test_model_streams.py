"""Every tiny row is trained as a stream of an experiment, and fused with another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flowpipe.datasets.synthetic import write_videos
from flowpipe.experiment.experiment import Experiment
from flowpipe.experiment.settings import Settings, load_settings, settings_from
from flowpipe.models import TABLE
from flowpipe.scores import load_scores

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = sorted(name for name in TABLE if name.endswith("-tiny"))
QUICK = {"single-frame-tiny", "early-fusion-tiny", "c3d-tiny"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen videos of nine classes; the cache is filled by the first test."""
    path = tmp_path_factory.mktemp("streams")
    write_videos(path / "videos", clips=18)
    return path


def settings(folder: Path, model: str) -> Settings:
    _, frames, height, width = TABLE[model].clip_CTHW
    stream = {
        "model": model,
        "frames": frames,
        "crop_size": [height, width],
    }
    return settings_from(
        {
            "data": {
                "root": "videos",
                "annotations": "annotations.csv",
                "fold_column": "split",
                "flip": False,
                "cache": "cache",
            },
            "extract": {"flow": "farneback", "workers": 1},
            "streams": {
                "spatial": {"input": "rgb", **stream},
                "temporal": {"input": "flow", **stream},
            },
            "train": {"epochs": 1, "batch_size": 5, "optimiser": "adamw", "learning_rate": 1e-3},
            "test": {"clips": 2},
            "fuse": {"methods": ["average"], "training_clips": 0},
        },
        where="test",
        folder=folder,
    )


@pytest.mark.parametrize(
    "model", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TINY]
)
def test_a_row_is_trained_on_rgb_and_flow_and_fused(
    folder: Path, tmp_path: Path, model: str
) -> None:
    result = Experiment(settings(folder, model), tmp_path).run()
    assert result.streams.keys() == {"spatial", "temporal"}
    rgb, flow = result.streams["spatial"], result.streams["temporal"]
    assert np.isfinite(rgb.logits_NK).all()
    assert not np.allclose(rgb.probabilities_NK, flow.probabilities_NK)
    fused = load_scores(tmp_path / "scores" / "fused-average.npz")
    np.testing.assert_allclose(
        fused.probabilities_NK, (rgb.probabilities_NK + flow.probabilities_NK) / 2, atol=1e-6
    )


@pytest.mark.parametrize(
    ("model", "layout", "shape"),
    [
        ("early-fusion-tiny", "CHW", (24, 32, 32)),
        ("single-frame-tiny", "TCHW", (8, 3, 32, 32)),
        ("c3d-tiny", "CTHW", (3, 16, 32, 32)),
    ],
)
def test_the_network_decides_the_layout_of_its_clips(
    tmp_path: Path, model: str, layout: str, shape: tuple[int, ...]
) -> None:
    stream = settings(tmp_path, model).streams["spatial"].clip_input("spatial")
    assert stream.layout == layout
    assert stream.input_shape == shape


@pytest.mark.slow
def test_slowfast_is_trained_on_frames_and_flow_of_one_clip(folder: Path, tmp_path: Path) -> None:
    plain = settings(folder, "slowfast-tiny")
    stream = replace(
        plain.streams["temporal"], input="rgb+flow", model_parameters={"fast_channels": 2}
    )
    result = Experiment(replace(plain, streams={"both": stream}), tmp_path).run()
    assert np.isfinite(result.streams["both"].logits_NK).all()


@pytest.mark.parametrize(
    "output", [pytest.param("frames", marks=pytest.mark.slow), pytest.param("mean")]
)
def test_a_score_per_frame_is_trained_and_averaged_in_testing(
    folder: Path, tmp_path: Path, output: str
) -> None:
    plain = settings(folder, "cnn-lstm-tiny")
    stream = replace(plain.streams["spatial"], model_parameters={"output": output})
    result = Experiment(replace(plain, streams={"spatial": stream}), tmp_path).run()
    probabilities = result.streams["spatial"].probabilities_NK
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stacking", ["bidirectional", "trajectory"])
def test_temporal_variants_are_trained(folder: Path, tmp_path: Path, stacking: str) -> None:
    plain = settings(folder, "early-fusion-tiny")
    stream = replace(plain.streams["temporal"], stacking=stacking)
    result = Experiment(replace(plain, streams={"temporal": stream}), tmp_path).run()
    assert np.isfinite(result.streams["temporal"].logits_NK).all()


# Those of localisers and detectors have tables of their own.
OF_STREAMS = [
    path
    for path in sorted(CONFIGS.glob("*.toml"))
    if "\n[streams." in (text := path.read_text()) and "\n[persons]" not in text
]


@pytest.mark.parametrize("path", OF_STREAMS, ids=lambda path: path.stem)
def test_configurations_can_be_read_and_their_networks_built(path: Path) -> None:
    loaded = load_settings(path)
    for name, stream in loaded.streams.items():
        with torch.device("meta"):
            made = Experiment(loaded, Path("unused")).stream(name, "1")
            network, clip = made.network(101), torch.empty(1, *made.input.input_shape)
            assert network.eval()(clip).shape == (1, 101), stream
