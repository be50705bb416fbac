"""What is computed of a frozen network, and what it wants of a cache, as records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from flowpipe.cache import FlowRecipe
from flowpipe.clips.streams import StreamInput
from flowpipe.clips.transforms import TestCrops
from flowpipe.errors import InvalidArgument

Storage = Literal["f16", "f32"]


@dataclass(frozen=True)
class FeatureOptions:
    """Which snippets and boxes a network sees, and what is kept; None: as the network has it.

    Attributes
    ----------
    frames : int, optional
        Items of a snippet. [default: what the network takes]
    clip_step : int, optional
        Items from the start of a snippet to that of the next. [default: no gap, no overlap]
    fps : float, optional
        Take items at this many per second, by timestamp.
    crops : {"center", "three", "five", "ten"}
        Boxes of each frame; the mean over several is kept.
    crop_size : (int, int), optional
        The network's input (height, width) in px. [default: the network's]
    crop_scale : float, optional
        Box, as a share of the largest that fits. [default: the network's]
    spatial : bool
        Keep maps, T×D×H×W, not their mean.
    storage : "f16" or "f32"
        Precision in the store.
    """

    frames: int | None = None
    clip_step: int | None = None
    fps: float | None = None
    crops: TestCrops = "center"
    crop_size: tuple[int, int] | None = None
    crop_scale: float | None = None
    spatial: bool = False
    storage: Storage = "f16"

    def __post_init__(self) -> None:
        for name in ("frames", "clip_step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InvalidArgument(f"{name} {value} must be ≥ 1", parameter=name)
        if self.storage not in ("f16", "f32"):
            raise InvalidArgument(
                f'storage "{self.storage}" must be one of f16, f32', parameter="storage"
            )
        if self.spatial and self.crops != "center":
            raise InvalidArgument(
                f'maps of "{self.crops}" crops have no mean; spatial needs "center"',
                parameter=("spatial", "crops"),
            )

    def stream_of(self, stream: StreamInput) -> StreamInput:
        """Return what a network looks at under these options; its `frames` stay."""
        if self.fps is not None:
            stream = replace(stream, fps=self.fps, frame_step=1)
        if self.crop_size is not None:
            stream = replace(stream, crop_size=self.crop_size)
        return stream


@dataclass(frozen=True)
class WantedInput:
    """What the frames and flow of a cache must be for a network to know them.

    Attributes
    ----------
    fps : float, optional
        Frames per second; None: every frame, at any rate.
    short_side : int, optional
        In px; None: any.
    size : (int, int), optional
        (height, width) in px, in place of `short_side`.
    strict : bool
        Refuse frames of another size.
    flow : str, optional
        Method of flow to extract; None where it looks at frames alone.
    known_flows : tuple of str
        Methods whose flow it knows; none: any.
    flow_parameters : dict, optional
        Of the method, in full; None: any.
    bound_px : float, optional
        Flow must not be cut off below.
    recipe : FlowRecipe, optional
        What to extract by, where that is known in full.
    """

    fps: float | None = None
    short_side: int | None = None
    size: tuple[int, int] | None = None
    strict: bool = False
    flow: str | None = None
    known_flows: tuple[str, ...] = ()
    flow_parameters: Mapping[str, Any] | None = None
    bound_px: float | None = None
    recipe: FlowRecipe | None = None

    def check(self, name: str, recipe: FlowRecipe) -> None:
        """Refuse a cache that was not made as the network's input was.

        Raises
        ------
        InvalidArgument
            With what makes such a cache.
        """
        wrong = []
        if self.fps is not None and recipe.fps != self.fps:
            rate = "every frame" if recipe.fps is None else f"{recipe.fps:g} fps"
            wrong.append(f"{rate}, not {self.fps:g}")
        if self.strict and (recipe.short_side, recipe.size) != (self.short_side, self.size):
            found = recipe.short_side or recipe.size or "source size"
            wrong.append(f"short side {found}, not {self.short_side or self.size}")
        if self.known_flows and recipe.flow not in self.known_flows:
            wrong.append(f"flow {recipe.flow}, not {' or '.join(self.known_flows)}")
        elif self.flow_parameters not in (None, recipe.flow_parameters):
            wrong.append(f"{recipe.flow} with {_named(recipe.flow_parameters)}")
        if self.bound_px and recipe.bound_px is not None and recipe.bound_px < self.bound_px:
            wrong.append(f"bound {recipe.bound_px:g} px, not {self.bound_px:g} at least")
        if wrong:
            raise InvalidArgument(
                f"{name} does not know such input: {'; '.join(wrong)}; extract the videos with "
                f"{self}"
            )

    def __str__(self) -> str:
        words = [f"fps {self.fps:g}"] if self.fps else []
        words += [f"short_side {self.short_side}"] if self.short_side else []
        words += [f"size {self.size[0]}x{self.size[1]}"] if self.size else []
        if self.flow:
            words += [
                f"flow {self.flow}",
                f"storage {self.recipe.storage if self.recipe else 'i16'}",
            ]
        words += [_named(self.flow_parameters)] if self.flow_parameters else []
        return ", ".join(words)


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def wanted_recipe(wanted: Sequence[WantedInput], *, flow: str | None = None) -> FlowRecipe:
    """Return the recipe of a cache that suits several networks.

    Parameters
    ----------
    wanted : sequence of WantedInput
    flow : str, optional
        The method of flow; by default the one they want. Where none looks at flow it is the
        quickest there is, as a cache has flow beside its frames.

    Raises
    ------
    InvalidArgument
        If they want different frames.
    """
    frames = {(one.fps, one.short_side, one.size) for one in wanted}
    if len(frames) > 1:
        raise InvalidArgument(
            f"these networks want different frames ({'; '.join(map(str, wanted))}); compute them "
            "one after the other"
        )
    if flow is None and (known := next((one.recipe for one in wanted if one.recipe), None)):
        return known
    fps, short_side, size = frames.pop()
    method = flow or next((one.flow for one in wanted if one.flow), None)
    how: dict[str, Any] = {"fps": fps, "short_side": short_side, "size": size}
    if method is None:
        return FlowRecipe.make("dis", flow_parameters={"preset": "ultrafast"}, **how)
    return FlowRecipe.make(method, storage="i16", **how)
