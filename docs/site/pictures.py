"""Draw the pictures of the documentation from generated videos: `python docs/site/pictures.py`.

Every picture is made by the code that it illustrates, and small: a test holds the limits.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from flowpipe.datasets import synthetic, time_only
from flowpipe.flow import create
from flowpipe.flow.color import color_key, flow_to_color
from flowpipe.flow.look import draw_arrows
from flowpipe.flow.quantise import Quantiser, to_8bit
from flowpipe.metrics import accuracy_interval

OUT = Path(__file__).resolve().parents[1] / "pictures"
SCALE_PX = 2.0  # full color in all pictures of the generated scenes

Picture = NDArray[np.uint8]


def enlarge(picture: NDArray[Any], factor: int) -> Picture:
    """Repeat each pixel, so that a browser does not blur it."""
    return np.asarray(picture.repeat(factor, axis=0).repeat(factor, axis=1), np.uint8)


def grey(values_HW: NDArray[Any], largest: float) -> Picture:
    """Paint signed values: zero is mid-grey, ±`largest` white and black."""
    return np.asarray(np.rint(128 + 127 * np.clip(values_HW / largest, -1, 1)), np.uint8)


def save(name: str, picture: Picture, *, step: int = 1) -> None:
    """Write a PNG; colors in steps of `step` make it smaller."""
    picture = np.asarray(np.clip(np.rint(picture / step) * step, 0, 255), np.uint8)
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(OUT / f"{name}.png"), picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def beside(*pictures: Picture, gap_px: int = 6) -> Picture:
    """Put pictures of one height into a row."""
    gap = np.full((pictures[0].shape[0], gap_px, 3), 255, np.uint8)
    row = [piece for picture in pictures for piece in (picture, gap)][:-1]
    return np.concatenate(row, axis=1)


def below(*pictures: Picture, gap_px: int = 6) -> Picture:
    """Put pictures of one width below each other."""
    gap = np.full((gap_px, pictures[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([piece for each in pictures for piece in (each, gap)][:-1])


def as_grey(rgb_HWC: Picture) -> Picture:
    return np.asarray(cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY), np.uint8)


def true_flow(scene: Any, t: float) -> NDArray[np.float32]:
    """Return the flow of a generated scene from frame t to t + 1, from its own formula.

    A point of the patch keeps its place in the patch: the new place in the picture is found by
    Newton's method on `to_texture`, whose derivative is that of a turn, a shift and a scale.
    """
    size = synthetic.SIZE_PX
    y, x = np.mgrid[:size, :size].astype(np.float64)
    a, b = scene.to_texture(x, y, t)
    to_x, to_y = x.copy(), y.copy()
    # to_texture is affine: three points give its matrix.
    zero, one, two = (
        np.array(scene.to_texture(np.array(px), np.array(py), t + 1))
        for px, py in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    )
    back = np.linalg.inv(np.stack([one - zero, two - zero], axis=1))
    to_x = back[0, 0] * (a - zero[0]) + back[0, 1] * (b - zero[1])
    to_y = back[1, 0] * (a - zero[0]) + back[1, 1] * (b - zero[1])
    inside = np.hypot(a, b) < scene.radius_px
    uv = np.where(inside[..., None], np.stack([to_x - x, to_y - y], axis=-1), 0.0)
    return uv.astype(np.float32)


def scene_of(texture: str, motion: str, seed: int) -> Any:
    return synthetic._draw_scene(np.random.default_rng(seed), texture, motion, "train")


def noise_and_its_flow() -> None:
    """README: a frame of pure noise, and what moves in it."""
    frames = time_only.frames(np.random.default_rng(1), "go", "raw", 1)
    method = create("tvl1", scales=2, warps=3, attachment=0.05)
    save("time_only_frame", enlarge(frames[3], 2))
    save("time_only_flow", enlarge(flow_to_color(method(frames[3], frames[4]), 1.2), 2))


def what_flow_is() -> None:
    """A turning patch: two frames, right, down, colors, arrows, the wheel."""
    scene = scene_of("checks", "rotate", 3)
    first, second = scene.picture(10), scene.picture(11)
    uv = create("tvl1")(as_grey(first), as_grey(second))
    save("frame", enlarge(first, 2))
    save("next_frame", enlarge(second, 2))
    save("dx", enlarge(grey(uv[..., 0], 1.0), 2))
    save("dy", enlarge(grey(uv[..., 1], 1.0), 2))
    save("color", enlarge(flow_to_color(uv, 1.0), 2))
    row, column = (round(place) - 24 for place in scene.centre_xy[::-1])
    near = slice(max(0, row), row + 48), slice(max(0, column), column + 48)
    long = np.kron(uv[near], np.ones((4, 4, 1), np.float32)) * 16
    save("arrows", draw_arrows(enlarge(first[near], 4), long, step_px=24))
    save("wheel", color_key(192))


METHODS = ("farneback", "dis", "tvl1", "dis+tvl1")


def methods_side_by_side() -> dict[str, tuple[float, float]]:
    """The true flow and four methods; a still scene with noise below. Return both errors."""
    scene = scene_of("blobs", "rotate", 8)
    first, second = as_grey(scene.picture(10)), as_grey(scene.picture(11))
    truth = true_flow(scene, 10)
    rng = np.random.default_rng(0)
    noisy = np.clip(np.rint(first + rng.normal(0, 3, first.shape)), 0, 255).astype(np.uint8)
    above, under = [flow_to_color(truth, SCALE_PX)], [flow_to_color(0 * truth, 0.5)]
    numbers = {}
    for name in METHODS:
        moved, still = create(name)(first, second), create(name)(first, noisy)
        above.append(flow_to_color(moved, SCALE_PX))
        under.append(flow_to_color(still, 0.5))
        error = float(np.hypot(*(moved - truth).transpose(2, 0, 1)).mean())
        numbers[name] = error, float(np.hypot(*still.transpose(2, 0, 1)).mean())
    both = below(beside(*above, gap_px=4), beside(*under, gap_px=4), gap_px=4)
    save("methods", both, step=8)
    return numbers


def two_streams() -> None:
    """Three textures × three motions: a frame, and its flow."""
    frames, flows = [], []
    method = create("dis+tvl1")
    for row, texture in enumerate(synthetic.TEXTURES):
        left, right = [], []
        for column, motion in enumerate(synthetic.MOTIONS):
            scene = scene_of(texture, motion, 20 + 3 * row + column)
            first, second = scene.picture(4), scene.picture(5)
            left.append(cv2.bilateralFilter(first, 5, 30, 2))  # of its grain, which fills a PNG
            right.append(flow_to_color(method(as_grey(first), as_grey(second)), SCALE_PX))
        frames.append(beside(*left, gap_px=4))
        flows.append(beside(*right, gap_px=4))
    save("still_frames", below(*frames, gap_px=4), step=12)
    save("their_flow", below(*flows, gap_px=4), step=8)


def eight_bit() -> dict[str, float]:
    """Slow motion, stored in several ways. Return the mean error of each in px."""
    scene = scene_of("blobs", "zoom", 8)
    slow = true_flow(scene, 10) * np.float32(0.12)
    kept = {
        "as computed": slow,
        "i16": _through(Quantiser("i16"), slow),
        "u8": _through(Quantiser("u8", bound_px=20.0), slow),
        "literature": _from_8bit(to_8bit(slow, 20.0)),
        "jpeg": _from_8bit(_jpeg(to_8bit(slow, 20.0))),
    }
    shown = [flow_to_color(each, 0.25) for each in kept.values()]
    save("stored_flow", beside(*shown, gap_px=4))
    return {
        name: float(np.hypot(*(each - slow).transpose(2, 0, 1)).mean())
        for name, each in kept.items()
    }


def _through(form: Quantiser, uv: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(form.decode(form.encode(uv)), np.float32)


def _from_8bit(codes: NDArray[Any]) -> NDArray[np.float32]:
    return codes.astype(np.float32) * np.float32(40 / 255) - np.float32(20)


def _jpeg(codes_HWC: NDArray[Any]) -> Picture:
    planes = []
    for plane in np.moveaxis(codes_HWC, -1, 0):
        _, data = cv2.imencode(".jpg", plane, [cv2.IMWRITE_JPEG_QUALITY, 95])
        planes.append(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE))
    return np.asarray(np.stack(planes, axis=-1), np.uint8)


def one_split() -> list[tuple[int, float, float]]:
    """The 95 % interval of an accuracy of 80 %, by the number of test videos."""
    rows = []
    width, height, step = 560, 200, 40
    picture = np.full((height, width, 3), 255, np.uint8)
    for share in range(0, 101, 20):
        x = 80 + round(4.6 * share)
        cv2.line(picture, (x, 4), (x, height - 28), (225, 225, 225), 1)
        text = f"{share} %"
        cv2.putText(picture, text, (x - 14, height - 8), 0, 0.42, (90, 90, 90), 1, cv2.LINE_AA)
    for number, count in enumerate((5, 20, 100, 1000)):
        low, high = accuracy_interval(0.8, count)
        rows.append((count, low, high))
        y = 26 + step * number
        ends = [80 + round(460 * value) for value in (low, high)]
        cv2.line(picture, (ends[0], y), (ends[1], y), (70, 110, 180), 7, cv2.LINE_AA)
        cv2.circle(picture, (80 + 368, y), 6, (20, 40, 90), -1, cv2.LINE_AA)
        cv2.putText(picture, f"n = {count}", (4, y + 5), 0, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    save("intervals", picture)
    return rows


def main() -> None:
    OUT.mkdir(exist_ok=True)
    noise_and_its_flow()
    what_flow_is()
    two_streams()
    for name, (error, still) in methods_side_by_side().items():
        print(f"{name:10} {error:.3f} px from the truth, {still:.3f} px of noise alone")
    for name, error in eight_bit().items():
        print(f"{name:12} {error:.4f} px")
    for count, low, high in one_split():
        print(f"n = {count}: {low:.3f} to {high:.3f}")


if __name__ == "__main__":
    main()
