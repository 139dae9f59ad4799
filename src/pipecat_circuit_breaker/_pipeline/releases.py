#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""All that depends on the pipecat release, and what is read that pipecat keeps to itself.

pipecat 0.0.108 to 1.x. Each line that a release needs says which.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

from pipecat.frames.frames import (
    CancelFrame,
    EndFrame,
    ErrorFrame,
    LLMContextFrame,
    OutputTransportMessageFrame,
    OutputTransportMessageUrgentFrame,
)
from pipecat.pipeline.pipeline import Pipeline, PipelineSink, PipelineSource
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameProcessor, FrameProcessorSetup
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import BaseTransport

from pipecat_circuit_breaker._core.text import one_line

try:
    from pipecat.pipeline.service_switcher import ServiceSwitcher
except ImportError:
    _SWITCHERS: tuple[type, ...] = ()
else:
    _SWITCHERS = (ServiceSwitcher,)

try:
    from pipecat.utils.errors import ErrorCategory, classify_http_exception  # 1.8.0
except ImportError:
    _UNATTRIBUTED: dict[str, Any] = {}
    _classify: Callable[[Exception], Any] = lambda _: None  # noqa: E731
else:
    _classify = classify_http_exception
    # As pipecat does it: a failed send says nothing about what the output can do.
    _UNATTRIBUTED = {"category": ErrorCategory.UNKNOWN}


#: Frames with a message for the client. On 0.0.108 `TransportMessageFrame` and
#: `TransportMessageUrgentFrame` are subclasses of these.
MESSAGES = (OutputTransportMessageFrame, OutputTransportMessageUrgentFrame)

#: Frames whose causes are known.
TRACKED = (ErrorFrame, *MESSAGES)

#: Frames that ask a model. (0.0.108 has `OpenAILLMContextFrame` for older aggregators as well.)
REQUESTS = (LLMContextFrame,)

#: Frames after which an output transport has let its client go.
LIFECYCLE = (EndFrame, CancelFrame)


class Worker(Protocol):
    """What runs a pipeline: `PipelineWorker` from 1.3.0 on, `PipelineTask` before."""

    queue_frame: Callable[..., Awaitable[None]]

    @property
    def id(self) -> int:
        """Unique in the process."""
        ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def pipeline(self) -> FrameProcessor:
        """The pipeline, RTVI included."""
        ...

    def add_event_handler(self, event_name: str, handler: Callable[..., Any]) -> None:
        """Listen to one of its events."""
        ...

    async def stop_when_done(self) -> None:
        """End the pipeline once what is queued has been played."""
        ...

    async def cancel(self, *, reason: str | None = None) -> None:
        """Cancel the pipeline right away."""
        ...


def worker_of(setup: FrameProcessorSetup, processor: FrameProcessor) -> Worker:
    """The worker that runs the pipeline which is being set up.

    Args:
        setup: What the processor is being set up with.
        processor: Any processor of the pipeline.
    """
    worker: Worker | None = getattr(setup, "pipeline_worker", None)  # 1.3.0
    worker = worker or getattr(setup, "pipeline_task", None)  # 1.2.0
    return worker or _climb(processor)  # before: a setup does not say


def _climb(processor: FrameProcessor) -> Worker:
    # A source hands on what comes upstream to whoever made it: the pipeline
    # around it, and at the top the task.
    while not isinstance(processor, PipelineSource):
        if processor.previous is None:
            raise RuntimeError(f"expected {processor} in the pipeline of a PipelineTask")
        processor = processor.previous
    owner: Any = processor._upstream_push_frame.__self__  # type: ignore[attr-defined]
    return _climb(owner) if isinstance(owner, FrameProcessor) else owner


def session_of(worker: Worker) -> str | None:
    """The conversation's id, where the worker was given one."""
    session = getattr(worker, "_conversation_id", None)
    return session if isinstance(session, str) else None


def category_of(error: ErrorFrame) -> str | None:
    """Why an error occurred; None where nobody could tell, and before 1.8.0."""
    category = getattr(error, "category", None)
    return None if category is None or category.value == "unknown" else str(category.value)


def is_usable(processor: FrameProcessor) -> bool:
    """Whether a processor can still do its job; before 1.8.0 every one can."""
    return bool(getattr(processor, "is_usable", True))


#: Events of a processor that come where it pushes an error, before or without any door.
_AT_A_PUSH = ("on_error", "on_before_push_frame", "on_after_push_frame")


def hears_own_errors(processor: FrameProcessor) -> bool:
    """Whether anybody hears of a processor's error where it is reported, before it travels."""
    if type(processor).push_error_frame is not FrameProcessor.push_error_frame:
        return True
    events = (processor._event_handlers.get(name) for name in _AT_A_PUSH)
    return any(event is not None and event.handlers for event in events)


def is_lasting(
    processor: FrameProcessor, error: ErrorFrame, force_treat_as_permanent: bool = False
) -> bool:
    """Whether an error is going to leave its processor unusable; before 1.8.0 none does.

    As ``push_error_frame`` decides it, which takes the same arguments.
    """
    category = getattr(error, "category", None)
    if category is None and error.exception is not None:
        category = getattr(processor, "_classify_error", lambda _: None)(error.exception)
        category = category or _classify(error.exception)
    return force_treat_as_permanent or bool(getattr(category, "is_permanent", False))


def is_direct(processor: FrameProcessor) -> bool:
    """Whether a processor handles frames in the task of whoever pushes them."""
    return bool(getattr(processor, "_enable_direct_mode", False))


def is_end(processor: FrameProcessor) -> bool:
    """Whether a processor is an end of a pipeline, made by pipecat."""
    return isinstance(processor, PipelineSource | PipelineSink)


def only_hands_on(processor: FrameProcessor) -> bool:
    """Whether a processor pushes nothing of its own."""
    return (
        is_end(processor)
        or isinstance(processor, Pipeline)
        or getattr(processor, "only_hands_on", False)
    )


def handles_errors(processor: FrameProcessor) -> bool:
    """Whether a processor has to hear every error of those inside of it.

    A switcher does, and whoever says so: an attribute ``handles_errors``.
    """
    return is_switcher(processor) or bool(getattr(processor, "handles_errors", False))


def is_switcher(processor: FrameProcessor) -> bool:
    """Whether a processor hands on to one of several that stand in for one another."""
    return isinstance(processor, _SWITCHERS)


def is_model(processor: FrameProcessor) -> bool:
    """Whether a processor is an LLM service that is asked for each answer.

    One that holds the conversation at its provider is not: it is handed the
    context to read results from, and its tools cannot be turned off for one answer.
    """
    if not callable(getattr(processor, "run_function_calls", None)):
        return False
    # All of pipecat's that do have this; some of others only say so, from 1.7.0 on.
    return not (hasattr(processor, "_handle_context") or _says_realtime(processor))


def _says_realtime(processor: Any) -> bool:
    try:
        return bool(processor.service_metadata_frame().is_realtime_service)
    except Exception:
        return False  # it has no such method, or cannot say yet


def has_tools(context: LLMContext) -> bool:
    """Whether a context offers tools."""
    tools: Any = context.tools
    # pipecat's and OpenAI's sentinels for none are of several classes.
    return bool(getattr(tools, "standard_tools", None) or getattr(tools, "custom_tools", None))


def passes_tool_choice(model: Any) -> bool:
    """Whether an LLM service hands its provider the context's ``tool_choice``.

    Bedrock's adapter does, and its service drops "none".
    """
    adapter = model.get_llm_adapter()
    return any(kind.__name__ == "OpenAILLMAdapter" for kind in type(adapter).__mro__)


#: What an LLM service puts in the place of a result: a tool has raised (1.8.0), or is unknown.
_TOOL_FAILURES = ("FUNCTION_CALL_ERROR_MESSAGE_TEMPLATE", "MISSING_FUNCTION_CALL_MESSAGE_TEMPLATE")


def tool_failures(model: FrameProcessor, name: str) -> tuple[str, ...]:
    """What an LLM service says in the place of a tool's result where there is none."""
    templates = (getattr(model, template, None) for template in _TOOL_FAILURES)
    return tuple(t.format(function_name=name) for t in templates if isinstance(t, str))


def is_set_up(processor: FrameProcessor) -> bool:
    """Whether a processor is part of a pipeline that runs, or has run."""
    return getattr(processor, "_task_manager", None) is not None


def has_started(processor: FrameProcessor) -> bool:
    """Whether a pipeline has started; from 1.8.0 on, whether its start is on the way."""
    # From 1.8.0 on frames wait until a processor is set up, and it does not say more.
    return bool(getattr(processor, "_FrameProcessor__started", is_set_up(processor)))


def setup_like(neighbour: Any, worker: Worker) -> FrameProcessorSetup:
    """What a processor is set up with that comes into a pipeline which is set up already.

    Args:
        neighbour: A processor of that pipeline.
        worker: The worker that runs it.
    """
    given = {
        "clock": neighbour._clock,
        "task_manager": neighbour._task_manager,
        "observer": neighbour._observer,
        "pipeline_worker": worker,  # 1.3.0
        "pipeline_task": worker,  # 1.2.0
    }
    names = {field.name for field in fields(FrameProcessorSetup)}
    return FrameProcessorSetup(**{name: given[name] for name in names & given.keys()})


def observers_of(observer: object) -> tuple[Any, ...]:
    """The observers behind a worker's observer, each with a queue of its own."""
    try:
        return tuple(getattr(observer, "_proxies", None) or ())
    except TypeError:
        return ()


async def push_send_failure(output: FrameProcessor, failure: Exception) -> None:
    """Report a failed send as pipecat reports whatever else a processor raises."""
    text = f"Error sending message: {one_line(failure, 200)}"
    await output.push_error(text, exception=failure, **_UNATTRIBUTED)


#: Events of which a transport has at least one if it can say that nobody is there.
CLIENT_WENT = (
    "on_client_disconnected",
    "on_participant_disconnected",
    "on_disconnected",
    "on_left",
)


@dataclass(frozen=True)
class ClientEvents:
    """A transport's events that say whether there is somebody to send to.

    Parameters:
        came: A client is there; its handler may be told which.
        went: A client has gone.
        left: The bot itself has gone, and with it every client.
    """

    came: tuple[str, ...]
    went: tuple[str, ...]
    left: tuple[str, ...]


def client_events_of(transport: BaseTransport) -> ClientEvents:
    """Those events that a transport has."""

    def has(*names: str) -> tuple[str, ...]:
        return tuple(name for name in names if name in transport._event_handlers)

    # LiveKit has clients from 1.8.0 on, and participants before.
    if went := has("on_client_disconnected", "on_participant_disconnected"):
        # A room: that the bot has joined it does not mean that anybody is there.
        came = has("on_client_connected", "on_participant_connected")
        return ClientEvents(came, went, has("on_left", "on_disconnected"))
    return ClientEvents(has("on_connected", "on_joined"), (), has("on_disconnected", "on_left"))


_TRANSPORTS = "pipecat.transports."

#: pipecat's own transports that have one client at a time.
_SERVE_ONE = {
    "FastAPIWebsocketTransport",
    "SmallWebRTCTransport",
    "WebsocketClientTransport",
    "WebsocketServerTransport",
}


def serves_one(transport: BaseTransport) -> bool:
    """Whether a transport is known to have no more than one client."""
    return any(
        kind.__name__ in _SERVE_ONE and kind.__module__.startswith(_TRANSPORTS)
        for kind in type(transport).__mro__
    )


def signals_over_a_server(output: FrameProcessor) -> bool:
    """Whether an output of pipecat's reaches its clients by a server, and not each for itself.

    Then that it reaches none may be the server's fault; else its client has gone.
    """
    return any(
        kind.__module__.startswith(_TRANSPORTS)
        and kind is not BaseOutputTransport
        and kind.__name__.replace("OutputTransport", "Transport") not in _SERVE_ONE
        for kind in type(output).__mro__
        if issubclass(kind, BaseOutputTransport)
    )


def anybody_else_at(transport: BaseTransport) -> bool | None:
    """Whether a room says that there are clients, whoever has come and gone.

    LiveKit does not tell before 1.13.0 who was there before the bot.

    Returns:
        None where there is nothing to ask.
    """
    for ask in ("get_participants", "participants"):
        try:
            found = getattr(transport, ask)()
            # Daily counts the bot itself.
            return any(who != "local" for who in found)
        except Exception:
            continue  # it has no such method, or no room any more
    return None


def is_output(processor: FrameProcessor) -> bool:
    """Whether a processor delivers messages."""
    return isinstance(processor, BaseOutputTransport)
