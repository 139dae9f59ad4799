#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What ``on_tool_loop`` tells."""

from pydantic import BaseModel, ConfigDict

from pipecat_circuit_breaker._core.circuits import Mode

__all__ = ["ToolLoop"]


class ToolLoop(BaseModel):
    """A model that went on calling tools when it had been asked to answer without.

    Nothing more is said in this turn of the user unless the application says it.

    Parameters:
        processor: Name of the LLM service.
        rounds: Answers of this turn in which tools were called, and run.
        failed_rounds: Those of which nothing came but errors.
        tools: Names of the tools that the model has called or wanted to call in
            this turn, at most 16.
        mode: The breaker's mode. Only in ``GUARD`` the tools were off and the
            last calls held back; in ``OBSERVE`` they would have been.
    """

    model_config = ConfigDict(frozen=True)

    processor: str
    rounds: int
    failed_rounds: int
    tools: tuple[str, ...]
    mode: Mode
