"""Every network of the table goes through the same tests."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn

from flowpipe.models import INPUT_LAYOUTS, TABLE, build_for_clip
from flowpipe.models.weights import stem_names

CLASSES = 7
MAX_STEPS = 150
# Multiply-adds of one published clip from which a row counts as heavy: tested with -m slow.
HEAVY = 4.1e9


def marks_of(name: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a row: slow where it is heavy, skipped where its package is absent."""
    row = TABLE[name]
    marks = [pytest.mark.slow] if row.macs > HEAVY else []
    if row.needs and find_spec(row.needs) is None:
        marks.append(pytest.mark.skip(reason=f"{row.needs} is not installed"))
    return marks


def rows(without: frozenset[str] = frozenset()) -> list[object]:
    """Give the rows as parameters of a test; the heavy ones are slow.

    A heavy row that has a tiny twin, the same code with fewer channels, is left to the twin.
    """
    twins = {name for name in TABLE if TABLE[name].macs > HEAVY and f"{name}-tiny" in TABLE}
    return [
        pytest.param(name, marks=marks_of(name)) for name in sorted(TABLE.keys() - twins - without)
    ]


def clip_shape(name: str, channels: int = 2) -> tuple[int, int, int, int]:
    return (channels, *TABLE[name].small_THW)


def make(name: str, channels: int = 2, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = build_for_clip(name, clip_shape(name, channels), num_classes=CLASSES)
    # Scales that start at zero cut off what lies before them.
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d) and not layer.weight.any():
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    return network


def clips(name: str, batch: int, channels: int = 2, seed: int = 1) -> Tensor:
    channels, frames, height, width = clip_shape(name, channels)
    shape = {
        "CHW": (channels * frames, height, width),
        "CTHW": (channels, frames, height, width),
        "TCHW": (frames, channels, height, width),
    }[TABLE[name].input_layout]
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=rows())
def flow_network(request: pytest.FixtureRequest) -> tuple[str, nn.Module]:
    """Each row once, for clips of flow."""
    return request.param, make(request.param)


def test_logits_have_shape_dtype_and_are_finite(flow_network: tuple[str, nn.Module]) -> None:
    name, network = flow_network
    network.eval()
    with torch.no_grad():
        logits = network(clips(name, 2))
    assert logits.shape == (2, CLASSES)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits[0], logits[1])


def test_a_clip_alone_gives_what_it_gives_in_a_batch(flow_network: tuple[str, nn.Module]) -> None:
    name, network = flow_network
    network.eval()
    two = clips(name, 2)
    with torch.no_grad():
        together = network(two)
        alone = network(two[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(flow_network: tuple[str, nn.Module]) -> None:
    name, network = flow_network
    # Dropout off: at 0.9 a parameter of a narrow layer could go without by chance.
    for layer in network.modules():
        layer.train(not isinstance(layer, nn.Dropout))
    network.zero_grad()
    (network(clips(name, 2)) * torch.arange(1.0, CLASSES + 1)).sum().backward()
    without = [
        n
        for n, parameter in network.named_parameters()
        if parameter.grad is None or not torch.isfinite(parameter.grad).all()
    ]
    # Exact zeros mean that the parameter does not reach the loss.
    still = [n for n, p in network.named_parameters() if p.grad is not None and not p.grad.any()]
    network.zero_grad(set_to_none=True)
    assert without == []
    assert still == []


def test_state_goes_round(flow_network: tuple[str, nn.Module]) -> None:
    name, network = flow_network
    other = make(name, seed=99).eval()
    network.eval()
    clip = clips(name, 1)
    with torch.no_grad():
        assert not torch.equal(other(clip), network(clip))
        other.load_state_dict(network.state_dict())
        torch.testing.assert_close(other(clip), network(clip), rtol=0, atol=0)


def test_names_point_to_the_first_convolution_and_the_last_layer(
    flow_network: tuple[str, nn.Module],
) -> None:
    name, network = flow_network
    assert network.input_layout in INPUT_LAYOUTS
    assert network.input_layout == TABLE[name].input_layout
    stem = network.get_submodule(str(network.stem_name))
    last = network.get_submodule(str(network.classifier_name))
    assert isinstance(stem, nn.Conv2d | nn.Conv3d)
    assert stem.in_channels == (clips(name, 1).shape[1] if network.input_layout == "CHW" else 2)
    if isinstance(last, nn.ModuleList):  # a classifier at each tap
        last = last[-1]
    assert isinstance(last, nn.Linear | nn.Conv2d | nn.Conv3d)
    assert last.weight.shape[0] == CLASSES

    order: list[nn.Module] = []
    hooks = [
        layer.register_forward_hook(lambda layer, *_: order.append(layer))
        for layer in network.modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d | nn.Linear)
    ]
    with torch.no_grad():
        network.eval()(clips(name, 1))
    for hook in hooks:
        hook.remove()
    assert order[0] is stem
    assert order[-1] is last


@pytest.mark.parametrize("name", rows())
@pytest.mark.parametrize("in_channels", [1, 15])
def test_any_number_of_channels_changes_the_stem_only(name: str, in_channels: int) -> None:
    with torch.device("meta"):
        one, other = (
            build_for_clip(name, clip_shape(name, channels), num_classes=CLASSES)
            for channels in (3, in_channels)
        )
    stems = {f"{stem}.weight" for stem in stem_names(one)}
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert {n for n in one if one[n].shape != other[n].shape} == stems
    assert all(other[stem].shape[1] % in_channels == 0 for stem in stems)


# Without cnn-m-2048: 90 million random numbers twice, drawn as the others draw theirs.
@pytest.mark.parametrize("name", rows(frozenset({"cnn-m-2048"})))
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    one, other = make(name, seed=3).state_dict(), make(name, seed=3).state_dict()
    assert all(torch.equal(one[n], other[n]) for n in one)


def moving_patches(name: str) -> tuple[Tensor, Tensor]:
    """Sixteen clips of a patch that moves left, right, up or down over noise, and the labels."""
    channels, frames, height, width = TABLE[name].clip_CTHW
    generator = torch.Generator().manual_seed(0)
    clips_BTCHW = 0.1 * torch.randn(16, frames, channels, height, width, generator=generator)
    labels = torch.arange(16) % 4
    for clip, label in zip(clips_BTCHW, labels.tolist(), strict=True):
        dy, dx = ((0, -1), (0, 1), (-1, 0), (1, 0))[label]
        top, left = torch.randint(height // 3, height // 2, (2,), generator=generator).tolist()
        for step, frame in enumerate(clip):
            y = min(max(top + step * dy, 0), height - 8)
            x = min(max(left + step * dx, 0), width - 8)
            frame[:, y : y + 8, x : x + 8] += 2.0
    layout = TABLE[name].input_layout
    if layout == "TCHW":
        return clips_BTCHW, labels
    return (
        (
            clips_BTCHW.flatten(1, 2)
            if layout == "CHW"
            else clips_BTCHW.transpose(1, 2).contiguous()
        ),
        labels,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(n for n in TABLE if n.endswith("-tiny")))
def test_a_tiny_row_learns_sixteen_clips_by_heart(name: str) -> None:
    torch.manual_seed(0)
    network = build_for_clip(name, TABLE[name].clip_CTHW, num_classes=4).train()
    inputs, labels = moving_patches(name)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    accuracy = 0.0
    for _ in range(MAX_STEPS):
        optimizer.zero_grad()
        logits = network(inputs)
        accuracy = float((logits.argmax(1) == labels).float().mean())
        if accuracy == 1.0:
            break
        nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()
    assert accuracy == 1.0
