"""What is installed is whole, says what it is, and reads well where nothing of the repository is."""

import re
from importlib.metadata import metadata, requires
from importlib.resources import files
from pathlib import Path

import pytest

import pipecat_circuit_breaker

ROOT = Path(__file__).parents[2]
SITE = "https://github.com/pipecat-circuit-breaker/pipecat-circuit-breaker"
RAW = "https://raw.githubusercontent.com/pipecat-circuit-breaker/pipecat-circuit-breaker"

VERSION = pipecat_circuit_breaker.__version__
METADATA = metadata("pipecat-circuit-breaker")
DESCRIPTION = METADATA["Description"] or METADATA.get_payload()

LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")


def test__version__is_the_same_in_code_and_metadata():
    assert METADATA["Version"] == VERSION


@pytest.mark.parametrize(
    "path",
    [
        "py.typed",
        "fleet/rules.lua",
        "instrumentation/alerts.yml",
        "instrumentation/dashboard.json",
        "show/page.html.jinja",
    ],
)
def test__file_that_is_no_module__is_in_the_package(path):
    assert files("pipecat_circuit_breaker").joinpath(path).is_file()


def test__metadata__names_docs_changelog_source_and_issues():
    urls = dict(url.split(", ") for url in METADATA.get_all("Project-URL"))
    assert urls == {
        "Documentation": "https://pipecat-circuit-breaker.readthedocs.io",
        "Changelog": f"{SITE}/blob/main/CHANGELOG.md",
        "Source": SITE,
        "Issues": f"{SITE}/issues",
    }


def test__metadata__licence_and_types_are_told():
    assert METADATA["License-Expression"] == "BSD-2-Clause"
    assert METADATA.get_all("License-File") == ["LICENSE"]
    assert "Typing :: Typed" in METADATA.get_all("Classifier")


def test__requirements__without_extras__are_few():
    needed = [each for each in requires("pipecat-circuit-breaker") if "extra ==" not in each]
    names = {re.match(r"[\w-]+", each)[0] for each in needed}
    assert names == {"loguru", "pipecat-ai", "portalocker", "pydantic", "tenacity"}


def test__description__links_lead_to_this_version_and_to_files_that_are_there():
    links = [(bool(picture), target) for picture, target in LINK.findall(DESCRIPTION)]
    assert [target for _, target in links if not target.startswith(("https://", "#"))] == [], (
        "was README changed since this was installed? Then install it again"
    )
    within = [
        (f"{RAW}/v{VERSION}/" if is_picture else f"{SITE}/blob/v{VERSION}/", target)
        for is_picture, target in links
        if target.startswith((f"{SITE}/blob/", RAW))
    ]
    assert within
    for begins, target in within:
        path = target.removeprefix(begins).partition("#")[0]
        assert (ROOT / path).is_file(), target
