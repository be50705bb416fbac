"""Settings of the documentation site: `sphinx-build -W -c docs/site docs build/site`."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from commands import commands_page

import flowpipe

project = "flowpipe"
copyright = "the authors of flowpipe, MIT licence"
version = release = flowpipe.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["site"]
highlight_language = "none"
default_role = "code"
myst_heading_anchors = 3

napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # numpydoc names the types
python_maximum_signature_line_length = 80

html_theme = "furo"
html_title = "flowpipe"
html_copy_source = False
html_show_sphinx = False


def add_commands(app: Any, name: str, source: list[str]) -> None:
    """Append what click knows of every command to the page that is made of it."""
    if name == "reference/commands":
        source[0] += commands_page()


def setup(app: Any) -> None:
    app.connect("source-read", add_commands)
