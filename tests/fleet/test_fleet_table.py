"""What operators see of a fleet, in a terminal and as JSON, whatever the server holds."""

import json
from io import StringIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipecat_circuit_breaker.fleet import Lease, ModeSet, Outage
from pipecat_circuit_breaker.fleet.store import Knowledge
from pipecat_circuit_breaker.fleet_console.follow import Sight
from pipecat_circuit_breaker.fleet_console.report import document, status
from pipecat_circuit_breaker.fleet_console.table import board
from tests.fleet.fleet_parts import outage

NOW = 1_790_000_000.0
KEY = "OpenAILLMService[eu]: APIConnectionError in openai._base_client:request"

OPEN = outage(
    KEY,
    at=NOW - 200,
    seen_at=NOW - 2,
    probe_at=NOW + 12,
    openings=4,
    failures=1_204,
    instances={"pod-1": NOW - 2, "pod-2": NOW - 3},
    instance_count=41,
    bots=812,
    lost_probes=3,
    opened_by="pod-7",
    changed_by="0123456789ab",
)
ENDED = outage(
    KEY, "closed", NOW - 5_000, closed_at=NOW - 4_000, ending="by_hand", closed_by="ann", why="ok"
)


def sight(*outages, history=(), mode=None, **fields):
    known = Knowledge(NOW, mode or ModeSet(), tuple(outages), tuple(history))
    return Sight(known, 100.0, **fields)


def shown(seen, *, width=80, height=None, monotonic=100.0):
    console = Console(width=width, file=StringIO(), legacy_windows=False)
    names = {"fleet": "production", "server": "redis://host:6379/0"}
    console.print(board(seen, **names, monotonic=monotonic, width=width, height=height))
    return console.file.getvalue()


def as_json(seen, monotonic=100.0):
    plain = document(seen, fleet="production", server="redis://host/0", monotonic=monotonic)
    return json.loads(json.dumps(plain, allow_nan=False))


@pytest.mark.parametrize("width", [80, 120])
def test__open__who_sees_it_since_when_and_when_the_next_probe_is(width):
    text = shown(sight(OPEN), width=width)

    assert "1 open" in text and KEY in text
    for figure in ("3 min 20 s", "41", "812", "1,204", "6.1", "4", "3", "next probe in 12 s"):
        assert figure in text
    assert "opened by pod-7" in text
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"lease": Lease(holder="pod-3", token="t", expires_at=NOW + 9)}, "pod-3 probes, 9 s left"),
        ({"lease": Lease(holder="pod-3", token="t", expires_at=NOW - 1)}, "next probe in 12 s"),
        ({"probe_at": NOW - 1}, "probe due"),
        (
            {"is_by_hand": True, "opened_by": "ann", "why": "they move"},
            "no probe: opened by hand by ann: they move",
        ),
        ({"state": "suspected", "opened_at": None}, "too few instances so far; seen 2 s ago"),
    ],
)
def test__each_state__says_what_it_waits_for(fields, said):
    assert said in shown(sight(OPEN.model_copy(update=fields)))


def test__time_passes__the_wait_goes_down_without_another_look():
    assert "next probe in 2 s" in shown(sight(OPEN), monotonic=110.0)
    assert as_json(sight(OPEN), 110.0)["outages"][0]["next_probe_in_secs"] == 2.0


def test__history_and_mode__by_whom_how_how_long_and_why():
    mode = ModeSet(mode="observe", who="bob", why="canary", at=NOW - 60)

    text = shown(sight(history=[ENDED], mode=mode))

    assert "nothing open" in text
    assert "closed by hand by ann after 17 min, 67 min ago" in text
    assert "OBSERVE , set by bob 60 s ago: canary" in text


def test__server_gone__is_said_above_what_was_known():
    text = shown(sight(OPEN, lost="connection refused", lost_at=130.0), monotonic=140.0)

    assert "NO ANSWER  for 10 s: connection refused" in text
    assert "This is 40 s old." in text and KEY in text


@pytest.mark.parametrize("height", [12, 24, 40])
def test__more_than_fits__the_oldest_open_ones_and_how_many_more(height):
    many = [outage(f"Voice: {n}", at=NOW - n, instances={}, seen_at=NOW) for n in range(100)] + [
        outage("Voice: suspected", "suspected", NOW)
    ]

    text = shown(sight(*many, history=[ENDED] * 50), height=height)

    assert len(text.splitlines()) <= height
    assert "100 open, 1 suspected" in text and "Voice: 99" in text and " more" in text


HOSTILE = "[red]x[/red] [link=http://evil]y[/] \x1b]0;title\x07\x1b[2J\r\n\u202e‮ \x00"


def test__hostile_texts__are_shown_as_they_are_without_control_characters():
    record = Outage.read(
        json.dumps(
            {
                **json.loads(OPEN.model_dump_json()),
                "key": f"Voice: {HOSTILE}",
                "opened_by": HOSTILE,
                "why": HOSTILE,
                "is_by_hand": True,
                "instances": {HOSTILE: NOW},
            }
        )
    )
    seen = sight(record, history=[record], mode=ModeSet(who=HOSTILE, why=HOSTILE, at=NOW))

    text = shown(seen, width=200)

    assert "[red]x[/red] [link=http://evil]y[/]" in text
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not {"\x1b", "\u202e"} & {*json.dumps(as_json(seen), ensure_ascii=False)}


def test__tokens__are_shown_to_nobody():
    leased = OPEN.model_copy(
        update={"lease": Lease(holder="pod-3", token="0123456789ab.7", expires_at=NOW + 9)}
    )

    assert "0123456789ab" not in shown(sight(leased, history=[leased]), width=200)
    assert "0123456789ab" not in json.dumps(as_json(sight(leased, history=[leased])))


_SECS = st.floats(allow_nan=False, allow_infinity=False)
_COUNTS = st.integers(0, 2**53)


@settings(max_examples=100, deadline=None)
@given(
    state=st.sampled_from(["suspected", "open", "closed"]),
    times=st.fixed_dictionaries(
        {name: st.none() | _SECS for name in ("opened_at", "closed_at", "probe_at")}
    ),
    seen_at=_SECS,
    counts=st.fixed_dictionaries(
        dict.fromkeys(("failures", "bots", "openings", "lost_probes"), _COUNTS)
    ),
    key=st.text(min_size=1),
    width=st.integers(80, 140),
)
def test__any_record__fits_the_terminal_and_is_json(state, times, seen_at, counts, key, width):
    record = Outage(key=key, state=state, seen_at=seen_at, **times, **counts)
    seen = sight(record, history=[record])

    console = Console(width=width, file=StringIO())
    names = {"fleet": "production", "server": "redis://host:6379/0"}
    parts = board(seen, **names, monotonic=100.0, width=width, height=None)
    lines = console.render_lines(parts, pad=False)

    assert all(sum(segment.cell_length for segment in line) <= width for line in lines)
    assert as_json(seen)["fleet"] == "production"


def test__json__has_the_documented_fields():
    plain = as_json(sight(OPEN, ENDED, history=[ENDED]))

    assert [*plain] == ["fleet", "server", "status", "reason", "at", "mode", "outages", "history"]
    assert plain["status"] == "open" and plain["at"] == "2026-09-21T14:13:20.000+00:00"
    assert plain["mode"] == {"mode": "guard", "who": None, "why": "", "at": None}
    [record] = plain["outages"]
    assert record == {
        "key": KEY,
        "state": "open",
        "opened_at": "2026-09-21T14:10:00.000+00:00",
        "seen_at": "2026-09-21T14:13:18.000+00:00",
        "closed_at": None,
        "secs": 200.0,
        "instances": 41,
        "instance_names": ["pod-1", "pod-2"],
        "bots": 812,
        "failures": 1204,
        "failures_per_sec": 6.081,
        "openings": 4,
        "next_probe_in_secs": 12.0,
        "probing": None,
        "lost_probes": 3,
        "opened_by": "pod-7",
        "closed_by": None,
        "by_hand": False,
        "why": "",
        "ending": None,
    }
    assert [each["secs"] for each in plain["history"]] == [1000.0]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (sight(), "ok"),
        (sight(OPEN.model_copy(update={"state": "suspected"}), ENDED), "ok"),
        (sight(OPEN), "open"),
        (sight(OPEN, lost="gone"), "unreachable"),
        (Sight(lost="never there"), "unreachable"),
    ],
)
def test__status__in_one_word(seen, expected):
    assert status(seen) == as_json(seen)["status"] == expected
