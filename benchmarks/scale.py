"""How a cache behaves with many entries: python benchmarks/scale.py [--entries 100000]

Writes as many entries of the same few small fields, each under a digest of its own, and measures in
processes of their own: listing, the scan of a resumed extraction, packing, opening, random reads.
Prints a table, and JSON with --json. Times are CPU seconds, which other work on the machine moves
less than wall-clock time; memory is the peak of the process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from flowpipe import extract, open_cache
from flowpipe.cache import entry_path
from flowpipe.cache.manifest import ManifestRow, ManifestWriter, read_manifest
from flowpipe.cache.pack import pack
from flowpipe.cache.quality import quality
from flowpipe.cache.write import EntryWriter
from flowpipe.datasets.synthetic import write_videos

READS = 2000
PER_FOLDER = 1000


def make(root: Path, count: int) -> None:
    """Fill `root` with sources, one real entry, and entries of the same flow for the others."""
    write_videos(root / "made", clips=18)
    first = next((root / "made").rglob("*.mp4"))
    sources = root / "videos"
    text = first.read_bytes()
    for number in range(count):
        folder = sources / f"{number // PER_FOLDER:04}"
        if number % PER_FOLDER == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:06}.mp4").write_bytes(text if number == 0 else b"%d" % number)
    one = sources / "0000" / "000000.mp4"
    done = extract(one, root / "cache", flow="farneback", short_side=32, rgb=False, workers=1)
    cache = root / "cache"
    entry = open_cache(cache)["000000.mp4"]
    fields, recipe = entry.flow[:], entry.flow_recipe
    kept = ("recipe", "source_name", "source", "problem", "software")
    attributes = {key: str(entry.attributes[key]) for key in kept}
    sizes = {"height": entry.height, "width": entry.width, "rgb_quality": recipe.rgb_quality}
    rows = []
    for number in range(count):
        path = sources / f"{number // PER_FOLDER:04}" / f"{number:06}.mp4"
        digest = f"{number:064x}" if number else entry.digest
        target = entry_path(cache, done.recipe, digest)
        target.parent.mkdir(exist_ok=True)
        if number:
            with EntryWriter(target, quantiser=entry.quantiser, codec="zstd", **sizes) as writer:
                for uv_HWC in fields:
                    writer.add_flow(uv_HWC)
                writer.finish(entry.pts_s, attributes | {"source_sha256": digest})
        told = path.stat()
        name = path.relative_to(sources).as_posix()
        label = path.parent.name
        times = (told.st_size, told.st_mtime_ns, time.time())
        rows.append(ManifestRow(name, label, digest, done.recipe, str(path), *times))
    ManifestWriter(cache).add_all(rows)


def stage(root: Path, name: str) -> dict[str, float]:
    """Do one thing, in this process, and tell what it cost."""
    cache, packed = root / "cache", root / "packed.h5"
    rng = np.random.default_rng(0)
    started = time.process_time()
    told: dict[str, float] = {}
    if name == "open the directory":
        told["videos"] = len(open_cache(cache))
    elif name == "resume scan":
        result = extract(
            root / "videos", cache, flow="farneback", short_side=32, rgb=False, dry_run=True
        )
        told["videos"] = result.skipped
        assert result.to_do == 0
    elif name == "report (all headers)":
        told["videos"] = len(quality(open_cache(cache)).videos)
    elif name == "pack":
        done = pack(cache, packed)
        told |= {"videos": done.entries, "bytes": done.num_bytes}
    elif name == "open the pack, read one entry":
        names = [row.name for row in read_manifest(cache)[:1]]
        started = time.process_time()
        told["fields"] = len(open_cache(packed)[names[0]].flow[:])
    elif name == "list the pack":
        told["videos"] = len(open_cache(packed).names())
    else:
        opened = open_cache(packed if "pack" in name else cache)
        names = opened.names()
        chosen = [names[k] for k in rng.integers(0, len(names), READS)]
        started = time.process_time()
        for chosen_name in chosen:
            opened[chosen_name].flow[3]
        told["reads"] = READS
    told["cpu_s"] = time.process_time() - started
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    return told


STAGES = (
    "open the directory",
    "resume scan",
    "report (all headers)",
    "pack",
    "open the pack, read one entry",
    "list the pack",
    "random fields of the directory",
    "random fields of the pack",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        print(json.dumps(stage(given.root, given.stage)))
        return
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make(root, given.entries)
        results = {}
        for name in STAGES:
            words = [sys.executable, __file__, "--root", place, "--stage", name]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(words, check=True, capture_output=True, env=environment)
            results[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, results[name], file=sys.stderr, flush=True)
    if given.json:
        print(json.dumps({"entries": given.entries, **results}))
        return
    print(f"| {given.entries:,} entries | CPU s | peak memory, MB |\n|---|---|---|")
    for name, told in results.items():
        what = f"{name}, {told['reads']:g}" if "reads" in told else name
        print(f"| {what} | {told['cpu_s']:.3g} | {told['peak_mb']:.0f} |")


if __name__ == "__main__":
    main()
