#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""One call: pipecat's own service asks two providers, of which the first fails."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pipecat.frames.frames import (
    Frame,
    InterruptionFrame,
    LLMContextFrame,
    LLMFullResponseEndFrame,
    LLMFullResponseStartFrame,
    LLMTextFrame,
)
from pipecat.pipeline.llm_switcher import LLMSwitcher
from pipecat.pipeline.service_switcher import (
    ServiceSwitcherStrategyFailover,
    ServiceSwitcherStrategyManual,
)
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.llm import OpenAILLMService

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.demo.failover.faults import NONE, Fault
from pipecat_circuit_breaker.demo.failover.provider import Provider
from pipecat_circuit_breaker.testing import running

#: Seconds of the call from one question to the next.
TURN_SECS = 4.0

#: Seconds of the call after which a first word is late.
LATE_SECS = 2.0

_EVENTS = ("on_service_failed", "on_service_recovered", "on_request_lost", "on_outage")


class Variant(StrEnum):
    """Who helps when a provider fails."""

    NOBODY = "no help"
    PIPECAT = "pipecat's failover"
    OURS = "breaker.failover()"


@dataclass(frozen=True)
class Turn:
    """What the caller heard after one question.

    Parameters:
        answered_by: The provider whose whole answer was heard, once: 0 is the first, 1 the backup.
            None if the turn is lost.
        wait_secs: Seconds of the call until the first word, if it was heard.
    """

    answered_by: int | None = None
    wait_secs: float = 0.0

    @property
    def is_heard(self) -> bool:
        """Whether the caller heard a whole answer, and nothing else."""
        return self.answered_by is not None

    @property
    def is_late(self) -> bool:
        """Whether its first word came late."""
        return self.is_heard and self.wait_secs > LATE_SECS


@dataclass
class Call:
    """What one call came to.

    Parameters:
        turns: What was heard, in order.
        requests: HTTP requests to the first and to the second provider.
        switches: How often another service became the active one.
        told: How often the application was told what.
    """

    turns: list[Turn] = field(default_factory=list)
    requests: tuple[int, int] = (0, 0)
    switches: int = 0
    told: Counter[str] = field(default_factory=Counter)

    @property
    def heard(self) -> int:
        """Turns that were heard."""
        return sum(turn.is_heard for turn in self.turns)

    @property
    def waits(self) -> list[float]:
        """Seconds of the call until the first word, of each turn that was heard."""
        return [turn.wait_secs for turn in self.turns if turn.is_heard]


class Ear(FrameProcessor):
    """Hears what leaves the switcher."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        super().__init__()
        self.ended = asyncio.Event()
        self.listen()

    def listen(self) -> None:
        """Begin a turn."""
        self.heard, self.starts, self.ends, self.first_word = "", 0, 0, 0.0
        self.ended.clear()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """Note what is said, and let all frames pass.

        Args:
            frame: The frame.
            direction: Where it goes.
        """
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMTextFrame):
            self.first_word = self.first_word or time.monotonic()
            self.heard += frame.text
        elif isinstance(frame, LLMFullResponseStartFrame):
            self.starts += 1
        elif isinstance(frame, LLMFullResponseEndFrame):
            self.ends += 1
            self.ended.set()
        await self.push_frame(frame, direction)


class Service(OpenAILLMService):
    """pipecat's own, whose client retries as often, and gives up as soon, as it is told.

    Args:
        url: Base URL of the provider.
        timeout_secs: Seconds after which the client gives up.
        retries: How often the client repeats a failed request by itself.
    """

    def __init__(self, url: str, timeout_secs: float, retries: int) -> None:
        """Make a service for one provider."""
        super().__init__(
            api_key="none", base_url=url, settings=OpenAILLMService.Settings(model="m")
        )
        self._client = self._client.with_options(timeout=timeout_secs, max_retries=retries)
        # Imported at first use, by which the first turn would be late.
        _ = self._client.chat.completions


async def play(
    fault: Fault,
    variant: Variant,
    *,
    turns: int,
    speed: float,
    retries: int = 0,
    on_turn: Callable[[Call], None] = lambda call: None,
) -> Call:
    """Make one call.

    Args:
        fault: What is wrong with the first provider.
        variant: Who helps.
        turns: How many questions the caller asks.
        speed: How many times faster than in a call the time goes.
        retries: How often OpenAI's client repeats a failed request by itself.
        on_turn: Called after each turn with what the call came to until then.

    Returns:
        What it came to.
    """
    providers = Provider("first", fault, speed), Provider("second", NONE, speed)
    urls = [await provider.start() for provider in providers]
    limit = fault.client_timeout_secs / speed
    services: Any = [Service(url, limit, retries) for url in urls]
    strategy: Any = ServiceSwitcherStrategyManual
    if variant is Variant.PIPECAT:
        strategy = ServiceSwitcherStrategyFailover
    switcher, ear, result = LLMSwitcher(services, strategy), Ear(), Call()
    front: list[FrameProcessor] = []
    if variant is Variant.OURS:
        front = [_breaker(switcher, speed, result)]

    def switched(*_: Any) -> None:
        result.switches += 1

    switcher.strategy.add_event_handler("on_service_switched", switched)
    patience = None if fault.patience_secs is None else fault.patience_secs / speed
    async with running(*front, switcher, ear) as worker:
        for number in range(turns):
            ear.listen()
            began = time.monotonic()
            context = LLMContext([{"role": "user", "content": f"question {number}"}])
            await worker.queue_frame(LLMContextFrame(context))
            try:
                await asyncio.wait_for(ear.ended.wait(), patience)
            except TimeoutError:
                pass
            await asyncio.sleep(max(0.0, began + TURN_SECS / speed - time.monotonic()))
            answers = [provider.answer_to(number) for provider in providers]
            if ear.starts == ear.ends == 1 and ear.heard in answers:
                wait_secs = (ear.first_word - began) * speed
                result.turns.append(Turn(answers.index(ear.heard), wait_secs))
            else:
                result.turns.append(Turn())
            if not ear.ended.is_set():
                await worker.queue_frame(InterruptionFrame())
                # Or what ends here would be taken for the end of the next answer.
                await asyncio.wait_for(ear.ended.wait(), 5)
            on_turn(result)
    for provider in providers:
        await provider.stop()
    result.requests = (providers[0].requests, providers[1].requests)
    return result


def _breaker(switcher: Any, speed: float, call: Call) -> CircuitBreakerProcessor:
    # What the circuits wait goes by in the time of the call.
    params = CircuitBreakerParams(clock=lambda: time.monotonic() * speed)
    breaker = CircuitBreakerProcessor(params=params)
    failover = breaker.failover(switcher, attempt_timeout_secs=5 / speed)

    def tell(event: str) -> None:
        what = event.removeprefix("on_")
        failover.add_event_handler(event, lambda *_: call.told.update([what]))

    for event in _EVENTS:
        tell(event)
    return breaker
