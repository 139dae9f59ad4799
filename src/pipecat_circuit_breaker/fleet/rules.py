#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What each step of a store does to a record, without any I/O.

``rules.lua`` is the same in the language of the server. One set of tests is
driven over both.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.fleet.record import (
    KEY_CHARS,
    MAX_HOLD_SECS,
    MAX_INSTANCES,
    MAX_WAIT_SECS,
    MIN_WAIT_SECS,
    TOMBSTONE_SECS,
    WHO_CHARS,
    WHY_CHARS,
    Lease,
    Outage,
)
from pipecat_circuit_breaker.fleet.store import Answer, Report

#: Outages that are over, of which the latest are kept.
MAX_HISTORY = 50

#: Bots that one report names.
MAX_BOTS = 100

#: Seconds between two news of an outage of which only the counts have changed.
NEWS_SECS = 1.0

#: Seconds that a record may be ahead of a store's clock, after a failover.
_AHEAD_SECS = 60.0

_WHO_BYTES = 96
_MAX_WAITS = 20
_MAX_FAILURES = 1_000_000  # Of one report.


def key(text: str) -> str:
    """Cut the name of an outage to what a record may hold."""
    return one_line(text, KEY_CHARS) or "?"


def who(text: str) -> str:
    """Cut the name of an instance, a process or a person."""
    # 64 of them fit into a record, in whatever script.
    return one_line(text, WHO_CHARS).encode()[:_WHO_BYTES].decode(errors="ignore")


def why(text: str) -> str:
    """Cut what somebody gives as a reason."""
    return one_line(text, WHY_CHARS)


def secs(value: float) -> float:
    """Bound a time to what a record may hold."""
    return min(MAX_HOLD_SECS, max(0.0, value))


def waits(values: Iterable[float]) -> tuple[float, ...]:
    """Bound waits, so that no fleet probes all the time, or never again."""
    return tuple(min(MAX_WAIT_SECS, max(MIN_WAIT_SECS, value)) for value in values)[
        :_MAX_WAITS
    ] or (MIN_WAIT_SECS,)


def bounded(report: Report) -> Report:
    """Cut a report to what a record may hold."""
    return replace(
        report,
        key=key(report.key),
        instance=who(report.instance),
        token=who(report.token),
        failures=min(_MAX_FAILURES, max(1, report.failures)),
        bots=tuple(who(bot) for bot in report.bots[:MAX_BOTS]),
        age_secs=math.inf if math.isnan(report.age_secs) else max(0.0, report.age_secs),
        waits=waits(report.waits),
    )


def is_sound(outage: Outage, now: float) -> bool:
    """Whether a record that anybody may have written is one that these rules leave behind.

    Args:
        outage: The record.
        now: The store's clock, in seconds; infinite where it is not known.
    """
    leased_until = outage.lease.expires_at if outage.lease is not None else None
    ahead = [
        (outage.probe_at, MAX_WAIT_SECS),
        (leased_until, MAX_HOLD_SECS),
        *((at, 0.0) for at in (outage.seen_at, outage.opened_at, outage.closed_at)),
        *((at, 0.0) for at in outage.instances.values()),
        *((at, 0.0) for at in outage.instances_before.values()),
    ]
    if any(at is not None and not 0 <= at <= now + _AHEAD_SECS + most for at, most in ahead):
        return False
    if outage.state == "open":
        return outage.opened_at is not None and (outage.is_by_hand or outage.probe_at is not None)
    return outage.state == "suspected" or outage.closed_at is not None


def accepts(outage: Outage | None, report: Report, now: float, vote_secs: float) -> bool:
    """Whether a report is taken in, see :meth:`~.store.Store.report`."""
    # Whether one is from before a closing is known as long as that is remembered.
    if report.age_secs > min(vote_secs, TOMBSTONE_SECS):
        return False
    if outage is None or not outage.is_open:
        closed_at = outage.closed_at if outage is not None else None
        return report.votes and (closed_at is None or now - report.age_secs >= closed_at)
    return True


def reported(
    outage: Outage | None,
    report: Report,
    now: float,
    *,
    min_instances: int,
    vote_secs: float,
    hold_secs: float,
    bots: int,
    instance_count: int,
) -> Answer:
    """Take in a report that was accepted.

    Args:
        outage: The record before; None where there is none.
        report: What was seen.
        now: The store's clock, in seconds.
        min_instances: Instances that it takes.
        vote_secs: Seconds for which a vote counts.
        hold_secs: Seconds for which an open outage is kept.
        bots: How many bots have seen it, with those of the report.
        instance_count: How many instances have.
    """
    if outage is None or outage.state == "closed":
        outage = Outage(
            key=report.key,
            state="suspected",
            generation=outage.generation if outage is not None else 0,
            closed_at=outage.closed_at if outage is not None else None,
            seen_at=now,
            instances_before=_instances_before(outage),
        )
    at = now - report.age_secs
    instances = dict(outage.instances)
    if not outage.is_open:
        instances = {name: seen for name, seen in instances.items() if seen > now - vote_secs}
    if report.instance in instances or len(instances) < MAX_INSTANCES:
        instances[report.instance] = max(at, instances.get(report.instance, at))
    # What stray failures have kept open would never end where no probe can close it.
    if report.votes:
        outage = outage.model_copy(
            update={"seen_at": max(at, outage.seen_at) if outage.failures else at}
        )
    outage = outage.model_copy(
        update={
            "failures": outage.failures + report.failures,
            "instances": instances,
            "instance_count": max(len(instances), instance_count),
            "bots": bots,
        }
    )
    if outage.is_open:
        if report.votes and not outage.is_by_hand:
            outage = outage.model_copy(update={"hold_secs": hold_secs})
        return Answer(outage, False)
    if len(instances) < min_instances or _is_relapse(outage, now):
        return Answer(outage.model_copy(update={"hold_secs": vote_secs}), False)
    opened = outage.model_copy(
        update={
            "state": "open",
            "generation": outage.generation + 1,
            "opened_at": now,
            "closed_at": None,
            "instances_before": {},
            "hold_secs": hold_secs,
            "openings": 1,
            "wait_secs": report.waits[0],
            "probe_at": now + report.waits[0],
            "opened_by": report.instance,
            "changed_by": report.token,
        }
    )
    return Answer(opened, True)


def leased(
    outage: Outage | None, instance: str, token: str, lease_secs: float, now: float
) -> Answer:
    """Ask to be the one that probes, see :meth:`~.store.Store.lease`."""
    if outage is None or not outage.is_open or outage.probe_at is None or now < outage.probe_at:
        return Answer(outage, False)
    lost = 0
    if outage.lease is not None:
        if now < outage.lease.expires_at:
            return Answer(outage, False)
        lost = 1
    lease = Lease(holder=instance, token=token, expires_at=now + lease_secs)
    return Answer(
        outage.model_copy(update={"lease": lease, "lost_probes": outage.lost_probes + lost}), True
    )


def settled(
    outage: Outage | None,
    token: str,
    generation: int,
    *,
    success: bool,
    waits: tuple[float, ...],
    now: float,
) -> Answer:
    """Take in the outcome of a probe, see :meth:`~.store.Store.settle`."""
    if (
        outage is None
        or not outage.is_open
        or outage.generation != generation
        or outage.lease is None
        or outage.lease.token != token
        or outage.lease.expires_at <= now
    ):
        return Answer(outage, False)
    if success:
        return Answer(
            _closed(outage, now, "recovered", outage.lease.holder).model_copy(
                update={"changed_by": token}
            ),
            True,
        )
    wait = waits[min(outage.openings, len(waits) - 1)]
    return Answer(
        outage.model_copy(
            update={
                "generation": outage.generation + 1,
                "openings": outage.openings + 1,
                "seen_at": now,
                "wait_secs": wait,
                "probe_at": now + wait,
                "lease": None,
            }
        ),
        True,
    )


def opened_by_hand(
    outage: Outage | None, name: str, who: str, why: str, hold_secs: float, now: float
) -> Answer:
    """Open by hand, see :meth:`~.store.Store.open`."""
    if outage is None or outage.state == "closed":
        generation = outage.generation if outage is not None else 0
        outage = Outage(key=name, state="suspected", generation=generation, seen_at=now)
    if not outage.is_open:
        outage = outage.model_copy(
            update={"opened_at": now, "openings": 1, "closed_at": None, "instances_before": {}}
        )
    return Answer(
        outage.model_copy(
            update={
                "state": "open",
                "generation": outage.generation + 1,
                "seen_at": now,
                "hold_secs": hold_secs,
                "wait_secs": 0.0,
                "probe_at": None,
                "lease": None,
                "opened_by": who,
                "why": why,
                "is_by_hand": True,
                "changed_by": "",
            }
        ),
        True,
    )


def closed_by_hand(outage: Outage | None, who: str, why: str, now: float) -> Answer:
    """Close by hand, see :meth:`~.store.Store.close_outage`."""
    if outage is None or not outage.is_open:
        return Answer(outage, False)
    closed = _closed(outage, now, "by_hand", who)
    return Answer(closed.model_copy(update={"why": why, "changed_by": ""}), True)


def forgotten(outage: Outage, token: str) -> Outage:
    """End an outage of which nothing was heard any more: it was over when it ran out.

    Args:
        outage: The record.
        token: Of the process whose step has found it out; empty where it was by hand.
    """
    closed = _closed(outage, outage.expires_at, "forgotten", None)
    return closed.model_copy(update={"changed_by": token})


def _instances_before(outage: Outage | None) -> dict[str, float]:
    if outage is None or outage.ending != "recovered":
        return {}
    return dict(outage.instances)


def _is_relapse(outage: Outage, now: float) -> bool:
    """Whether nobody has seen it but those whose outage has just recovered.

    Others were answered then: three machines that go on failing, because of one client
    with a call on each, would open it and close it without end.
    """
    return (
        outage.closed_at is not None
        and now < outage.closed_at + TOMBSTONE_SECS
        and outage.instances.keys() <= outage.instances_before.keys()
    )


def _closed(outage: Outage, at: float, ending: str, who: str | None) -> Outage:
    return outage.model_copy(
        update={
            "state": "closed",
            "generation": outage.generation + 1,
            "closed_at": at,
            "probe_at": None,
            "lease": None,
            "closed_by": who,
            "ending": ending,
        }
    )
