"""c3d-pytorch (Davide Abati): C3D of Sports-1M; its names are ours."""

from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import Origin, Preprocessing


def _read(shapes: Shapes, where: str) -> Network | None:
    padded = shapes["fc6.weight"][1] == 16 * shapes["conv5b.weight"][0]
    return Network("c3d:C3d", {"padded_pool5": padded})


def _preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    return Preprocessing(
        order="BGR",
        scale=1.0,
        resize=(128, 171),
        crop=(112, 112),
        frames=16,
        remark="minus the mean volume of Sports-1M",
    )


ORIGIN = Origin(
    name="davidea",
    title="c3d-pytorch",
    url="https://github.com/DavideA/c3d-pytorch",
    rename=lambda names: {name: name for name in names},
    read=_read,
    preprocessing=_preprocessing,
    signs=(r"conv1\.weight$", r"conv5b\.weight$", r"fc6\.weight$", r"fc8\.weight$"),
)
