#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Causes and lineages: which tracked frame made which.

The cause of a frame is what its processor was handling when it pushed it. That
is known, never guessed from time: a context variable says what the running
task is handling, and asyncio carries it into the tasks that this task creates,
loguru's asynchronous sinks among them. Where a context does not reach (queues),
the frames themselves carry it, once there is a failure to be carried.
"""

import asyncio
import weakref
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import Any

from pipecat_circuit_breaker._core.origin import Origin, Processor
from pipecat_circuit_breaker._core.text import one_line

#: A cause is one for this many windows: a frame that waits longer has causes of its own.
WINDOWS_CARRIED = 6

# A chain passes a handful of origins and processors, however long it is.
_MAX_ORIGINS = 16
_NO_ORIGINS: frozenset[Origin] = frozenset()
_NO_COUNTS: dict[int, int] = {}

# Links of a chain that are kept, its root apart.
_MAX_KEPT = 64

_Task = "weakref.ref[asyncio.Task[Any]]"


@dataclass(slots=True, eq=False)
class Link:
    """One push of a tracked frame, and where it stands in a chain of causes.

    A frame that is pushed again has another link: what holds for one push
    says nothing about the next.

    Parameters:
        frame: Name of the frame's class.
        processor: Name of the processor that pushed it.
        text: What it says, shortened to one line.
        at: When it was pushed, on the breaker's clock.
        hop: Tracked frames between it and its root; 0 for a root.
        cause: The link that caused it. None for a root, and where the chain
            is longer than what is kept.
        root: The first of the chain; None for a root itself.
        origin: The error's own origin; None for a message.
        first: The origin of the first failure of the chain.
        origins: Origins of the failures on the way to it, at most 16.
        failures: Failures on the way, this one included.
        failed_at: How many of them were of which processor, at most 16.
        echoes: Messages on the way that only repeat what sending another wrote
            to the log, this one included.
        echoed: Such messages, from the second on, in all that it has set off, where
            it is a root.
        is_echo: Whether it is one itself; what an echo sets off is none for that.
        handled: Class of the frame that was being handled when it was pushed,
            where that is known.
        category: What sort of error it is, where its processor knows.
        pipeline: Whose frame it is: bots that are started by one another share
            tasks' contexts, and must not share causes.
        doors: The doors that it has passed, a bit for each: at one that it has
            passed before it is pushed again.
        passes: What was said of the error; None as long as nothing was.
        told_by: Who has told the latest failure, and who has told it again, in
            other words or not: one failure, several errors.
        undelivered_by: The outputs that have failed to send the message.
        queued_at: The outputs that are going to send the message behind their sound.
        observed_at: Who would have held the message back, where the mode is to
            observe; None as long as nobody would.
    """

    frame: str
    processor: str
    text: str
    at: float
    hop: int
    cause: "Link | None"
    root: "Link | None"
    origin: Origin | None
    first: Origin | None
    origins: frozenset[Origin]
    failures: int
    failed_at: dict[int, int]
    echoes: int = 0
    echoed: int = 0
    is_echo: bool = False
    handled: str | None = None
    category: str | None = None
    pipeline: object = None
    doors: int = 0
    passes: bool | None = None
    told_by: frozenset[int] = frozenset()
    undelivered_by: frozenset[int] = frozenset()
    queued_at: frozenset[int] = frozenset()
    observed_at: int | None = None

    @property
    def is_error(self) -> bool:
        """Whether the frame is an error; otherwise it is a message."""
        return self.origin is not None

    def chain(self) -> "tuple[Link, ...]":
        """The links from the oldest that is kept to this one, its root first."""
        links = [self]
        while (cause := links[-1].cause) is not None:
            links.append(cause)
        if self.root is not None and links[-1] is not self.root:
            links[_MAX_KEPT - 1 :] = [self.root]
        return tuple(reversed(links))


@dataclass(slots=True, eq=False)
class Note:
    """What a task is doing: one processor that handles one frame.

    Parameters:
        processor: The processor that handles.
        link: On whose account: the frame's own link where it is tracked, the
            link that it carries where it is not; None for neither.
        task: The task it happens in. Held weakly: a note outlives its task in
            the contexts of those that the task has created.
        outer: What the task was doing around this (a direct-mode processor
            handles a frame inside the task of whoever pushed it), or what was
            being done where the task was created.
        handles: Name of the frame's class.
        delivery: The delivery that this is, where it is one.
        peer: The worker behind a bus that the frame comes from.
    """

    processor: Processor
    link: Link | None
    task: "weakref.ref[asyncio.Task[Any]] | None"
    outer: "Note | None" = None
    handles: str | None = None
    delivery: Any = None
    peer: str | None = None

    def is_of(self, task: "asyncio.Task[Any] | None") -> bool:
        """Whether it was made in this task, rather than inherited by it."""
        if self.task is None or task is None:
            return self.task is None and task is None
        return self.task() is task


_noted: ContextVar[Note | None] = ContextVar("pipecat_circuit_breaker", default=None)

# With which classes of frames a task has answered the failure that it was born of.
_answered: ContextVar[tuple[Note, set[type]] | None] = ContextVar(
    "pipecat_circuit_breaker_answered", default=None
)


#: What the running task is handling. None where nothing is noted: then an
#: untracked frame needs no note either. The bound method itself, because this
#: is asked for each frame at each processor.
noted = _noted.get


def begin(processor: Processor, link: Link | None, handles: str | None = None) -> None:
    """Note that a processor's own task has begun to handle a frame.

    Args:
        processor: The processor that handles it.
        link: On whose account, None for nobody's.
        handles: Name of the frame's class, where somebody wants to know.
    """
    if link is None and handles is None:
        _noted.set(None)
    else:
        task = running_task()
        own = None if task is None else weakref.ref(task)
        _noted.set(Note(processor, link, own, None, handles))


def nest(
    processor: Processor,
    link: Link | None,
    handles: str | None = None,
    *,
    delivery: Any = None,
    peer: str | None = None,
) -> "Token[Note | None]":
    """Note that a task does something inside of what it is doing already.

    Args:
        processor: The processor that handles a frame.
        link: On whose account, None for nobody's.
        handles: Name of the frame's class.
        delivery: The delivery that this is, where a channel delivers a message.
        peer: The worker behind a bus that the frame comes from.

    Returns:
        What :func:`restore` takes.
    """
    task = running_task()
    outer = own = _noted.get()
    while own is not None and own.is_of(task):
        if own.processor is processor:
            # It is over: one that raised has left its note.
            outer = own.outer
            break
        own = own.outer
    if outer is not None and outer.outer is not None and not outer.is_of(task):
        # Only the innermost of what was inherited can be a cause here.
        outer = replace(outer, outer=None)
    return _noted.set(Note(processor, link, _weakly(task), outer, handles, delivery, peer))


def end(processor: Processor) -> None:
    """Note that a processor is done: the task goes on as before."""
    top = _noted.get()
    if top is not None and top.processor is processor and top.is_of(running_task()):
        _noted.set(top.outer)


def silence() -> "Token[Note | None]":
    """Begin a stretch whose frames and log lines have no cause: what the breaker itself says.

    Returns:
        What :func:`restore` takes to end the stretch.
    """
    return _noted.set(None)


def restore(token: "Token[Note | None]") -> None:
    """Go back to before :func:`begin` or :func:`silence`."""
    _noted.reset(token)


def note_of(processor: Processor) -> Note | None:
    """What a processor is doing where it pushes something now.

    In a processor's own task that is what this processor is handling there. In
    any other task (one that it created, a log sink, another processor that
    calls its methods) it is what that task is doing, or was created by.
    """
    top = own = _noted.get()
    task = running_task()
    while own is not None and own.is_of(task):
        if own.processor is processor:
            return own
        own = own.outer
    return top


def delivering() -> Note | None:
    """The delivery that the running task is part of, or was created by."""
    note = _noted.get()
    while note is not None and note.delivery is None:
        note = note.outer
    return note


def running_task() -> "asyncio.Task[Any] | None":
    """The running task, None where there is no event loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread: a loguru sink with enqueue=True, an executor
        return None


def descend(link: Link, cause: Link, *, repeats: bool = False) -> None:
    """Put a link behind its cause.

    Args:
        link: A link that is a root as yet.
        cause: Its cause.
        repeats: Whether it only reports again what its cause reports.
    """
    link.cause, link.root, link.hop = cause, cause.root or cause, cause.hop + 1
    link.echoes += cause.echoes
    link.told_by = cause.told_by
    if link.hop > _MAX_KEPT and link.hop % _MAX_KEPT == 0:
        link.chain()[1 - _MAX_KEPT].cause = None
    if not cause.failures:
        return
    own = link.origin
    link.first = cause.first
    if own is None or repeats:
        link.origins, link.failures = cause.origins, cause.failures
        link.failed_at = cause.failed_at
        return
    link.failures = cause.failures + 1
    counts = cause.failed_at
    if own.processor_id in counts or len(counts) < _MAX_ORIGINS:
        counts = {**counts, own.processor_id: counts.get(own.processor_id, 0) + 1}
    link.failed_at = counts
    link.origins = cause.origins
    if own not in cause.origins and len(cause.origins) < _MAX_ORIGINS:
        link.origins = cause.origins | {own}


def _has_answered(note: Note, frame: type) -> bool:
    """Whether a task that was born of a failure has answered it with such a frame already.

    Its first frame of a sort is its answer. What it sends of that sort later is
    its own: a backup that was started by an error goes on to work.
    """
    answered = _answered.get()
    if answered is None or answered[0] is not note:
        answered = (note, set())
        _answered.set(answered)
    if frame in answered[1]:
        return True
    answered[1].add(frame)
    return False


def _weakly(task: "asyncio.Task[Any] | None") -> "weakref.ref[asyncio.Task[Any]] | None":
    return None if task is None else weakref.ref(task)


class _Alive(weakref.ref[Any]):
    """A frame that is alive, and what is known of it."""

    __slots__ = ("arrival", "key", "link", "peer")
    key: int
    link: Link | None
    #: Whether it comes anew through a queue, on account of its link.
    arrival: bool
    peer: str | None


class Causality:
    """The links of all frames that are alive and have one.

    What is known of a frame is known of this object, not of its ``id``: copies
    and the peers of a bus share ids. A link lives as long as its frame, or as
    long as a frame that it caused. Nothing is kept of frames that pipecat has
    let go.

    Args:
        window_secs: Length of the window. A cause is one for six of them; for
            a task that was created meanwhile for one.
        max_text: Characters of each text that are kept.
    """

    def __init__(self, *, window_secs: float, max_text: int) -> None:
        """Start with no links."""
        self._inherited_secs = window_secs
        self._carried_secs = WINDOWS_CARRIED * window_secs
        self._max_text = max_text
        alive = self._alive = dict[int, _Alive]()

        def gone(frame: _Alive) -> None:
            if alive.get(frame.key) is frame:
                del alive[frame.key]

        self._gone = gone

    def __len__(self) -> int:
        return len(self._alive)

    def link_of(self, frame: object) -> Link | None:
        """The link that a frame has, or carries; None where it has none."""
        alive = self._alive.get(id(frame))
        return alive.link if alive is not None and alive() is frame else None

    def cause(self, note: Note | None, frame: type, *, now: float) -> Link | None:
        """The link on whose account a frame is pushed.

        Args:
            note: What its pusher is doing.
            frame: The frame's class.
            now: The time.

        Returns:
            The cause; None where the frame is a root, where the cause is too
            old, and where a task that was born of a failure has answered it.
        """
        link = note.link if note is not None else None
        if note is None or link is None or link.pipeline is not self:
            return None
        if note.is_of(running_task()):
            return link if now - link.at < self._carried_secs else None
        if now - link.at >= self._inherited_secs:
            return None
        if link.failures and _has_answered(note, frame):
            return None
        return link

    def carry(
        self, frame: object, cause: Link | None, *, arrives: bool = False, peer: str | None = None
    ) -> None:
        """Let a frame carry its cause where no context does.

        Args:
            frame: Any frame.
            cause: On whose account it is sent; None for nobody's.
            arrives: Whether it comes anew at the other end: for a tracked frame
                that is another push, whether it has been seen before or not.
            peer: The worker behind a bus that it comes from.
        """
        alive = self._keep(frame, cause)
        alive.arrival, alive.peer = arrives, peer

    def arrives(self, frame: object) -> bool:
        """Whether a frame comes anew through a queue; asked once."""
        alive = self._alive.get(id(frame))
        if alive is None or not alive.arrival or alive() is not frame:
            return False
        alive.arrival = False
        return True

    def passes(self, frame: object, door: int) -> bool:
        """Note that a frame passes a door where it has not been before.

        Args:
            frame: A tracked frame.
            door: What stands for the door.

        Returns:
            Whether it does. Not where it is pushed again, comes anew through a
            queue, or has no link yet.
        """
        alive = self._alive.get(id(frame))
        if alive is None or alive.arrival or alive() is not frame:
            return False
        link = alive.link
        if link is None or link.doors & door:
            return False
        link.doors |= door
        return True

    def peer_of(self, frame: object) -> str | None:
        """The worker behind a bus that a frame comes from."""
        alive = self._alive.get(id(frame))
        return alive.peer if alive is not None and alive() is frame else None

    def born(
        self,
        frame: object,
        processor: Processor,
        cause: Link | None,
        *,
        at: float,
        text: object,
        origin: Origin | None = None,
        category: str | None = None,
        handled: str | None = None,
        repeats: bool = False,
    ) -> Link:
        """Give a push of a tracked frame its link.

        Args:
            frame: A tracked frame.
            processor: The processor that pushes it.
            cause: On whose account it is pushed; None makes it a root.
            at: The time.
            text: What the frame says.
            origin: The origin of the error; None where the frame is a message.
            category: What sort of error it is, where its processor knows.
            handled: Class of the frame that was being handled.
            repeats: Whether an error only reports again what its cause reports.
        """
        link = Link(
            type(frame).__name__,
            processor.name,
            one_line(text, self._max_text),
            at,
            0,
            None,
            None,
            origin,
            origin,
            _NO_ORIGINS if origin is None else frozenset((origin,)),
            0 if origin is None else 1,
            _NO_COUNTS if origin is None else {origin.processor_id: 1},
            handled=handled,
            category=category,
            pipeline=self,
        )
        if cause is not None:
            descend(link, cause, repeats=repeats)
        alive = self._keep(frame, link)
        alive.arrival = False
        return link

    def _keep(self, frame: object, link: Link | None) -> _Alive:
        alive = self._alive.get(id(frame))
        if alive is None or alive() is not frame:
            alive = _Alive(frame, self._gone)
            alive.key, alive.arrival, alive.peer = id(frame), False, None
            self._alive[id(frame)] = alive
        alive.link = link
        return alive
