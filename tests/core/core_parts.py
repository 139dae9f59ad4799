"""What the core's tests share: a processor, a frame, and a breaker with a clock that stands still."""

from datetime import UTC, datetime, timedelta

from pipecat_circuit_breaker._core.advice import ChannelFacts
from pipecat_circuit_breaker._core.breaker import Breaker
from pipecat_circuit_breaker._core.causality import Causality
from pipecat_circuit_breaker._core.circuit import (
    Admission,
    Circuit,
    CircuitState,
    Reason,
    Settings,
)
from pipecat_circuit_breaker._core.circuits import Guarded, Mode
from pipecat_circuit_breaker._core.journal import Journal, Opening
from pipecat_circuit_breaker._core.origin import CHANNEL_DOWN, Origin
from pipecat_circuit_breaker.incident import Trigger
from tests.support.core import Frame, Processor

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN

MAX_ERRORS, WINDOW, PROBE_TIMEOUT = 3, 10.0, 4.0
COOLDOWN, CHANNEL_COOLDOWN = 5.0, 1.0
MAX_CIRCUITS, MAX_TEXT = 10, 50

#: A moment by the calendar, at which the tests' clocks show 1000.
NOON = datetime(2026, 8, 1, 12, 0, 0, tzinfo=UTC)


class Notice(Frame):
    """A frame of another class."""


TTS, OUT, RTVI = Processor("TTS"), Processor("Output"), Processor("RTVI")


def settings_for(clock, **overrides):
    return Settings(
        **{
            "max_errors": MAX_ERRORS,
            "window_secs": WINDOW,
            "probe_timeout_secs": PROBE_TIMEOUT,
            "quiet_secs": WINDOW,
            "cooldown": lambda openings: COOLDOWN,
            "clock": clock,
            **overrides,
        }
    )


def guarded_for(clock, kind="E", processor=TTS, destination=None, **overrides):
    origin = Origin.of(processor, kind, destination)
    return Guarded(origin, Circuit(settings_for(clock, **overrides)))


class Bench:
    """A breaker: three errors in ten seconds; five seconds to cool down, one for a channel."""

    def __init__(self, clock, **overrides):
        self.clock = clock
        self.frames = []
        self.causality = Causality(window_secs=WINDOW, max_text=MAX_TEXT)
        self.breaker = Breaker(
            **{
                "max_errors": MAX_ERRORS,
                "window_secs": WINDOW,
                "probe_timeout_secs": PROBE_TIMEOUT,
                "max_circuits": MAX_CIRCUITS,
                "cooldown": lambda openings: COOLDOWN,
                "channel_cooldown": lambda openings: CHANNEL_COOLDOWN,
                "gives_up": lambda openings, secs: False,
                "clock": clock,
                "mode": Mode.GUARD,
                "calendar": lambda: NOON + timedelta(seconds=clock.now - 1000.0),
                **overrides,
            }
        )
        self.output = self.breaker.output(OUT)

    def link(self, processor, cause=None, *, origin=None, text="t", handled=None, repeats=False):
        """A push of a tracked frame."""
        self.frames.append(Frame())
        return self.causality.born(
            self.frames[-1],
            processor,
            cause,
            at=self.clock(),
            text=text,
            origin=origin,
            handled=handled,
            repeats=repeats,
        )

    def message(self, cause=None, *, text="app", processor=RTVI):
        return self.link(processor, cause, text=text)

    def error(
        self,
        kind="E",
        processor=TTS,
        cause=None,
        *,
        delivery=None,
        by_delivery=False,
        must_pass=False,
        handled=None,
        where="",
        repeats=False,
    ):
        """A processor fails; the error's link and what becomes of it."""
        link = self.link(
            processor,
            cause,
            origin=Origin.of(processor, kind, where=where),
            text="boom",
            handled=handled,
            repeats=repeats,
        )
        more = {"by_delivery": True} if by_delivery else {}
        more |= {"must_pass": True} if must_pass else {}
        return link, self.breaker.judge_error(link, delivery, **more)

    def errors(self, n, kind="E", processor=TTS, **more):
        """Which of so many errors go on."""
        return [self.error(kind, processor, **more)[1].passes for _ in range(n)]

    def begin(self, kind="app", *, to=None, cause=None, link=None, output=None, message=None):
        """A message comes to an output; its delivery, None where it is held back."""
        link = link or self.message(cause, text=kind)
        return self.breaker.deliver(
            output or self.output, to, link, kind, message=message, handled="Message"
        )

    def send(self, kind="app", *, ok, to=None, cause=None, output=None):
        """A message is sent; whether it arrives, None where it is held back."""
        delivery = self.begin(kind, to=to, cause=cause, output=output)
        if delivery is None:
            return None
        if ok:
            delivery.succeeded()
        else:
            delivery.failed()
        return ok

    def sends(self, n, kind="app", **more):
        return [self.send(kind, **more) for _ in range(n)]

    def send_with_error(self, kind="app", *, failure="SendError", to=None, cause=None):
        """A message is sent, and the output pushes an error; the error and its verdict."""
        link = self.message(cause, text=kind)
        delivery = self.begin(kind, to=to, link=link)
        if delivery is None:
            return None
        return self.error(failure, OUT, link, delivery=delivery)

    def chain(self, failures, *, secs=0.0, kinds=("E",), processor=TTS):
        """Failures that cause each other, a message between each; the last and its verdict."""
        cause = verdict = None
        for n in range(failures):
            link, verdict = self.error(kinds[n % len(kinds)], processor, cause, handled="Message")
            self.clock.advance(secs)
            cause = self.message(link)
        return link, verdict

    def may_come(self, link, processor=TTS, kind="app", handled="Message"):
        """Whether a message may come to a processor."""
        return self.breaker.judge_message(processor.id, link, kind, handled)

    def channel_state(self, to=None):
        return self.state(CHANNEL_DOWN, OUT, to)

    def state(self, kind="E", processor=TTS, to=None):
        """The state of a circuit; None where there is none."""
        origin = Origin.of(processor, kind, to)
        return next((c.state for c in self.breaker.circuits if c.origin == origin), None)

    def take(self):
        """All news, in order."""
        news = []
        while self.breaker.has_news:
            news.append(self.breaker.take_news())
        return news

    def told(self):
        """The incidents that are news, in order."""
        return [news.incident for news in self.take()]


class Pages:
    """A journal, and circuits that are written down by it."""

    def __init__(self, clock, **overrides):
        self.clock = clock
        self.mode = Mode.GUARD
        self.bench = Bench(clock)
        self.journal = Journal(
            **{
                "max_names": 3,
                "clock": clock,
                "calendar": lambda: NOON + timedelta(seconds=clock.now - 1000.0),
                **overrides,
            }
        )

    def circuit(self, kind="E", processor=TTS, destination=None, **overrides):
        return guarded_for(self.clock, kind, processor, destination, **overrides)

    def channel(self, destination=None):
        cooldown = lambda openings: CHANNEL_COOLDOWN  # noqa: E731
        return self.circuit(CHANNEL_DOWN, OUT, destination, cooldown=cooldown)

    def write(self, guarded, transitions, opening=None):
        for transition in transitions:
            self.journal.changed(guarded, transition, opening)

    def open(self, guarded, trigger=Trigger.ERRORS, link=None, failing_kinds=None):
        channel = None if failing_kinds is None else ChannelFacts(failing_kinds)
        opening = Opening(trigger, link, channel)
        for _ in range(3):
            self.write(guarded, guarded.circuit.fail(), opening)
        assert guarded.circuit.state is OPEN

    def probe(self, guarded, link=None, *, quiet_closes=False):
        admission, transitions = guarded.circuit.ask(quiet_closes=quiet_closes)
        assert admission is Admission.PROBE
        self.write(guarded, transitions)
        self.journal.probe(guarded, link or self.bench.message())

    def settle(self, guarded, *, success):
        circuit = guarded.circuit
        self.write(guarded, circuit.settle(circuit.generation, success=success))

    def close(self, guarded, reason=Reason.BY_HAND):
        self.write(guarded, guarded.circuit.close(reason))

    def take(self):
        """All news, in order."""
        news = []
        while self.journal.has_news:
            news.append(self.journal.take(self.mode))
        return news

    def news(self):
        """The incidents that are news, in order."""
        return [news.incident for news in self.take()]


def down(bench, to=None):
    """A channel over which messages of two kinds fail."""
    for kind in ("app", "error", "app"):
        bench.send(kind, to=to, ok=False)
    assert bench.channel_state(to) is OPEN
    bench.told()
