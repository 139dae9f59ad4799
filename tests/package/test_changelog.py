"""The changelog has a section for the version that this is, in the form that it names."""

import re
from pathlib import Path

from pipecat_circuit_breaker import __version__

TEXT = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
HEADINGS = re.findall(r"^## (.+)$", TEXT, re.MULTILINE)


def test__changelog__latest_section__is_of_this_version():
    assert HEADINGS[0].startswith(f"[{__version__}] - ")


def test__changelog__each_section__is_dated_or_the_latest():
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (.+)", heading) for heading in HEADINGS]
    assert None not in versions
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", version[2]) for version in versions[1:])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d|unreleased", versions[0][2])


def test__changelog__kinds_of_change__are_those_of_its_form():
    kinds = set(re.findall(r"^### (.+)$", TEXT, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test__changelog__each_version__leads_to_its_release():
    for heading in HEADINGS:
        version = heading[1 : heading.index("]")]
        assert re.search(rf"^\[{re.escape(version)}\]: https://.+/v{version}$", TEXT, re.MULTILINE)
