"""A loop through the log: sending writes a line, and the line is sent."""

import pytest

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import LOG_ECHO, Origin
from pipecat_circuit_breaker.incident import AdviceKind, Ending, Trigger
from tests.core.core_parts import CLOSED, COOLDOWN, HALF_OPEN, OPEN, OUT, WINDOW, Bench
from tests.support.core import Processor

LINE = "could not send to the client"


class Forwarder:
    """Sends each line of the log to the client, through a queue: no context crosses it."""

    def __init__(self, bench, line=LINE):
        self.bench = bench
        self.line = line

    def send(self, text=None, *, link=None, is_system_log=False, output=None):
        """A line is sent, and sending writes one; its link, and whether it was held back."""
        bench = self.bench
        message = {"text": f"12:00:00 | {text or self.line}"}
        link = link or bench.message(text="log")
        bench.breaker.echo_of(link, message, is_system_log=is_system_log)
        delivery = bench.begin("log", link=link, message=message, output=output)
        if delivery is not None:
            delivery.log(self.line)
            delivery.succeeded()
        return link, delivery is not None

    def sends(self, n, **more):
        return [self.send(**more)[1] for _ in range(n)]


@pytest.fixture
def forwarder(bench):
    return Forwarder(bench)


def begun(bench, forwarder):
    """Something is sent, and what it logs goes round."""
    assert forwarder.send("hello my dear client")[1]


def looping(bench, forwarder):
    begun(bench, forwarder)
    passed = 0
    while forwarder.send()[1]:
        passed += 1
    assert bench.state(LOG_ECHO, OUT) is OPEN
    return passed


def test__loop__each_line_quotes_the_one_before__ends_at_its_third_repetition(bench, forwarder):
    begun(bench, forwarder)
    assert forwarder.sends(6) == [True, True, False, False, False, False]
    (incident,) = bench.told()
    assert (incident.trigger, incident.origin.kind) == (Trigger.LOG_ECHO, LOG_ECHO)
    assert incident.advice.kind is AdviceKind.LOG_FEEDS_ITSELF
    assert [step.hop for step in incident.chain] == [0, 1, 2, 3]
    assert bench.breaker.circuits[0].held_messages == 4


def test__loop__however_slowly_it_turns_within_a_window__ends_as_well(bench, forwarder):
    begun(bench, forwarder)
    passed = []
    for _ in range(3):
        bench.clock.advance(WINDOW - 0.001)
        passed.append(forwarder.send()[1])
    assert passed == [True, True, False]


def test__loop__the_lines_are_older_than_a_window__are_no_echoes(bench, forwarder):
    begun(bench, forwarder)
    for _ in range(20):
        bench.clock.advance(WINDOW)
        assert forwarder.send()[1]
    assert bench.told() == []


def test__echoes__count_from_the_send_that_they_quote(bench, forwarder):
    begun(bench, forwarder)
    assert [forwarder.send()[0].echoes for _ in range(3)] == [1, 2, 3]


def test__echo__is_caused_by_the_send_that_it_quotes(bench, forwarder):
    first, _ = forwarder.send("hello my dear client")
    second, _ = forwarder.send()
    third, _ = forwarder.send()
    assert (second.cause, second.root, second.hop) == (first, first, 1)
    assert (third.cause, third.root, third.hop) == (second, first, 2)
    assert [link.hop for link in third.chain()] == [0, 1, 2]


def test__echo__its_cause_is_known__keeps_it(bench, forwarder):
    begun(bench, forwarder)
    cause = bench.message()
    link, _ = forwarder.send(link=bench.message(cause))
    assert (link.cause, link.echoes) == (cause, 1)


def test__echo__of_a_send_with_failures_on_its_way__inherits_them(bench, forwarder):
    # It is caused by that send, so its lineage is that one's.
    error, _ = bench.error()
    forwarder.send("hello my dear client", link=bench.message(error))
    link, _ = forwarder.send()
    assert (link.failures, link.first, link.failed_at) == (1, error.origin, error.failed_at)


def test__echoes__without_end__keep_no_more_links_than_any_chain(clock):
    bench = Bench(clock, mode=Mode.OBSERVE)
    forwarder = Forwarder(bench)
    begun(bench, forwarder)
    for _ in range(1000):
        link, passes = forwarder.send()
        assert passes
    assert len(link.chain()) <= 128


def test__echo__is_judged_again__is_not_its_own_cause(bench, forwarder):
    link, _ = forwarder.send("hello my dear client")
    forwarder.send(link=link)
    assert (link.cause, link.echoes) == (None, 0)


def test__replies_to_lines__that_quote_one_send_each__are_no_loop(bench, forwarder):
    # Somebody forwards it with an output that does not log.
    silent = bench.breaker.output(Processor("Silent"))
    for n in range(20):
        forwarder.send(f"hello number {'i' * n}")
        link = bench.message(text="log")
        bench.breaker.echo_of(link, {"text": LINE}, is_system_log=False)
        assert bench.begin("log", link=link, output=silent) is not None
    assert bench.told() == []


def test__transport_that_logs_while_it_delivers__nobody_forwards_it__is_healthy(bench, forwarder):
    for n in range(50):
        _, passes = forwarder.send(f"hello number {'i' * n} of many")
        assert passes
    assert bench.told() == []


def repeated(bench, root=None):
    """A message that repeats what sending a repetition has logged."""
    echo = bench.message()
    echo.echoes, echo.is_echo, echo.root = 2, True, root
    return echo


def test__echoes_of_many_sends__each_ends_by_itself__are_no_loop(bench, forwarder):
    for _ in range(20):
        assert forwarder.send("nothing that is quoted", link=repeated(bench))[1]
    assert bench.state(LOG_ECHO, OUT) is None


def test__echoes_of_one_message__never_deep_but_many__are_a_loop(bench, forwarder):
    root = bench.message()
    for n in range(3):
        assert forwarder.send("nothing that is quoted", link=repeated(bench, root))[1] is (n < 2)
    assert bench.state(LOG_ECHO, OUT) is OPEN
    assert [t.failures for t in bench.breaker.totals] == [1]
    (incident,) = bench.told()
    assert incident.failures == 3


def test__loop_is_open__messages_that_are_no_echoes_pass(bench, forwarder):
    looping(bench, forwarder)
    assert bench.send(ok=True) is True
    other = bench.breaker.output(Processor("Other"))
    echo = bench.message()
    echo.echoes, echo.is_echo = 1, True
    assert bench.begin(link=echo, output=other) is not None


def test__loop_is_open__the_first_echo_of_anything_is_held_back(bench, forwarder):
    looping(bench, forwarder)
    echo = bench.message()
    echo.echoes, echo.is_echo = 1, True
    assert bench.begin(link=echo) is None


def test__loop__its_probe_is_repeated__reopens(bench, forwarder):
    looping(bench, forwarder)
    bench.told()
    bench.clock.advance(COOLDOWN)
    assert forwarder.send()[1]
    assert bench.state(LOG_ECHO, OUT) is HALF_OPEN
    assert not forwarder.send()[1]
    assert bench.state(LOG_ECHO, OUT) is OPEN
    assert [i.state for i in bench.told()] == [HALF_OPEN, OPEN]


def test__loop__its_probe_is_told_by_what_is_older__decides_nothing(bench, forwarder):
    begun(bench, forwarder)
    before = bench.message()
    bench.clock.advance(1.0)
    looping(bench, forwarder)
    bench.clock.advance(COOLDOWN)
    assert forwarder.send()[1]
    older = bench.message(before)
    older.echoes, older.is_echo = 5, True
    assert bench.begin(link=older) is None
    assert bench.state(LOG_ECHO, OUT) is HALF_OPEN


def test__loop__its_probe_is_not_repeated_while_messages_arrive__closes(bench, forwarder):
    looping(bench, forwarder)
    bench.clock.advance(COOLDOWN)
    assert forwarder.send()[1]
    bench.send(ok=True)
    bench.clock.advance(WINDOW - 0.001)
    assert bench.state(LOG_ECHO, OUT) is HALF_OPEN
    bench.clock.advance(0.001)
    assert forwarder.send()[1]
    assert bench.state(LOG_ECHO, OUT) is CLOSED
    assert bench.told()[-1].ending is Ending.QUIET


def test__system_log__that_a_message_set_off__needs_no_quote(bench, forwarder):
    link, passed = bench.message(), []
    for _ in range(5):
        link, passes = forwarder.send(
            "another line each time", link=bench.message(link), is_system_log=True
        )
        passed.append(passes)
    assert passed == [True, True, False, False, False]
    assert link.echoes == 5


def test__system_log__that_an_error_set_off_or_nobody__needs_a_quote(bench, forwarder):
    error, _ = bench.error()
    link, _ = forwarder.send("some line", link=bench.message(error), is_system_log=True)
    assert link.echoes == 0
    link, _ = forwarder.send("some line", is_system_log=True)
    assert link.echoes == 0
    link, _ = forwarder.send(is_system_log=True)
    assert link.echoes == 1


def test__other_message__that_a_message_set_off__needs_a_quote(bench, forwarder):
    link = bench.message()
    for _ in range(20):
        link, passes = forwarder.send("another line each time", link=bench.message(link))
        assert passes
    assert link.echoes == 0


@pytest.mark.parametrize("how", ["of the breaker", "of its circuit"])
def test__mode_disabled__a_loop_is_not_counted(bench, forwarder, how):
    if how == "of the breaker":
        bench.breaker.set_mode(Mode.DISABLED, None)
    else:
        bench.breaker.open(Origin.of(OUT, LOG_ECHO))
        bench.breaker.close(None)
        bench.breaker.set_mode(Mode.DISABLED, Origin.of(OUT, LOG_ECHO))
        bench.told()
    begun(bench, forwarder)
    assert forwarder.sends(20) == [True] * 20
    assert bench.told() == []


def test__delivery_that_decides_nothing__its_lines_are_not_noted(bench, forwarder):
    bench.breaker.set_mode(Mode.OBSERVE, None)
    bench.output.is_connected = False
    delivery = bench.begin(message="hello my dear client")
    delivery.log(LINE)
    link = bench.message()
    bench.breaker.echo_of(link, LINE, is_system_log=False)
    assert link.echoes == 0


@pytest.mark.parametrize("another_is_open", [False, True])
def test__transport_that_prints_what_it_sends__the_message_again_is_no_echo(bench, another_is_open):
    if another_is_open:
        bench.errors(3, "AudioError", OUT)
    bench.begin(message="hello my dear client").log("hello my dear")
    link = bench.message()
    bench.breaker.echo_of(link, "hello my dear client", is_system_log=False)
    assert link.echoes == 0


def test__loop__quiet_was_over_when_it_is_repeated__is_told_and_counted_anew(bench, forwarder):
    looping(bench, forwarder)
    bench.clock.advance(COOLDOWN)
    bench.send(ok=True)
    bench.clock.advance(WINDOW)
    bench.told()
    echo = bench.message()
    echo.echoes, echo.is_echo = 2, True
    assert bench.begin(link=echo) is not None
    (closed,) = bench.told()
    assert (closed.state, closed.ending) == (CLOSED, Ending.QUIET)


def test__loop__a_channel_of_the_output_recovers__is_no_proof(bench, forwarder):
    looping(bench, forwarder)
    for kind in ("app", "error", "app"):
        bench.send(kind, to="ann", ok=False)
    bench.clock.advance(COOLDOWN)
    bench.send(to="ann", ok=True)
    assert bench.channel_state("ann") is CLOSED
    assert bench.state(LOG_ECHO, OUT) is OPEN
