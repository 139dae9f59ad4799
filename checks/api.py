#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Whether a change of the public API that may break a bot stands in the changelog.

    python -m checks api v0.1.0

compares the checkout with a tag. It ends with 1 where a name is missing under *Changed* or *Removed*
in the sections of the changelog that are newer than the tag; ``nox -s api`` takes the latest tag.
Griffe sees what is gone, parameters and their defaults. It does not see the types and defaults of
fields.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import griffe


def public(package: griffe.Object | griffe.Alias) -> set[str]:
    """The paths of what modules name in their ``__all__``."""
    modules = [package, *(m for m in package.modules.values() if m.is_public)]
    return {
        module[name].canonical_path
        for module in modules
        for name in module.exports or ()
        if isinstance(name, str) and name in module.members
    }


def breaking(root: Path, package: str, tag: str) -> Iterator[griffe.Breakage]:
    """What of a package's public API has changed since a tag, so that a user's code may fail."""
    old = griffe.load_git(package, ref=tag, repo=root, search_paths=["src"], resolve_aliases=True)
    new = griffe.load(package, search_paths=[root / "src"], resolve_aliases=True)
    paths = public(old)
    for breakage in griffe.find_breaking_changes(old, new):
        path = breakage.obj.canonical_path
        if any(path == each or path.startswith(f"{each}.") for each in paths):
            yield breakage


def name_of(breakage: griffe.Breakage) -> str:
    """By what name the changelog has to tell it: a parameter's own, or else the object's."""
    for value in (breakage.old_value, breakage.new_value):
        if isinstance(value, griffe.Parameter):
            return value.name
    return breakage.obj.name


def told_since(tag: str, changelog: str) -> str:
    """What the changelog tells under *Changed* and *Removed* in the sections newer than a tag."""
    newer = changelog.partition(f"\n## [{tag.removeprefix('v')}]")[0]
    parts = re.split(r"^##+ ", newer, flags=re.MULTILINE)
    return "".join(part for part in parts if part.startswith(("Changed\n", "Removed\n")))


def compare(root: Path, package: str, tag: str) -> int:
    """Compare, and print what has changed.

    Returns:
        How much of it the changelog does not tell.
    """
    told = told_since(tag, (root / "CHANGELOG.md").read_text())
    untold = 0
    for breakage in breaking(root, package, tag):
        is_told = re.search(rf"\b{re.escape(name_of(breakage))}\b", told) is not None
        untold += not is_told
        explained = breakage.explain(griffe.ExplanationStyle.ONE_LINE)
        print(f"{'told' if is_told else 'NOT TOLD'}: {explained}")
    return untold


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the checkout with a tag."""
    parser = argparse.ArgumentParser(prog="python -m checks api", description=__doc__)
    parser.add_argument("tag", help="of a release, such as v0.1.0")
    tag = parser.parse_args(arguments).tag
    missing = compare(Path(__file__).parents[1], "pipecat_circuit_breaker", tag)
    if missing:
        print(f"{missing} of them are missing in CHANGELOG.md, under Changed or Removed")
    return int(missing > 0)
