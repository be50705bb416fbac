"""Flow on a GPU is that of the CPU. Needs no video: it runs where PyAV is not installed.

pytest -m gpu --noconftest tests/test_gpu.py
"""

import cv2
import numpy as np
import pytest
import torch

from flowpipe.flow import create_batched
from flowpipe.flow.gmflow import GMFlow
from flowpipe.flow.raft import RAFT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU"),
]


def moving(count, height, width, channels=()):
    """Frames whose content moves (1.5, -0.5) px per frame, uint8."""
    rng = np.random.default_rng(0)
    wide = rng.uniform(0, 255, (height + 60, width + 60, *channels)).astype(np.float32)
    wide = cv2.GaussianBlur(wide, (0, 0), 2.0)
    wide = (wide - wide.min()) / np.ptp(wide) * 255
    moves = [np.float32([[1, 0, 1.5 * n - 30], [0, 1, -0.5 * n - 30]]) for n in range(count)]
    frames = [cv2.warpAffine(wide, move, (width, height)) for move in moves]
    return np.rint(np.stack(frames)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("fixed", [0, 30])
def test_tvl1(fixed):
    frames = moving(6, 128, 170)
    on_cpu = create_batched("tvl1", "cpu", fixed_iterations=fixed)
    on_gpu = create_batched("tvl1", "cuda", fixed_iterations=fixed)
    ours = on_gpu.batch(frames[:-1], frames[1:])
    wanted = on_cpu.batch(frames[:-1], frames[1:])
    assert np.hypot(*(ours - wanted).transpose(3, 0, 1, 2)).mean() < 0.01
    np.testing.assert_array_equal(on_gpu.batch(frames[:-1], frames[1:]), ours)
    np.testing.assert_array_equal(on_gpu(frames[2], frames[3]), ours[2])


@pytest.mark.parametrize(
    ("name", "network"),
    [("gmflow", GMFlow(2)), ("raft", RAFT(small=False)), ("raft-small", RAFT(small=True))],
)
def test_learned(name, network, tmp_path):
    torch.manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.xavier_uniform_(parameter)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    frames = moving(4, 128, 160, (3,))
    on = {
        device: create_batched(name, device, weights=str(tmp_path / "weights.pth"))
        for device in ("cpu", "cuda")
    }
    wanted, ours = (on[d].batch(frames[:-1], frames[1:]) for d in ("cpu", "cuda"))
    assert np.abs(ours - wanted).max() < 2e-3 * np.abs(wanted).max()
    if name == "gmflow":
        return  # of random numbers, whose softmax turns over with the last bits
    half = create_batched(name, "cuda", weights=str(tmp_path / "weights.pth"), precision="bf16")
    rough = half.batch(frames[:-1], frames[1:])
    assert np.abs(rough - wanted).mean() < 0.1 * np.abs(wanted).mean()
