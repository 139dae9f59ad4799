#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What has happened, written down: transitions become incidents, totals and log lines.

The one place that writes things down. Nothing is decided by it.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipecat_circuit_breaker._core import remarks
from pipecat_circuit_breaker._core.advice import ChannelFacts, Evidence, advise
from pipecat_circuit_breaker._core.causality import Link
from pipecat_circuit_breaker._core.circuit import CircuitState, Reason, Transition
from pipecat_circuit_breaker._core.circuits import Guarded, Mode
from pipecat_circuit_breaker._core.news import Change, News
from pipecat_circuit_breaker._core.origin import CHANNEL_DOWN, Origin
from pipecat_circuit_breaker._core.outage import Outage, Probed
from pipecat_circuit_breaker._core.tally import Tally
from pipecat_circuit_breaker.incident import (
    Call,
    CircuitSnapshot,
    Ending,
    FailedOver,
    Incident,
    Probe,
    ProbeOutcome,
    Totals,
    Trigger,
)

# What an incident holds at most, whatever a client or a provider sends.
_MAX_STEPS = 64
_MAX_KINDS = 32
_OTHER = "other"

#: News that wait to be told, at most.
_MAX_NEWS = 1_000

#: Who answers an error, at most: for each of so many origins so many processors.
_MAX_ANSWERED = 64
_MAX_ANSWERS = 16

_ENDINGS = {
    Reason.PASSED: Ending.RECOVERED,
    Reason.RECOVERED: Ending.RECOVERED,
    Reason.QUIET: Ending.QUIET,
    Reason.BY_HAND: Ending.BY_HAND,
    Reason.FORGOTTEN: Ending.FORGOTTEN,
    Reason.OVER: Ending.PIPELINE_OVER,
}

_OUTCOMES = {
    Reason.PASSED: ProbeOutcome.PASSED,
    Reason.RECOVERED: ProbeOutcome.PASSED,
    Reason.QUIET: ProbeOutcome.PASSED,
    Reason.FAILED: ProbeOutcome.FAILED,
    Reason.TIMED_OUT: ProbeOutcome.TIMED_OUT,
}


@dataclass(frozen=True, slots=True)
class Opening:
    """Why a circuit opens now.

    Parameters:
        trigger: The rule.
        link: The frame that tripped it; None where there is none.
        channel: What is known of the output transport that its processor is;
            None where it is none.
        grace_secs: Seconds for which it is not told, unless it ends before.
        switcher: Name of the switcher in which other services stand in for it,
            where it is a service's.
        failed_with: The circuit of the service that failed first at the same
            request; None where it is this one.
    """

    trigger: Trigger
    link: Link | None = None
    channel: ChannelFacts | None = None
    grace_secs: float = 0.0
    switcher: str | None = None
    failed_with: Guarded | None = None


@dataclass(frozen=True, slots=True)
class _News:
    outage: Outage
    change: Change
    gives_up: bool


_STATES = {
    Change.OPENED: CircuitState.OPEN,
    Change.REOPENED: CircuitState.OPEN,
    Change.PROBED: CircuitState.HALF_OPEN,
    Change.CLOSED: CircuitState.CLOSED,
    Change.NOBODY_ANSWERS: CircuitState.OPEN,
    Change.EASED: CircuitState.OPEN,
    Change.GAVE_UP: CircuitState.OPEN,
}


class Journal:
    """Writes down what circuits do and what is held back.

    Args:
        max_names: Names of origins for which totals are kept; the rest is under ``other``.
        clock: The breaker's clock, monotonic seconds.
        calendar: The time by the calendar, for what people read.
        call: Asked whose it is, when an incident is told first.
    """

    def __init__(
        self,
        *,
        max_names: int,
        clock: Callable[[], float],
        calendar: Callable[[], datetime],
        call: Callable[[], Call | None] = lambda: None,
    ) -> None:
        """Start with an empty page."""
        self._max_names = max_names
        self._clock = clock
        self._calendar = calendar
        self._call = call
        self._tallies: dict[str, Tally] = {}
        self._outages: dict[Guarded, Outage] = {}
        self._answers: dict[Origin, dict[str, str]] = {}
        self._queued: dict[Origin, str] = {}
        self.untold: deque[_News] = deque(maxlen=_MAX_NEWS)
        # Outages that may turn out to be none.
        self.in_doubt: list[Outage] = []

    #
    # Writing down
    #

    def failed(self, origin: Origin) -> None:
        """Note a failure that counts."""
        self._tally(origin.shared_name).failures += 1

    def answered(self, origins: Iterable[Origin], who: str, kind: str) -> None:
        """Note a message that an error has set off."""
        for origin in origins:
            if origin not in self._answers and len(self._answers) >= _MAX_ANSWERED:
                del self._answers[next(iter(self._answers))]
            answers = self._answers.setdefault(origin, {})
            if who in answers or len(answers) < _MAX_ANSWERS:
                answers[who] = kind

    def queued(self, origins: Iterable[Origin], frame: str) -> None:
        """Note what was queued outside the pipeline on account of an error."""
        for origin in origins:
            if origin not in self._queued and len(self._queued) >= _MAX_ANSWERED:
                del self._queued[next(iter(self._queued))]
            self._queued[origin] = frame

    def held_error(self, guarded: Guarded, *, observed: bool = False) -> None:
        """Note an error that is held back, or would be where the mode is to observe."""
        outage = self._outages.get(guarded)
        tally = self._tally(guarded.origin.shared_name, outage)
        counts = (tally, *(() if outage is None else (outage,)))
        for count in counts:
            count.held_errors += 1
            count.observed_errors += observed

    def held_message(self, guarded: Guarded, kind: str, *, observed: bool = False) -> None:
        """Note a message that is held back, or would be where the mode is to observe."""
        outage = self._outages.get(guarded)
        tally = self._tally(guarded.origin.shared_name, outage)
        tally.held_messages += 1
        tally.observed_messages += observed
        if outage is not None:
            outage.observed_messages += observed
            held = outage.held_kinds
            if kind not in held:
                if len(held) >= _MAX_KINDS - 1:
                    kind = _OTHER
                held.setdefault(kind, 0)
            held[kind] += 1

    def unsent(self, origin: Origin, messages: int = 1) -> None:
        """Note messages that are not sent, as nobody is connected."""
        self._tally(origin.shared_name).unsent_messages += messages

    def probe(self, guarded: Guarded, link: Link) -> None:
        """Note a frame that is let through to see whether it is over."""
        self._note_probe(guarded, link.frame, link.text)

    def shadow(self, guarded: Guarded) -> None:
        """Note a request that a service is asked to see whether it works, and nobody hears of."""
        self._note_probe(guarded, "shadow request", guarded.origin.processor)

    def _note_probe(self, guarded: Guarded, frame: str, text: str) -> None:
        outage = self._outages.get(guarded)
        if outage is not None and outage.is_told_by(guarded):
            now = outage.moment(self._clock())
            outage.probes.append(Probed(guarded.origin, frame, text, now))
            self._tell(outage, Change.PROBED)

    def changed(
        self,
        guarded: Guarded,
        transition: Transition,
        opening: Opening | None = None,
        facts: ChannelFacts | None = None,
    ) -> None:
        """Note that a circuit has changed its state.

        Args:
            guarded: The circuit.
            transition: The change.
            opening: Why, where it was closed before.
            facts: What is known of its output transport now; None where it is none.
        """
        if transition.before is CircuitState.CLOSED:
            outage = self._open(guarded, transition, opening or Opening(Trigger.MANUAL))
            outage.openings = max(1, outage.openings)
            guarded.openings += 1
            self._tally(guarded.origin.shared_name, outage).openings += 1
            return
        outage = self._outages[guarded]
        if facts is not None:
            outage.learns(facts, has_failed=transition.after is CircuitState.OPEN)
        tally = self._tally(guarded.origin.shared_name, outage)
        if transition.before is CircuitState.HALF_OPEN:
            outcome = _OUTCOMES.get(transition.reason, ProbeOutcome.VOID)
            tally.probes[outcome] += 1
            for probed in reversed(outage.probes):
                if probed.origin == guarded.origin:
                    probed.outcome = outcome
                    break
        if transition.after is CircuitState.OPEN:
            guarded.openings += 1
            tally.openings += 1
            if outage.is_told_by(guarded):
                outage.openings += 1
                self._tell(outage, Change.REOPENED)
        elif transition.after is CircuitState.CLOSED:
            tally.closings += 1
            self._close(guarded, outage, transition)

    def gave_up(self, guarded: Guarded) -> None:
        """Note that it is given up."""
        outage = self._outages.get(guarded)
        if outage is not None:
            outage.has_given_up = True
            self._tell(outage, Change.GAVE_UP)

    def took_over(self, who: str, services: Iterable[Guarded]) -> None:
        """Note that a service answers in place of others."""
        for outage in self._outages_of(services):
            self._requests(outage, took_over=who)

    def saved(self, who: str, services: Collection[Guarded]) -> None:
        """Note a request that a service has answered in place of others, the first one's most."""
        self.took_over(who, services)
        for outage in self._outages_of(services):
            assert outage.failover is not None, "it is a service's"
            self._requests(outage, saved=outage.failover.saved + 1)
        for guarded in [*services][:1]:
            self._tally(guarded.origin.shared_name).saved_requests += 1

    def lost(self, services: Collection[Guarded]) -> None:
        """Note a request that is lost, on account of services that fail."""
        for outage in self._outages_of(services):
            assert outage.failover is not None, "it is a service's"
            self._requests(outage, lost=outage.failover.lost + 1)
        for guarded in [*services][:1]:
            self._tally(guarded.origin.shared_name).lost_requests += 1

    def nobody_answers(self, name: str, services: Iterable[Guarded]) -> None:
        """Note that none of the services of a switcher answers any more.

        Args:
            name: Under what it is counted.
            services: The services, all of which fail.
        """
        tally = self._tally(name)
        tally.incidents += 1
        tally.openings += 1
        outages = self._outages_of(services)
        for outage in outages:
            self._requests(outage, nobody_answers=True)
        if outages:
            self._tell(max(outages, key=lambda outage: outage.opened_secs), Change.NOBODY_ANSWERS)

    def somebody_answers(self, name: str, services: Iterable[Guarded]) -> None:
        """Note that one of the services of a switcher answers again."""
        self._tally(name).closings += 1
        for outage in self._outages_of(services):
            self._requests(outage, nobody_answers=False)

    def _outages_of(self, services: Iterable[Guarded]) -> list[Outage]:
        """The outages of some services, each once."""
        found = (self._outages.get(guarded) for guarded in services)
        return [*{outage.id: outage for outage in found if outage is not None}.values()]

    @staticmethod
    def _requests(outage: Outage, **known: Any) -> None:
        assert outage.failover is not None, "it is a service's"
        outage.failover = outage.failover.model_copy(update=known)

    def _open(self, guarded: Guarded, transition: Transition, opening: Opening) -> Outage:
        outage = self._outage(guarded, transition, opening)
        same = self._same_outage(guarded, opening)
        if same is None:
            same = outage
            if opening.grace_secs > 0:
                same.tell_at, same.untold = same.opened_secs + opening.grace_secs, {}
                self.in_doubt.append(same)
            else:
                self._tell(same, Change.OPENED)
        elif guarded.by_delivery and not guarded.is_channel and same.origin.kind == CHANNEL_DOWN:
            same.takes_over(outage)
        elif same.failover is not None and not guarded.is_service:
            # So many of its requests were lost that their errors are too many.
            same.failures = max(same.failures, outage.failures)
        if same.failover is not None and opening.failed_with is not None:
            failed = (*same.failover.failed, guarded.origin.processor)
            same.failover = same.failover.model_copy(update={"failed": failed})
        same.circuits.append(guarded)
        self._outages[guarded] = same
        return same

    def _same_outage(self, guarded: Guarded, opening: Opening) -> Outage | None:
        """The outage that a circuit is part of, where another circuit began it.

        That of the chain that it is part of; and a channel and the errors that
        its failed deliveries make are one.
        """
        link = opening.link
        if guarded.is_service:
            first = opening.failed_with
            return None if first is None else self._outages.get(first)
        if link is not None and link.first is not None:
            for other, outage in self._outages.items():
                if other.origin == link.first or (
                    other.failed_with and {link.origin, link.first} & other.failed_with
                ):
                    return outage
        if opening.trigger is Trigger.MANUAL or not (guarded.is_channel or guarded.by_delivery):
            return None
        for outage in self._outages.values():
            for other in outage.circuits:
                if other.origin.processor_id == guarded.origin.processor_id and (
                    other.is_channel or (guarded.is_channel and other.by_delivery)
                ):
                    return outage
        return None

    def _close(self, guarded: Guarded, outage: Outage, transition: Transition) -> None:
        del self._outages[guarded]
        for notes in (self._answers, self._queued):
            notes.pop(guarded.origin, None)
        if len(outage.circuits) == 1:
            outage.ending = _ENDINGS.get(transition.reason, Ending.RECOVERED)
            self._tell(outage, Change.CLOSED)
            return
        outage.circuits.remove(guarded)
        if guarded.is_service and transition.reason in (Reason.PASSED, Reason.RECOVERED):
            self._tell(outage, Change.EASED)

    def _outage(self, guarded: Guarded, transition: Transition, opening: Opening) -> Outage:
        link, origin = opening.link, guarded.origin
        if guarded.is_service and link is not None and link.origin is not None:
            origin = link.origin
        chain = link.chain() if link is not None else ()
        kept = chain if len(chain) <= _MAX_STEPS else (chain[0], *chain[1 - _MAX_STEPS :])
        length = link.hop + 1 if link is not None else 0
        span = transition.span_secs
        return Outage(
            evidence=Evidence(
                origin=origin,
                trigger=opening.trigger,
                chain=kept,
                channel=opening.channel,
                answers={**self._answers.get(origin, {})},
                queued=self._queued.get(origin),
            ),
            steps_omitted=length - len(kept),
            failures=_failures(transition, opening),
            rate=(transition.failures - 1) / span if span > 0 else None,
            opened_at=self._calendar(),
            opened_secs=self._clock(),
            is_channel=opening.channel is not None,
            failover=None
            if opening.switcher is None
            else FailedOver(switcher=opening.switcher, failed=(origin.processor,)),
        )

    def _tally(self, name: str, outage: Outage | None = None) -> Tally:
        """The counts of an origin's name: an outage's own, as long as nobody is told of it."""
        if outage is not None and outage.untold is not None:
            return outage.untold.setdefault(name, Tally())
        tally = self._tallies.get(name)
        if tally is None:
            if len(self._tallies) >= self._max_names:
                name = _OTHER
            tally = self._tallies.setdefault(name, Tally())
        return tally

    #
    # Outages in doubt
    #

    def take_back(self, processor_id: int) -> tuple[tuple[Guarded, ...], int]:
        """Take back the outages of a processor of which nobody was told: they were none.

        Args:
            processor_id: The processor.

        Returns:
            Their circuits, which are to be closed, and how many messages were
            held back meanwhile.
        """
        none = [o for o in self.in_doubt if o.origin.processor_id == processor_id]
        for outage in none:
            self.in_doubt.remove(outage)
        messages = sum(outage.held_messages - outage.observed_messages for outage in none)
        return tuple(guarded for outage in none for guarded in outage.circuits), messages

    def _look_at_doubts(self) -> None:
        """Tell what has been kept back for long enough."""
        now = self._clock()
        for outage in [*self.in_doubt]:
            if now >= outage.tell_at:
                self._tell_at_last(outage)

    def _tell_at_last(self, outage: Outage) -> None:
        self.in_doubt.remove(outage)
        untold, outage.untold = outage.untold or {}, None
        for name, tally in untold.items():
            self._tally(name).add(tally)
        self._tell(outage, Change.OPENED)

    #
    # Telling
    #

    @property
    def has_news(self) -> bool:
        """Whether there are changes to tell."""
        if self.in_doubt:
            self._look_at_doubts()
        return bool(self.untold)

    def take(self, mode: Mode) -> News:
        """Take the oldest change that has not been told.

        Args:
            mode: The breaker's mode.
        """
        news = self.untold.popleft()
        incident = self._incident(news.outage, _STATES[news.change], mode)
        if news.change is Change.OPENED:
            self._tally(news.outage.name).incidents += 1
        return News(news.change, incident, news.gives_up)

    def _tell(self, outage: Outage, change: Change) -> None:
        if outage.untold is not None:
            if outage not in self.in_doubt or change in (Change.PROBED, Change.REOPENED):
                return  # it was none; or it will be told with all that has happened until then
            self._tell_at_last(outage)
        latest = self.untold[-1] if self.untold else None
        gives_up = change is Change.GAVE_UP
        if latest is not None and latest.outage is outage:
            # Two circuits that open in one breath are one piece of news, and so is
            # an opening at which it is given up.
            is_part = gives_up and _STATES[latest.change] is CircuitState.OPEN
            if change is Change.NOBODY_ANSWERS:
                is_part = latest.change is Change.OPENED
            if is_part or latest.change is change:
                self.untold.pop()
                change, gives_up = latest.change, gives_up or latest.gives_up
        self.untold.append(_News(outage, change, gives_up))

    def open_incidents(self, mode: Mode) -> tuple[Incident, ...]:
        """What has happened until now where it is not over, or has not been told."""
        outages = {news.outage.id: news.outage for news in self.untold}
        outages |= {outage.id: outage for outage in self._outages.values()}
        return tuple(
            self._incident(outage, CircuitState.CLOSED if outage.ending else outage.state, mode)
            for outage in outages.values()
        )

    @property
    def totals(self) -> tuple[Totals, ...]:
        """What has been counted since the start, for each name of an origin."""
        return tuple(tally.totals(name) for name, tally in self._tallies.items())

    def snapshot(self, guarded: Guarded, mode: Mode) -> CircuitSnapshot:
        """What anybody may know of a circuit now."""
        outage = self._outages.get(guarded)
        return CircuitSnapshot(
            origin=guarded.origin,
            state=guarded.circuit.state,
            mode=guarded.mode or mode,
            failures=guarded.circuit.failures,
            openings=guarded.openings,
            held_errors=outage.held_errors if outage is not None else 0,
            held_messages=outage.held_messages if outage is not None else 0,
            probe_in_secs=guarded.circuit.probe_in_secs,
        )

    def of_same_outage(self, guarded: Guarded) -> tuple[Guarded, ...]:
        """A circuit, and those that are open for the same outage."""
        outage = self._outages.get(guarded)
        return (guarded,) if outage is None else (*outage.circuits,)

    def begun_with(self, origin: Origin) -> Guarded | None:
        """A circuit of the outage that an incident's origin names; None where there is none."""
        for guarded, outage in self._outages.items():
            if outage.origin == origin:
                return guarded
        return None

    def has_given_up(self, guarded: Guarded) -> bool:
        """Whether its outage was given up."""
        outage = self._outages.get(guarded)
        return outage is not None and outage.has_given_up

    def secs_open(self, guarded: Guarded) -> float:
        """Seconds since its outage began."""
        outage = self._outages.get(guarded)
        return 0.0 if outage is None else self._clock() - outage.opened_secs

    def opening_remark(self, guarded: Guarded) -> str:
        """What the error that has opened a circuit says upstream."""
        outage = self._outages.get(guarded)
        if outage is None:
            return remarks.opened("0 related errors")
        match outage.trigger:
            case Trigger.RECURSION:
                return remarks.opened("errors and messages set each other off")
            case Trigger.TOO_MANY:
                return remarks.opened("too many errors of one processor")
            case Trigger.FLEET:
                return remarks.opened("the fleet knows of this outage")
            case _:
                return remarks.opened(f"{outage.failures} related errors")

    def probe_remark(self, guarded: Guarded) -> str:
        """What an error says upstream that is let through as the probe."""
        outage = self._outages.get(guarded)
        return remarks.probed(outage.held_errors if outage is not None else 0)

    def _incident(self, outage: Outage, state: CircuitState, mode: Mode) -> Incident:
        if outage.call is None:
            outage.call = self._call()
        at = outage.moment(self._clock())
        closed = state is CircuitState.CLOSED
        waits = [
            wait
            for guarded in outage.circuits
            if (wait := guarded.circuit.probe_in_secs) is not None
        ]
        return Incident(
            id=outage.id,
            origin=outage.origin,
            state=state,
            mode=_mode_of(outage, mode),
            trigger=outage.trigger,
            is_channel=outage.is_channel,
            chain=outage.steps,
            chain_omitted=outage.steps_omitted,
            failures=outage.failures,
            rate=outage.rate,
            opened_at=outage.opened_at,
            at=at,
            ended_at=at if closed else None,
            ending=outage.ending if closed else None,
            openings=outage.openings,
            held_errors=outage.held_errors,
            held_messages=outage.held_messages,
            observed_errors=outage.observed_errors,
            observed_messages=outage.observed_messages,
            held_kinds={**outage.held_kinds},
            probes=tuple(
                Probe(frame=p.frame, text=p.text, at=p.at, outcome=p.outcome) for p in outage.probes
            ),
            probe_in_secs=min(waits) if waits and not closed else None,
            gave_up=outage.has_given_up,
            advice=advise(outage.evidence),
            call=outage.call,
            failover=outage.failover,
        )


def _failures(transition: Transition, opening: Opening) -> int:
    """How many failures opened a circuit: those in its window, or those of the chain."""
    if opening.link is not None and opening.trigger is Trigger.RECURSION:
        return max(transition.failures, opening.link.failures)
    if opening.link is not None and opening.trigger is Trigger.LOG_ECHO:
        return max(opening.link.echoes, (opening.link.root or opening.link).echoed)
    return transition.failures


def _mode_of(outage: Outage, mode: Mode) -> Mode:
    """The mode of its circuits: to guard where one of them does."""
    modes = {guarded.mode or mode for guarded in outage.circuits}
    return next(one for one in Mode if one in modes)
