#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where a model is asked, and where it calls tools: the door and ``run_function_calls`` of each LLM.

A model that is not content with what a tool returns may call it again without
end, and each time it is asked costs money. Once it has done so too often in one
turn of the user, it is asked with its tools off; the context that says so is a
copy for this one request. Calls that come back all the same are not run.
"""

import copy
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from pipecat.frames.frames import LLMContextFrame
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

from pipecat_circuit_breaker._core.circuits import Mode
from pipecat_circuit_breaker._core.tool_rounds import ToolRounds
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker._pipeline.patch import Undo, replace
from pipecat_circuit_breaker.tool_loop import ToolLoop

#: What a model is told where its service does not pass `tool_choice` on.
INSTRUCTION = (
    "Tools are off for this answer: they have been called too often since the user spoke. "
    "Do not call any. Answer the user now with what you know, and say what could not be done."
)

_MARK = "_circuit_breaker_without_tools"


class Keeper(Protocol):
    """Who knows how things stand, and tells."""

    @property
    def mode(self) -> Mode:
        """Whether to guard, only to observe, or to do nothing."""
        ...

    async def tell_loop(self, loop: ToolLoop) -> None:
        """Tell the application of a loop."""
        ...

    def warn(self, line: str) -> None:
        """Write a line to the log."""
        ...

    def report(self, doing: str, error: Exception) -> None:
        """Report a failure of the breaker itself."""
        ...


class Tools:
    """Counts the rounds of each model, and takes the tools away where there are too many.

    Args:
        keeper: Who knows how things stand.
        max_rounds: Rounds in one turn of the user; None for any number.
        max_failed: Rounds in one turn that have failed; None for any number.
    """

    def __init__(self, keeper: Keeper, max_rounds: int | None, max_failed: int | None) -> None:
        """Know no model yet."""
        self._keeper = keeper
        self._limits = (max_rounds, max_failed)
        self._rounds: dict[int, ToolRounds] = {}

    def stand_in(
        self, processor: FrameProcessor, together: ToolRounds | None = None
    ) -> Iterator[Undo]:
        """Stand where models run the tools that they call.

        Args:
            processor: A processor, and all that are inside of it.
            together: The rounds of models that stand in for one another: they go
                on in the same turn.

        Yields:
            What ends it, for each model.
        """
        if self._limits == (None, None):
            return
        if releases.is_switcher(processor):
            together = together or ToolRounds(*self._limits)
        if releases.is_model(processor):
            yield self._stand_at(processor, together or ToolRounds(*self._limits))
        for inner in processor.processors:
            yield from self.stand_in(inner, together)

    def _stand_at(self, model: Any, rounds: ToolRounds) -> Undo:
        self._rounds[model.id] = rounds
        run: Callable[..., Awaitable[Any]] = model.run_function_calls

        async def run_function_calls(
            function_calls: Sequence[Any], *args: Any, **kwargs: Any
        ) -> Any:
            if not function_calls or await self._may_run(model, rounds, function_calls):
                return await run(function_calls, *args, **kwargs)
            return None

        return replace(model, "run_function_calls", run_function_calls)

    def asks(
        self, model: FrameProcessor, frame: LLMContextFrame, direction: FrameDirection
    ) -> LLMContextFrame:
        """Ask a model, with its tools or without.

        Args:
            model: Whom the request goes to, be it a model or not.
            frame: The request.
            direction: Where it is going: what came of a tool asks upstream.

        Returns:
            The request, or a copy in which the tools are off.
        """
        rounds = self._rounds.get(model.id)
        if rounds is None:
            return frame
        try:
            by_user = direction is FrameDirection.DOWNSTREAM
            rounds.asked(frame.context.get_messages(), by_user=by_user)
            mode = self._keeper.mode
            if not rounds.are_spent or mode is Mode.DISABLED:
                return frame
            if not rounds.is_warned:
                rounds.is_warned = True
                self._keeper.warn(
                    f"{model}: tools were called {rounds.rounds} times in one turn of the user, "
                    f"{rounds.failed_rounds} of them in vain ({', '.join(rounds.tools)}); the model "
                    f"{'is' if mode is Mode.GUARD else 'would be'} asked once more, with its tools off"
                )
            return without_tools(model, frame) if mode is Mode.GUARD else frame
        except Exception as e:
            self._keeper.report("counting tool rounds", e)
            return frame

    async def _may_run(
        self, model: FrameProcessor, rounds: ToolRounds, calls: Sequence[Any]
    ) -> bool:
        """Whether the tools that a model has called may run."""
        try:
            names = [call.function_name for call in calls]
            if is_without_tools(calls[0].context):
                if is_heard(calls[0].context):
                    await self._tell(model, rounds, names, Mode.GUARD)
                return False
            if self._keeper.mode is Mode.OBSERVE:
                await self._tell(model, rounds, names, Mode.OBSERVE)
            failures = [releases.tool_failures(model, name) for name in names]
            ids = [call.tool_call_id for call in calls]
            rounds.called(dict(zip(ids, failures, strict=True)), names)
            return True
        except Exception as e:
            self._keeper.report("counting tool calls", e)
            return True

    async def _tell(
        self, model: FrameProcessor, rounds: ToolRounds, names: Iterable[str], mode: Mode
    ) -> None:
        """Tell it once in a turn that a model goes on, if it has no tools to go on with."""
        if rounds.is_told or not rounds.are_spent:
            return
        rounds.is_told = True
        rounds.names(names)
        if mode is Mode.GUARD:
            self._keeper.warn(
                f"{model}: the model has called tools with its tools off; they are not run, and "
                "the user hears nothing more unless `on_tool_loop` says something"
            )
        await self._keeper.tell_loop(
            ToolLoop(
                processor=model.name,
                rounds=rounds.rounds,
                failed_rounds=rounds.failed_rounds,
                tools=rounds.tools,
                mode=mode,
            )
        )


def without_tools(
    model: FrameProcessor, frame: LLMContextFrame, *, heard: bool = True
) -> LLMContextFrame:
    """A copy of a request in which the tools are off.

    The tools stay in it, because providers refuse a conversation with calls in
    it and no tools, and because pipecat would unregister them. The messages are
    the application's own, so that what the service itself mends in them is mended.

    Args:
        model: Who is asked.
        frame: The request.
        heard: Whether somebody hears the answer, so that it matters to a turn of
            the user what the model does.
    """
    given = frame.context
    context: LLMContext = copy.copy(given)
    setattr(context, _MARK, heard)
    has_tools = releases.has_tools(given)
    if has_tools:
        context.set_tool_choice("none")
    # Where there are none, and nobody hears the answer, there is nothing to say.
    has_to_be_told = not releases.passes_tool_choice(model) if has_tools else heard
    if has_to_be_told:
        said: Any = {"role": "developer", "content": INSTRUCTION}

        def get_messages(*args: Any, **kwargs: Any) -> list[Any]:
            return [*given.get_messages(*args, **kwargs), said]

        context.get_messages = get_messages  # type: ignore[method-assign]
    request = copy.copy(frame)
    request.context = context
    return request


def is_without_tools(context: object) -> bool:
    """Whether a context is one in which the tools are off."""
    return getattr(context, _MARK, None) is not None


def is_heard(context: object) -> bool:
    """Whether somebody hears what is answered to such a context."""
    return getattr(context, _MARK, True) is True
