"""What the listing in Pipecat's docs asks for, where it can go stale."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["README.md", "docs/listing.md"])
def test__tested_with__is_the_release_that_the_suite_runs_on(page):
    named = re.findall(r"Tested with Pipecat v([\d.]+\d)", (ROOT / page).read_text())
    assert named == [version("pipecat-ai")]


def test__examples__each_is_in_the_table():
    table = (ROOT / "examples/README.md").read_text()
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert set(re.findall(r"\]\((\w+\.py)\)", table)) == files
