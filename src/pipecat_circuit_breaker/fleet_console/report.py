#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A fleet as one JSON document for programs: the names of its fields stay as they are."""

from typing import Any, Literal

from pipecat_circuit_breaker.fleet.incident import moment, rate
from pipecat_circuit_breaker.fleet.record import Outage
from pipecat_circuit_breaker.fleet_console.follow import Sight
from pipecat_circuit_breaker.fleet_console.table import instances_of

#: JSON knows no infinity, to which two times that somebody has made up may be apart.
_MOST_SECS = 1e12


def status(sight: Sight) -> Literal["ok", "open", "unreachable"]:
    """Say in one word how a fleet is.

    Args:
        sight: What is seen of it.
    """
    if sight.lost is not None or sight.knowledge is None:
        return "unreachable"
    return "open" if any(outage.is_open for outage in sight.knowledge.outages) else "ok"


def document(sight: Sight, *, fleet: str, server: str, monotonic: float) -> dict[str, Any]:
    """Put a fleet into plain values. The tokens of its processes are not among them.

    Args:
        sight: What is seen of it.
        fleet: Its name.
        server: Where its server is, without any secret.
        monotonic: The present moment, in the sight's monotonic seconds.
    """
    knowledge = sight.knowledge
    plain: dict[str, Any] = {
        "fleet": fleet,
        "server": server,
        "status": status(sight),
        "reason": sight.lost,
        "at": None,
        "mode": None,
        "outages": [],
        "history": [],
    }
    if knowledge is None:
        return plain
    now, mode = sight.now(monotonic), knowledge.mode
    plain["at"] = _time(now)
    plain["mode"] = {
        "mode": mode.mode,
        "who": mode.who,
        "why": mode.why,
        "at": None if mode.who is None else _time(mode.at),
    }
    going_on = (outage for outage in knowledge.outages if outage.state != "closed")
    plain["outages"] = [_outage(outage, now) for outage in going_on]
    plain["history"] = [_outage(outage, now) for outage in knowledge.history]
    return plain


def _outage(outage: Outage, now: float) -> dict[str, Any]:
    opened_at, end = outage.opened_at, outage.closed_at if outage.state == "closed" else now
    lease = outage.lease
    if lease is not None and lease.expires_at <= now:
        lease = None
    waits = outage.is_open and lease is None and outage.probe_at is not None
    return {
        "key": outage.key,
        "state": outage.state,
        "opened_at": _time(opened_at),
        "seen_at": _time(outage.failed_at),
        "closed_at": _time(outage.closed_at),
        "secs": None if opened_at is None or end is None else _secs(end - opened_at),
        "instances": instances_of(outage),
        "instance_names": list(outage.instances),
        "bots": outage.bots,
        "failures": outage.failures,
        "failures_per_sec": None
        if opened_at is None
        else round(rate(outage.failures, outage.failed_at - opened_at), 3),
        "openings": outage.openings,
        "next_probe_in_secs": _secs(outage.probe_at - now)
        if waits and outage.probe_at is not None
        else None,
        "probing": None if lease is None else lease.holder,
        "lost_probes": outage.lost_probes,
        "opened_by": outage.opened_by,
        "closed_by": outage.closed_by,
        "by_hand": outage.is_by_hand,
        "why": outage.why,
        "ending": outage.ending,
    }


def _time(secs: float | None) -> str | None:
    return None if secs is None else moment(secs).isoformat(timespec="milliseconds")


def _secs(secs: float) -> float:
    return round(min(max(secs, 0.0), _MOST_SECS), 3)
