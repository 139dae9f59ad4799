#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The ways in which transports fail, apart from raising."""

from collections.abc import Awaitable, Callable
from typing import Any

from loguru import logger

#: What an :class:`Output`, the first argument, does with a message frame, the second, instead of
#: sending its message.
Failure = Callable[[Any, Any], Awaitable[None]]


def pushes_error(text: str = "the client is gone", exception: Exception | None = None) -> Failure:
    """Push an ``ErrorFrame`` instead of raising.

    Args:
        text: The error's text.
        exception: The exception that it carries, if any.
    """

    async def fail(output: Any, frame: Any) -> None:
        if exception is None:
            await output.push_error(text)
            return
        try:
            # Older releases of pipecat ask where it was raised, and break where it was not.
            raise exception.with_traceback(None)
        except Exception as raised:
            await output.push_error(text, raised)

    return fail


def logs(text: str = "the client is gone") -> Failure:
    """Write a warning to the log, and look as if the message had been sent.

    Args:
        text: The warning's text.
    """

    async def fail(output: Any, frame: Any) -> None:
        logger.warning(f"{output}: {text}")

    return fail


async def hangs(output: Any, frame: Any) -> None:
    """Hang until the output recovers, and send the message then."""
    await output.recovered()
    output.failed.remove(frame.message)
    output.sent.append(frame.message)
