#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What frames are in the terms of the core: kinds, origins, whom they are for."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipecat.frames.frames import ErrorFrame

from pipecat_circuit_breaker._core.origin import (
    Origin,
    Processor,
    kind_of_failure,
    place_of_failure,
)
from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline import releases

_MAX_KIND_CHARS = 64
_MAX_PEER_CHARS = 60

#: The kind of RTVI's lines of the log.
SYSTEM_LOG = "rtvi-ai/system-log"


@dataclass(frozen=True)
class Peer:
    """A worker behind a bus: its errors come without their processor.

    Parameters:
        id: That of the processor which takes its frames in.
        name: For people.
    """

    id: int
    name: str


def kind_of_message(frame: Any) -> str:
    """What sort of message a frame carries: its label and type, never its content."""
    message = frame.message
    if not isinstance(message, dict):
        return type(message).__name__[:_MAX_KIND_CHARS]
    # Cut before it is looked up: what a client sends is not to be kept.
    return _joined(_word(message.get("label")), _word(message.get("type")))


def _word(value: Any) -> str | None:
    return value[:_MAX_KIND_CHARS] if isinstance(value, str) else None


@lru_cache(maxsize=256)
def _joined(label: str | None, sort: str | None) -> str:
    return one_line("/".join(word for word in (label, sort) if word) or "dict", _MAX_KIND_CHARS)


def processor_of(error: ErrorFrame, pusher: Processor, peer: str | None) -> Processor:
    """Who has failed.

    Args:
        error: The error.
        pusher: The processor that pushed it.
        peer: The worker behind a bus that it comes from.
    """
    if error.processor is not None:
        return error.processor
    if peer is not None:
        return Peer(pusher.id, f"{one_line(peer, _MAX_PEER_CHARS)} by {pusher.name}")
    return pusher


def origin_of(error: ErrorFrame, processor: Processor) -> Origin:
    """The origin of an error.

    Args:
        error: The error.
        processor: Who has failed.
    """
    kind = kind_of_failure(error.exception, releases.category_of(error), error.error)
    return Origin.of(processor, kind, where=place_of_failure(error.exception))
