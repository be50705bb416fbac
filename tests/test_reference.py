"""The pages that are made from the code are those that the code makes."""

from dataclasses import fields
from pathlib import Path

import pytest
from support import run_cli

from flowpipe.config import field_texts
from flowpipe.experiment.reference import TABLES, configuration_page

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_page_of_keys_is_what_the_records_say():
    assert (DOCS / "configuration.md").read_text("utf-8") == configuration_page()
    assert run_cli("configs", "--keys").out == configuration_page()


@pytest.mark.parametrize("name", TABLES)
def test_every_key_has_a_meaning(name):
    texts = field_texts(TABLES[name])
    for field in fields(TABLES[name]):
        assert texts[field.name].endswith("."), field.name
