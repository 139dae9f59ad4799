"""What CONTRIBUTING and SECURITY say is so."""

import inspect
import re
from pathlib import Path

import pytest

from pipecat_circuit_breaker import CircuitBreakerParams
from pipecat_circuit_breaker._core import breaker, channel, echo, journal, origin, tool_rounds
from pipecat_circuit_breaker._pipeline import identify
from pipecat_circuit_breaker.fleet import record
from pipecat_circuit_breaker.logs import add_log_file

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text("utf-8")
NOXFILE = (ROOT / "noxfile.py").read_text("utf-8")

DEFAULTS = {name: field.default for name, field in CircuitBreakerParams.model_fields.items()}


def test__contributing__sessions_that_it_names_are_there():
    named = re.findall(r'nox (?:-[Rr] )?-s "?([a-z_]+)', CONTRIBUTING)
    assert len(named) >= 6
    for name in named:
        assert f"\ndef {name}(session" in NOXFILE, name


@pytest.mark.parametrize("path", sorted({*re.findall(r"`([\w./]+/[\w.]*)`", CONTRIBUTING)}))
def test__contributing__files_that_it_names_are_there(path):
    src = ROOT / "src" / "pipecat_circuit_breaker"
    assert any((place / path).exists() for place in (ROOT, src)), path


def test__contributing__what_a_week_has_to_notice_is_what_the_session_asks_for():
    (asked,) = re.findall(r"^NOTICED = ([\d.]+)$", NOXFILE, re.MULTILINE)
    assert f"fewer than {float(asked):.0f} of 100 changes" in CONTRIBUTING


@pytest.mark.parametrize(
    ("row", "bounds"),
    [
        (
            "label and type of a message",
            [identify._MAX_KIND_CHARS, journal._MAX_KINDS, channel._MAX_KINDS],
        ),
        (
            "searched for lines of the log",
            [echo._MAX_PIECES, echo._MAX_CHARS, echo._MAX_LINES, echo._LINE_CHARS],
        ),
        ("names of participants", [origin._WHOM_CHARS]),
        ("texts of errors", [DEFAULTS["max_text"], origin._KIND_CHARS]),
        ("types, names and places", [origin._NAME_CHARS, origin._MAX_TRACEBACK]),
        ("how many different failures", [DEFAULTS["max_circuits"]]),
        (
            "names of tools",
            [tool_rounds._MAX_TOOLS, tool_rounds._MAX_NAME_CHARS, tool_rounds._MAX_RESULT_CHARS],
        ),
        ("the name of a worker", [identify._MAX_PEER_CHARS]),
        (
            "| records |",
            [
                record.MAX_BYTES,
                record.MAX_OUTAGES,
                record.MAX_INSTANCES,
                int(record.MAX_COOLDOWN_SECS),
            ],
        ),
    ],
)
def test__security__bounds_are_those_of_the_code(row, bounds):
    (line,) = [line for line in SECURITY.splitlines() if row in line]
    told = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", line)}
    assert {*bounds} <= told


def test__security__bounds_in_words_are_those_of_the_code():
    assert breaker.MANY == 4
    assert "four times `max_circuits` channels" in SECURITY
    bytes_ = inspect.signature(add_log_file).parameters["max_bytes"].default
    assert f"`max_bytes` ({bytes_ // 1_000_000} MB)" in SECURITY
