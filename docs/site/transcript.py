"""Run the commands of a page and put what they print below them.

    python docs/site/transcript.py docs/tutorial.md FOLDER

In a block of the kind `console`, lines that begin with `$ ` are run in FOLDER, on a terminal of 80
columns, and the other lines are replaced by what was printed. A block of Python whose first line is
a name (`# look.py`) is written there as a file.
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

COLUMNS, ROWS = 80, 24
HOME = "~/flowpipe-tutorial"  # what the page calls the folder
ONCE = "flowpipe: compiling TV-L1"  # not said by the second command on a machine
BLOCK = re.compile(r"^```(console|python no-run)\n(.*?)^```$", re.M | re.S)


def on_terminal(command: str, folder: Path) -> str:
    """Run a command of the shell as a person would see it, without bars; return the text."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": str(COLUMNS), "PATH": path}
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    parts = []
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    process.wait()
    text = b"".join(parts).decode().replace("\r", "").replace(str(folder.resolve()), HOME)
    lines = text.splitlines()
    lines = [line for line in lines if not line.startswith(ONCE)]
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def steps(page: str, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (command, what the page shows, what is printed), in order."""
    for kind, text in BLOCK.findall(page):
        if kind != "console":
            (folder / text.split("\n")[0].removeprefix("# ")).write_text(text, encoding="utf-8")
            continue
        for piece in re.split(r"^\$ ", text, flags=re.M)[1:]:
            command, _, shown = piece.partition("\n")
            yield command, shown.strip("\n"), on_terminal(command, folder)


def main() -> None:
    page, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    text = page.read_text(encoding="utf-8")
    printed = iter(list(steps(text, folder)))

    def again(block: re.Match[str]) -> str:
        if block[1] != "console":
            return block[0]
        count = len(re.findall(r"^\$ ", block[2], re.M))
        pieces = []
        for command, _, output in (next(printed) for _ in range(count)):
            pieces.append(f"$ {command}\n" + (f"{output}\n" if output else ""))
        return "```console\n" + "".join(pieces) + "```"

    page.write_text(BLOCK.sub(again, text), encoding="utf-8")


if __name__ == "__main__":
    main()
