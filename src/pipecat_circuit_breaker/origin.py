#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Who failed and how: what makes two errors the same failure."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

#: Kind of an origin whose messages set off messages, with no error at all.
FEEDBACK = "feedback"

#: Kind of an origin that is no failure: a watched transport has no client.
CLIENT_GONE = "client gone"

_TEMPLATE_CHARS = 256
_NAME_CHARS = 100

# What differs between two reports of one failure: anything with a digit in it
# (ids, times, addresses, versions, line numbers), hex without digits, long
# random words, and the names that dates carry.
_VARIABLE = re.compile(
    r"""
      [^\s'"`,;()\[\]{}<>=]*\d[^\s'"`,;()\[\]{}<>=]*
    | \b[0-9a-fA-F]{6,}\b
    | \b[A-Za-z_\-]{24,}\b
    | \b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b
    """,
    re.VERBOSE,
)
_RUN = re.compile(r"#(?:\W*#)+")


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
    """The origin of a failure: which processor failed, and how.

    Parameters:
        processor_id: pipecat's id of the processor, unique in the process even
            where two processors bear one name. None where an error names none.
        processor: The processor's name.
        processor_class: The processor's class: the same in every process.
        kind: Exception type; without one, the error's category; without
            either, its text with everything variable taken out. ``feedback``
            for a processor whose handling of messages sets off messages.
        destination: To whom it failed to send, where a channel serves several
            apart (a participant); None otherwise.
    """

    processor_id: int
    processor: str
    processor_class: str
    kind: str
    destination: str | None = None

    def __hash__(self) -> int:
        # What as a rule tells two apart, and no more: this is asked several
        # times for each error.
        return hash((self.processor_id, self.kind))

    def __str__(self) -> str:
        whom = "" if self.destination is None else f" to {self.destination}"
        return f"{self.processor}: {self.kind}{whom}"

    @classmethod
    def of(cls, processor: Processor, kind: str, destination: str | None = None) -> "Origin":
        """Make the origin of a processor's failure."""
        return _origin(processor.id, processor.name, type(processor).__name__, kind, destination)

    @property
    def shared_name(self) -> str:
        """The same in every process: class and kind, no counters."""
        return f"{self.processor_class}: {self.kind}"


# A storm asks for the same few origins, kinds and templates each time: what is
# kept here makes a judgement cheap, and is bounded.


@lru_cache(maxsize=1024)
def _origin(
    processor_id: int, name: str, processor_class: str, kind: str, destination: str | None
) -> Origin:
    name = one_line(name, _NAME_CHARS)
    return Origin(processor_id, name, processor_class, one_line(kind, _TEMPLATE_CHARS), destination)


@lru_cache(maxsize=256)
def _name_of(exception: Any) -> str:
    module = exception.__module__
    name = exception.__qualname__
    return name if module == "builtins" else f"{module}.{name}"


@lru_cache(maxsize=256)
def _template(text: str) -> str:
    return _RUN.sub("#", _VARIABLE.sub("#", text))


def kind_of_failure(exception: BaseException | None, category: str | None, text: str) -> str:
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
    return template(text)


def template(text: str) -> str:
    """Take everything variable out of a text.

    Example::

        >>> template("peer 10.0.0.7:443 gone at 12:01:07 (id 7f3a9c)")
        'peer # gone at # (id #)'
    """
    return _template(one_line(text, _TEMPLATE_CHARS))


def one_line(text: object, limit: int) -> str:
    """Make a text safe to keep, log and show: one line, bounded, valid Unicode.

    Args:
        text: Anything; something whose ``__str__`` raises is shown by its type.
        limit: Most characters that are kept.
    """
    try:
        words = text if isinstance(text, str) else str(text)
    except Exception:
        words = f"<{type(text).__name__}>"
    if len(words) <= limit and words.isprintable():
        return words
    shown = words[: limit + 1].encode("utf-8", "replace").decode("utf-8")
    shown = "".join(c if c.isprintable() else " " for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
