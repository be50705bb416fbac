"""`flowpipe view` over a large cache: python benchmarks/view.py [--entries 100000] [--work DIR]

Writes small entries, each under five names (so that 100,000 rows are 20,000 files: a video that is
there several times is computed once), as a directory and as a pack, serves both by processes of
their own and opens them in a headless Chromium. Measured: until the server listens,
until the first thumbnail stands in the page, from a jump of the scroll bar to the middle until a
thumbnail stands there, a filter over all names, the headers that the scan for what is suspicious
looks at per second, cells in the page, and the server's memory (resident now, its peak). Times are
wall-clock seconds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from flowpipe.cache import FlowRecipe, entry_path, write_recipe
from flowpipe.cache.manifest import ManifestRow, ManifestWriter
from flowpipe.cache.pack import pack
from flowpipe.cache.write import EntryWriter
from flowpipe.flow.quantise import Quantiser

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "tests"))
from browser import Browser  # noqa: E402

FIELDS, HEIGHT, WIDTH, CLASSES, NAMES = 4, 24, 32, 100, 5
SCAN_S = 20


def make(cache: Path, count: int) -> None:
    """Write rows of entries of four fields that move each in its own direction."""
    recipe = FlowRecipe(
        flow="dis",
        flow_version=1,
        flow_parameters={},
        libraries={},
        storage="u8",
        bound_px=20.0,
        tolerance_px=0.0,
        short_side=None,
        size=None,
        fps=None,
        rgb=False,
        rgb_quality=0,
        grey_rule="-",
        resize_rule="-",
        fps_rule="-",
    )
    rows = []
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    quantiser = Quantiser("u8", bound_px=20.0)
    for number in range(-(-count // NAMES)):
        digest = f"{number * 2654435761 % 2**32:08x}{number:056x}"
        names = [
            f"class-{row % CLASSES:03}/video-{row:06}.avi"
            for row in range(number * NAMES, min(count, (number + 1) * NAMES))
        ]
        near = np.exp(-((x - 16) ** 2 + (y - 12) ** 2) / 60)
        turn = number * 0.37
        uv_HWC = (4 * near[..., None] * [np.cos(turn), np.sin(turn)]).astype(np.float32)
        attributes = {
            "recipe": recipe.to_json(),
            "source_name": names[0],
            "source_sha256": digest,
            "source": "{}",
            "problem": "",
            "software": "{}",
        }
        path = entry_path(cache, recipe.id, digest)
        with EntryWriter(
            path, quantiser=quantiser, codec="zstd", height=HEIGHT, width=WIDTH, rgb_quality=0
        ) as writer:
            for _ in range(FIELDS):
                writer.add_flow(uv_HWC)
            writer.finish(np.arange(FIELDS + 1) / 25, attributes)
        rows += [
            ManifestRow(name, name.split("/")[0], digest, recipe.id, f"/videos/{name}", 1, 1, 1.0)
            for name in names
        ]
    write_recipe(cache, recipe)
    ManifestWriter(cache).add_all(rows)


def memory_mb(process: int) -> dict[str, float]:
    """Return the resident memory of a process, and its peak."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return {
        f"{title} MB": round(int(values[key].split()[0]) / 1024, 1)
        for key, title in (("VmRSS", "memory now"), ("VmHWM", "memory peak"))
    }


def measure(path: Path, profile: Path, last: str) -> dict[str, Any]:
    """Serve a cache and look at it."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "flowpipe", "view", str(path), "--no-browser"]
    found: dict[str, Any] = {}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server,
        Browser(profile) as browser,
    ):
        assert server.stdout is not None
        url = server.stdout.readline().decode().strip()
        found["server listens s"] = time.perf_counter() - started
        found |= {f"listening, {k}": v for k, v in memory_mb(server.pid).items()}

        def timed(name: str, action: Any, condition: str) -> None:
            begun = time.perf_counter()
            action()
            browser.until(condition, 120)
            found[f"{name} s"] = time.perf_counter() - begun

        first = "document.querySelectorAll('.cell img.there').length"
        names = "[...document.querySelectorAll('.cell')].some(c => c.innerText.includes('%s')"
        begun = time.perf_counter()
        timed("first row", lambda: browser.open(url), "document.querySelectorAll('.words').length")
        browser.until(f"{first} >= 12", 120)
        found["twelve pictures s"] = time.perf_counter() - begun
        for share, title in ((0.5, "the middle"), (0.9, "nine tenths")):
            wanted = (
                names % f"class-{int(share * CLASSES):03}" + " && c.querySelector('img.there'))"
            )
            timed(
                f"scroll to {title}",
                lambda share=share: browser.js(f"grid.scrollTop = {share} * grid.scrollHeight"),
                wanted,
            )
        found["cells in the page"] = browser.js("document.querySelectorAll('.cell').length")
        search = f"text.value = '{last}'; text.dispatchEvent(new Event('input'))"
        timed("search of a name", lambda: browser.js(search), names % last + ")")
        found |= {f"then, {k}": v for k, v in memory_mb(server.pid).items()}
        browser.js("watch()")
        time.sleep(SCAN_S)
        begun = browser.js("ask('about').then(a => a.checked * a.total)")
        found["headers looked at per s"] = begun / SCAN_S
        found |= {f"last, {k}": v for k, v in memory_mb(server.pid).items()}
        server.terminate()
    return {key: round(value, 3) for key, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--work", type=Path, help="keep the caches here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = given.work or Path(folder)
        directory, packed = work / "many.cache", work / "many.h5"
        if not packed.exists():
            make(directory, given.entries)
            pack(directory, packed)
        found = {
            name: measure(path, Path(folder) / f"profile-{name}", f"{given.entries - 1:06}")
            for name, path in (("directory", directory), ("pack", packed))
        }
    width = max(map(len, found["pack"]))
    print(f"{given.entries} entries{'':{width - 10}}  directory       pack")
    for key in found["pack"]:
        print(f"{key:{width}} {found['directory'][key]:12} {found['pack'][key]:10}")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
