#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where a fleet keeps what it knows: one interface, and what each method of it means.

A store decides by its own clock alone, and one step at a time, whoever asks:
that is what makes one opening, one lease and one closing out of the reports of
thousands of bots.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from pipecat_circuit_breaker.fleet.record import FleetMode, ModeSet, Outage

__all__ = ["Answer", "Knowledge", "Report", "Store", "StoreUnavailable"]


class StoreUnavailable(Exception):
    """The store cannot be asked now, for whatever reason; the text says which."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one process has seen of one failure since it last reported it.

    Parameters:
        key: What has failed, at most 200 characters.
        instance: The machine or pod.
        token: That of the process.
        votes: Whether a bot's own evidence has opened its circuit, or whether
            bots have only failed at what the fleet knows of already: that is counted,
            and keeps no outage open.
        failures: How many failures.
        bots: Names of the bots that failed, unique in the fleet; at most 100.
        age_secs: How old the latest of them is, on the clock of the process.
        waits: Seconds to wait for the first probe, for the second, and so on; the
            last one goes on. At least one.
    """

    key: str
    instance: str
    token: str
    votes: bool
    failures: int
    bots: tuple[str, ...]
    age_secs: float
    waits: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a step has come to.

    Parameters:
        outage: The record after the step; None where there is none.
        did: Whether the step did what it is for: a report that has opened the
            outage (one of all), a lease that was granted, an outcome that was
            counted, a command that has changed something.
    """

    outage: Outage | None
    did: bool


@dataclass(frozen=True, slots=True)
class Knowledge:
    """All that a store knows at one moment.

    Parameters:
        now: The store's clock, in seconds.
        mode: What somebody wants the fleet to do.
        outages: Every record: suspected, open, and those closed within a minute.
        history: The latest outages that are over, the last one first; at most 50.
    """

    now: float
    mode: ModeSet
    outages: tuple[Outage, ...]
    history: tuple[Outage, ...] = ()


class Store(Protocol):
    """Keeps the outages of one fleet.

    Every method raises :class:`StoreUnavailable` where the store cannot be
    reached or does not understand, and nothing else; each may be cancelled at
    any turn of the loop, and then has either been carried out or not.
    """

    async def report(
        self, report: Report, *, min_instances: int, vote_secs: float, hold_secs: float
    ) -> Answer:
        """Take in a report.

        One that is older than ``vote_secs`` is refused; so is one from before the
        outage was last closed, and one without a vote where nothing is open. Votes
        of ``min_instances`` instances within ``vote_secs`` open; within a minute after
        an outage has recovered, only where one of them had not seen that. A suspicion
        is kept for ``vote_secs``, or for the rest of that minute. Beyond 256 records, no further one is begun.

        Args:
            report: What was seen.
            min_instances: Instances that it takes.
            vote_secs: Seconds for which a vote counts.
            hold_secs: Seconds for which an open outage is kept after the last vote
                or failed probe; then it is forgotten.
        """
        ...

    async def lease(self, key: str, instance: str, token: str, lease_secs: float) -> Answer:
        """Ask to be the one that probes.

        Granted where the outage is open, its wait is over, and nobody holds a
        lease that has not run out by its own time. That one ran out before is
        counted as a lost probe.

        Args:
            key: The outage.
            instance: Who asks.
            token: Unique to this request; it begins with that of the process.
            lease_secs: Seconds for which it is granted.
        """
        ...

    async def settle(
        self, key: str, token: str, generation: int, *, success: bool, waits: tuple[float, ...]
    ) -> Answer:
        """Report the outcome of a probe.

        Void without the lease, after the lease has run out, and after another opening.

        Args:
            key: The outage.
            token: That of the lease.
            generation: The outage's generation when the lease was granted.
            success: True closes for all; False takes the next wait.
            waits: See :class:`Report`.
        """
        ...

    async def open(self, key: str, who: str, why: str, hold_secs: float) -> Answer:
        """Open by hand, until closed by hand or nobody has voted for ``hold_secs``.

        Nobody probes it. Beyond 256 records it is not done.
        """
        ...

    async def close_outage(self, key: str, who: str, why: str) -> Answer:
        """Close by hand."""
        ...

    async def set_mode(self, mode: FleetMode, who: str, why: str, hold_secs: float) -> None:
        """Say what the bots do with what the fleet knows, for ``hold_secs`` seconds."""
        ...

    async def read(self, token: str = "") -> Knowledge:
        """Read all there is, at once.

        What has run out by then is put away: an outage ends as ``forgotten`` by the
        step that finds it so, whichever it is.

        Args:
            token: Of the process that reads. Who only looks has none: then nothing is
                put away, and what has run out is left out of the answer.
        """
        ...

    def news(self) -> AbstractAsyncContextManager[AsyncIterator[Outage | ModeSet | None]]:
        """Hear of every change from now on, as whole records.

        Entering subscribes; what was before has to be read afterwards. None says
        that nothing has changed and the connection is well. The
        iterator raises :class:`StoreUnavailable` where the connection is lost.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. The store may be used again afterwards."""
        ...
