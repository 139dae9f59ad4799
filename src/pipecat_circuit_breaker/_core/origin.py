#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Who failed, how and where: what makes two errors the same failure."""

from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Protocol

from pipecat_circuit_breaker._core import remarks
from pipecat_circuit_breaker._core.text import one_line, template

#: Kind of the circuit that stands for all failures of one processor.
ANY_KIND = "any kind"

#: Kind of a channel's own circuit: deliveries failed in a row.
CHANNEL_DOWN = "channel down"

#: Kind of the circuit of a service that another stands in for: it has failed a request.
SERVICE_DOWN = "service down"

#: Under this name is counted and told that no service of a switcher answers.
NOBODY_ANSWERS = "nobody answers"

#: Kind of a loop through the log: sending writes a line, and the line is sent.
LOG_ECHO = "log echo"

#: Under this name is counted what is not sent because nobody is connected.
NOBODY_CONNECTED = "nobody connected"

_NAME_CHARS = 100
_KIND_CHARS = 256
_WHOM_CHARS = 100

# An exception that is raised again and again grows a longer traceback each time.
_MAX_TRACEBACK = 1_000


class Processor(Protocol):
    """What an origin needs to know of a frame processor."""

    @property
    def id(self) -> int:
        """Unique in the process."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a failure: which processor failed, how, and where.

    Parameters:
        processor_id: pipecat's id of the processor, unique in the process even
            where two processors bear one name.
        processor: The processor's name.
        processor_class: The processor's class: the same in every process.
        kind: Exception type; without one, the error's category; without
            either, its text with everything variable taken out. ``any kind``
            for all failures of a processor together, ``channel down`` for a
            channel's own circuit, ``log echo`` for a loop through the log.
        destination: To whom a channel delivers, where its output serves several
            apart (a participant); None otherwise.
        where: Module and function in which the exception was raised
            (``json.encoder:default``); empty where there is no exception.
    """

    processor_id: int
    processor: str
    processor_class: str
    kind: str
    destination: str | None = None
    where: str = ""

    def __hash__(self) -> int:
        # What as a rule tells two apart, and no more: this is asked several
        # times for each error.
        return hash((self.processor_id, self.kind))

    def __str__(self) -> str:
        where = f" in {self.where}" if self.where else ""
        whom = "" if self.destination is None else f" to {self.destination}"
        return f"{self.processor}: {self.kind}{where}{whom}"

    @classmethod
    def of(
        cls, processor: Processor, kind: str, destination: str | None = None, where: str = ""
    ) -> "Origin":
        """Make the origin of a processor's failure."""
        whom = destination if destination is None else destination[:_WHOM_CHARS]
        return _origin(
            processor.id,
            processor.name[:_NAME_CHARS],
            type(processor).__name__,
            kind[:_KIND_CHARS],
            whom,
            where,
        )

    @property
    def shared_name(self) -> str:
        """Class and kind without counters, which are the same in every process."""
        return f"{self.processor_class}: {self.kind}"

    def with_kind(self, kind: str) -> "Origin":
        """The same processor's origin of another kind."""
        return _origin(self.processor_id, self.processor, self.processor_class, kind, None, "")


@lru_cache(maxsize=1024)
def _origin(
    processor_id: int,
    name: str,
    processor_class: str,
    kind: str,
    destination: str | None,
    where: str,
) -> Origin:
    return Origin(
        processor_id,
        one_line(name, _NAME_CHARS),
        one_line(processor_class, _NAME_CHARS),
        one_line(kind, _KIND_CHARS),
        None if destination is None else one_line(destination, _WHOM_CHARS),
        where,
    )


@lru_cache(maxsize=256)
def _name_of(exception: Any) -> str:
    module = exception.__module__
    name = exception.__qualname__
    return name if module == "builtins" else f"{module}.{name}"


def kind_of_failure(exception: BaseException | None, category: str | None, text: object) -> str:
    """Name how a processor failed, so that one failure has one name.

    Args:
        exception: The exception that the error carries.
        category: The error's category, None if nobody could tell.
        text: The error's text.
    """
    if exception is not None:
        return _name_of(type(exception))  # type: ignore[arg-type]  # a class is hashable
    if category is not None:
        return category
    return template(remarks.without(one_line(text, 2 * _KIND_CHARS)))


def place_of_failure(exception: BaseException | None) -> str:
    """Name where an exception was raised: the innermost frame, as Sentry groups.

    Args:
        exception: The exception that the error carries.
    """
    place: TracebackType | None = getattr(exception, "__traceback__", None)
    if place is None:
        return ""
    for _ in range(_MAX_TRACEBACK):
        if place.tb_next is None:
            return _place(
                place.tb_frame.f_globals.get("__name__"), place.tb_frame.f_code.co_qualname
            )
        place = place.tb_next
    return ""


@lru_cache(maxsize=256)
def _place(module: object, function: str) -> str:
    return f"{one_line(module, _NAME_CHARS)}:{one_line(function, _NAME_CHARS)}"
