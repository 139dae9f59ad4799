#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Which failures are the fleet's concern, and what they are called there."""

from dataclasses import dataclass
from hashlib import sha1
from typing import Any
from urllib.parse import urlsplit

from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker.fleet import answers
from pipecat_circuit_breaker.fleet.record import KEY_CHARS

__all__ = ["Failure", "label_of", "shares"]

_LABEL_CHARS = 64
_KIND_CHARS = 100

#: Where services keep the address that they ask, in pipecat's own and most others.
_ADDRESSES = ("_base_url", "_url", "_api_endpoint_base_url")

#: Categories of pipecat's that say something of one request, and nothing of the provider.
_OF_A_REQUEST = frozenset({"invalid_request", "application"})

_STATUS_OF_A_REQUEST = frozenset({400, 404, 413, 422})

#: How an exception says that nobody could be reached, where pipecat gives it no category.
_NOT_REACHED = (OSError, TimeoutError)
_NOT_REACHED_NAMES = ("ConnectionClosed", "ConnectionError", "ConnectError", "Disconnected")


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure, for who decides whether it is shared.

    Parameters:
        processor: Which processor has failed.
        kind: How: an exception's type, or else pipecat's category or the text of
            the error with everything variable taken out.
        where: Module and function that raised; empty where nothing was raised.
        category: pipecat's category; None where nobody could tell, and before 1.8.0.
        exception: What was raised, if anything.
        by_delivery: Whether it is a message that could not be delivered.
    """

    processor: FrameProcessor
    kind: str
    where: str = ""
    category: str | None = None
    exception: BaseException | None = None
    by_delivery: bool = False

    @property
    def is_of_one_request(self) -> bool:
        """Whether it says something of one request, and nothing of who was asked."""
        if self.category is not None:
            return self.category in _OF_A_REQUEST
        # Before 1.8.0 pipecat gives no category.
        return _status_of(self.exception) in _STATUS_OF_A_REQUEST

    @property
    def is_unreachable(self) -> bool:
        """Whether whoever was asked could not be reached at all."""
        if self.category is not None:
            return self.category == "connectivity"
        return isinstance(self.exception, _NOT_REACHED) or any(
            name in type(self.exception).__name__ for name in _NOT_REACHED_NAMES
        )


def shares(failure: Failure) -> bool:
    """Whether a failure is the fleet's concern, unless the application says otherwise.

    Failures of models, voices, transcription and pictures are: services whose answers
    can be heard, so that it is known when they work again. Those are not that one
    request alone has brought about. Of an output transport those are by which its
    signalling could not be reached: neither a message that cannot be serialised, nor a
    client that has gone. A processor of the application's own is nobody else's concern.
    """
    if answers.are_heard(failure.processor):
        return not failure.is_of_one_request
    if not failure.by_delivery or not releases.signals_over_a_server(failure.processor):
        return False
    return failure.exception is None or failure.is_unreachable


def _status_of(exception: BaseException | None) -> object:
    """The HTTP status that an exception carries, as the libraries of providers have it."""
    response = getattr(exception, "response", None)
    for whose in (response, exception):
        for name in ("status_code", "status"):
            if isinstance(status := getattr(whose, name, None), int):
                return status
    return None


def label_of(processor: FrameProcessor) -> str:
    """The host that a service asks; empty where it does not say.

    Args:
        processor: The service.
    """
    addresses: list[Any] = [getattr(processor, name, None) for name in _ADDRESSES]
    addresses.append(getattr(getattr(processor, "_client", None), "base_url", None))
    for address in addresses:
        if address is None or callable(address):
            continue
        try:
            text = str(address)
            # The host alone: an address may hold a key.
            host = urlsplit(text if "//" in text else f"//{text}").hostname
        except ValueError:
            continue
        if host:
            return one_line(host, _LABEL_CHARS)
    return ""


def service_name(processor: FrameProcessor, label: str) -> str:
    """What all outages of a service begin with."""
    name = one_line(type(processor).__name__, _LABEL_CHARS)
    label = one_line(label, _LABEL_CHARS)
    return f"{name}[{label}]" if label else name


def key_of(service: str, failure: Failure) -> str:
    """The name of a failure that is the same in every process; at most 200 characters.

    Nothing of what an error says is in it: a provider may quote what somebody has said.

    Args:
        service: See :func:`service_name`.
        failure: How it failed, and where that was raised.
    """
    kind = failure.kind
    if failure.exception is None and failure.category is None and not failure.by_delivery:
        # Its text with everything variable taken out; the same text gets the same number.
        kind = f"error {sha1(kind.encode(), usedforsecurity=False).hexdigest()[:8]}"
    what = one_line(kind, _KIND_CHARS)
    if failure.where:
        return one_line(f"{service}: {what} in {failure.where}", KEY_CHARS)
    return one_line(f"{service}: {what}", KEY_CHARS)
