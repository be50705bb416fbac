"""Video transformers of Hugging Face's `transformers` as streams: B×T×C×H×W to B×K logits.

`videomae`: Tong, Song, Wang, Wang: VideoMAE, NeurIPS 2022, doi:10.48550/arXiv.2203.12602: a ViT on
tubelets of 2×16×16, positions by sines; the mean over all tokens is classified.
`timesformer`: Bertasius, Wang, Torresani: Is space-time attention all you need for video
understanding?, ICML 2021, doi:10.48550/arXiv.2102.05095: attention divided in time and space.

The networks are that package's, which must be installed (extra `transformers`); here stand only
the names that streams and weights need. State-dict names are its own behind "network.".
"""

from typing import Any, Literal

from torch import Tensor, nn

from flowpipe.errors import InvalidArgument
from flowpipe.models.layers import check_choice

Kind = Literal["videomae", "timesformer"]


class VideoTransformer(nn.Module):
    """VideoMAE-B has 86,534,800 parameters for 400 classes, TimeSformer 121,566,352.

    Parameters
    ----------
    num_classes
        K.
    in_channels
        Channels of one frame: 3 for RGB, 2 for flow.
    kind
        "videomae" or "timesformer".
    frames, size
        T and (height = width) in px of the clip.
    hidden, layers, heads, inner
        Width of a token, blocks, heads of attention, width between.
    dropout
        Share of hidden values dropped, in [0, 1).
    """

    input_layout = "TCHW"
    classifier_name = "network.classifier"

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 3,
        kind: Kind = "videomae",
        frames: int = 16,
        size: tuple[int, int] = (224, 224),
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        inner: int = 3072,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("kind", kind, ("videomae", "timesformer"))
        if size[0] != size[1]:
            raise InvalidArgument(f"size {size} must be square; 224×224 is the published one")
        try:
            import transformers  # type: ignore[import-not-found,unused-ignore]
        except ModuleNotFoundError as error:
            raise InvalidArgument(
                f"{kind} is a network of the package transformers, which is not installed; "
                "pip install transformers"
            ) from error
        package: Any = transformers
        common = {
            "num_labels": num_classes,
            "num_channels": in_channels,
            "num_frames": frames,
            "image_size": size[0],
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": inner,
            "hidden_dropout_prob": dropout,
        }
        if kind == "videomae":
            config = package.VideoMAEConfig(**common)
            self.network: nn.Module = package.VideoMAEForVideoClassification(config)
        else:
            config = package.TimesformerConfig(**common)
            self.network = package.TimesformerForVideoClassification(config)
        self.stem_name = f"network.{kind}.embeddings.patch_embeddings.projection"
        # How tokens lie in the clip, for pictures of what the network looks at.
        self.token_grid = (
            frames // config.tubelet_size if kind == "videomae" else frames,
            size[0] // config.patch_size,
            size[1] // config.patch_size,
        )
        self.token_order = "THW" if kind == "videomae" else "HWT"

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Return logits B×K."""
        return self.network(clip_BTCHW).logits  # type: ignore[no-any-return]
