#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where messages are delivered: ``send_message`` of each output transport.

This is the one place where a message can still be stopped that has waited
behind others or behind ten seconds of speech, and where its outcome is known. A
message that is held back here goes on to whoever comes after the transport.
"""

from typing import Any, Protocol

from pipecat.transports.base_output import BaseOutputTransport

from pipecat_circuit_breaker._core.breaker import Delivery
from pipecat_circuit_breaker._core.causality import nest, restore
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker._pipeline.patch import Undo, replace


class HeldBackError(ConnectionError):
    """A message was not sent, because its channel is down.

    Raised where an application calls ``send_message`` of an output transport
    itself, so that it does not take the message for sent. A message that comes
    through the pipeline is dropped, as pipecat would report an error.
    """


class Keeper(Protocol):
    """Who is asked whether a message may be sent."""

    @property
    def is_quiet(self) -> bool:
        """Whether there is nothing to tell, as a rule."""
        ...

    @property
    def fleet(self) -> object | None:
        """Who else wants to know what is delivered; None where nobody does."""
        ...

    def delivered(self, output: BaseOutputTransport, delivery: Delivery) -> None:
        """Note that a message was sent."""
        ...

    def may_send(
        self, output: BaseOutputTransport, frame: Any
    ) -> "Delivery | HeldBackError | bool":
        """Ask for a message, in the task that sends it.

        Returns:
            The delivery, whose outcome is to be reported; True where nobody
            wants to know it; False to hold the message back, or what to raise
            where the application itself sends it and has to know.
        """
        ...

    def undelivered(
        self, output: BaseOutputTransport, delivery: Delivery, failure: Exception
    ) -> None:
        """Note that sending a message has raised."""
        ...

    async def tell(self) -> None:
        """Tell what has happened."""
        ...


def stand_at(output: BaseOutputTransport, keeper: Keeper) -> Undo:
    """Stand where an output transport sends a message.

    Args:
        output: The output transport.
        keeper: Who is asked.

    Returns:
        What ends it.
    """
    send = output.send_message

    async def send_message(frame: Any, *args: Any, **kwargs: Any) -> Any:
        delivery = keeper.may_send(output, frame)
        if not keeper.is_quiet:
            await keeper.tell()
        if isinstance(delivery, HeldBackError):
            raise delivery
        if delivery is False:
            return None
        if not isinstance(delivery, Delivery):
            return await send(frame, *args, **kwargs)
        token = nest(output, delivery.link, type(frame).__name__, delivery=delivery)
        try:
            sent = await send(frame, *args, **kwargs)
        except Exception as e:
            keeper.undelivered(output, delivery, e)
            if output.id not in delivery.link.queued_at:
                raise
            # Here pipecat would let the task die that plays the audio too.
            await releases.push_send_failure(output, e)
            return None
        finally:
            # Whoever sends goes on as before: what it sends next has causes of its own.
            restore(token)
        delivery.succeeded()
        if keeper.fleet is not None:
            keeper.delivered(output, delivery)
        if not keeper.is_quiet:
            await keeper.tell()
        return sent

    return replace(output, "send_message", send_message)
