#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Test sessions: the whole suite on each Python, the releases of pipecat, the linters.

`nox` runs all, `nox -s tests-3.12` or `nox -s "releases(1.7.0)"` one; what follows `--` goes to
pytest. A Python that is not there is skipped; where `CI` is set it is an error. Not among all are
`core`, `mutation`, `normal_calls`, `failover_table` and `links`.
"""

import json
import re
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"

#: Those that pyproject.toml names.
PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))

#: A release per line that pipecat had, and whatever is the newest today.
RELEASES = ["0.0.108", "1.0.0", "1.7.0", "1.8.1", "1.12.0", "1.14.0", "newest"]

#: Of the points at which a failover is interrupted, ended and cancelled, and of the servers and
#: processes of a fleet. The oldest Python takes all.
FEWER_POINTS = {"FAILOVER_STRIDE": "29", "FLEET_SERVERS": "redis7"}

#: Warnings are errors, all of them are shown, a name without a target is one; and all is read anew.
STRICT = ["-W", "--keep-going", "-n", "-E", "-q", "-d", "docs/_build/doctrees"]


#: Most tests wait for servers and processes, so two files at once take little more than half the
#: time of one. A file's tests share processes, so each file stays with one worker.
AT_ONCE = ["-n", "2", "--dist", "loadfile"]


def newest(session: nox.Session) -> str:
    """The newest release that the index serves, whatever may pin an installation lower."""
    listing = session.run("python", "-m", "pip", "index", "versions", "pipecat-ai", silent=True)
    found = re.search(r"^pipecat-ai \((\S+)\)", str(listing), re.MULTILINE)
    if found is None:
        session.error(f"pip names no newest pipecat-ai: {listing}")
    return found[1]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the whole suite on the newest pipecat, and see to it that it is the newest."""
    session.install("-e", ".[test]")
    env = {"PIPECAT_RELEASE": newest(session)}
    if session.python != PYTHONS[0]:
        env |= FEWER_POINTS
    session.run("pytest", *AT_ONCE, *session.posargs, env=env)


@nox.session
@nox.parametrize("release", RELEASES, ids=RELEASES)
def releases(session: nox.Session, release: str) -> None:
    """Run what runs on every release: storms of real transports, failover, the older names."""
    if release == "newest":
        release = newest(session)
        if release in RELEASES:
            session.skip(f"the newest is {release}, which has a session of its own")
    session.install("-e", ".[test-releases]", f"pipecat-ai=={release}")
    session.run(
        "pytest",
        *AT_ONCE,
        "-m",
        "releases",
        *(
            session.posargs
            or [
                "tests/releases",
                "tests/failover",
                "tests/fleet/test_bots.py",
                "tests/cut/test_storms.py",
                "tests/examples/test_first_bot.py",
                "tests/tool_loops",
            ]
        ),
        env={"PIPECAT_RELEASE": release} | FEWER_POINTS,
    )
    session.run("pipecat-circuit-breaker", "demo", "--chain", "send-raises", "--seconds", "1")


@nox.session(default=False)
def core(session: nox.Session) -> None:
    """Run the tests of the core, the inner loop: `nox -R -s core` after the first time."""
    session.install("-e", ".[test-core]")
    session.run("pytest", *(session.posargs or ["tests/core"]))


#: Of the changes that mutmut makes to the core, so many of a hundred have to be noticed.
NOTICED = 95.0


@nox.session(default=False)
def mutation(session: nox.Session) -> None:
    """Take each rule out of the core, and change one thing at a time: tests have to fail; an hour."""
    session.install("-e", ".[mutation]")
    session.run("python", "-m", "checks", "core-rules")
    session.run("mutmut", "run", *(session.posargs or ["--max-children", "2"]))
    session.run("mutmut", "export-cicd-stats", silent=True)
    stats = json.loads(Path("mutants/mutmut-cicd-stats.json").read_text("utf-8"))
    noticed = stats["killed"] + stats["timeout"]
    share = 100 * noticed / stats["total"]
    session.log(f"{noticed} of {stats['total']} changes were noticed: {share:.1f} %")
    if share < NOTICED:
        session.error(
            f"expected at least {NOTICED} %; `mutmut results` in {session.bin} lists them"
        )


@nox.session(default=False)
def normal_calls(session: nox.Session) -> None:
    """Make the calls of real transports and of a real browser: minutes where others are at work."""
    session.install("-e", ".[test]")
    session.run(
        "pytest",
        *(session.posargs or ["tests/calls"]),
        env={"NORMAL_CALLS": "1"},
    )


@nox.session(default=False)
@nox.parametrize("release", ["1.14.0", "1.7.0"], ids=["1.14.0", "1.7.0"])
def failover_table(session: nox.Session, release: str) -> None:
    """Print the table of docs/figures/failover.md: four minutes each, on an idle machine."""
    session.install("-e", ".[demo]", f"pipecat-ai=={release}")
    session.run("python", "-m", "benchmarks.failover", "--markdown", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build the wheel and the sdist, and see whether the package index can show what they say."""
    # The last lets twine render README as the index does, and not only look at its type.
    session.install("build", "twine>=6.1", "readme-renderer[md]")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build", silent=True)
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))


@nox.session(python=[PYTHONS[0], PYTHONS[-1]], requires=["build"])
def package(session: nox.Session) -> None:
    """Use the wheel where nothing of the repository is, and test it with what the sdist holds."""
    [wheel], [sdist] = (list(Path("dist").resolve().glob(end)) for end in ("*.whl", "*.tar.gz"))
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    shutil.unpack_archive(sdist, folder, filter="data")
    [unpacked] = folder.iterdir()
    session.chdir(folder)

    # Without any extra.
    session.install(str(wheel))
    session.run("python", "-c", "import pipecat_circuit_breaker as p; print(p.__version__)")
    session.run("pipecat-circuit-breaker", "--version")
    session.run("pipecat-circuit-breaker", "dashboard", silent=True)

    session.install(f"{wheel}[demo]")
    session.run("pipecat-circuit-breaker", "demo", "--chain", "send-raises", "--seconds", "1")

    # As its users' code is checked: by `py.typed`, and with what it finds in the environment.
    session.install(f"{wheel}[fleet,otel]", "mypy>=2.4", "pyright[nodejs]>=1.1.414")
    shutil.copy(unpacked / "tests" / "typing" / "api.py", folder)
    session.run(
        "mypy",
        "--config-file=",
        "--strict",
        # pipecat leaves many functions without types, its decorator for handlers too.
        "--untyped-calls-exclude=pipecat",
        "--allow-untyped-decorators",
        "api.py",
    )
    session.run("pyright", "api.py")

    session.install("hypothesis", "pytest", "pytest-asyncio")
    session.chdir(unpacked)
    session.run("pytest", "-q", "tests/core/test_circuit.py", "tests/package")


@nox.session
def api(session: nox.Session) -> None:
    """Compare the public API with the latest release: what may break a bot is in the changelog."""
    newest_first = ("--merged=HEAD", "--sort=-version:refname", "--list", "v*")
    tags = session.run("git", "tag", *newest_first, external=True, silent=True)
    if not tags:
        session.skip("no release is tagged in this checkout, so there is nothing to compare with")
    session.install("griffe>=2")
    session.run("python", "-m", "checks", "api", str(tags).split()[0])


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, with warnings as errors; what follows `--` is where. No network is asked."""
    session.install("-e", ".[docs]")
    target = session.posargs[0] if session.posargs else "docs/_build/html"
    session.run("sphinx-build", *STRICT, "-b", "html", "docs", target)


@nox.session(default=False)
def links(session: nox.Session) -> None:
    """Ask each link to another site whether it is there. It needs the internet."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", *STRICT, "-b", "linkcheck", "docs", "docs/_build/links")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, spelling, who imports whom, types, and workflows; a commit hook runs it too."""
    session.install("-e", ".[lint,demo,fleet,otel]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("lint-imports", "--no-logo")
    session.run("mypy")
    session.run("zizmor", "--offline", "--quiet", ".github")
