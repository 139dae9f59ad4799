#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Which lines are logged inside of deliveries: one loguru sink for the process.

It writes nothing. It asks each line of WARNING or above, in the context in which
it is logged, whether it belongs to a delivery. A line that does not costs one
look at a context variable.
"""

from typing import Any

from loguru import logger

from pipecat_circuit_breaker._core.causality import delivering
from pipecat_circuit_breaker._pipeline.patch import Undo

_LEVEL = "WARNING"


class _Ear:
    """The sink, as long as anybody needs it."""

    def __init__(self) -> None:
        self._sink: int | None = None
        self._users = 0

    def join(self) -> Undo:
        """Hear from now on; returns what ends it."""
        self._users += 1
        self.ensure()

        def leave() -> None:
            self._users -= 1
            if not self._users and self._sink is not None:
                _remove(self._sink)
                self._sink = None

        return leave

    def ensure(self) -> None:
        """Come back where the application has removed every sink since."""
        if self._users and (self._sink is None or self._sink not in _sinks()):
            self._sink = logger.add(_write_nothing, level=_LEVEL, filter=_hear, catch=True)


def _sinks() -> Any:
    # Loguru tells nobody which sinks there are.
    return logger._core.handlers  # type: ignore[attr-defined]


def _remove(sink: int) -> None:
    try:
        logger.remove(sink)
    except ValueError:
        pass  # the application has removed every sink


def _write_nothing(_: Any) -> None:
    """No line passes the filter."""


def _hear(record: Any) -> bool:
    note = delivering()
    if note is not None:
        note.delivery.log(record["message"])
    return False


ear = _Ear()
