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

from flowpipe.errors import EntryCorrupt

RECIPE_VERSION = 1

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


def recipe_id(text: str) -> str:
    """Give the id of a recipe's canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Recipe:
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

    def to_json(self) -> str:
        """Give the canonical JSON text: sorted keys, no spaces, floats by repr."""
        table = {**dataclasses.asdict(self), "size": list(self.size) if self.size else None}
        if not self.backward:
            del table["backward"]  # the ids of caches made before there was backward flow
        return json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @cached_property
    def id(self) -> str:
        """First 16 hex digits of the SHA-256 of `to_json()`."""
        return recipe_id(self.to_json())

    def turned(self) -> "Recipe":
        """Give the recipe of the backward flow beside this one; frames are kept here only."""
        return dataclasses.replace(self, backward=True, rgb=False, rgb_quality=0)

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
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
            if table.get("backward", True) is not True:
                raise TypeError('its "backward" must be true, or absent')
            if table["size"] is not None:
                height, width = table["size"]
                table["size"] = int(height), int(width)
            recipe = cls(**table)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
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
        return ", ".join(parts)
