#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""An outage of a fleet in words, the same in the terminal and on a page."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipecat_circuit_breaker.fleet.incident import FleetIncident
from pipecat_circuit_breaker.show.story import duration, in_utc, per_second

#: Instances that are named; the others are counted.
_NAMED = 8

_ENDINGS = {
    "recovered": "ended when a probe was answered",
    "by_hand": "ended by hand",
    "forgotten": "ended because nobody reported it any more",
}


@dataclass(frozen=True)
class FleetStory:
    """What there is to tell of an outage of a fleet.

    Parameters:
        id: The incident's.
        state: ``open`` or ``closed``.
        title: What failed.
        facts: Whose it is, when it opened, for how long, and how it ended or goes on.
        advice: What to do.
        advice_kind: What it comes down to.
        seen: Who saw it, in pairs of what and which.
        tried: What came of its probes, in one line.
        decided: Who opened and closed it, and why, in pairs.
        as_of: A remark where it all goes on after this copy; else empty.
    """

    id: str
    state: str
    title: str
    facts: tuple[str, ...]
    advice: str
    advice_kind: str
    seen: tuple[tuple[str, str], ...]
    tried: str
    decided: tuple[tuple[str, str], ...]
    as_of: str


def tell_of_fleet(incident: FleetIncident) -> FleetStory:
    """Put an outage of a fleet into words.

    Args:
        incident: The outage.
    """
    return FleetStory(
        id=incident.id,
        state=incident.state,
        title=incident.key,
        facts=tuple(_facts(incident)),
        advice=" ".join(_advice(incident)),
        advice_kind="outage of the fleet",
        seen=(
            ("instances", _instances(incident)),
            ("bots", f"about {incident.bots:,}"),
            ("failures", f"{incident.failures:,} reported, {per_second(incident.rate)}"),
            ("opened", in_utc(incident.opened_at)),
            ("seen last", in_utc(incident.seen_at)),
        ),
        tried=_tried(incident),
        decided=tuple(_decided(incident)),
        as_of=_as_of(incident),
    )


def _facts(incident: FleetIncident) -> Iterator[str]:
    yield f"outage of the fleet {incident.fleet}"
    yield f"opened {in_utc(incident.opened_at)}"
    if incident.ended_at is None:
        if incident.secs:
            yield f"not over after {duration(incident.secs)}"
        return
    yield f"lasted {duration(incident.secs)}"
    if incident.ending is not None:
        yield _ENDINGS[incident.ending]


def _advice(incident: FleetIncident) -> Iterator[str]:
    if incident.is_by_hand and incident.ended_at is None:
        yield "It was opened by hand, so nobody probes: close it by hand when it is over."
    elif incident.ended_at is None:
        yield (
            "Every bot knows: a failover asks another service, and without one a bot is quiet after"
            " its first failure. Look at the provider that the name tells: its status page, your"
            " account and region there."
        )
    elif incident.ending == "forgotten":
        yield (
            "Nobody has seen it end: no bot has used what failed. Look whether it works before it"
            " is needed."
        )
    else:
        yield "It is over for all bots."
    if incident.lost_probes:
        yield "Probes were lost: look whether processes were killed or hung meanwhile."


def _instances(incident: FleetIncident) -> str:
    count = max(incident.instance_count, len(incident.instances))
    named = incident.instances[:_NAMED]
    if not named:
        return f"{count:,}"
    more = count - len(named)
    return f"{count:,}: {', '.join(named)}{f' and {more:,} more' if more else ''}"


def _tried(incident: FleetIncident) -> str:
    failed = max(0, incident.openings - 1)
    counts = [f"{failed:,} failed"] if failed else []
    if incident.lost_probes:
        counts.append(f"{incident.lost_probes:,} lost with who was to probe")
    if incident.ending == "recovered":
        counts.append("the last one was answered")
    return ", ".join(counts) or "none"


def _decided(incident: FleetIncident) -> Iterator[tuple[str, str]]:
    by_hand = " by hand" if incident.is_by_hand else ""
    if incident.opened_by:
        yield "opened", f"{incident.opened_by}{by_hand}"
    if incident.closed_by:
        by_hand = " by hand" if incident.ending == "by_hand" else ""
        yield "closed", f"{incident.closed_by}{by_hand}"
    if incident.why:
        yield "why", incident.why


def _as_of(incident: FleetIncident) -> str:
    if incident.ended_at is not None:
        return ""
    return f"Written {in_utc(incident.at)}, while it went on: what came later is not in it."
