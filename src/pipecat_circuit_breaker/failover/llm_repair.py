#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What a service takes out of a conversation that its provider has refused."""

from types import TracebackType
from typing import Any

from pipecat.processors.aggregators.llm_context import LLMContext

from pipecat_circuit_breaker._pipeline.patch import Undo, replace

_REPAIR = "remove_invalid_file_message"  # after 1.12.0


class Repair:
    """Puts off the repair of a context as long as another service may take it as it is.

    A provider that takes no pictures says nothing about the next one. So a
    service that removes a picture removes it from nothing, and the picture goes
    when every service has failed: the next request would fail at it again.

    Args:
        context: The application's context, which all services are asked with.
    """

    def __init__(self, context: LLMContext) -> None:
        """Start with nothing to repair."""
        self._context = context
        self._is_due = False
        self._repair: Any = getattr(context, _REPAIR, None)
        self._undo: Undo | None = None

    def __enter__(self) -> "Repair":
        """Put off what services repair from now on."""
        if self._repair is not None:
            self._undo = replace(self._context, _REPAIR, self._put_off)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let services repair as ever."""
        if self._undo is not None:
            self._undo()

    def make(self) -> None:
        """Repair what a service wanted repaired: none has taken it as it is."""
        if self._is_due:
            self._repair()

    def _put_off(self) -> bool:
        # The service wants to know whether there is anything to remove.
        messages = [*self._context.get_messages()]
        is_due = bool(self._repair())
        if is_due:
            self._context.set_messages(messages)
            self._is_due = True
        return is_due
