"""What breaks the public API is seen, and has to stand in the changelog."""

import subprocess

import pytest

griffe = pytest.importorskip("griffe", reason="griffe is not installed")

from checks import api

OLD = """
__all__ = ["dial", "hang_up", "Call"]
class Call:
    def mute(self): ...
def dial(number, *, secs=1): ...
def hang_up(): ...
def unnamed(): ...
"""


@pytest.fixture
def project(tmp_path):
    """A repository whose only version is tagged."""
    package = tmp_path / "src" / "phone"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(OLD)
    (tmp_path / "CHANGELOG.md").write_text("## [1.0.0] - 2026-01-01\n\n### Changed\n\n- `mute`.\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "1"], ["tag", "v1.0.0"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True)
    return tmp_path


def change(project, old, new, changelog=""):
    path = project / "src" / "phone" / "__init__.py"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    log = project / "CHANGELOG.md"
    log.write_text(changelog + "\n" + log.read_text())


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("    def mute(self): ...", "    pass", "mute"),
        ("def hang_up(): ...", "", "hang_up"),
        ("number, *", "number, name, *", "name"),
        ("secs=1", "secs=2", "secs"),
    ],
)
def test__breaking_change__not_under_changed_or_removed__is_missing(project, old, new, name):
    change(project, old, new, f"## [1.1.0] - unreleased\n\n### Added\n\n- `{name}`\n")
    assert api.compare(project, "phone", "v1.0.0") == 1


@pytest.mark.parametrize("kind", ["Changed", "Removed"])
def test__breaking_change__told_since_the_tag__is_not_missing(project, kind, capsys):
    told = f"## [1.1.0] - unreleased\n\n### {kind}\n\n- No more `hang_up`\n"
    change(project, "def hang_up(): ...", "", told)
    assert api.compare(project, "phone", "v1.0.0") == 0
    assert capsys.readouterr().out.startswith("told: ")


@pytest.mark.parametrize(
    ("old", "new"), [("def unnamed(): ...", ""), ("secs=1", "secs=1, tries=1")]
)
def test__change__that_breaks_nobody__is_not_asked_for(project, old, new):
    change(project, old, new)
    assert api.compare(project, "phone", "v1.0.0") == 0
