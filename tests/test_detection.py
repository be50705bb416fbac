"""Who does what, where: RoIAlign, networks on boxes, key frames, training and new videos."""

import csv
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import run_cli, texture

from flowpipe.cache import open_cache
from flowpipe.clips.transforms import View
from flowpipe.detection import roi_align as roi_module
from flowpipe.detection.annotations import read_tubes
from flowpipe.detection.clips import (
    DetectStream,
    Look,
    follow,
    indices_around,
    read_clip,
    see,
)
from flowpipe.detection.detector import load_detector
from flowpipe.detection.examples import (
    KeyFrames,
    Truth,
    boxes_of,
    make_examples,
    mirrored,
    read_truth,
    with_found,
)
from flowpipe.detection.experiment import divided, load_data, predict, train
from flowpipe.detection.fitting import PENALTIES, Fit
from flowpipe.detection.histogram import HistogramNetwork
from flowpipe.detection.learning import DetectTrain, class_chances, criterion, draw_batches
from flowpipe.detection.network import PersonNetwork, RoiNetwork, build_network
from flowpipe.detection.roi_align import roi_align
from flowpipe.detection.settings import load_settings
from flowpipe.detection.weighing import best_weights
from flowpipe.errors import (
    AnnotationError,
    ConfigError,
    EntryCorrupt,
    FlowpipeError,
    InvalidArgument,
    WeightsError,
)
from flowpipe.experiment.verify import verify_run
from flowpipe.sealed import write_table
from flowpipe.video import probe
from flowpipe.view.open import open_catalogue

HEIGHT, WIDTH, FRAMES = 96, 128, 40


def slow_roi_align(maps, boxes, items, size, scale, n, aligned):
    """The definition, one point at a time."""
    out = torch.zeros(len(boxes), maps.shape[1], *size, dtype=maps.dtype)
    height, width = maps.shape[2:]
    for r, (box, item) in enumerate(zip(boxes.tolist(), items.tolist(), strict=True)):
        x1, y1, x2, y2 = (v * scale - (0.5 if aligned else 0) for v in box)
        w, h = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        for row in range(size[0] * n):
            for column in range(size[1] * n):
                y = y1 + (row + 0.5) / (size[0] * n) * h
                x = x1 + (column + 0.5) / (size[1] * n) * w
                if not (-1 <= y <= height and -1 <= x <= width):
                    continue
                y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                top, left = int(y), int(x)
                below, right = min(top + 1, height - 1), min(left + 1, width - 1)
                a, b = y - top, x - left
                read = (1 - a) * (
                    (1 - b) * maps[item, :, top, left] + b * maps[item, :, top, right]
                )
                read += a * ((1 - b) * maps[item, :, below, left] + b * maps[item, :, below, right])
                out[r, :, row // n, column // n] += read / n**2
    return out


@pytest.fixture
def maps():
    return torch.randn(2, 3, 9, 11, dtype=torch.double, generator=torch.Generator().manual_seed(0))


BOXES = torch.tensor(
    [[3, 5, 90, 70], [-40, -30, 60, 100], [150, 90, 400, 300], [10, 10, 12, 11], [0, 0, 176, 144]],
    dtype=torch.double,
)
ITEMS = torch.tensor([1, 0, 1, 0, 0])


class TestRoiAlign:
    @pytest.mark.parametrize("aligned", [True, False])
    @pytest.mark.parametrize("samples", [1, 2, 3])
    def test_equals_the_loop(self, maps, aligned, samples):
        given = {"size": (3, 4), "scale": 1 / 16, "samples": samples, "aligned": aligned}
        fast = roi_align(maps, BOXES, ITEMS, **given)
        slow = slow_roi_align(maps, BOXES, ITEMS, (3, 4), 1 / 16, samples, aligned)
        assert float((fast - slow).abs().max()) < 1e-10

    def test_published_values(self):
        two = torch.tensor([[[[1.0, 2], [3, 4]]]], requires_grad=True)
        first = torch.tensor([0])
        got = roi_align(two, torch.tensor([[0.0, 0, 1, 1]]), first, size=(2, 2))
        assert got.tolist() == [[[[1, 1.25], [1.5, 1.75]]]]
        got.sum().backward()
        assert two.grad.flatten().tolist() == [3.0625, 0.4375, 0.4375, 0.0625]
        four = torch.tensor([[1.0, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]])
        got = roi_align(four[None, None], torch.tensor([[0.0, 0, 3, 3]]), first, size=(2, 2))
        assert got.tolist() == [[[[1.9375, 4.75], [7.5625, 10.375]]]]

    def test_gives_back_where_bins_are(self):
        rows = (torch.arange(12) + 0.5).double()[:, None].expand(12, 12)
        box = torch.tensor([[2.0, 2, 9, 9]])
        got = roi_align(rows[None, None], box, torch.tensor([0]))
        assert got[0, 0, :, 0].tolist() == pytest.approx([2.5 + k for k in range(7)])

    def test_in_pieces_and_without_boxes(self, maps, monkeypatch):
        whole = roi_align(maps, BOXES, ITEMS, scale=1 / 16)
        monkeypatch.setattr(roi_module, "PIECE", 1)
        assert torch.equal(roi_align(maps, BOXES, ITEMS, scale=1 / 16), whole)
        assert roi_align(maps, BOXES[:0], ITEMS[:0]).shape == (0, 3, 7, 7)

    def test_gradient(self, maps):
        small = maps[:, :1, :4, :5].clone().requires_grad_()
        boxes, items = BOXES[:3] / 3, ITEMS[:3]
        assert torch.autograd.gradcheck(
            lambda x: roi_align(x, boxes, items, size=(2, 2), scale=1 / 16), small
        )

    def test_refuses_other_shapes(self, maps):
        with pytest.raises(InvalidArgument, match="R×4"):
            roi_align(maps, BOXES[:, :3], ITEMS)


def still(boxes, frames):
    """Return boxes that stay where they are, N×T×4."""
    return torch.tensor(boxes, dtype=torch.float32)[:, None].expand(-1, frames, -1)


def test_slowfast_with_avas_head_has_the_published_parameters():
    network = build_network("slowfast-8x8-r50", (3, 32, 64, 64), num_classes=80)
    assert sum(p.numel() for p in network.parameters()) == 33_828_888
    assert (network.taps, network.stride) == ((("slow.layer4", 1), ("fast.layer4", 1)), 16)
    # Dilated, stride 1: the weights are those of the network for whole clips.
    conv = network.trunk.slow.layer4[0].conv2
    assert (conv.stride, conv.dilation, conv.padding) == ((1, 1, 1), (1, 2, 2), (0, 2, 2))


@pytest.mark.parametrize(
    ("row", "clip", "stride"),
    [
        ("slow-r50", (3, 4, 64, 96), 16),
        ("slowfast-4x16-r50", (3, 16, 64, 64), 16),
        ("r3d-18-tiny", (3, 8, 64, 64), 8),
        ("x3d-s", (3, 4, 96, 96), 16),
        ("s3d", (2, 16, 96, 96), 32),
        ("i3d", (2, 16, 96, 96), 32),
        ("small-cnn", (2, 10, 96, 96), 16),
        ("resnet18", (2, 10, 96, 96), 16),
        ("lecture-3d", (2, 16, 64, 64), 4),
        ("bn-inception", (2, 10, 96, 128), 32),
    ],
)
def test_any_row_classifies_boxes(row, clip, stride):
    network = build_network(row, clip, num_classes=5, context=1.5)
    assert network.stride == stride
    boxes = [still([[2, 3, 30, 30], [20, 20, 60, 60]], clip[1]), still([[2, 3, 30, 30]], clip[1])]
    clips = [torch.randn(clip), torch.randn(clip)]
    logits = network(clips, boxes)
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.fc.parameters())
    network.eval()
    with torch.no_grad():
        alone = network(clips[1:], boxes[1:])
        assert torch.allclose(network(clips, boxes)[2:], alone, atol=1e-4)


def test_frame_by_frame_networks_are_refused():
    with pytest.raises(InvalidArgument, match="3D one"):
        build_network("single-frame-tiny", (3, 4, 64, 64), num_classes=3)


class TestPersonNetwork:
    def test_near_and_far_look_alike(self):
        torch.manual_seed(0)
        network = PersonNetwork(num_classes=3, channels=2, frames=4, size=32).eval()
        far = torch.nn.functional.avg_pool2d(torch.randn(2, 4, 64, 64), 5, 1, 2)
        near = torch.nn.functional.interpolate(far, scale_factor=2, mode="bilinear") * 2
        box = still([[20, 18, 36, 44]], 4)
        with torch.no_grad():
            apart = network([far, near], [box, box * 2])
            other = network([far], [box + 12])
        same, different = ((apart[0] - each).abs().max() for each in (apart[1], other[0]))
        assert float(same) < 0.3 * float(different)

    def test_the_mask_is_the_box(self):
        network = PersonNetwork(num_classes=3, channels=2, frames=4, context=2.0, size=32)
        cut = network.cut(torch.zeros(2, 4, 64, 64), still([[20, 16, 28, 48]], 4))
        assert cut.shape == (1, 3, 4, 32, 32)
        mask = cut[0, -1, 0]
        # The square is twice the longer side: the box is half as high, an eighth as wide.
        assert (int(mask.any(1).sum()), int(mask.any(0).sum())) == (16, 4)

    def test_each_time_is_cut_where_the_person_is(self):
        network = PersonNetwork(num_classes=3, channels=2, frames=3)
        clip = torch.zeros(2, 3, 64, 96)
        boxes = still([[10, 20, 20, 40]], 3).clone()
        for time in range(3):
            boxes[:, time, [0, 2]] += 20 * time
            clip[:, time, 30, 15 + 20 * time] = 1.0
        cut = network.cut(clip, boxes)
        assert torch.allclose(cut[:, :, 0], cut[:, :, 2], atol=1e-5)
        assert float(cut[0, 0, 0].max()) > 0

    def test_every_parameter_learns(self):
        network = PersonNetwork(num_classes=3, channels=5, frames=4)
        logits = network([torch.randn(5, 4, 40, 40)] * 2, [still([[5, 5, 20, 30]], 4)] * 2)
        logits[:, 0].sum().backward()
        assert all(p.grad is not None for p in network.parameters())


def swaying(frames, speed=1.0, left=20, width=96):
    """Return flow 2×T×64×width of somebody in rows 20 to 43 who goes right and left, and boxes."""
    flow = torch.zeros(2, frames, 64, width)
    for t in range(frames):
        flow[0, t, 20:44, left : left + 12] = speed * math.cos(t)
    return flow, still([[left, 20, left + 12, 44]], frames)


def described_by(network, clips, boxes):
    return network.describe(network.cells(clips, boxes))


class TestHistogramNetwork:
    NETWORK = HistogramNetwork(num_classes=3, follow=False)

    def test_directions_and_change(self):
        clip, boxes = swaying(8)
        said = described_by(self.NETWORK, [clip], [boxes]).reshape(-1)
        cells = 64 * 9
        mean = said[:cells].reshape(9, 8, 8)
        # Right and left, and of all as much as both; nothing up or down, and nothing outside.
        assert float(mean[2].abs().max()) == float(mean[6].abs().max()) == 0.0
        total = mean[0].square() + mean[4].square()
        assert torch.allclose(mean[8].square(), total, atol=1e-6)
        assert float(mean[:, :2].abs().max()) == 0.0
        assert float(said.norm()) == pytest.approx(1.0)
        change = said[cells + 16 * 9 : 2 * cells + 16 * 9].reshape(9, 8, 8)
        assert float(change[0].max()) > 0
        clip[:, :] = clip[:, :1]
        even = described_by(self.NETWORK, [clip], [boxes]).reshape(-1)
        assert not even[cells + 16 * 9 :].any()

    def test_speeds_and_sizes_are_the_persons_own(self):
        clip, boxes = swaying(8)
        large = torch.nn.functional.interpolate(clip, scale_factor=2, mode="bilinear") * 2
        one, two, other = described_by(
            self.NETWORK, [clip, large, clip.flip(0)], [boxes, boxes * 2, boxes]
        )
        assert float((one - two).norm()) < 0.25 * float((one - other).norm())

    def test_a_neighbour_leaves_the_middle_as_it_is(self):
        clip, boxes = swaying(8)
        beside, _ = swaying(8, 3.0, left=40)
        one, two = described_by(self.NETWORK, [clip, clip + beside], [boxes, boxes])
        middle = slice(64 * 9, 64 * 9 + 16 * 9)
        assert torch.allclose(one[middle], two[middle], atol=1e-6)
        assert not torch.allclose(one, two, atol=1e-2)

    def test_mirror_images_and_landmarks(self):
        clip, boxes = swaying(8)
        turned = clip.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None, None]
        there = boxes.clone()
        there[..., [0, 2]] = clip.shape[-1] - boxes[..., [2, 0]]
        network = HistogramNetwork(num_classes=3, follow=False)
        cells = network.cells([clip, clip * 0.5 + turned], [boxes, boxes])
        mirrored = network.mirrored(network.cells([turned], [there]))
        assert torch.allclose(cells[:1], mirrored, atol=1e-5)
        described = network.describe(cells)
        assert not network.compare(described).any()  # nobody is known yet
        network.remember(described)
        # As rows of a matrix whose products with each other are the kernel.
        compared = network.compare(described)
        alike = torch.exp(4 * (described @ described.T - 1))
        assert torch.allclose(compared @ compared.T, alike, atol=1e-4)

    def test_who_stands_still_says_nothing(self):
        clip, boxes = swaying(4, 0.0)
        assert not described_by(self.NETWORK, [clip], [boxes]).any()

    def test_refusals(self):
        with pytest.raises(InvalidArgument, match="reads flow, not 3 channels"):
            build_network("flow-histogram", (3, 4, 64, 64), num_classes=2)
        with pytest.raises(InvalidArgument, match=r"lags \[2, 0\] must each be ≥ 1"):
            HistogramNetwork(num_classes=2, lags=(2, 0))
        with pytest.raises(InvalidArgument, match="directions 7 must be even"):
            HistogramNetwork(num_classes=2, directions=7)


def test_penalties_are_chosen_on_other_videos():
    """Where persons of a video are alike and labels are noise, the largest penalty is best."""
    generator = torch.Generator().manual_seed(0)
    described = torch.randn(120, 12, generator=generator)
    described /= described.norm(dim=1, keepdim=True)
    videos = np.repeat(np.arange(24).astype(str), 5)
    noise = torch.nn.functional.one_hot(torch.randint(0, 2, (120,), generator=generator), 2) > 0
    rng = np.random.default_rng(0)
    assert Fit(described, noise, 2, True).choose(videos, rng) == PENALTIES[0]
    # Far enough from the border that only certainty can be gained.
    described[:, 0] += described[:, 0].sign() / 2
    real = torch.stack([described[:, 0] > 0, described[:, 0] <= 0], 1)
    assert Fit(described, real, 2, True).choose(videos, rng) < PENALTIES[0]
    for softmax in (True, False):
        fit = Fit(described, real, 2, softmax)
        weights, bias = fit(slice(None), PENALTIES[-1])
        logits = described @ weights.T + bias
        assert (logits.argmax(1) == real.int().argmax(1)).all()


def two_movers(kinds, seed=0):
    """Return frames of two persons, and their boxes T×2×4: each sways or hops in its place."""
    rng = np.random.default_rng(seed)
    background = (texture(HEIGHT, WIDTH, seed) // 2 + 60).astype(np.uint8)
    frames = np.repeat(background[None, :, :, None], FRAMES, 0).repeat(3, 3)
    boxes = np.zeros((FRAMES, 2, 4))
    phase = rng.uniform(0, 6, 2)
    for place, kind in enumerate(kinds):
        skin = texture(32, 16, seed * 7 + place)[:, :, None]
        for t in range(FRAMES):
            move = round(7 * math.sin(t / 2.2 + phase[place]))
            x = 20 + 60 * place + (move if kind == "sway" else 0)
            y = 32 + (move if kind == "hop" else 0)
            frames[t, y : y + 32, x : x + 16] = skin
            boxes[t, place] = x, y, x + 16, y + 32
    return frames, boxes


PAIRS = [("sway", "hop"), ("hop", "sway"), ("sway", "hop"), ("hop", "sway"), ("hop", "sway")]


@pytest.fixture(scope="module")
def scene(tmp_path_factory, write_video):
    """A folder of five videos, boxes.csv by seconds (every fourth frame), and a configuration."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "videos").mkdir()
    rows = []
    for number, kinds in enumerate(PAIRS):
        frames, boxes = two_movers(kinds, number)
        write_video(folder / "videos" / f"v{number}.mp4", frames, fps=25)
        for t in range(2, FRAMES, 4):
            for person, kind in enumerate(kinds):
                rows.append((f"v{number}", t / 25, *boxes[t, person], kind, person))
    with (folder / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "time_s", "x1", "y1", "x2", "y2", "label", "person"))
        writer.writerows(rows)
    (folder / "scene.toml").write_text(
        '[data]\nvideos = "videos"\nboxes = "boxes.csv"\ntest = ["v4"]\ncache = "cache"\n'
        "[streams.flow]\nframes = 6\nstride = 2\nparameters = { width = 8, size = 16 }\n"
        "[train]\nepochs = 16\nbatch_size = 16\n"
    )
    return folder


@pytest.fixture(scope="module")
def trained(scene):
    return run_cli("detect", "train", scene / "scene.toml", "--out", scene / "run", "--json")


def test_only_the_box_says_which_action_is_meant(scene, trained):
    record = json.loads(trained.out)
    assert record["classes"] == ["hop", "sway"]
    assert record["loss"] == "softmax"
    assert record["true_boxes"]["mAP"] > 0.9
    assert (scene / "run" / "results.json").is_file()
    assert "training: 80 boxes on 40 key frames of 4 videos" in trained.err
    written = scene / "run" / "detections_true.csv"
    done = run_cli("detect", "eval", scene / "boxes.csv", written, "--protocol", "ava", "--json")
    # The truth holds the training videos too, which have no detections: recall is a fifth at best.
    assert json.loads(done.out)["mAP"] == pytest.approx(record["true_boxes"]["mAP"] / 5, abs=0.02)


def test_new_videos(scene, trained, tmp_path):
    found = tmp_path / "found.csv"
    boxes = f"csv:{scene / 'boxes.csv'}"
    video = scene / "videos" / "v4.mp4"
    done = run_cli("detect", "predict", scene / "run", video, "--boxes", boxes, "--csv", found)
    assert done.status == 0, done.err
    rows = list(csv.DictReader(found.read_text().splitlines()))
    # No track goes from one person to the other, and what each does is what the boxes are of.
    best = {}
    for row in rows:
        key = (row["time_s"], row["person"])
        if float(row["score"]) > float(best.get(key, row | {"score": 0})["score"]):
            best[key] = row
    sides = [{r["person"] for r in rows if (float(r["x1"]) < 60) == left} for left in (True, False)]
    assert not sides[0] & sides[1]
    right = [(row["label"] == "hop") == (float(row["x1"]) < 60) for row in best.values()]
    assert np.mean(right) > 0.9
    (truth := tmp_path / "truth.csv").write_text(
        "".join(
            line
            for line in (scene / "boxes.csv").read_text().splitlines(True)
            if line.startswith(("video,", "v4,"))
        ).replace("v4,", "v4.mp4,")
    )
    done = run_cli("detect", "eval", truth, found, "--protocol", "ava", "--json")
    assert json.loads(done.out)["mAP"] > 0.9
    drawn, page = tmp_path / "drawn.mp4", tmp_path / "page.html"
    given = ("--video", drawn, "--page", "--out", page, "--tubes", tmp_path / "tubes.csv")
    done = run_cli("detect", "predict", scene / "run", video, "--boxes", boxes, *given)
    assert done.status == 0, done.err
    assert probe(drawn).width >= WIDTH
    assert done.out == ""
    assert "2 persons in 1 video" in page.read_text("utf-8")
    best = {}
    tubes = read_tubes(tmp_path / "tubes.csv", scored=True)
    for tube in sorted(tubes, key=lambda tube: tube.score):
        best[tube.boxes[0, 0] < 60] = tube.label
    assert best == {True: "hop", False: "sway"}
    listed = run_cli("detect", "predict", scene / "run", video, "--boxes", boxes)
    assert "hop" in listed.out
    assert "sway" in listed.out


def test_a_video_that_fails_does_not_end_the_others(scene, trained, tmp_path):
    (bad := tmp_path / "bad.mp4").write_bytes(b"none")
    shutil.copy(scene / "videos" / "v3.mp4", lone := tmp_path / "a-lone.mp4")
    video, boxes = scene / "videos" / "v4.mp4", f"csv:{scene / 'boxes.csv'}"
    given = ("--boxes", boxes, "--csv", tmp_path / "f.csv", "--cache", tmp_path / "c")
    for others, message in (
        ([bad], "note: bad.mp4: "),
        ([lone], "a-lone.mp4: .* has no box of a-lone.mp4; what was seen before is kept"),
    ):
        done = run_cli("detect", "predict", scene / "run", *others, video, *given)
        assert done.status == 1
        assert re.search(message, done.err)
        rows = list(csv.DictReader((tmp_path / "f.csv").read_text().splitlines()))
        assert {row["video"] for row in rows} == {"v4.mp4"}
    assert run_cli("detect", "predict", scene / "run", video, *given).status == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--boxes", "bakground"], 'did you mean "background"'),
        (["--boxes", "csv"], "of the form csv:FILE"),
        (["--boxes", "hog", "--boxes-arg", "min_hight_px=9"], 'did you mean "min_height_px"'),
        (["--boxes", "onnx:gone.onnx", "--boxes-arg", "form=yolov8"], "no network at"),
    ],
)
def test_wrong_boxes_are_refused_before_flow_is_computed(
    scene, trained, tmp_path, options, message
):
    video, cache = scene / "videos" / "v4.mp4", tmp_path / "cache"
    done = run_cli("detect", "predict", scene / "run", video, "--cache", cache, *options)
    assert done.status
    assert message in done.err
    assert not cache.exists()


def test_a_resumed_run_is_the_unbroken_one(scene, trained, tmp_path):
    def run(out, epochs_seen):
        class Stop(Exception):
            pass

        def on_epoch(name, record):
            if record["epoch"] == epochs_seen:
                raise Stop

        settings = load_settings(
            scene / "scene.toml", ["train.epochs=3", "streams.flow.parameters.width=4"]
        )
        try:
            return train(settings, out, workers=1, on_epoch=on_epoch).record
        except Stop:
            return None

    from flowpipe.detection import learning

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "SAVE_EVERY_S", -1.0)
        assert run(tmp_path / "broken", 2) is None
        whole, resumed = run(tmp_path / "whole", 99), run(tmp_path / "broken", 99)
    assert resumed["true_boxes"] == whole["true_boxes"]
    settings = load_settings(
        scene / "scene.toml", ["train.epochs=4", "streams.flow.parameters.width=4"]
    )
    with pytest.raises(WeightsError, match="epochs 3 → 4"):
        train(settings, tmp_path / "whole", workers=1)


def test_histograms_are_the_default(scene, trained, tmp_path):
    (scene / "default.toml").write_text(
        '[data]\nvideos = "videos"\nboxes = "boxes.csv"\ntest = ["v4"]\ncache = "cache"\n'
    )
    settings = load_settings(scene / "default.toml")
    assert [stream.model for stream in settings.streams.values()] == ["flow-histogram"]
    record = train(settings, tmp_path / "run", workers=1).record
    assert record["true_boxes"]["mAP"] > 0.95
    # What has been fitted is not fitted again.
    epochs = []
    again = train(
        settings, tmp_path / "run", workers=1, on_epoch=lambda name, record: epochs.append(record)
    ).record
    assert again == record
    assert not epochs


def test_streams_are_fused_per_box(scene, trained, tmp_path):
    settings = load_settings(
        scene / "scene.toml",
        [
            "train.epochs=1",
            'streams.rgb.input="rgb"',
            "streams.rgb.frames=2",
            "streams.rgb.parameters={width=4, size=16}",
            "weights={flow=1.0, rgb=0.0}",
        ],
    )
    both = train(settings, tmp_path / "both", workers=1).record
    alone = train(
        load_settings(scene / "scene.toml", ["train.epochs=1"]), tmp_path / "one", workers=1
    ).record
    assert both["true_boxes"] == alone["true_boxes"]
    assert both["parameters"] > alone["parameters"]


def test_streams_are_weighed_on_held_out_videos(scene, trained, tmp_path):
    """A stream that learns next to nothing in an epoch counts less."""
    lines = []
    settings = load_settings(
        scene / "scene.toml",
        [
            "train.epochs=1",
            "streams.flow.parameters={}",
            'streams.flow.model="flow-histogram"',
            'streams.rgb.input="rgb"',
            "streams.rgb.frames=2",
            "streams.rgb.parameters={width=4, size=16}",
        ],
    )
    record = train(settings, tmp_path / "run", workers=1, say=lines.append).record
    weights = record["weights"]
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["flow"] > 0.5
    assert any("weights of the streams, by held-out" in line for line in lines)
    assert load_detector(tmp_path / "run").settings.weights == weights
    assert train(settings, tmp_path / "run", workers=1).record == record


def test_the_best_weights():
    generator = torch.Generator().manual_seed(0)
    targets = torch.nn.functional.one_hot(torch.randint(0, 3, (200,), generator=generator), 3) > 0
    good = targets.float() * 2 + torch.randn(200, 3, generator=generator)
    other = targets.float() * 2 + torch.randn(200, 3, generator=generator)
    noise = torch.randn(200, 3, generator=generator)

    def weigh(*streams):
        says = torch.stack([stream.log_softmax(1) for stream in streams])
        return best_weights(says, targets, True)

    assert weigh(good, noise)[0] >= 0.9
    assert weigh(good, good) == [0.5, 0.5]
    assert min(weigh(good, other)) >= 0.3
    assert weigh(noise, good, noise)[1] >= 0.85


def test_persons_who_do_nothing_and_found_boxes(scene, trained, tmp_path):
    """Without its label a person teaches "nothing"; found boxes of csv are measured too."""
    text = (scene / "boxes.csv").read_text().replace("sway", "")
    (scene / "hops.csv").write_text(text)
    settings = load_settings(
        scene / "scene.toml",
        ['data.boxes="hops.csv"', "train.epochs=8", 'persons.boxes="csv:boxes.csv"'],
    )
    result = train(settings, tmp_path / "hops", workers=1)
    assert result.record["classes"] == ["hop"]
    assert result.record["true_boxes"]["mAP"] > 0.8
    assert result.record["found_boxes"]["mAP"] == pytest.approx(
        result.record["true_boxes"]["mAP"], abs=0.05
    )


class TestKeyFrames:
    @pytest.fixture
    def cache(self, scene, trained):
        return open_cache(scene / "cache")

    def truth(self, rows, **others):
        made = [((v, round(t * 1e6)), label, np.array(box, float)) for v, t, label, box in rows]
        empty = others.pop("empty", ())
        return Truth(boxes_of(made, empty=empty), **({"unit": "s", "normalised": False} | others))

    def test_rows_are_counted(self, cache):
        rows = [
            ("v0", 0.4, "hop", (1, 2, 30, 40)),
            ("v0", 0.4, "wave", (1, 2, 30, 40)),
            ("v0", 0.8, "hop", (1, 2, 30, 40)),
            ("v0", 99, "hop", (1, 2, 30, 40)),
            ("nobody", 1, "hop", (1, 2, 30, 40)),
        ]
        truth = self.truth(rows, empty=[("v1", 400_000)])
        examples, use, _ = make_examples(
            truth, ["hop"], cache, excluded=[("v0", 800_000)], offset_s=0.0
        )
        assert (use.boxes, use.key_frames, use.negative_key_frames) == (1, 2, 1)
        assert use.dropped == {
            "label is not among the classes": 1,
            "excluded": 1,
            "outside of its video": 1,
            "video is missing": 1,
        }
        assert [(e.video, e.frame, len(e.boxes)) for e in examples] == [
            ("v1.mp4", 10, 0),
            ("v0.mp4", 10, 1),
        ]
        assert any("excluded" in row[0] for row in use.rows())

    def test_offset_shares_and_frame_numbers(self, cache):
        shares = self.truth([("v0", 900.4, "hop", (0, 0, 0.5, 1))], normalised=True)
        (example,), _, places = make_examples(shares, ["hop"], cache, offset_s=900.0)
        assert (example.frame, example.boxes.tolist()) == (10, [[0, 0, WIDTH / 2, HEIGHT]])
        assert places.moment("v0", 10) == 900_400_000
        numbered = self.truth([("v0", 7, "hop", (0, 0, 9, 9))], unit="frame")
        (example,), _, places = make_examples(numbered, ["hop"], cache)
        assert (example.frame, places.moment("v0", 7)) == (7, 7_000_000)

    @pytest.mark.parametrize("box", [(0, 0, WIDTH + 9, 9), (-9, 0, 9, 9), (9, 9, 9, 20)])
    def test_boxes_outside_are_refused(self, cache, box):
        with pytest.raises(AnnotationError, match=r"128×96 px"):
            make_examples(self.truth([("v0", 0.4, "hop", box)]), ["hop"], cache)
        shares = self.truth([("v0", 0.4, "hop", (0, 0, 1.2, 1))], normalised=True)
        with pytest.raises(AnnotationError, match=r"\[0, 1\]"):
            make_examples(shares, ["hop"], cache)

    def test_nothing_left(self, cache):
        with pytest.raises(AnnotationError, match="video is missing: 1"):
            make_examples(self.truth([("x", 1, "hop", (0, 0, 9, 9))]), ["hop"], cache)

    def test_found_boxes_teach(self, cache):
        truth = self.truth([("v0", 0.4, "hop", (10, 10, 30, 50))])
        examples, _, _ = make_examples(truth, ["hop"], cache)
        found = {("v0.mp4", 10): np.array([[10, 10, 30, 49], [10, 10, 22, 50], [60, 10, 80, 50.0]])}
        (example,) = with_found(examples, found, same=0.9)
        # The first is the person, the second neither clearly it nor clearly another.
        assert example.targets[:, 0].tolist() == [True, True, False]
        assert example.boxes[2].tolist() == [60, 10, 80, 50]

    def test_clips_at_the_ends_and_in_the_mirror(self, cache):
        entry = cache["v0.mp4"]
        stream = DetectStream(frames=4, stride=1)
        clip = stream.clip_input("seen", (HEIGHT, WIDTH))
        assert indices_around(clip, entry, 0, 2).tolist() == [0, 0, 0, 1]
        assert indices_around(clip, entry, 38, 2).tolist() == [36, 37, 38, 38]
        timed = DetectStream(frames=4, fps=12.5).clip_input("seen", (HEIGHT, WIDTH))
        assert indices_around(timed, entry, 10, 2).tolist() == [6, 8, 10, 12]
        network = RoiNetwork("small-cnn", (2, 4, HEIGHT, WIDTH), num_classes=2)
        boxes = np.array([[10.0, 20, 30, 60]])
        device = torch.device("cpu")
        plain, at = see(stream, entry, 10, boxes, network, device)
        turned, there = see(stream, entry, 10, boxes, network, device, Look(flip=True))
        assert torch.allclose(turned[0], -plain[0].flip(-1))
        assert torch.allclose(turned[1], plain[1].flip(-1))
        assert at[:, 2].tolist() == boxes.tolist()
        assert there[:, 2].tolist() == [[WIDTH - 30, 20, WIDTH - 10, 60]]

    def test_boxes_go_with_the_person(self, cache, scene):
        entry = cache["v0.mp4"]
        _, boxes = two_movers(PAIRS[0], 0)
        stream = DetectStream(frames=8, stride=1)
        clip = stream.clip_input("seen", (HEIGHT, WIDTH))
        indices = indices_around(clip, entry, 20, 4)
        codes = read_clip(clip, entry, indices, View(0, 0, HEIGHT, WIDTH))
        followed = follow(codes, entry.quantiser.decode, indices, 4, boxes[20])
        assert np.array_equal(followed[:, 4], boxes[20])
        error = np.abs(followed - boxes[indices].transpose(1, 0, 2)).mean()
        still_error = np.abs(boxes[20][:, None] - boxes[indices].transpose(1, 0, 2)).mean()
        assert error < 0.6 * still_error


def test_no_clip_leads_over_a_cut():
    entry = SimpleNamespace(
        num_frames=20, num_flows=19, pts_s=np.arange(20) / 10, cuts=np.array([7, 13])
    )
    flow = DetectStream(frames=6, stride=2).clip_input("seen", (32, 32))
    assert indices_around(flow, entry, 8, 3).tolist() == [8, 8, 8, 8, 10, 12]
    assert indices_around(flow, entry, 7, 3).tolist() == [1, 3, 5, 6, 6, 6]
    rgb = DetectStream(input="rgb", frames=6, stride=2).clip_input("seen", (32, 32))
    assert indices_around(rgb, entry, 13, 3).tolist() == [8, 9, 11, 13, 13, 13]
    timed = DetectStream(frames=4, fps=5.0).clip_input("seen", (32, 32))
    assert indices_around(timed, entry, 9, 2).tolist() == [8, 8, 9, 11]


def test_forms_of_truth(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("v,0902,0.1,0.1,0.5,0.9,1,0\nv,0903\n")
    truth = read_truth(path, {"1": "stand"})
    assert (truth.unit, truth.normalised, truth.boxes.labels.tolist()) == ("s", True, ["stand"])
    assert truth.boxes.empty_frames == {("v", 903_000_000)}
    path.write_text("video,frame,x1,y1,x2,y2,label\nv,3,1,1,5,9,run\n")
    assert (read_truth(path).unit, read_truth(path).normalised) == ("frame", False)
    assert read_truth(path, normalised=True).normalised
    path.write_text("video,tube,label,frame,x,y,w,h\nv,0,run,3,1,1,4,8\nv,0,run,4,1,1,4,8\n")
    tubes = read_truth(path)
    assert [key[1] for key in tubes.boxes.frames] == [3_000_000, 4_000_000]
    assert tubes.boxes.boxes[0].tolist() == [1, 1, 5, 9]
    (pickled := tmp_path / "JHMDB-GT.pkl").write_bytes(b"")
    with pytest.raises(AnnotationError, match="pickle, which may run any program"):
        read_truth(pickled)


def test_matlab_tubes(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    boxes = np.array([[250, 200, 20, 90], [251, 200, 20, 90]], np.uint8)
    tube = {"class": 4, "sf": 3, "ef": 4, "boxes": boxes}
    annot = np.zeros(2, [("name", object), ("num_imgs", object), ("tubes", object)])
    for number in range(2):
        annot[number] = (f"CliffDiving/v_{number}", 40, tube)
    savemat(tmp_path / "finalAnnots.mat", {"annot": annot})
    truth = read_truth(tmp_path / "finalAnnots.mat")
    assert truth.unit == "frame"
    assert truth.boxes.labels.tolist() == ["CliffDiving"] * 4
    assert truth.boxes.frames[0] == ("CliffDiving/v_0", 2_000_000)
    # 250 + 20 does not fit into the file's 8 bits.
    assert truth.boxes.boxes[0].tolist() == [250, 200, 270, 290]
    clip = tmp_path / "jhmdb" / "golf" / "clip1"
    clip.mkdir(parents=True)
    mask = np.zeros((20, 30, 3), np.uint8)
    mask[4:12, 6:9, :2] = 1
    savemat(clip / "puppet_mask.mat", {"part_mask": mask})
    truth = read_truth(tmp_path / "jhmdb")
    assert truth.boxes.frames.tolist() == [("golf/clip1", 0), ("golf/clip1", 1_000_000)]
    assert truth.boxes.boxes[0].tolist() == [6, 4, 9, 12]
    (tmp_path / "bad.mat").write_bytes(b"not matlab")
    with pytest.raises(AnnotationError, match="cannot be read as a MATLAB file"):
        read_truth(tmp_path / "bad.mat")


def test_test_videos_by_pattern():
    rows = [((f"a/{v}", 0), "run", np.array([0.0, 0, 1, 1])) for v in ("x1", "x2", "y1")]
    truth = Truth(boxes_of(rows, empty=[("a/y2", 5)]), "s", False)
    train_part, test_part = divided(truth, ["*/y*"])
    assert [key[0] for key in train_part.boxes.frames] == ["a/x1", "a/x2"]
    assert test_part.boxes.empty_frames == {("a/y2", 5)}
    with pytest.raises(AnnotationError, match="matches none of 4 videos"):
        divided(truth, ["b/*"])
    with pytest.raises(AnnotationError, match="all videos"):
        divided(truth, ["*"])


def test_losses():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 1.0]])
    targets = torch.tensor([[True, False], [False, False]])
    loss, right = criterion(logits, targets, softmax=True)
    # The second does nothing: the third output.
    expected = (-logits[0].log_softmax(0)[0] - logits[1].log_softmax(0)[2]) / 2
    assert float(loss) == pytest.approx(float(expected))
    assert right == 1
    loss, _ = criterion(logits[:, :2], targets, softmax=False)
    values = logits[:, :2].sigmoid()
    expected = -(values[0, 0].log() + (1 - values[0, 1]).log() + (1 - values[1]).log().sum()) / 2
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    alone, _ = criterion(logits[:, :2], targets, softmax=True)
    assert float(alone) == pytest.approx(float(-logits[0, :2].log_softmax(0)[0]))


def test_classes_come_equally_often():
    from flowpipe.detection.examples import Example

    def example(number, *labels):
        targets = np.zeros((len(labels), 2), bool)
        targets[np.arange(len(labels)), labels] = True
        boxes = np.tile([0.0, 0, 9, 9], (len(labels), 1))
        return Example(("v", number), "v", number, boxes, targets)

    examples = [example(number, 0) for number in range(9)] + [example(9, 1)]
    assert class_chances(examples).tolist() == pytest.approx([1 / 18] * 9 + [1 / 2])
    batches = draw_batches(examples, None, 3, np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [3, 3, 4]
    assert sorted(place for batch in batches for place in batch) == list(range(10))


def test_settings_are_checked(scene, tmp_path):
    with pytest.raises(InvalidArgument, match="epochs 0 must"):
        DetectTrain(epochs=0)
    with pytest.raises(InvalidArgument, match="no published weights"):
        DetectStream(weights=tmp_path / "w.pth")
    assert mirrored(["turn left", "jump"])
    assert not mirrored(["cleft", "jump"])
    done = run_cli("detect", "train", scene / "scene.toml", "--set", "train.epoch=3")
    assert done.status == 2
    assert "epochs" in done.err
    done = run_cli("detect", "predict", tmp_path, scene / "videos" / "v0.mp4")
    assert "is no detector" in done.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["streams={}"], "there must be a stream"),
        (["streams.flow.model=persn"], 'unknown model "persn"'),
        (["streams.flow.parameters={widht=3}"], r'no parameter "widht" \(did you mean "width"'),
        (["streams.flow.parameters={width=0}"], "width 0 must be 1 to 1024"),
        (["streams.flow.parameters={context=inf}"], "context inf must be ≥ 1"),
        (["streams.flow.parameters={size=1000000}"], "size 1000000 from 16 to 512"),
        (["streams.flow.frames=1000000000"], "frames 1000000000 must be ≤ 10000"),
        (["streams.flow={model='slow-r50', weights='gone.pth'}"], "no file of weights at .*gone"),
        (["weights={flw=1}"], 'weight 1.0 of "flw" must be'),
        (["weights={flow=inf}"], r"weight inf of .* must be in \[0, 1e\+06\]"),
        (["train.scales=[1.0, nan]"], "scales .* must be from 0.1 to 10"),
        (["data.offset_s=nan"], "offset_s nan must be finite"),
        (["data.normalised=true"], r"a corner at \d+.* normalised = false"),
        (["data.exclude=gone.csv"], "gone.csv: cannot be read"),
        (["persons.boxes=csv:gone.csv"], "gone.csv: cannot be read"),
        (["data.boxes=one.csv"], "has one label, hop, for every person"),
        (["data.boxes=several.csv", "train.loss=softmax"], "several labels, but .* softmax"),
    ],
)
def test_what_can_be_refused_is_refused_before_flow_is_computed(
    scene, tmp_path, monkeypatch, changes, message
):
    from flowpipe.detection import data

    lines = (scene / "boxes.csv").read_text().splitlines(True)
    (scene / "one.csv").write_text("".join(lines).replace("sway", "hop"))
    (scene / "several.csv").write_text("".join([*lines, lines[1].replace("sway", "hop")]))

    def reached(*given, **named):
        raise AssertionError("flow is computed")

    monkeypatch.setattr(data, "extract", reached)
    with pytest.raises(FlowpipeError, match=message):
        train(load_settings(scene / "scene.toml", changes), tmp_path / "run", workers=1)
    with pytest.raises(AssertionError, match="flow is computed"):
        train(load_settings(scene / "scene.toml"), tmp_path / "run", workers=1)


def test_every_file_of_a_run_is_verified(scene, trained, tmp_path):
    shutil.copytree(scene / "run", out := tmp_path / "run", ignore=lambda *_: {"cache"})
    files = ["detections_true.csv", "flow/checkpoint.pt", "flow/metrics.jsonl"]
    assert not any(finding.problem for finding in verify_run(out))
    for name in files:
        whole = (out / name).read_bytes()
        for place in range(0, len(whole), len(whole) // 5):
            damaged = bytearray(whole)
            damaged[place] ^= 2
            (out / name).write_bytes(damaged)
            assert [f.path for f in verify_run(out) if f.problem] == [out / name], place
        if name.endswith(".csv"):
            done = run_cli("detect", "eval", scene / "boxes.csv", out / name, "--protocol", "ava")
            assert done.status == 1
            assert f"{out / name} is not what the run wrote" in done.err
            with pytest.raises(EntryCorrupt, match="not what the run wrote"):
                open_catalogue(out / name)
        (out / name).unlink()
        (gone,) = [f.problem for f in verify_run(out) if f.problem]
        assert gone == f"{out / name} is gone; copy it back, or train again"
        (out / name).write_bytes(whole)
    table = json.loads((out / "results.json").read_text())
    write_table(out / "results.json", {"files": table["files"] | {"../x": 3, "flow": 4}})
    (tmp_path / "x").write_text("of another")
    wrong = [f.problem for f in verify_run(out) if f.problem]
    assert wrong == [f"{out / name} is no file of this run" for name in ("../x", "flow")]


def test_a_detector_of_forged_size_takes_no_memory(scene, trained, tmp_path):
    shutil.copytree(scene / "run", out := tmp_path / "run", ignore=lambda *_: {"cache"})
    table = json.loads((out / "detector.json").read_text())
    forged = {key: value for key, value in table.items() if key not in ("crc32", "sealed")}
    write_table(out / "detector.json", forged | {"size": [5]})
    with pytest.raises(ConfigError, match=r"size \[5\] must be \(height, width\)"):
        load_detector(out)
    forged["streams"]["flow"]["parameters"]["width"] = 1024
    write_table(out / "detector.json", forged)
    with pytest.raises(WeightsError, match=r"checkpoint.pt has [\d,]+ bytes, .* ask for [\d,]+ of"):
        load_detector(out)


def test_videos_of_both_parts_are_told(scene, trained, tmp_path):
    said = []
    changes = ["data.test=[]", "data.test_boxes=boxes.csv"]
    data = load_data(load_settings(scene / "scene.toml", changes), tmp_path, say=said.append)
    assert len(data.test.examples) == 50
    assert said == [
        "note: 5 videos are trained on and tested on, such as v0; what is measured on them says "
        "little of other videos"
    ]


def test_frames_to_look_at_are_stamped_by_the_video(scene, trained):
    from flowpipe.detection.settings import PersonSettings

    classes, paths, frames = predict(
        scene / "run",
        [scene / "videos" / "v4.mp4"],
        PersonSettings(boxes="background", options={"min_height": 0.1}),
        every_s=0.4,
    )
    seen = list(frames)
    assert classes == ("hop", "sway")
    assert [round(frame.time_s, 3) for frame in seen] == [0, 0.4, 0.8, 1.2]
    assert list(paths) == [seen[0].video]


def test_key_frames_know_their_videos(scene, trained):
    places = KeyFrames(open_cache(scene / "cache"), ["v0", "unknown"])
    assert places.names == {"v0": "v0.mp4"}


@pytest.mark.data
@pytest.mark.slow
def test_weizmann(shared_data, tmp_path):
    """Three unseen actors, true boxes; about a minute of one core."""
    boxes = tmp_path / "boxes.csv"
    with (shared_data / "ava" / "weizmann_boxes.csv").open() as file, boxes.open("w") as out:
        out.write("video,frame,x1,y1,x2,y2,label\n")
        for row in csv.DictReader(file):
            if int(row["frame"]) % 5 == 2:
                label = row["clip"].split("/")[0]
                corners = ",".join(row[side] for side in ("x1", "y1", "x2", "y2"))
                out.write(f"{row['clip']},{row['frame']},{corners},{label}\n")
    config = tmp_path / "weizmann.toml"
    config.write_text(
        f'[data]\nvideos = "{shared_data / "weizmann"}"\nboxes = "{boxes}"\n'
        'test = ["*/lyova_*", "*/moshe_*", "*/shahar_*"]\n'
    )
    record = train(load_settings(config), tmp_path / "run").record
    assert record["true_boxes"]["mAP"] >= 0.95


def test_a_table_of_boxes_without_a_row_is_refused(tmp_path):
    path = tmp_path / "boxes.csv"
    path.write_text("video,time_s,x1,y1,x2,y2,label,person\n")
    with pytest.raises(AnnotationError, match="has no row"):
        divided(read_truth(path), ["*_test"])


@pytest.mark.parametrize("name", ["ava_slowfast", "weizmann_detection"])
def test_configurations_are_read(name):
    settings = load_settings(Path(__file__).parents[1] / "configs" / f"{name}.toml")
    assert settings.streams
    assert all(value == "–" or 0 < value < 1 for value in settings.expected.values())
