#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A transport whose client comes and goes on command."""

from typing import Any

from pipecat.transports.base_input import BaseInputTransport
from pipecat.transports.base_transport import BaseTransport, TransportParams

from pipecat_circuit_breaker.testing.output import Output


class Transport(BaseTransport):
    """A transport for a bot that is given one; its output is an :class:`Output`.

    Event handlers available:

    - on_client_connected(transport, client): Called when :meth:`connect` is.
    - on_client_disconnected(transport, client): Called when :meth:`disconnect` is.

    Both get the transport and the client.

    Example::

        transport = Transport()
        await transport.connect()
        transport.output().fail(ConnectionError("the client is gone"))
    """

    def __init__(self, output: Output | None = None, **kwargs: Any) -> None:
        """Initialize the transport.

        Args:
            output: Its output, where it is not to be just any.
            **kwargs: Additional arguments passed to the parent class.
        """
        super().__init__(**kwargs)
        self._input = BaseInputTransport(TransportParams())
        self._output = output or Output()
        self._register_event_handler("on_client_connected")
        self._register_event_handler("on_client_disconnected")

    def input(self) -> BaseInputTransport:
        """Return the input: nothing comes from it but what a test pushes there."""
        return self._input

    def output(self) -> Output:
        """Return the output."""
        return self._output

    async def connect(self, client: Any = "client") -> None:
        """Let a client come.

        Args:
            client: What handlers are told of it.
        """
        await self._call_event_handler("on_client_connected", client)

    async def disconnect(self, client: Any = "client") -> None:
        """Let a client go.

        Args:
            client: What handlers are told of it.
        """
        await self._call_event_handler("on_client_disconnected", client)
