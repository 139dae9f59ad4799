"""What the pages on fleets say of settings and permissions is what the code says."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipecat_circuit_breaker.fleet import FleetParams, redis

DOCS = Path(__file__).parents[2] / "docs" / "how-to"


def rows(page, heading):
    """The rows of the first table under a heading of a page, cell by cell."""
    text = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in table.splitlines()[2:]
    ]


SETTINGS = rows("run-a-fleet.md", "Settings")


def test__settings__are_all_in_the_table():
    assert [row[0].strip("`") for row in SETTINGS] == list(FleetParams.model_fields)


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: row[0])
def test__default_of_a_setting__is_that_of_the_table(row):
    default = FleetParams.model_fields[row[0].strip("`")].default
    if isinstance(default, str | int | float):
        assert row[1].strip("`") == str(default)


def test__most_instances__are_those_of_the_table():
    most = int({row[0]: row[2] for row in SETTINGS}["`min_instances`"].rpartition(" ")[2])
    FleetParams(min_instances=most)
    with pytest.raises(ValidationError):
        FleetParams(min_instances=most + 1)


def test__least_rights__are_those_that_the_store_needs():
    def words(text):
        return re.search(r"ACL SETUSER .*?\+ping", text, re.DOTALL)[0].split()

    assert words((DOCS / "operate-a-fleet.md").read_text()) == words(redis.__doc__)
