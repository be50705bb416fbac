"""Hugging Face's `transformers`: VideoMAE and TimeSformer, as `model.safetensors` or .bin.

Version 5 calls VideoMAE's `q_bias` and `v_bias` `query.bias` and `value.bias`; files of either
version load with either.
"""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from flowpipe.models.weights.families import Network, Shapes
from flowpipe.models.weights.origins.base import IMAGENET, Origin, Preprocessing, Rule, rename_by


def _renamed_biases() -> bool:
    try:
        return int(version("transformers").partition(".")[0]) >= 5
    except PackageNotFoundError:
        return True


def _rename(names: Iterable[str]) -> dict[str, str]:
    query, value = ("query.bias", "value.bias") if _renamed_biases() else ("q_bias", "v_bias")
    rules: tuple[Rule, ...] = (
        (r"(videomae\..*attention\.)(?:q_bias|query\.bias)$", rf"network.\1{query}"),
        (r"(videomae\..*attention\.)(?:v_bias|value\.bias)$", rf"network.\1{value}"),
        (r"(videomae|timesformer|fc_norm|classifier)\.", r"network.\1."),
    )
    return rename_by(rules, names)


def _read(shapes: Shapes, where: str) -> Network | None:
    kind = "videomae" if any("videomae" in name for name in shapes) else "timesformer"
    before = f"network.{kind}."
    stem = shapes[f"{before}embeddings.patch_embeddings.projection.weight"]
    if stem[-1] != 16:
        return None
    layers = {n.split(".")[4] for n in shapes if n.startswith(f"{before}encoder.layer.")}
    parameters = {
        "kind": kind,
        "hidden": stem[0],
        "layers": len(layers),
        "heads": stem[0] // 64,
        "inner": shapes[f"{before}encoder.layer.0.intermediate.dense.weight"][0],
    }
    times = shapes.get(f"{before}embeddings.time_embeddings")
    positions = shapes.get(f"{before}embeddings.position_embeddings")
    if times is not None and positions is not None:
        side = 16 * round((positions[1] - 1) ** 0.5)
        parameters |= {"frames": times[1], "size": (side, side)}
    return Network("video_transformer:VideoTransformer", parameters)


def _preprocessing(network: Network, shapes: Shapes) -> Preprocessing:
    if network.parameters["kind"] == "videomae":
        return Preprocessing(
            mean=IMAGENET.mean, std=IMAGENET.std, resize=224, frames=16, frame_step=4
        )
    frames = int(network.parameters["frames"])
    return Preprocessing(mean=(0.45,), std=(0.225,), resize=224, frames=frames, frame_step=32)


ORIGIN = Origin(
    name="transformers",
    title="transformers",
    url="https://huggingface.co/models?pipeline_tag=video-classification",
    rename=_rename,
    read=_read,
    preprocessing=_preprocessing,
    signs=(r"(videomae|timesformer)\.embeddings\.patch_embeddings\.projection\.weight$",),
)
