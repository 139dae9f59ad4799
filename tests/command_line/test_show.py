"""An incident is shown with the words that a person needs, whatever is in its texts."""

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from io import StringIO

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from pipecat_circuit_breaker import (
    Advice,
    AdviceKind,
    ChainStep,
    CircuitState,
    Ending,
    FailedOver,
    Incident,
    Origin,
    Probe,
    ProbeOutcome,
    Trigger,
)
from pipecat_circuit_breaker.demo.app import demo
from pipecat_circuit_breaker.show.app import show
from pipecat_circuit_breaker.show.page import page
from pipecat_circuit_breaker.show.story import duration
from pipecat_circuit_breaker.show.terminal import tree
from pipecat_circuit_breaker.show.timeline import WIDTH, timeline

OPENED = datetime(2026, 3, 1, 3, 0, 0, tzinfo=UTC)
MESSAGE = "OutputTransportMessageUrgentFrame"


def secs(number: float) -> timedelta:
    return timedelta(seconds=number)


def chain_of(steps: int, text: str = "the client is gone") -> tuple[ChainStep, ...]:
    return tuple(
        ChainStep(
            hop=n,
            frame="ErrorFrame" if n % 2 else MESSAGE,
            processor="Output#0" if n % 2 else ("RTVIProcessor#0" if n else "Pipeline#0"),
            text=text if n % 2 else ("rtvi-ai/error" if n else "app"),
            at=OPENED - secs(0.1 * (steps - 1 - n)),
        )
        for n in range(steps)
    )


def incident_of(**values) -> Incident:
    known = {
        "id": "a1",
        "origin": Origin(7, "Output#0", "Output", "ConnectionError"),
        "state": CircuitState.CLOSED,
        "trigger": Trigger.ERRORS,
        "is_channel": True,
        "chain": chain_of(6),
        "chain_omitted": 0,
        "failures": 5,
        "rate": 12.3,
        "opened_at": OPENED,
        "at": OPENED + secs(42),
        "ended_at": OPENED + secs(42),
        "ending": Ending.RECOVERED,
        "openings": 3,
        "held_errors": 17,
        "held_messages": 1_204,
        "held_kinds": {"rtvi-ai/metrics": 1_000, "rtvi-ai/bot-llm-text": 204},
        "probes": (
            Probe(frame=MESSAGE, text="app", at=OPENED + secs(2), outcome=ProbeOutcome.FAILED),
            Probe(frame=MESSAGE, text="app", at=OPENED + secs(9), outcome=ProbeOutcome.TIMED_OUT),
            Probe(frame=MESSAGE, text="app", at=OPENED + secs(42), outcome=ProbeOutcome.PASSED),
        ),
        "probe_in_secs": None,
        "gave_up": False,
        "advice": Advice(
            kind=AdviceKind.CLIENT_GONE, processor="Output#0", text="It has nobody to send to."
        ),
    }
    return Incident(**{**known, **values})


def still_open(**values) -> Incident:
    return incident_of(
        **{
            "state": CircuitState.OPEN,
            "at": OPENED,
            "ended_at": None,
            "ending": None,
            "openings": 1,
            "probes": (),
            "probe_in_secs": 1.25,
            **values,
        }
    )


def printed(incident: Incident, width: int = 80, **kwargs) -> str:
    out = StringIO()
    Console(file=out, width=width, **kwargs).print(tree(incident))
    return out.getvalue()


def words(text: str) -> str:
    """The text without guides and line ends."""
    return re.sub(r"[\s│├└─]+", " ", text)


class Document(HTMLParser):
    """The tags, attributes and text of a document; raises where tags do not match."""

    VOID = {"meta", "link", "img", "br", "hr", "input"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


#
# In the terminal
#


@pytest.mark.parametrize("width", [60, 80, 120])
def test__tree__any_width__says_who_why_what_and_what_to_do(width):
    shown = words(printed(incident_of(), width))

    for said in (
        "CLOSED Output#0: ConnectionError",
        "5 related errors, 12 a second",
        "opened 2026-03-01 03:00:00 UTC",
        "opened 3 times",
        "lasted 42.0 s",
        "ended when a probe arrived",
        "It has nobody to send to.",
        "Look at Output#0 first",
        "17 errors",
        "1,000 rtvi-ai/metrics",
        "204 rtvi-ai/bot-llm-text",
        "1 failed, 1 never reported, 1 passed",
        "1,204 messages were held back in 42.0 s. Sound was not touched.",
    ):
        assert said in shown


def test__tree__chain__from_the_root_to_what_tripped_it_with_times():
    shown = words(printed(incident_of()))

    root, last = shown.index("0 −500 ms Pipeline#0"), shown.index("5 0 ms Output#0 ErrorFrame")
    assert root < last
    assert shown.count("◀ opened it") == 1
    assert "RTVIProcessor#0 → Output#0 → RTVIProcessor#0, 2 times round" in shown


def test__tree__advice_and_headline__before_all_else():
    shown = printed(incident_of())

    order = ["Output#0: ConnectionError", "It has nobody", "Pipeline#0", "held back", "Probes"]
    assert sorted(order, key=shown.index) == order


def test__tree__no_terminal__no_colour_and_no_line_too_long():
    shown = printed(incident_of(chain=chain_of(64), held_kinds={"k" * 300: 5}))

    assert "\x1b" not in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test__tree__long_chain__root_and_latest_and_how_many_are_missing():
    shown = words(printed(incident_of(chain=chain_of(64), chain_omitted=900)))

    assert "954 more steps" in shown
    assert "Pipeline#0" in shown and "63 0 ms Output#0" in shown


def test__tree__open__says_when_the_next_probe_goes_and_that_it_goes_on():
    shown = words(printed(still_open()))

    assert "OPEN Output#0" in shown
    assert "next probe in 1.2 s" in shown
    assert "while it went on" in shown


def test__tree__open_by_hand__no_probe():
    shown = words(printed(still_open(trigger=Trigger.MANUAL, chain=(), probe_in_secs=None)))

    assert "opened by hand" in shown and "no probe" in shown
    assert "What set off what" not in shown


def test__tree__nothing_held_back__says_so():
    shown = words(printed(incident_of(held_errors=0, held_messages=0, held_kinds={})))

    assert "What was held back nothing" in shown


def test__tree__nothing_held_back_while_it_goes_on__only_not_yet():
    shown = words(printed(still_open(held_errors=0, held_messages=0, held_kinds={})))

    assert "What was held back nothing yet" in shown
    assert "What the user noticed Nothing yet." in shown
    assert "not over" not in shown


def test__tree__still_open__says_for_how_long():
    assert "not over after 3.0 s" in words(printed(still_open(at=OPENED + secs(3))))


@pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", "\x1b[31mx", ":skull:", "a\nb"])
def test__tree__text_with_markup__shown_as_it_is_on_one_line(text):
    shown = printed(incident_of(chain=chain_of(2, text)), 120)

    assert "\x1b" not in shown
    assert text.replace("\x1b", " ").replace("\n", " ") in shown


def failed_over(**values) -> Incident:
    given = {"saved": 44, "lost": 1, "took_over": "LLM#1", "failed": ("LLM#0",)} | values
    return incident_of(
        trigger=Trigger.FAILOVER,
        failover=FailedOver(switcher="LLMSwitcher#0", **given),
        chain=chain_of(2, "Error code: 500"),
        held_errors=0,
        held_messages=0,
        held_kinds={},
    )


def test__tree__a_service_failed__who_took_over_what_was_lost_and_when_it_was_back():
    shown = words(printed(failed_over()))

    assert (
        "LLM#0 failed (Error code: 500); LLM#1 took over: 44 requests answered, 1 lost; "
        f"back after {duration(incident_of().secs)}"
    ) in shown
    assert "What became of the requests" in shown
    assert "1 request got no answer, or not the whole of it." in shown
    assert "held back" not in shown


def test__tree__no_service_answers__says_so():
    shown = words(printed(failed_over(failed=("LLM#0", "LLM#1"), nobody_answers=True, saved=0)))

    assert "LLM#0 and LLM#1 failed" in shown
    assert "no service of LLMSwitcher#0 answers: 1 request lost" in shown


@pytest.mark.parametrize(
    "ending, back",
    [
        (Ending.PIPELINE_OVER, "not back when the call was over"),
        (Ending.BY_HAND, "taken for back by hand"),
        (None, "not back yet"),
    ],
)
def test__tree__a_service_failed__how_it_ended(ending, back):
    incident = failed_over().model_copy(update={"ending": ending})
    assert back in words(printed(incident))


def test__tree__a_service_failed_and_nothing_was_lost__a_pause_is_all():
    assert "Nothing but a pause" in words(printed(failed_over(lost=0)))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 ms"),
        (0.00042, "0.4 ms"),
        (-0.5, "500 ms"),
        (59.94, "59.9 s"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"),
    ],
)
def test__duration__any__as_people_write_it(seconds, shown):
    assert duration(seconds) == shown


#
# As a page
#


def test__page__incident__says_who_why_what_and_what_to_do():
    text = words(Document(page([incident_of()])).text)

    for said in (
        "closed Output#0: ConnectionError",
        "5 related errors, 12 a second",
        "lasted 42.0 s",
        "ended when a probe arrived",
        "It has nobody to send to.",
        "1,000rtvi-ai/metrics",
        "Probes: 1 failed, 1 never reported, 1 passed",
        "1,204 messages were held back in 42.0 s. Sound was not touched.",
        "2 times round",
    ):
        assert said in text


def test__page__any__fetches_nothing_and_runs_nothing():
    html = page([incident_of(), still_open(id="b2")])
    document = Document(html)

    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & {*document.tags}
    names = {name for name, _ in document.attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "srcset"}
    assert all(v.startswith("#") for n, v in document.attributes if n in ("href", "xlink:href"))
    assert not re.search(r"url\(|@import|@font-face|https?:", html)
    assert "default-src 'none'" in html


def test__page__both_schemes__light_and_dark():
    assert "prefers-color-scheme: dark" in page([incident_of()])


def test__page__script_in_every_text__is_text():
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    incident = incident_of(
        id=evil,
        origin=Origin(7, evil, evil, evil, evil),
        chain=tuple(
            step.model_copy(update={"frame": evil, "processor": evil, "text": evil})
            for step in chain_of(6)
        ),
        held_kinds={evil: 4},
        held_messages=4,
        probes=(Probe(frame=evil, text=evil, at=OPENED, outcome=ProbeOutcome.FAILED),),
        advice=Advice(kind=AdviceKind.CLIENT_GONE, processor=evil, text=evil),
    )

    document = Document(page([incident]))

    assert not {"script", "img"} & {*document.tags}
    assert not [name for name, _ in document.attributes if name.startswith("on")]
    assert document.text.count("<script>alert(1)</script>") >= 10


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60), kind=st.text(max_size=60))
def test__page_and_tree__any_text__same_tags_and_no_control_characters(text, kind):
    plain, strange = (
        incident_of(
            chain=chain_of(4, said),
            held_kinds={named: 3},
            advice=Advice(kind=AdviceKind.CLIENT_GONE, processor="Output#0", text=said),
        )
        for said, named in (("said", "named"), (text, kind))
    )

    html = page([strange])

    assert Document(html).tags == Document(page([plain])).tags
    shown = html + printed(strange)
    assert all(c.isprintable() or c == "\n" for c in shown)


def test__page__whole_chain__every_step():
    document = Document(page([incident_of(chain=chain_of(64), chain_omitted=900)]))

    assert document.text.count("rtvi-ai/error") == 31
    assert "900 more steps" in document.text


def test__page__several__a_list_that_leads_to_each():
    document = Document(page([incident_of(), still_open(id="b2")]))

    targets = {value for name, value in document.attributes if name == "id"}
    links = {value for name, value in document.attributes if name == "href"}
    assert links == {f"#{target}" for target in targets}
    assert len(links) == 2


#
# On the time axis
#


def test__timeline__recovered__chain_before_the_opening_probes_after_it():
    line = timeline(incident_of())

    assert [mark.kind for mark in line.causes] == ["message", "error"] * 3
    assert [mark.kind for mark in line.probes] == ["failed", "timed_out", "passed"]
    causes, probes = [m.x for m in line.causes], [m.x for m in line.probes]
    assert causes == sorted(causes) and probes == sorted(probes)
    assert line.start <= causes[0] and causes[-1] == line.opening < probes[0]
    assert probes[-1] == line.end <= WIDTH
    assert line.closed


@pytest.mark.parametrize(
    "incident",
    [
        still_open(),
        still_open(chain=()),
        incident_of(chain=chain_of(1)),
        incident_of(chain=tuple(s.model_copy(update={"at": OPENED}) for s in chain_of(6))),
        # A clock that was set back in between.
        incident_of(at=OPENED - secs(5), ended_at=OPENED - secs(5)),
    ],
)
def test__timeline__no_time_passed__all_within_the_picture(incident):
    line = timeline(incident)

    for place in (*line.causes, *line.probes, *line.ticks):
        assert 0 <= place.x <= WIDTH
    Document(page([incident]))


#
# From a file
#


@pytest.fixture
def run(tmp_path):
    """Run the command over a file with this content."""

    def run(content: str | bytes, *options: str):
        file = tmp_path / "incident.json"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return CliRunner().invoke(show, [str(file), *options])

    return run


def test__show__file_with_an_incident__tree(run):
    result = run(incident_of().model_dump_json())

    assert result.exit_code == 0
    assert "CLOSED  Output#0: ConnectionError" in result.stdout


def test__show__standard_input__tree():
    result = CliRunner().invoke(show, ["-"], input=incident_of().model_dump_json(indent=2))

    assert result.exit_code == 0
    assert "Output#0: ConnectionError" in result.stdout


def test__show__terminal_without_the_signs__others_instead():
    result = CliRunner(charset="latin-1").invoke(show, ["-"], input=incident_of().model_dump_json())

    assert result.exit_code == 0
    assert "Output#0: ConnectionError" in result.stdout


LINES = "\n".join(
    incident.model_dump_json()
    for incident in (
        still_open(id="b2", opened_at=OPENED + secs(60), at=OPENED + secs(60)),
        still_open(),
        incident_of(),
        still_open(),
    )
)
LIST = f"[{','.join(LINES.splitlines())}]"


@pytest.mark.parametrize("content", [LINES, f"\n{LINES}\n\n", LIST])
def test__show__several__latest_copy_of_each_in_order(run, content):
    shown = run(content).stdout

    assert shown.count("Output#0: ConnectionError") == 2
    assert shown.index("CLOSED") < shown.index("OPEN ")


def test__show__html__written_and_said_where(run, tmp_path):
    page_file = tmp_path / "out.html"

    result = run(LINES, "--html", str(page_file))

    assert result.exit_code == 0
    assert result.stdout == f"wrote {page_file}\n"
    assert "2 incidents" in Document(page_file.read_text(encoding="utf-8")).text


def _without(name: str) -> str:
    return json.dumps(
        {k: v for k, v in json.loads(incident_of().model_dump_json()).items() if k != name}
    )


def _with(**values) -> str:
    return json.dumps({**json.loads(incident_of().model_dump_json()), **values})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "expected JSON, got the end at line 1, column 1"),
        ("[]", "expected at least one incident, got none"),
        ("{nope", "expected JSON, got nope at line 1, column 2"),
        ("5", "expected an incident, got 5"),
        ("[{}, 5]", "incident 1: id: expected a value, got none"),
        ("[" * 100_000, "expected JSON"),
        ("9" * 5_000, "expected JSON"),
        (b"\xff\xfe", "expected UTF-8, got b'\\xff' at byte 0"),
        (_without("trigger"), "trigger: expected a value, got none"),
        (_with(failures="many"), "failures: expected a valid integer"),
        (_with(failures="many"), 'got "many"'),
        (_with(state="ajar"), "expected 'closed', 'open' or 'half_open', got \"ajar\""),
        (_with(opened_at="2026-03-01T03:00:00"), "opened_at: expected a time with an offset"),
        (LINES + "\n{nope", "line 5: expected JSON, got nope"),
        (LINES + "\n7", "line 5: expected an incident, got 7"),
    ],
)
def test__show__not_an_incident__one_line_with_the_value_and_code_2(run, content, said):
    result = run(content)

    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test__show__no_such_file__one_line_and_code_2(tmp_path):
    result = CliRunner().invoke(show, [str(tmp_path / "none.json")])

    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert result.stderr.count("\n") == 1


def test__show__page_cannot_be_written__one_line_and_code_2(run, tmp_path):
    result = run(LINES, "--html", str(tmp_path / "none" / "out.html"))

    assert result.exit_code == 2
    assert "No such file" in result.stderr
    assert result.stderr.count("\n") == 1


def test__demo__json__its_incidents_can_be_shown():
    result = CliRunner().invoke(demo, ["--chain", "send-raises", "--seconds", "0.5", "--json"])
    (chain,) = json.loads(result.stdout)["chains"]
    incidents = chain["with"]["incidents"]

    shown = CliRunner().invoke(show, ["-"], input=json.dumps(incidents))

    assert shown.exit_code == 0
    assert "Output#0: ConnectionError" in shown.stdout
