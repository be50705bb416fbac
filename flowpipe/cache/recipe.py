"""The recipe of a cache entry: everything that determines its values, and the id made of it.

Not in the id, but recorded beside the values: paths, decoder version, codec and its level,
chunking, thread count. A month of cache must survive an update of those.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from flowpipe.errors import EntryCorrupt, InvalidArgument, NewerFormat
from flowpipe.flow.quantise import Quantiser

RECIPE_VERSION = 1
FEATURE_RECIPE_VERSION = 1
FEATURES_KIND = "features"
DEFAULT_BOUND_PX = 20.0
DEFAULT_RGB_QUALITY = 95

# The JSON types of a recipe's values.
_NUMBER: tuple[type, ...] = (int, float)
_NONE = type(None)
_KINDS: dict[str, type | tuple[type, ...]] = {
    "flow": str,
    "flow_version": int,
    "flow_parameters": dict,
    "libraries": dict,
    "storage": str,
    "bound_px": (*_NUMBER, _NONE),
    "tolerance_px": _NUMBER,
    "short_side": (int, _NONE),
    "size": (list, _NONE),
    "fps": (*_NUMBER, _NONE),
    "rgb": bool,
    "rgb_quality": int,
    "grey_rule": str,
    "resize_rule": str,
    "fps_rule": str,
    "device": str,
    "version": int,
}
LATER_KEYS = ("backward", "cuts", "confidence")
"""True, or absent."""


def recipe_id(text: str) -> str:
    """Give the id of a recipe's canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class FlowRecipe:
    """How the values of an entry come from the bytes of its video.

    Attributes
    ----------
    flow, flow_version, flow_parameters, libraries
        The method's name, version, resolved parameters and the versions of the libraries that
        compute it.
    storage, bound_px, tolerance_px
        Form of the codes: see `flowpipe.flow.quantise.Quantiser`.
    short_side, size, fps
        Geometry (px, `size` is (height, width)) and rate (1/s) of the frames.
    rgb, rgb_quality
        Whether RGB frames are inside, and their JPEG quality (1–100; 0 without RGB).
    grey_rule, resize_rule, fps_rule
        Names of the decode rules, see `flowpipe.video`.
    device : "cpu" or "cuda"
    backward
        Whether field i goes from frame i + 1 back to frame i, on the grid of frame i + 1.
    cuts
        Whether cuts were sought, see `flowpipe.flow.cuts`: a field over one is zero, and marked.
    confidence
        Whether each field has its confidence beside it, see `flowpipe.flow.confidence`.
    """

    flow: str
    flow_version: int
    flow_parameters: Mapping[str, Any]
    libraries: Mapping[str, str]
    storage: str
    bound_px: float | None
    tolerance_px: float
    short_side: int | None
    size: tuple[int, int] | None
    fps: float | None
    rgb: bool
    rgb_quality: int
    grey_rule: str
    resize_rule: str
    fps_rule: str
    device: str = "cpu"
    version: int = field(default=RECIPE_VERSION)
    backward: bool = False
    cuts: bool = False
    confidence: bool = False

    @classmethod
    def make(
        cls,
        flow: str = "tvl1",
        *,
        flow_parameters: Mapping[str, Any] | None = None,
        short_side: int | None = None,
        size: tuple[int, int] | None = None,
        fps: float | None = None,
        rgb: bool = True,
        rgb_quality: int = DEFAULT_RGB_QUALITY,
        storage: str = "u8",
        bound_px: float | None = None,
        tolerance_px: float = 0.0,
        device: str = "cpu",
        cuts: bool = False,
        confidence: bool = False,
    ) -> "FlowRecipe":
        """Make the recipe of what is wanted, with the versions of this machine.

        Parameters
        ----------
        flow, flow_parameters
            Method and its parameters, see `flowpipe.flow.create`.
        short_side, size, fps
            Size in px (`size` is (height, width)) and rate in 1/s of the frames; by default as
            they are. Applied before flow.
        rgb, rgb_quality
            Whether to keep the frames too, and their JPEG quality, 1–100.
        storage, bound_px, tolerance_px
            Form of the flow, see `flowpipe.flow.quantise.Quantiser`: u8 (±`bound_px`, 20 by
            default), i16 or f16.
        device : "cpu", "cuda" or "auto"
            Who computes flow. On a GPU pairs are computed in batches; values are the CPU's within
            rounding, but entries of their own. `flowpipe.flow.BATCHED` has the methods that can;
            "auto" takes the GPU where there is one and the method can.
        cuts
            Whether to look for cuts: a field over one is zero, and no clip leads over it.
        confidence
            Whether to say how far the flow may be trusted: it is computed back too, which takes
            twice the time.

        Raises
        ------
        InvalidArgument
            For values outside their rules.
        """
        from flowpipe.flow import create, create_batched
        from flowpipe.flow.device import choose_device
        from flowpipe.video import GREY_RULE, RESIZE_RULE, fps_rule, output_size

        if storage == "u8" and bound_px is None:
            bound_px = DEFAULT_BOUND_PX
        Quantiser(storage, bound_px=bound_px, tolerance_px=tolerance_px)  # type: ignore[arg-type]
        output_size(1, 1, short_side=short_side, size=size)
        if fps is not None and not 0 < fps < 10_000:
            raise InvalidArgument(
                f"fps {fps} must be > 0 and < 10000; None keeps every frame", parameter="fps"
            )
        if rgb and not 1 <= rgb_quality <= 100:
            raise InvalidArgument(
                f"rgb_quality {rgb_quality} must be 1 to 100; {DEFAULT_RGB_QUALITY} is the default"
            )
        device, _ = choose_device(flow, device)
        parameters = dict(flow_parameters or {})
        # The batched form has the same parameters on every device.
        method = (
            create(flow, **parameters)
            if device == "cpu"
            else create_batched(flow, "cpu", **parameters)
        )
        return cls(
            flow=flow,
            flow_version=method.version,
            flow_parameters=dict(method.parameters),
            libraries=dict(method.libraries),
            storage=storage,
            bound_px=None if bound_px is None else float(bound_px),
            tolerance_px=float(tolerance_px),
            short_side=short_side,
            size=None if size is None else (int(size[0]), int(size[1])),
            fps=None if fps is None else float(fps),
            rgb=rgb,
            rgb_quality=rgb_quality if rgb else 0,
            grey_rule=GREY_RULE,
            resize_rule=RESIZE_RULE,
            fps_rule=fps_rule(fps),
            device=device,
            cuts=cuts,
            confidence=confidence,
        )

    @property
    def quantiser(self) -> Quantiser:
        """The codes of this recipe."""
        return Quantiser(
            self.storage,  # type: ignore[arg-type]
            bound_px=self.bound_px,
            tolerance_px=self.tolerance_px,
        )

    def to_json(self) -> str:
        """Return the canonical JSON text: sorted keys, no spaces, floats by repr."""
        table = {**dataclasses.asdict(self), "size": list(self.size) if self.size else None}
        for later in LATER_KEYS:
            if not table[later]:
                del table[later]  # the ids of caches made before there was such a thing
        return json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of `to_json()`."""
        return recipe_id(self.to_json())

    def turned(self) -> "FlowRecipe":
        """Give the recipe of the backward flow; frames and confidence are kept here only."""
        return dataclasses.replace(self, backward=True, rgb=False, rgb_quality=0, confidence=False)

    @classmethod
    def from_json(cls, text: str) -> "FlowRecipe":
        """Read what `to_json` wrote.

        Raises
        ------
        EntryCorrupt
            If the text is no recipe of this version.
        """
        try:
            table = json.loads(text)
            for key, kinds in _KINDS.items():
                if not isinstance(table.get(key), kinds):
                    raise TypeError(f'its "{key}" is {table.get(key)!r:.60}')
            for key in LATER_KEYS:
                if table.get(key, True) is not True:
                    raise TypeError(f'its "{key}" must be true, or absent')
            if table["size"] is not None:
                height, width = table["size"]
                table["size"] = int(height), int(width)
            recipe = cls(**table)
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise EntryCorrupt(f"not a recipe that this flowpipe reads: {error}") from error
        if recipe.version != RECIPE_VERSION:
            raise EntryCorrupt(
                f"recipe of version {recipe.version}; this flowpipe reads {RECIPE_VERSION}"
            )
        return recipe

    def describe(self) -> str:
        """Give the recipe in one line for people."""
        geometry = (
            f"{self.size[0]}×{self.size[1]}"
            if self.size
            else f"short side {self.short_side}"
            if self.short_side
            else "source size"
        )
        form = self.storage
        if self.bound_px is not None:
            form += f" ±{self.bound_px:g} px"
        if self.tolerance_px:
            form += f" within {self.tolerance_px:g} px"
        flow = self.flow if self.device == "cpu" else f"{self.flow} on {self.device}"
        if self.backward:
            flow += " backward"
        parts = [flow, geometry, f"{self.fps:g} fps" if self.fps else "every frame", form]
        if self.rgb:
            parts.append(f"RGB q{self.rgb_quality}")
        if self.cuts:
            parts.append("cuts marked")
        if self.confidence:
            parts.append("with confidence")
        return ", ".join(parts)


@dataclass(frozen=True)
class FeatureRecipe:
    """How the values of a feature entry come from a flow entry, or from a file made elsewhere.

    Attributes
    ----------
    source : str
        Id of the recipe of the flow entries; "import" for features made elsewhere.
    input : str
        "rgb", "flow" or "rgbdiff"; "" for an import.
    network, network_parameters, weights_sha256
        The network's name and parameters, and the digest of the tensors in it.
    layer : str
        Dotted name of the layer whose output is kept; "input of NAME" for what goes into one.
    spatial : bool
        Whether the map's rows and columns are kept, or averaged.
    frames, stride, fps, step
        Items of a snippet, items from one to the next within it (or rate in 1/s), and items from
        the start of a snippet to that of the next.
    crop_size, crop_scale, crops
        The network's input (height, width) in px, the box's share of the frame, which boxes.
    values : str
        The rule from pixels or displacements to the network's input.
    storage : "f16" or "f32"
    """

    source: str
    input: str
    network: str
    network_parameters: Mapping[str, Any]
    weights_sha256: str
    layer: str
    spatial: bool
    frames: float
    stride: int
    fps: float | None
    step: float
    crop_size: tuple[int, int]
    crop_scale: float
    crops: str
    values: str
    storage: str
    kind: str = field(default=FEATURES_KIND)
    version: int = field(default=FEATURE_RECIPE_VERSION)

    def to_json(self) -> str:
        """Give the canonical JSON text: sorted keys, no spaces, floats by repr."""
        table = {**dataclasses.asdict(self), "crop_size": list(self.crop_size)}
        return json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of `to_json()`."""
        return recipe_id(self.to_json())

    @classmethod
    def from_json(cls, text: str) -> "FeatureRecipe":
        """Read what `to_json` wrote.

        Raises
        ------
        EntryCorrupt
            If the text is no recipe of features of this version.
        """
        try:
            table = json.loads(text)
            height, width = table["crop_size"]
            recipe = cls(**{**table, "crop_size": (height, width)})
        except (ValueError, TypeError, KeyError) as error:
            raise EntryCorrupt(f"not a recipe of features this flowpipe reads: {error}") from error
        if (recipe.kind, recipe.version) != (FEATURES_KIND, FEATURE_RECIPE_VERSION):
            raise EntryCorrupt(
                f"recipe of {recipe.kind}, version {recipe.version}; this flowpipe reads "
                f"{FEATURES_KIND}, version {FEATURE_RECIPE_VERSION}"
            )
        return recipe

    def describe(self) -> str:
        """Give the recipe in one line for people."""
        if self.source == "import":
            return f"imported, {self.frames:g} frames every {self.step:g} at {self.fps:g} fps"
        rate = f" at {self.fps:g} fps" if self.fps else ""
        apart = f" {self.stride} apart" if self.stride > 1 else ""
        parts = [
            f"{self.network} on {self.input}",
            f"{self.layer}{' as maps' if self.spatial else ''}",
            f"{self.frames:g} items{apart}{rate} every {self.step:g}",
            f"{self.crop_size[0]}×{self.crop_size[1]} {self.crops}",
            f"{self.storage}, weights {self.weights_sha256[:8]}",
        ]
        return ", ".join(parts)


def read_recipe(text: str) -> FlowRecipe | FeatureRecipe:
    """Read the recipe of either kind of entry.

    Raises
    ------
    EntryCorrupt
        If it is neither.
    NewerFormat
        If a later flowpipe wrote it.
    """
    try:
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EntryCorrupt(f"not a recipe that this flowpipe reads: {error}") from error
    of_features = isinstance(table, dict) and table.get("kind") == FEATURES_KIND
    known = FEATURE_RECIPE_VERSION if of_features else RECIPE_VERSION
    version = table.get("version") if isinstance(table, dict) else None
    if isinstance(version, int) and version > known:
        raise NewerFormat(
            f"a recipe of version {version}; this flowpipe reads {known}: update flowpipe, or take "
            "another cache"
        )
    return FeatureRecipe.from_json(text) if of_features else FlowRecipe.from_json(text)
