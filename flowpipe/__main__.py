"""python -m flowpipe."""

from flowpipe.cli.main import main  # type: ignore[import-not-found]  # cli/ is flowpipe.cli once installed

main()
