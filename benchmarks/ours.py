#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The breaker's core without a pipeline: the one place that knows how its parts are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from pipecat_circuit_breaker.breaker import Breaker, Delivery
from pipecat_circuit_breaker.causality import Causality, Frame, Handling, Link
from pipecat_circuit_breaker.channel import Channel
from pipecat_circuit_breaker.fault import Mode
from pipecat_circuit_breaker.origin import Origin

KIND = "app"


@dataclass(eq=False)
class Part:
    """A processor, as far as the core looks at it."""

    id: int
    name: str


OUTPUT = Part(1, "Output#0")

_ids = count(1_000_000_000)


class Tracked:
    """A frame, as far as the core looks at it."""

    __slots__ = ("__weakref__", "id")

    def __init__(self) -> None:
        """Make a frame with an id of its own."""
        self.id = next(_ids)


def _for_ever(openings: int) -> float:
    return 1e12


class Core:
    """Causes and circuits, with a clock that is moved by hand.

    Args:
        max_errors: As `CircuitBreakerParams`, as the others.
        window_secs: As there.
        max_hops: As there.
        max_circuits: As there.
        cooldown: Seconds to stay open after so many openings in a row. By default nothing is
            probed while something else is measured.
    """

    def __init__(
        self,
        *,
        max_errors: int = 5,
        window_secs: float = 10.0,
        max_hops: int = 8,
        max_circuits: int = 256,
        cooldown: Callable[[int], float] = _for_ever,
    ) -> None:
        """Start with no circuits, at 0 s."""
        self.now = 0.0
        self.max_errors = max_errors
        self.breaker = Breaker(
            max_errors=max_errors,
            window_secs=window_secs,
            max_hops=max_hops,
            probe_timeout_secs=10.0,
            max_circuits=max_circuits,
            cooldown=cooldown,
            gives_up=lambda openings, secs: False,
            clock=lambda: self.now,
            mode=Mode.GUARD,
        )
        self.causality = Causality(max_hops=max_hops, max_text=200)
        self.channel: Channel = self.breaker.channel(OUTPUT, None)

    def message(self, frame: Frame, cause: Link | None = None) -> Link:
        """The link of a message, which another frame caused or none."""
        return self.causality.born(frame, OUTPUT, _handling(cause), at=self.now, text=KIND)

    def error(
        self,
        frame: Frame,
        *,
        text: str = "the client is gone",
        part: Part = OUTPUT,
        kind: str = "ConnectionError",
        cause: Link | None = None,
        origin: Origin | None = None,
    ) -> Link:
        """The link of an error, which another frame caused or none."""
        origin = origin or Origin.of(part, kind)
        return self.causality.born(
            frame, part, _handling(cause), at=self.now, text=text, origin=origin
        )

    def deliver(self, link: Link) -> Delivery | None:
        """Ask whether the output may send a message."""
        return self.breaker.deliver(self.channel, link, KIND)

    def fail(self, part: Part = OUTPUT, kind: str = "ConnectionError") -> None:
        """Let a message fail, and report it."""
        sent, failed = Tracked(), Tracked()
        message = self.message(sent)
        delivery = self.deliver(message)
        error = self.error(failed, part=part, kind=kind, cause=message)
        self.breaker.judge_error(error, delivery if part is OUTPUT else None)

    def open(self, part: Part = OUTPUT, kind: str = "ConnectionError") -> None:
        """Let it fail until the circuit is open."""
        for _ in range(self.max_errors):
            self.fail(part, kind)
        self.tell()

    def tell(self) -> None:
        """Take away what there is to tell."""
        while self.breaker.has_news:
            self.breaker.tell()


def _handling(cause: Link | None) -> Handling | None:
    return Handling(OUTPUT, cause, None) if cause is not None else None
