"""Batch normalisation folded into convolutions."""

import pytest
import torch
from torch import Tensor, nn

from flowpipe.models import build
from flowpipe.models.weights.folding import fold_batch_norm
from flowpipe.training.devices import place


def trained_like(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
    return network


@pytest.mark.parametrize(
    ("name", "left"), [("small-cnn", 0), ("r3d-18-tiny", 0), ("slowfast-tiny", 0), ("i3d-tiny", 0)]
)
def test_folded_networks_give_the_same(name: str, left: int) -> None:
    torch.manual_seed(0)
    network = trained_like(build(name, num_classes=5)).eval()
    shape = (3, 32, 32) if name == "small-cnn" else (3, 8, 32, 32)
    inputs = torch.randn(2, *shape)
    folded = fold_batch_norm(network, inputs[:1])
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), network(inputs), rtol=1e-4, atol=1e-4)
    kinds = (nn.BatchNorm2d, nn.BatchNorm3d)
    assert sum(isinstance(layer, kinds) for layer in folded.modules()) == left
    assert any(isinstance(layer, kinds) for layer in network.modules())


class Shared(nn.Module):
    """One convolution run twice, one whose output goes two ways, and one that can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.fork, self.bn2, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.alone, self.bn3 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.twice(self.twice(x)))
        y = self.fork(x)
        return self.bn3(self.alone(self.bn2(y) + self.relu(y)))


class Functional(nn.Module):
    """The sum is no layer: only the result tells that the convolution is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.bn(x) + x


def test_a_network_that_would_change_is_left_alone() -> None:
    torch.manual_seed(0)
    network = trained_like(Functional()).eval()
    inputs = torch.randn(1, 3, 8, 8)
    folded = fold_batch_norm(network, inputs)
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), network(inputs))
    assert isinstance(folded.get_submodule("bn"), nn.BatchNorm2d)


def test_what_is_shared_is_not_folded() -> None:
    torch.manual_seed(0)
    network = trained_like(Shared()).eval()
    inputs = torch.randn(2, 3, 8, 8)
    folded = fold_batch_norm(network, inputs)
    with torch.no_grad():
        torch.testing.assert_close(folded(inputs), network(inputs))
    assert isinstance(folded.get_submodule("bn1"), nn.BatchNorm2d)
    assert isinstance(folded.get_submodule("bn2"), nn.BatchNorm2d)
    assert isinstance(folded.get_submodule("bn3"), nn.Identity)


def test_what_is_not_run_is_not_folded() -> None:
    torch.manual_seed(0)
    network = trained_like(build("small-cnn", num_classes=5)).eval()
    folded = fold_batch_norm(
        network, torch.randn(1, 3, 32, 32), run=lambda model, inputs: model.features[:4](inputs)
    )
    left = [name for name, layer in folded.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    whole = [name for name, layer in network.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    assert left == whole[1:]


class Uncopied(Functional):
    """Old-style weight normalisation leaves a tensor that deepcopy refuses."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.conv(x)
        return self.bn(self.last)


def test_a_network_that_cannot_be_copied_is_given_back() -> None:
    network = Uncopied().eval()
    inputs = torch.randn(1, 3, 8, 8)
    network(inputs)  # with a gradient: `last` is no leaf
    assert fold_batch_norm(network, inputs) is network


@pytest.mark.parametrize("single", [False, True])
def test_kernels_lie_with_channels_last(single: bool) -> None:
    network = place(build("i3d-tiny", num_classes=5), torch.device("cpu"), single=single)
    kernel = network.get_submodule("Conv3d_2c_3x3.conv3d").weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d) is not single
