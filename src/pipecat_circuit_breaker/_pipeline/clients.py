#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Whether anybody is connected to a transport, from the transport's own events."""

from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

from pipecat.transports.base_transport import BaseTransport

from pipecat_circuit_breaker._pipeline import releases

_MAX_CLIENTS = 10_000


class Clients:
    """The clients of one transport.

    An object is one connection, and may be announced again when it is taken up
    again. An id is a client's, who may be back before its old connection has
    gone. Whoever was there before this listened is there until everybody must
    have gone.

    Args:
        transport: The transport.
        on_change: Called when the last client has gone, and when one has come.

    Raises:
        ValueError: The transport has no events that tell.
    """

    def __init__(
        self, transport: BaseTransport, on_change: Callable[["Clients"], Awaitable[None]]
    ) -> None:
        """Listen from now on."""
        events = releases.client_events_of(transport)
        if not events.went and not events.left:
            raise ValueError(
                f"{transport}: expected a transport with one of {releases.CLIENT_WENT}"
            )
        self.transport = transport
        #: Whether anybody is; None until the transport has said so for the first time.
        self.are_connected: bool | None = None
        self._on_change = on_change
        self._connections: dict[object, object] = {}
        self._ids: Counter[object] = Counter()
        self._may_be_others = releases.is_set_up(transport.output())
        for names, handler in (
            (events.came, self._came),
            (events.went, self._went),
            (events.left, self._left),
        ):
            for name in names:
                transport.add_event_handler(name, handler)

    async def _came(self, _: Any, client: Any = None, *__: Any) -> None:
        id = _id_of(client)
        if id is None:
            if len(self._connections) < _MAX_CLIENTS:
                self._connections[_key_of(client)] = client
        elif len(self._ids) < _MAX_CLIENTS:
            self._ids[id] += 1
        await self._are(True)

    async def _went(self, _: Any, client: Any = None, *__: Any) -> None:
        id = _id_of(client)
        if id is None:
            was_known = self._connections.pop(_key_of(client), self) is not self
        else:
            was_known = self._ids[id] > 0
            self._ids[id] -= 1
            if self._ids[id] <= 0:
                del self._ids[id]
        if releases.serves_one(self.transport) and not was_known:
            self._may_be_others = False  # it was the one that had been there before
        if self._connections or self._ids:
            return
        others = releases.anybody_else_at(self.transport)
        if others is None:
            others = self._may_be_others
        if not others:
            await self._are(False)

    async def _left(self, *_: Any) -> None:
        """The bot itself has gone, and with it every client."""
        self._connections.clear()
        self._ids.clear()
        self._may_be_others = False
        await self._are(False)

    async def _are(self, connected: bool) -> None:
        self.are_connected = connected
        await self._on_change(self)


def _id_of(client: Any) -> Hashable | None:
    """A client's id, where that is all that its transport says of it."""
    if isinstance(client, dict):
        # A room's participant is a new dict in each event.
        client = client.get("id")
    return client if isinstance(client, str | int) else None


def _key_of(client: Any) -> object:
    return None if client is None else id(client)
