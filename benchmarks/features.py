"""Clips per second of `flowpipe features` beside the bare network, and memory beside length.

    python benchmarks/features.py
    python benchmarks/features.py --network c3d --clip 16,16 --crop-size 112 --clips 12

The bare network runs on a batch that lies in memory already, as often as there are clips; all
take turns in one process, with the same threads. "Plain" is the network as it was built,
"prepared" the one that features run: normalisation folded, kernels with channels last. Memory is
the peak of a process of its own, for a video and for one four times as long, with a small network.
"""

import copy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import arguments, deliver, show, write_video
from torch import nn

import flowpipe
from flowpipe.cache import open_cache
from flowpipe.clips.streams import StreamInput
from flowpipe.features.computing import compute_features
from flowpipe.features.extractor import (
    BATCH_ITEMS,
    MOST_IN_BATCH,
    FeatureExtractor,
    FrozenNetwork,
)
from flowpipe.features.options import FeatureOptions
from flowpipe.models import build_for_clip, input_layout

MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[4])
from features import make_extractor
from flowpipe.cache import open_cache
from flowpipe.features.computing import compute_features
made, _ = make_extractor("small-cnn", 1, 1, 112)
result = compute_features(made, open_cache(sys.argv[1]), sys.argv[2], name="x")
print(result.items, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def make_extractor(
    network: str, frames: int, step: int, side: int
) -> tuple[FeatureExtractor, nn.Module]:
    """Give an extractor, and its network as it was built."""
    layout = input_layout(network)
    stream = StreamInput(
        "rgb", "rgb", 1 if layout == "CHW" else frames, crop_size=(side, side), layout=layout
    )
    torch.manual_seed(0)
    model = build_for_clip(network, stream.clip_CTHW, num_classes=10)
    plain = copy.deepcopy(model).eval()
    frozen, options = FrozenNetwork(model, stream, network), FeatureOptions(frames, step)
    return FeatureExtractor(frozen, options=options, device="cpu"), plain


def bare_seconds(model: nn.Module, shape: tuple[int, ...], clips: int, batch: int) -> float:
    """Run the whole network on ready input."""
    values = torch.rand((batch, *shape))
    with torch.inference_mode():
        model(values[:1])
        started = time.perf_counter()
        for start in range(0, clips, batch):
            model(values[: min(batch, clips - start)])
    return time.perf_counter() - started


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--network", default="resnet101")
    parser.add_argument("--clip", default="1,1", metavar="T,STRIDE")
    parser.add_argument("--crop-size", type=int, default=224)
    parser.add_argument("--clips", type=int, default=48, help="clips of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory")
    given = parser.parse_args()
    frames, step = map(int, given.clip.split(","))
    with tempfile.TemporaryDirectory(dir=given.work) as name:
        folder = Path(name)
        extractor, plain = make_extractor(given.network, frames, step, given.crop_size)
        num_frames = (given.clips - 1) * step + frames
        video = write_video(folder / "video.mp4", num_frames)
        flowpipe.extract(video, folder / "cache", flow="dis", workers=1)
        cache = open_cache(folder / "cache")
        batch = max(1, min(MOST_IN_BATCH, BATCH_ITEMS // extractor.stream.frames))
        rounds = []
        for number in range(given.rounds):
            shape, pair = extractor.stream.input_shape, (plain, extractor.model)
            bare_s = [bare_seconds(each, shape, given.clips, batch) for each in pair]
            result = compute_features(extractor, cache, folder / f"store{number}", name="rgb")
            assert result.items == given.clips, (result.items, result.failures)
            rounds.append((*bare_s, result.seconds, result.stage_seconds["read"]))
        by_ratio = sorted(rounds, key=lambda r: r[0] / r[2])
        plain_s, prepared_s, ours_s, read_s = by_ratio[len(by_ratio) // 2]
        rows = [
            {
                "network": given.network,
                "clip": "×".join(map(str, extractor.stream.input_shape)),
                "plain clips/s": given.clips / plain_s,
                "features clips/s": given.clips / ours_s,
                "× plain": plain_s / ours_s,
                "× plain, worst round": min(one[0] / one[2] for one in rounds),
                "× prepared": prepared_s / ours_s,
                "× prepared, worst round": min(one[1] / one[2] for one in rounds),
                "reading, of one core": read_s / ours_s,
            }
        ]
        memory = []
        for length in () if given.no_memory else (400, 1600):
            video = write_video(folder / f"{length}.mp4", length)
            place = folder / f"cache{length}"
            flowpipe.extract(video, place, flow="dis", workers=1)
            command = [sys.executable, "-c", MEMORY, place, folder / f"m{length}", "x"]
            told = subprocess.run(
                [*map(str, command), str(Path(__file__).parent)],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            snippets, peak_mb = told.stdout.split()
            memory.append({"snippets": int(snippets), "peak MB": float(peak_mb)})
        show("Features beside the bare network", rows)
        if memory:
            show("Peak memory of the process", memory)
        deliver({"speed": rows, "rounds": rounds, "memory": memory}, given.json)


if __name__ == "__main__":
    main()
