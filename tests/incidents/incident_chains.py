"""Chains beside those of the demo, in which somebody else is to blame than one may think."""

import json
from typing import Any

from pipecat.frames.frames import (
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    OutputTransportMessageUrgentFrame,
    TTSSpeakFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.processors.frameworks.rtvi import RTVIServerMessageFrame
from pipecat.services.llm_service import FunctionCallFromLLM, FunctionCallParams, LLMService
from pipecat.utils.errors import ErrorCategory

from pipecat_circuit_breaker.demo.chains import Chain, Scenario
from pipecat_circuit_breaker.demo.parts import BrokenSTT, ErrorNotifier, Output
from pipecat_circuit_breaker.testing import Output as Recorder
from tests.support.parts import Tap, settle

TURNS = 12


class Answering(FrameProcessor):
    """Answers frames of one kind with frames of another, and lets all pass."""

    def __init__(self, kind: type[Frame], answer: Any, *, upstream: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self._kind = kind
        self._answer = answer
        self._way = FrameDirection.UPSTREAM if upstream else FrameDirection.DOWNSTREAM

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, self._kind):
            answer = self._answer(frame)
            if answer is not None:
                await self.push_frame(answer, self._way)
        await self.push_frame(frame, direction)


class Echo(Answering):
    """Sends each message that it gets back to where it came from."""


class Reporter(Answering):
    """Tells the client about errors in RTVI's own way."""


class Translator(FrameProcessor):
    """Puts other people's errors into words of its own."""

    def __init__(self) -> None:
        super().__init__(enable_direct_mode=True)

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, ErrorFrame):
            await self.push_error("Sorry, I did not get that")
        else:
            await self.push_frame(frame, direction)


class RefusedTTS(FrameProcessor):
    """Speech synthesis whose provider does not know the key."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSSpeakFrame):
            await self.push_error("the provider said no", category=ErrorCategory.AUTHENTICATION)
        else:
            await self.push_frame(frame, direction)


class ToolLLM(LLMService):
    """A language model that calls its tool each time it is asked."""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, LLMContextFrame):
            call = FunctionCallFromLLM(
                function_name="weather",
                tool_call_id=frame.name,
                arguments={},
                context=frame.context,
            )
            await self.run_function_calls([call])
        else:
            await self.push_frame(frame, direction)


def _message(kind: str, **content: Any) -> OutputTransportMessageUrgentFrame:
    return OutputTransportMessageUrgentFrame(message={"type": kind, **content})


def _chain(name: str, title: str, make: Any) -> Chain:
    async def build(tally, breaker, position):
        processors, frames, prepare = make(tally)
        guard = [] if breaker is None else [breaker]
        *before, output = processors
        order = [*guard, *before, output] if position == "first" else [*before, *guard, output]
        worker = PipelineWorker(Pipeline(order), idle_timeout_secs=None)
        prepare(worker)

        async def trigger() -> None:
            for frame in frames:
                await worker.queue_frame(frame)
                await settle(20)  # so that there is an answer before the next one fails

        return Scenario(worker, trigger)

    return Chain(name, title, build)


def _nothing(worker: PipelineWorker) -> None: ...


def _failing_tool(tally):
    llm = ToolLLM()

    async def weather(params: FunctionCallParams) -> None:
        error = ConnectionError("weather.example did not answer")
        await params.llm.push_error(f"tool weather: {error}", error)
        await params.result_callback({"error": "no weather"})

    llm.register_function("weather", weather)
    frames = [LLMContextFrame(LLMContext()) for _ in range(TURNS)]
    return [llm, Output(tally)], frames, _nothing


def _server_messages(tally):
    report = Reporter(ErrorFrame, lambda _: RTVIServerMessageFrame(data={"status": "broken"}))
    return [report, Output(tally, failure="raises")], [_message("app")], _nothing


def _one_kind(tally):
    def fails(message: Any) -> Exception | None:
        try:
            json.dumps(message)
        except TypeError as error:
            return error
        return None

    frames = [
        _message(kind, body=body)
        for _ in range(TURNS)
        for kind, body in (("picture", b"\x89PNG"), ("caption", "a cat"))
    ]
    return [Recorder(fails)], frames, _nothing


def _refused_key(tally):
    return [RefusedTTS(), Output(tally)], [TTSSpeakFrame("Hello!")] * TURNS, _nothing


def _sound() -> list[Frame]:
    return [InputAudioRawFrame(bytes(320), 16000, 1) for _ in range(TURNS)]


def _translated(tally):
    return [Translator(), BrokenSTT(tally), Output(tally)], _sound(), _nothing


def _polite(tally):
    """Each answer arrives: what fails is the recognition alone."""

    def prepare(worker: PipelineWorker) -> None:
        async def apologise(worker: PipelineWorker, _: ErrorFrame) -> None:
            await worker.queue_frame(TTSSpeakFrame("Sorry?"))

        worker.add_event_handler("on_pipeline_error", apologise)

    return [ErrorNotifier(), BrokenSTT(tally), Tap(), Output(tally)], _sound(), prepare


MORE_CHAINS = {
    chain.name: chain
    for chain in (
        _chain("failing-tool", "a tool fails, and its handler pushes an error", _failing_tool),
        _chain("server-messages", "errors are told with RTVIServerMessageFrame", _server_messages),
        _chain("one-kind", "messages of one kind cannot be turned into JSON", _one_kind),
        _chain("refused-key", "the provider of the speech rejects the key", _refused_key),
        _chain("translated", "a direct-mode processor rewords all errors", _translated),
        _chain("polite", "errors are answered, and the answers arrive", _polite),
    )
}
