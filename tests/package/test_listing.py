"""What the listing in Pipecat's docs asks for, where it can go stale."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", "docs/contributing/listing.md"])
def test__tested_with__is_the_newest_release_that_is_tested(page):
    # noxfile.py runs the suite on this one, and a session tells where there is a newer one.
    releases = re.search(
        r"^RELEASES = \[(.*), \"newest\"\]$", (ROOT / "noxfile.py").read_text(), re.MULTILINE
    )
    newest = re.findall(r'"([^"]+)"', releases[1])[-1]
    named = re.findall(r"Tested with Pipecat v([\d.]+\d)", (ROOT / page).read_text())
    assert named == [newest]


def test__examples__each_is_in_the_table():
    table = (ROOT / "examples/README.md").read_text()
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert set(re.findall(r"\]\((\w+\.py)\)", table)) == files
