"""python -m flowpipe."""

import contextlib
import os
import sys

# Python puts the current folder before all others: what lies beside the data is not to be run.
_FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
with contextlib.suppress(FileNotFoundError):  # a current folder that has been deleted
    if os.path.abspath(sys.path[0]) == os.getcwd() != _FOLDER:  # noqa: PTH100, PTH109
        del sys.path[0]

from flowpipe.cli.main import main  # type: ignore[import-not-found]  # noqa: E402 — see above

main()
