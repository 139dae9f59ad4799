#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The one registry of circuits: by origin, by processor, and which of them has to make room."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from pipecat_circuit_breaker._core.circuit import Circuit
from pipecat_circuit_breaker._core.origin import ANY_KIND, CHANNEL_DOWN, SERVICE_DOWN, Origin

_MAX_CLASSES = 8
_MAX_ORIGINS = 16
_NOTHING: "dict[Origin, Guarded]" = {}


class Mode(Enum):
    """What a breaker does with what it knows.

    Parameters:
        GUARD: Holds back what an open circuit holds back.
        OBSERVE: Counts, opens and tells as if it guarded, but lets everything pass.
        DISABLED: Lets everything pass and notes nothing.
    """

    GUARD = "guard"
    OBSERVE = "observe"
    DISABLED = "disabled"


@dataclass(slots=True, eq=False)
class Guarded:
    """What one circuit guards against.

    Parameters:
        origin: Which processor failed, how and where; or which channel.
        circuit: Its circuit.
        mode: Its own mode; None for the breaker's.
        openings: How often it has opened.
        fails_on: Classes of the frames at which it failed, as far as they are
            known: that others are handled well proves nothing.
        by_delivery: Whether all its failures were deliveries that failed.
        works_again: Whether the channel has been seen to recover, and nothing
            has failed since.
        over_at: When that is over without another delivery.
        is_channel: Whether it is a channel's own circuit.
        is_service: Whether it is that of a service that others stand in for.
        failed_with: Origins of the requests that such a service has failed since
            it opened, at most 16.
        by_fleet: Whether it has opened because other bots knew: its failures are then
            no evidence of this bot's own.
        fleet_closed_at: When it was last closed because other bots knew.
    """

    origin: Origin
    circuit: Circuit
    mode: Mode | None = None
    openings: int = 0
    fails_on: set[str] = field(default_factory=set)
    by_delivery: bool = True
    works_again: bool = False
    over_at: float = float("inf")
    is_channel: bool = field(init=False)
    is_service: bool = field(init=False)
    failed_with: set[Origin] = field(default_factory=set)
    by_fleet: bool = False
    fleet_closed_at: float = float("-inf")

    def __post_init__(self) -> None:
        """See whose it is, once: this is asked several times for each failure."""
        self.is_channel = self.origin.kind == CHANNEL_DOWN
        self.is_service = self.origin.kind == SERVICE_DOWN

    @property
    def is_any_kind(self) -> bool:
        """Whether it stands for all failures of its processor."""
        return self.origin.kind == ANY_KIND

    def note_failure(self, handled: str | None, *, by_delivery: bool) -> None:
        """Note at what it failed."""
        self.works_again = False
        self.by_delivery = self.by_delivery and by_delivery
        if handled is not None and len(self.fails_on) < _MAX_CLASSES:
            self.fails_on.add(handled)

    def note_failed_with(self, origin: Origin) -> None:
        """Note how a service has failed a request."""
        if len(self.failed_with) < _MAX_ORIGINS:
            self.failed_with.add(origin)

    def forget(self) -> None:
        """Let go of what was known of a failure that is over."""
        self.fails_on.clear()
        self.failed_with.clear()
        self.by_delivery, self.works_again, self.by_fleet = True, False, False


class Circuits:
    """Every circuit there is, bounded.

    Args:
        most: Circuits that are kept. Beyond it the one that was longest without
            news makes room, closed ones first.
    """

    def __init__(self, most: int) -> None:
        """Start with no circuits."""
        self._most = most
        self._all: OrderedDict[Origin, Guarded] = OrderedDict()
        # Those of them that are closed, the one that was longest without news first.
        self._closed: OrderedDict[Guarded, None] = OrderedDict()
        #: Those that are not, by processor: as a rule none, and then a message costs nothing.
        self.opened: dict[int, dict[Origin, Guarded]] = {}

    def __iter__(self) -> Iterator[Guarded]:
        """Every circuit, the one with the latest news last."""
        return iter([*self._all.values()])

    @property
    def any_open(self) -> bool:
        """Whether there is one that is not closed."""
        return bool(self.opened)

    def get(self, origin: Origin) -> Guarded | None:
        """The circuit of an origin, if it has one."""
        return self._all.get(origin)

    def open_at(self, processor_id: int) -> dict[Origin, Guarded]:
        """The circuits of a processor that are not closed."""
        return self.opened.get(processor_id, _NOTHING)

    def touch(self, origin: Origin) -> Guarded | None:
        """The circuit of an origin, of which there is news."""
        known = self._all.get(origin)
        if known is not None:
            self._all.move_to_end(origin)
            if known in self._closed:
                self._closed.move_to_end(known)
        return known

    def to_make_room(self) -> Guarded | None:
        """The circuit that has to go before another one comes; None while there is room."""
        if len(self._all) < self._most:
            return None
        return next(iter(self._closed or self._all.values()))

    def add(self, guarded: Guarded) -> None:
        """Add a circuit, which is closed."""
        self._all[guarded.origin] = guarded
        self._closed[guarded] = None

    def remove(self, guarded: Guarded) -> None:
        """Let go of a circuit that is closed."""
        del self._all[guarded.origin], self._closed[guarded]

    def moved(self, guarded: Guarded) -> None:
        """Note that a circuit has changed its state."""
        origin = guarded.origin
        if not guarded.circuit.is_closed:
            self._closed.pop(guarded, None)
            self.opened.setdefault(origin.processor_id, {})[origin] = guarded
            return
        self._closed[guarded] = None
        here = self.opened.get(origin.processor_id, _NOTHING)
        if here.pop(origin, None) is not None and not here:
            del self.opened[origin.processor_id]
