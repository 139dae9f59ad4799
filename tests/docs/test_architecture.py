"""The picture of the architecture is one of today's code: its rooms, and the way of an error."""

import re
import sys
import tomllib
from pathlib import Path
from xml.etree import ElementTree

from pipecat.frames.frames import OutputTransportMessageUrgentFrame

import pipecat_circuit_breaker
from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Output, running, settle

ROOT = Path(__file__).parents[2]
PACKAGE = Path(pipecat_circuit_breaker.__file__).parent
PAGE = ROOT / "docs/contributing/architecture.md"
PICTURE = ROOT / "docs/images/architecture.svg"

SVG = "{http://www.w3.org/2000/svg}"
DRAWN = ElementTree.parse(PICTURE).getroot()

#: What is called on the way of an error, in the order of the picture's numbers.
WAY = [
    ("outputs.py", "_pipeline.outputs", "stand_at.<locals>.send_message"),
    ("doors.py", "_pipeline.doors", "Door._ask"),
    ("guard.py", "_pipeline.guard", "Guard.admits"),
    ("causality.py", "_core.causality", "Causality.born"),
    ("breaker.py", "_core.breaker", "Breaker.judge_error"),
    ("circuit.py", "_core.circuit", "Circuit.fail"),
    ("journal.py", "_core.journal", "Journal.changed"),
    ("processor.py", "processor", "CircuitBreakerProcessor._tell"),
    ("doors.py", "_pipeline.doors", "Door._before_queued.<locals>.queue_frame"),
]


def rows():
    """The rooms as they are drawn, from the top down: those of each row together."""
    tops = {}
    for room in DRAWN.iter(f"{SVG}g"):
        if "room" in room.get("class", "").split():
            tops.setdefault(int(room.find(f"{SVG}rect").get("y")), set()).add(room.get("id"))
    return [tops[y] for y in sorted(tops)]


def layers():
    """The layers to which `lint-imports` holds the code, from the top down."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = (
        each for each in config["tool"]["importlinter"]["contracts"] if each["type"] == "layers"
    )
    return [{*re.split(r" [|:] ", layer)} for layer in contract["layers"]]


def test__rooms__are_drawn_in_the_order_of_their_imports():
    assert rows() == layers()


def test__rooms__each_folder_and_file_of_the_package_is_drawn():
    there = {
        path.stem
        for path in PACKAGE.iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert set().union(*rows()) == there


def test__files__that_the_picture_names_are_there():
    for room in DRAWN.iter(f"{SVG}g"):
        names = " ".join(
            text.text for text in room.iter(f"{SVG}text") if text.get("class") == "file"
        )
        for name in re.findall(r"\w+\.py", names):
            assert (PACKAGE / room.get("id") / name).exists(), name


def test__files__of_the_pipeline_are_all_drawn():
    (room,) = DRAWN.iterfind(f".//{SVG}g[@id='_pipeline']")
    drawn = {*re.findall(r"\w+\.py", " ".join(room.itertext()))}
    assert drawn == {path.name for path in (PACKAGE / "_pipeline").glob("[a-z]*.py")}


def test__steps__are_those_of_the_page():
    drawn = [step.get("id") for step in DRAWN.iter(f"{SVG}g") if step.get("class") == "step"]
    told = re.findall(r"^(\d)\. `(\w+\.py)`", PAGE.read_text("utf-8"), re.MULTILINE)
    assert drawn == [f"step-{number}" for number, _ in told]
    assert [file for _, file in told] == [file for file, _, _ in WAY]


async def test__steps__are_what_is_called_when_a_send_fails(clock):
    breaker = CircuitBreakerProcessor(params=CircuitBreakerParams(max_errors=1, clock=clock))
    prefix = f"{pipecat_circuit_breaker.__name__}."
    output = Output()
    output.fail(ConnectionError("the client is gone"))
    called = []

    def note(frame, event, _):
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith(prefix):
            called.append((name.removeprefix(prefix), frame.f_code.co_qualname))

    async with running(breaker, output) as worker:
        sys.setprofile(note)
        try:
            await worker.queue_frame(OutputTransportMessageUrgentFrame(message={"text": "hi"}))
            await settle()
        finally:
            sys.setprofile(None)

    rest = iter(called)
    for _, module, function in WAY:
        assert (module, function) in rest, f"{module}: {function} is not called, or not then"
