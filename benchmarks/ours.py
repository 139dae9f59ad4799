#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The breaker's core without a pipeline: the one place that knows how its parts are called."""

from __future__ import annotations

from collections.abc import Callable

from pipecat_circuit_breaker._core.breaker import Breaker, Delivery
from pipecat_circuit_breaker._core.causality import Causality, Link
from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.origin import Origin
from tests.support.core import Frame, Processor

KIND = "app"

#: Class of the frames at which the output fails, and which it is asked about.
HANDLED = "Frame"

OUTPUT = Processor("Output#0")


def _for_ever(openings: int) -> float:
    return 1e12


class Core:
    """Causes and circuits, with a clock that is moved by hand.

    Args:
        max_errors: As `CircuitBreakerParams`, as the others.
        window_secs: As there.
        max_circuits: As there.
        cooldown: Seconds to stay open after so many openings in a row, for channels too. By
            default nothing is probed while something else is measured.
    """

    def __init__(
        self,
        *,
        max_errors: int = 5,
        window_secs: float = 10.0,
        max_circuits: int = 256,
        cooldown: Callable[[int], float] = _for_ever,
    ) -> None:
        """Start with no circuits, at 0 s."""
        self.now = 0.0
        self.max_errors = max_errors
        self.breaker = Breaker(
            max_errors=max_errors,
            window_secs=window_secs,
            probe_timeout_secs=10.0,
            max_circuits=max_circuits,
            cooldown=cooldown,
            channel_cooldown=cooldown,
            gives_up=lambda openings, secs: False,
            clock=lambda: self.now,
            mode=Mode.GUARD,
        )
        self.causality = Causality(window_secs=window_secs, max_text=200)
        self.output = self.breaker.output(OUTPUT)

    def message(self, frame: object, cause: Link | None = None) -> Link:
        """The link of a message, which another frame caused or none."""
        return self.causality.born(frame, OUTPUT, cause, at=self.now, text=KIND)

    def error(
        self,
        frame: object,
        *,
        text: str = "the client is gone",
        part: Processor = OUTPUT,
        kind: str = "ConnectionError",
        cause: Link | None = None,
        origin: Origin | None = None,
    ) -> Link:
        """The link of an error, which another frame caused or none."""
        origin = origin or Origin.of(part, kind)
        return self.causality.born(
            frame,
            part,
            cause,
            at=self.now,
            text=text,
            origin=origin,
            handled=HANDLED if cause is not None else None,
        )

    def judge(self, link: Link) -> bool:
        """Ask whether a message may come to the output."""
        return self.breaker.judge_message(OUTPUT.id, link, KIND, HANDLED)

    def deliver(self, link: Link, destination: str | None = None) -> Delivery | None:
        """Ask whether the output may send a message, and to whom."""
        return self.breaker.deliver(self.output, destination, link, KIND, handled=HANDLED)

    def fail(self, part: Processor = OUTPUT, kind: str = "ConnectionError") -> None:
        """Let a message fail, and report it."""
        sent, failed = Frame(), Frame()
        message = self.message(sent)
        delivery = self.deliver(message) if part is OUTPUT else None
        if delivery is not None:
            delivery.failed()
        error = self.error(failed, part=part, kind=kind, cause=message)
        self.breaker.judge_error(error, by_delivery=delivery is not None)

    def open(self, part: Processor = OUTPUT, kind: str = "ConnectionError") -> None:
        """Let it fail until the circuit is open."""
        for _ in range(self.max_errors):
            self.fail(part, kind)
        self.tell()

    def tell(self) -> None:
        """Take away what there is to tell."""
        while self.breaker.has_news:
            self.breaker.take_news()
