"""Receptive fields against the support of gradients, costs against the reference, the commands."""

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from support import app, run_cli
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from flowpipe.errors import InvalidArgument
from flowpipe.models import TABLE, build, build_for_clip
from flowpipe.models.analysis import describe, summarise
from flowpipe.models.analysis.receptive_field import Tracer

TINY = [name for name in TABLE if name.endswith("-tiny")]
QUICK = {*TINY, "resnet18", "c3d", "c3d-lecture", "lecture-late", "lecture-early", "lecture-3d"}


def slow_unless_quick(rows):
    """Mark the networks of many layers, one second each, as slow."""
    return [
        row if (row if isinstance(row, str) else row[0]) in QUICK
        else pytest.param(*([row] if isinstance(row, str) else row), marks=pytest.mark.slow)
        for row in rows
    ]  # fmt: skip


AVERAGES = {
    functional.max_pool1d: functional.avg_pool1d,
    functional.max_pool2d: functional.avg_pool2d,
    functional.max_pool3d: functional.avg_pool3d,
}


class Averages(TorchFunctionMode):
    """Maxima become means, whose gradient reaches all that a maximum looks at."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in AVERAGES:
            kwargs.pop("dilation", None)
            kwargs.pop("return_indices", None)
            padding = kwargs.get("padding", 0)
            if isinstance(padding, tuple):  # means refuse maps smaller than the window
                pads = [pad for pad in reversed(kwargs.pop("padding")) for _ in range(2)]
                args = (functional.pad(args[0], pads), *args[1:])
            return AVERAGES[func](*args, **kwargs)
        if func is Tensor.amax:
            return Tensor.mean(*args, **kwargs)
        return func(*args, **kwargs)


def make_positive(network):
    """Weights > 0, so that nothing cancels; small enough that no gate saturates."""
    with torch.no_grad():
        for parameter in network.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
            parameter.copy_(torch.rand_like(parameter) / fan_in + 0.5 / fan_in)


def probe(network, clip_shape, layers=None):
    """Give (name, computed box, box of the gradient) at the middle of some eight layers' outputs.

    Both boxes are lists of (first, last) along T, H and W; the computed one is not cut.
    """
    channels, frames, height, width = clip_shape
    network = network.double().eval()
    make_positive(network)
    shapes = {
        "CHW": (1, frames * channels, height, width),
        "CTHW": (1, channels, frames, height, width),
        "TCHW": (1, frames, channels, height, width),
    }
    clip = torch.rand(shapes[network.input_layout], dtype=torch.float64) + 0.5
    clip.requires_grad_()
    tracer = Tracer(clip, clip_shape, network.input_layout, lambda *_: None)
    found = []

    def after(module, args, output, name):
        value = output[0] if isinstance(output, tuple) else output
        field = tracer.field(value)
        if field is not None:
            # ReLU in place may overwrite it later; the graph keeps this version.
            found.append((name, value.view_as(value) if value.ndim else value, field))

    for name, module in network.named_modules():
        if layers is None or name in layers:
            module.register_forward_hook(lambda m, a, o, name=name: after(m, a, o, name))
    with Averages(), tracer:
        network(clip)
    assert tracer.unknown == set()
    results = []
    for name, value, field in found[:: max(1, len(found) // 7)]:
        # All channels (or steps, behind a recurrence) at the middle place.
        index = tuple(
            slice(None) if dim == 1 else size // 2 for dim, size in enumerate(value.shape)
        )
        (gradient,) = torch.autograd.grad(value[index].sum(), clip, retain_graph=True)
        if network.input_layout == "CHW":
            support = gradient.reshape(frames, channels, height, width).abs().sum(1)
        else:
            support = gradient[0].abs().sum(network.input_layout.index("C"))
        seen = []
        for axis in range(3):
            others = [d for d in range(3) if d != axis]
            (hit,) = torch.nonzero(support.sum(others), as_tuple=True)
            seen.append((int(hit.min()), int(hit.max())))
        computed = [
            (int(first[index].min()), int(last[index].max()))
            for first, last in zip(field.first, field.last, strict=True)
        ]
        results.append((name, computed, seen))
    return results


def assert_boxes_agree(results, clip_shape):
    """Equal where the box lies inside the clip; else the gradient stays within the box."""
    inside = 0
    for name, computed, seen in results:
        for (first, last), (a, b), size in zip(computed, seen, clip_shape[1:], strict=True):
            if first >= 0 and last < size:
                assert (a, b) == (first, last), (name, computed, seen)
                inside += last > first
            else:
                assert max(first, 0) <= a, (name, computed, seen)
                assert b <= min(last, size - 1), (name, computed, seen)
    return inside


@pytest.mark.parametrize("name", TINY)
def test_fields_of_every_tiny_network_are_the_support_of_its_gradients(name):
    torch.manual_seed(0)
    channels, frames, height, width = TABLE[name].clip_CTHW
    network = build_for_clip(name, (channels, frames, height, width), num_classes=3)
    clip_shape = (channels, frames, height, width)
    results = probe(network, clip_shape)
    assert len(results) > 5
    assert assert_boxes_agree(results, clip_shape) > 3


class Own(nn.Module):
    """What the rows of the table may not have: each branch is a case."""

    input_layout = "CTHW"
    stem_name = "stem"
    classifier_name = "fc"

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.stem = nn.Conv3d(2, 4, (3, 3, 3), padding=1)
        self.dilated = nn.Conv3d(4, 4, 3, padding=(2, 3, 3), dilation=(2, 3, 3), groups=2)
        self.strided = nn.Conv3d(4, 4, (1, 5, 3), stride=(1, 2, 2), padding=(0, 2, 1))
        self.ceil = nn.MaxPool3d(3, 2, ceil_mode=True)
        self.adaptive = nn.AdaptiveAvgPool3d((4, 3, 5))
        self.lrn = nn.LocalResponseNorm(3)
        self.norm = nn.LayerNorm(4)
        self.lstm = nn.LSTM(4, 3, batch_first=True, bidirectional=True)
        self.one = nn.Conv1d(4, 4, 3, padding=1)
        self.mark = nn.Identity()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, clip):
        x = torch.relu(self.stem(clip))
        x = self.mark(getattr(self, f"run_{self.case}")(x))
        return self.fc(x.flatten(2).mean(2)) if x.ndim > 2 else x

    def run_dilated(self, x):
        return self.dilated(x) + x

    def run_branches(self, x):
        return torch.cat([self.strided(x), nn.functional.max_pool3d(x, (1, 2, 2))], 1)[:, 2:6]

    def run_ceil(self, x):
        return self.lrn(self.ceil(x))

    def run_adaptive(self, x):
        return self.adaptive(x)

    def run_padded(self, x):
        x = nn.functional.pad(x, (1, 0, 2, 0, 0, 1))
        return nn.functional.conv3d(x, self.stem.weight[:, :1].repeat(1, 4, 1, 1, 1))

    def run_slices(self, x):
        slow = x[:, :, 1::4]
        fast = self.dilated(x)[:, :, ::4]
        return slow + fast[:, :, : slow.shape[2]]

    def run_shifted(self, x):
        return torch.cat([x[:, :2, 1:], x[:, 2:, :-1]], 1) + 0 * x[:, :, :-1].detach()

    def run_temporal(self, x):
        return self.one(self.one(x.mean((3, 4)))).unsqueeze(3)

    def run_permuted(self, x):
        b, c, t, h, w = x.shape
        y = x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
        y = nn.functional.avg_pool2d(y, 3, 1)
        return y.unflatten(0, (b, t)).transpose(1, 2)

    def run_normed(self, x):
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)

    def run_loop(self, x):
        state, steps = torch.zeros_like(x[:, :, 0]), []
        for frame in x.unbind(2):
            state = torch.tanh(frame + 0.5 * state)
            steps.append(state)
        return torch.stack(steps, 2)


CASES = [name.removeprefix("run_") for name in dir(Own) if name.startswith("run_")]
CLIP = (2, 12, 26, 30)


@pytest.mark.parametrize("case", CASES)
def test_fields_of_operations_are_the_support_of_gradients(case):
    torch.manual_seed(0)
    results = probe(Own(case), CLIP, layers=["stem", "mark"])
    (mark,) = [result for result in results if result[0] == "mark"]
    assert_boxes_agree(results, CLIP)
    # The middle of at least two axes is far from the border in every case.
    inside = [a >= 0 and b < n for (a, b), n in zip(mark[1], CLIP[1:], strict=True)]
    assert sum(inside) >= 2, mark


def test_an_unknown_operation_gives_an_upper_bound_and_is_named():
    class Sorted(Own):
        def run_sorted(self, x):
            return x.sort(dim=-1).values

    network = Sorted("sorted")
    network.mark = nn.BatchNorm3d(4)
    summary = summarise(network.to("meta"), CLIP)
    assert summary.without_rule == ("sort",)
    (row,) = [layer for layer in summary.layers if layer.name == "mark"]
    assert row.receptive_field == CLIP[1:]


def test_values_written_into_a_part_count_for_the_whole():
    class Written(Own):
        def run_written(self, x):
            out = x.new_zeros(x.shape)
            for t in range(x.shape[2]):
                out[:, :, t] = x[:, :, t] * 2
            return out

    network = Written("written")
    network.mark = nn.BatchNorm3d(4)
    summary = summarise(network.to("meta"), CLIP)
    assert summary.without_rule == ("copy_ into a part",)
    (row,) = [layer for layer in summary.layers if layer.name == "mark"]
    assert row.receptive_field == CLIP[1:]


LECTURE = {
    "lecture-late": [
        ("conv1", "12×20×64×64", "1×3×3"),
        ("pool", "12×20×16×16", "1×6×6"),
        ("conv2", "24×20×16×16", "1×14×14"),
        ("mean", "24×1×1×1", "20×64×64"),
    ],
    "lecture-early": [
        ("conv1", "12×64×64", "20×3×3"),
        ("pool", "12×16×16", "20×6×6"),
        ("conv2", "24×16×16", "20×14×14"),
        ("mean", "24×1×1", "20×64×64"),
    ],
    "lecture-3d": [
        ("conv1", "12×20×64×64", "3×3×3"),
        ("pool", "12×5×16×16", "6×6×6"),
        ("conv2", "24×5×16×16", "14×14×14"),
        ("mean", "24×1×1×1", "20×64×64"),
    ],
}


@pytest.mark.parametrize("name", LECTURE)
def test_the_tables_of_the_lecture(name):
    summary = describe(name, num_classes=10, clip=(3, 20, 64, 64))
    *body, classifier = summary.layers
    rows = [
        (row.name, "×".join(map(str, row.output)), "×".join(map(str, row.receptive_field)))
        for row in body
    ]
    assert rows == LECTURE[name]
    parameters = {"lecture-late": 2952, "lecture-early": 9108, "lecture-3d": 8784}[name]
    assert sum(row.parameters for row in body) == parameters
    assert (classifier.kind, classifier.output, classifier.parameters) == ("Linear", (10,), 250)


# GMAC of the reference to the digits that it gives; (classes, clip) → GMAC.
GMAC = [
    ("resnet18", 1000, (3, 1, 224, 224), "1.814"),
    ("resnet50", 1000, (3, 1, 224, 224), "4.089"),
    ("c3d", 487, (3, 16, 112, 112), "38.549"),
    ("c3d-lecture", 487, (3, 16, 112, 112), "38.53"),
    ("r3d-18", 400, (3, 16, 112, 112), "40.697"),
    ("i3d", 400, (3, 64, 224, 224), "111.15"),
    ("i3d", 400, (2, 64, 224, 224), "102.34"),
    ("i3d-resnet50", 400, (3, 8, 256, 256), "37.1"),
    ("c2d-resnet50", 400, (3, 8, 256, 256), "25.46"),
    ("slow-r50", 400, (3, 8, 256, 256), "54.52"),
    ("slowfast-4x16-r50", 400, (3, 32, 256, 256), "36.10"),
    ("slowfast-4x16-r50", 400, (3, 32, 224, 224), "27.64"),
    ("slowfast-8x8-r50", 400, (3, 32, 256, 256), "65.71"),
]


@pytest.mark.parametrize(("name", "classes", "clip", "gmac"), slow_unless_quick(GMAC))
def test_multiply_adds_are_those_of_the_reference(name, classes, clip, gmac):
    digits = len(gmac.partition(".")[2])
    summary = describe(name, num_classes=classes, clip=clip)
    assert f"{summary.macs / 1e9:.{digits}f}" == gmac
    assert summary.without_rule == ()
    assert sum(layer.parameters for layer in summary.layers) == summary.parameters
    assert sum(layer.macs for layer in summary.layers) == summary.macs


def test_c3d_row_by_row():
    summary = describe("c3d", num_classes=487)
    rows = {layer.name: layer for layer in summary.layers}
    gmac = {name: f"{row.macs / 1e9:.2f}" for name, row in rows.items() if "conv" in name}
    assert gmac == {
        "conv1": "1.04", "conv2": "11.10", "conv3a": "5.55", "conv3b": "11.10", "conv4a": "2.77",
        "conv4b": "5.55", "conv5a": "0.69", "conv5b": "0.69",
    }  # fmt: skip
    outputs = {name: "×".join(map(str, row.output)) for name, row in rows.items()}
    assert outputs == {
        "conv1": "64×16×112×112", "pool1": "64×16×56×56", "conv2": "128×16×56×56",
        "pool2": "128×8×28×28", "conv3a": "256×8×28×28", "conv3b": "256×8×28×28",
        "pool3": "256×4×14×14", "conv4a": "512×4×14×14", "conv4b": "512×4×14×14",
        "pool4": "512×2×7×7", "conv5a": "512×2×7×7", "conv5b": "512×2×7×7",
        "pool5": "512×1×4×4", "fc6": "4096", "fc7": "4096", "fc8": "487",
    }  # fmt: skip
    # r grows by (k − 1)·j: worked out by hand from the paper's kernels and strides.
    fields = {name: row.receptive_field for name, row in rows.items()}
    assert fields["conv1"] == (3, 3, 3)
    assert fields["conv2"] == (5, 8, 8)
    assert fields["conv3b"] == (14, 26, 26)
    assert fields["conv4b"] == (32, 62, 62)
    assert fields["conv5b"] == (68, 134, 134)
    assert fields["fc6"] == fields["fc8"] == (16, 112, 112)


@pytest.mark.parametrize("name", slow_unless_quick(TABLE))
def test_costs_of_the_table_are_those_of_the_networks(name):
    row = TABLE[name]
    if row.needs:
        pytest.importorskip(row.needs, reason="its network is that package's")
    summary = describe(name, num_classes=row.num_classes, clip=row.clip_CTHW)
    assert (row.num_parameters, row.macs) == (summary.parameters, summary.macs)
    assert summary.layout == row.input_layout
    assert summary.without_rule == ()


def test_models_imports_no_torch_and_gives_every_row():
    code = (
        "import sys; from flowpipe.cli.main import app; "
        "app(['models', '--json'], standalone_mode=False); "
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["models"]
    assert list(rows) == list(TABLE)
    assert rows["c3d"] == {
        "input_layout": "CTHW",
        "input": [3, 16, 112, 112],
        "classes": 487,
        "parameters": 79_991_015,
        "macs": 38_548_959_232,
        "paper": "Tran et al., C3D",
        "year": 2015,
    }


def test_models_prints_a_table():
    lines = CliRunner().invoke(app(), ["models"]).stdout.splitlines()
    assert any("c3d" in line and "79,991,015" in line and "38.55" in line for line in lines)


def test_describe_as_json():
    arguments = ["describe", "c3d-tiny", "--classes", "5", "--input", "2,16,32,48", "--json"]
    done = CliRunner().invoke(app(), arguments, catch_exceptions=False)
    record = json.loads(done.stdout)
    assert record["input"] == [2, 16, 32, 48]
    assert record["parameters"] == sum(layer["parameters"] for layer in record["layers"])
    assert record["macs"] == sum(layer["macs"] for layer in record["layers"])
    assert record["layers"][0] == {
        "name": "conv1",
        "kind": "Conv3d",
        "output": [8, 16, 32, 48],
        "receptive_field": [3, 3, 3],
        "parameters": 8 * 2 * 27 + 8,
        "macs": 8 * 2 * 27 * 16 * 32 * 48,
        "calls": 1,
    }


def test_describe_prints_layers_and_totals_and_joins_stages():
    text = CliRunner().invoke(app(), ["describe", "resnet18"], catch_exceptions=False).stdout
    (stem,) = [line for line in text.splitlines() if line.strip().startswith("conv1")]
    assert stem.split() == ["conv1", "Conv2d", "64×112×112", "1×7×7", "9,408", "118.01"]
    assert text.splitlines()[-2].split() == ["total", "11,689,512", "1,814.07"]
    arguments = ["describe", "resnet18", "--depth", "1"]
    text = CliRunner().invoke(app(), arguments, catch_exceptions=False).stdout
    (stage,) = [line for line in text.splitlines() if line.strip().startswith("layer2")]
    assert stage.split()[2:4] == ["128×28×28", "1×99×99"]
    assert text.splitlines()[-2].split() == ["total", "11,689,512", "1,814.07"]


def test_describe_takes_ones_own_network_and_its_parameters(tmp_path, monkeypatch):
    (tmp_path / "own_described.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    input_layout, stem_name, classifier_name = 'CHW', 'stem', 'fc'\n"
        "    def __init__(self, k, c, width):\n"
        "        super().__init__()\n"
        "        self.stem, self.fc = nn.Conv2d(c, width, 3), nn.Linear(width, k)\n"
        "    def forward(self, x):\n"
        "        if float(x[0, 0, 0, 0]) > 1e9:\n"
        "            raise ValueError('looks at values')\n"
        "        return self.fc(self.stem(x).mean((2, 3)))\n"
        "def build(*, num_classes, in_channels, width=4):\n"
        "    return Net(num_classes, in_channels, width)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    arguments = ["describe", "own_described:build", "--classes", "3", "--input", "2,10,16,16"]
    done = CliRunner().invoke(app(), [*arguments, "--set", "width=6", "--json"])
    record = json.loads(done.stdout)
    assert [row["name"] for row in record["layers"]] == ["stem", "mean", "fc"]
    assert [row["output"] for row in record["layers"]] == [[6, 14, 14], [6, 1, 1], [3]]
    assert [row["receptive_field"] for row in record["layers"]] == [
        [10, 3, 3], [10, 16, 16], [10, 16, 16],
    ]  # fmt: skip
    assert record["parameters"] == 20 * 9 * 6 + 6 + 6 * 3 + 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["c3d", "--input", "3,16,112"], "must be C,T,H,W"),
        (["c3d", "--input", "3,16,112,a"], "must be C,T,H,W"),
        (["c4d"], 'did you mean "c3d"'),
        (["resnet18", "--set", "width=3"], 'no parameter "width"'),
        (["squeezenet1_0", "--input", "3,1,9,9"], "cannot take this clip"),
    ],
)
def test_describe_says_what_is_wrong(arguments, told):
    from flowpipe.errors import FlowpipeError

    done = CliRunner().invoke(app(), ["describe", *arguments])
    assert isinstance(done.exception, FlowpipeError)
    assert told in str(done.exception)


def test_depth_below_one():
    summary = describe("resnet18", num_classes=2)
    with pytest.raises(InvalidArgument, match="depth 0 must be ≥ 1"):
        summary.at_depth(0)


def test_slowfast_stage_by_stage():
    """The table of Feichtenhofer et al. 2019 for a clip of 32 frames of 224², α = 8."""
    summary = describe("slowfast-4x16-r50", num_classes=400, clip=(3, 32, 224, 224))
    rows = {layer.name: layer for layer in summary.at_depth(2).layers}
    slow = {"conv1": (64, 4, 112), "maxpool": (64, 4, 56), "layer1": (256, 4, 56),
            "layer2": (512, 4, 28), "layer3": (1024, 4, 14), "layer4": (2048, 4, 7)}  # fmt: skip
    for name, (channels, frames, size) in slow.items():
        assert rows[f"slow.{name}"].output == (channels, frames, size, size), name
        # β = 1/8 of the channels, α = 8 times the frames.
        assert rows[f"fast.{name}"].output == (channels // 8, 8 * frames, size, size), name
    # Laterals: five taps over time, every eighth instant, twice the fast pathway's channels.
    laterals = [rows[f"lateral.{number}"].output for number in range(4)]
    assert laterals == [(16, 4, 56, 56), (64, 4, 56, 56), (128, 4, 28, 28), (256, 4, 14, 14)]
    assert rows["slow.conv1"].receptive_field == (1, 7, 7)
    assert rows["fast.conv1"].receptive_field == (5, 7, 7)
    # Five taps on the five frames of the fast stem, 5 + 4; the slow pathway itself sees one frame
    # up to res3, and then 3 taps, 8 frames apart, in each of the blocks: 6 of res4, 3 of res5.
    times = {name: row.receptive_field[0] for name, row in rows.items()}
    assert [times[f"fast.layer{number}"] for number in range(1, 5)] == [11, 19, 31, 37]
    assert [times[f"lateral.{number}"] for number in range(4)] == [9, 15, 23, 35]
    assert [times[f"slow.layer{number}"] for number in (1, 2)] == [9, 15]
    assert times["slow.layer3"] == 23 + 6 * 2 * 8
    assert times["slow.layer4"] == 23 + 6 * 2 * 8 + 3 * 2 * 8
    assert rows["avgpool"].receptive_field == (32, 224, 224)


def test_a_recurrence_has_seen_all_earlier_steps():
    summary = describe("convgru-tiny", num_classes=4)
    rows = {layer.name: layer for layer in summary.layers}
    gates, candidate = rows["grus.0.gates"], rows["grus.0.candidate"]
    assert (gates.calls, candidate.calls) == (8, 8)
    # The gates of the last step see the state before it, the candidate the step itself too.
    assert gates.receptive_field[0] == 7
    assert candidate.receptive_field[0] == 8
    assert rows["grus.0.input"].receptive_field[0] == 1
    assert rows["mean"].output == (16, 1, 1, 1)


def test_a_file_of_weights_is_described_with_its_input(tmp_path):
    torch.save(build("squeezenet1_0", num_classes=7).state_dict(), tmp_path / "w.pth")
    told = json.loads(run_cli("describe", "--weights", tmp_path / "w.pth", "--json").out)
    assert (told["model"], told["classes"]) == ("squeezenet1_0", 7)
    assert told["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    shown = run_cli("describe", "--weights", tmp_path / "w.pth", "--depth", "1")
    assert "short side 256 px, crop 224×224" in shown.err + shown.out
    for words in (("c3d", "--weights", tmp_path / "w.pth"), ()):
        refused = run_cli("describe", *words)
        assert refused.status == 2
        assert "give a MODEL, or the file of a network" in refused.err
