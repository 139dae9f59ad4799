#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Causes and lineages: which tracked frame made which.

The cause of a frame is what its processor was handling when it pushed it. That
is known, never guessed from time: a context variable says what the running
task is handling, and asyncio carries it into the tasks that this task creates,
loguru's asynchronous sinks among them.
"""

import asyncio
import weakref
from contextvars import ContextVar, Token
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from pipecat_circuit_breaker.origin import FEEDBACK, Origin, Processor, one_line

# A chain passes a handful of origins, however long it is.
_MAX_ORIGINS = 16
_NO_ORIGINS: dict[Origin, int] = {}


class Frame(Protocol):
    """What causality needs to know of a frame."""

    id: int


@dataclass(slots=True, eq=False)
class Link:
    """A tracked frame, and where it stands in a chain of causes.

    Parameters:
        frame: Name of the frame's class.
        processor: Name of the processor that pushed it.
        text: What it says, shortened to one line.
        at: When it was pushed, on the breaker's clock.
        hop: Tracked frames between it and its root; 0 for a root.
        cause: The link that caused it. None for a root, and where the chain
            is longer than what is kept.
        origins: Origins of the failures on the way to it, in the order in which
            they were first passed, each with how often it was passed.
        origin: The one that was passed last: an error's own.
        is_error: Whether the frame is an error; otherwise it is a message.
        category: What sort of error it is, where its processor knows.
        pipeline: Whose frame it is: bots that are started by one another share
            tasks' contexts, and must not share causes.
        passes: The verdict, once there is one: it holds everywhere.
    """

    frame: str
    processor: str
    text: str
    at: float
    hop: int
    cause: "Link | None"
    origins: dict[Origin, int]
    origin: Origin | None
    is_error: bool
    category: str | None = None
    pipeline: object = None
    passes: bool | None = None

    def chain(self) -> "tuple[Link, ...]":
        """The links from the oldest that is kept to this one."""
        links = [self]
        while (cause := links[-1].cause) is not None:
            links.append(cause)
        return tuple(reversed(links))

    def descends_from(self, other: "Link") -> bool:
        """Whether the other link is among the causes of this one."""
        return any(link is other for link in self.chain()[:-1])

    def restart(self) -> None:
        """Become a root: what this frame causes from now on belongs to no earlier chain."""
        self.hop, self.cause, self.origins = 0, None, {}


@dataclass(slots=True, eq=False)
class Handling:
    """One processor that handles one frame in one task.

    Parameters:
        processor: The processor that handles.
        link: The frame's link; None for a frame that is not tracked.
        task: The task it happens in.
        outer: What the task was doing around this (only direct-mode processors
            nest: they handle a frame inside the task of whoever pushed it), or
            what was being handled where the task was created.
        delivery: The delivery that this handling is, where it is one.
    """

    processor: Processor
    link: Link | None
    task: "asyncio.Task[Any] | None"
    outer: "Handling | None" = None
    delivery: Any = None


_handling: ContextVar[Handling | None] = ContextVar("pipecat_circuit_breaker", default=None)


#: What the running task is handling. None where nothing is noted: then an
#: untracked frame needs no note either. The bound method itself, because this
#: is asked for each frame at each processor.
noted = _handling.get


def begin(
    processor: Processor, link: Link | None, delivery: Any = None
) -> "Token[Handling | None] | None":
    """Note that the running task has begun to handle a frame.

    Args:
        processor: The processor that handles it.
        link: The frame's link, None for a frame that is not tracked.
        delivery: The delivery that this is, where a channel delivers a message.

    Returns:
        What :func:`restore` takes; None where there was nothing to note.
    """
    top = _handling.get()
    if link is None and (top is None or (top.processor is processor and top.outer is None)):
        return _handling.set(None) if top is not None else None
    task = asyncio.current_task()
    outer = own = top
    while own is not None and own.task is task:
        if own.processor is processor:
            # A processor handles one frame at a time in a task, so this one
            # takes the place of the last, and whatever nested in that is over.
            outer = own.outer
            break
        own = own.outer
    if outer is None and link is None:
        return _handling.set(None)
    if outer is not None and outer.task is not task and outer.outer is not None:
        # Only the innermost of what was inherited can be a cause here.
        outer = Handling(outer.processor, outer.link, outer.task)
    return _handling.set(Handling(processor, link, task, outer, delivery))


def end(processor: Processor) -> None:
    """Note that a processor is done: the task goes on as before."""
    top = _handling.get()
    if top is not None and top.processor is processor and top.task is asyncio.current_task():
        _handling.set(top.outer)


def forget() -> "Token[Handling | None]":
    """Begin a stretch whose frames and log lines have no cause: what the breaker itself says.

    Returns:
        What :func:`restore` takes to end the stretch.
    """
    return _handling.set(None)


def restore(token: "Token[Handling | None] | None") -> None:
    """Go back to before :func:`begin` or :func:`forget`."""
    if token is not None:
        _handling.reset(token)


def current(processor: Processor) -> Handling | None:
    """The handling on whose account a processor pushes something now.

    In a processor's own task that is what this processor is handling there. In
    any other task (one that it created, a log sink, another processor that
    calls its methods) it is what that task is doing, or was created by.
    """
    top = own = _handling.get()
    task = _running_task()
    while own is not None and own.task is task:
        if own.processor is processor:
            return own
        own = own.outer
    return top


def answered() -> Link | None:
    """The error that is being handled where the running task is, or was created."""
    top = _handling.get()
    return top.link if top is not None and top.link is not None and top.link.is_error else None


def _running_task() -> "asyncio.Task[Any] | None":
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop in this thread: a loguru sink with enqueue=True
        return None


class _Alive(weakref.ref[Any]):
    """A frame that is alive, and its link."""

    __slots__ = ("frame_id", "link")
    frame_id: int
    link: Link


class Causality:
    """The links of all tracked frames that are alive.

    A link lives as long as its frame, or as long as a frame that it caused.
    Nothing is kept of frames that pipecat has let go.

    Args:
        max_hops: Chains are kept at least this long twice over; older links are let go.
        max_text: Characters of each text that are kept.
    """

    def __init__(self, *, max_hops: int, max_text: int) -> None:
        """Start with no links."""
        self._kept_hops = 2 * max_hops
        self._max_text = max_text
        alive = self._alive = dict[int, _Alive]()

        def gone(frame: _Alive) -> None:
            alive.pop(frame.frame_id, None)

        self._gone = gone

    def __len__(self) -> int:
        return len(self._alive)

    def link_of(self, frame: Frame) -> Link | None:
        """The link of a frame, None where it has none yet."""
        alive = self._alive.get(frame.id)
        return alive.link if alive is not None else None

    def born(
        self,
        frame: Frame,
        processor: Processor,
        handling: Handling | None,
        *,
        at: float,
        text: object,
        origin: Origin | None = None,
        category: str | None = None,
    ) -> Link:
        """Give a frame its link when it is first seen.

        Args:
            frame: A tracked frame without a link.
            processor: The processor that pushes it.
            handling: On whose account it is pushed; None makes it a root.
            at: The time.
            text: What the frame says.
            origin: The origin of the error; None where the frame is a message.
            category: What sort of error it is, where its processor knows.
        """
        cause = handling.link if handling is not None else None
        passed = origin
        origins, last, hop = _NO_ORIGINS, origin, 0
        if cause is not None and cause.pipeline is not self:
            cause = None
        if cause is not None and handling is not None:
            origins, hop = cause.origins, cause.hop + 1
            if passed is None and not cause.is_error:
                # A message that the handling of a message set off: nothing has
                # failed here, but if it goes on like this it is a loop all the same.
                passed = Origin.of(handling.processor, FEEDBACK)
            last = passed or cause.origin
        if passed is not None:
            origins = {**origins, passed: origins.get(passed, 0) + 1}
            if len(origins) > _MAX_ORIGINS:
                # Never the first, which is what the chain began with.
                del origins[next(islice(origins, 1, None))]
        link = Link(
            type(frame).__name__,
            processor.name,
            one_line(text, self._max_text),
            at,
            hop,
            cause,
            origins,
            last,
            origin is not None,
            category,
            self,
        )
        if hop and hop % self._kept_hops == 0:
            link.chain()[-self._kept_hops].cause = None
        alive = _Alive(frame, self._gone)
        alive.frame_id, alive.link = frame.id, link
        self._alive[frame.id] = alive
        return link
