#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Many calls in one FastAPI app: bots over WebSockets, their health, and metrics for Prometheus.

    pip install "pipecat-circuit-breaker[examples]"
    python examples/fastapi_app.py
    python examples/talk.py ws://localhost:8000/ws

``/health`` says how each call is, with status 503 where one is not well; ``/metrics`` counts for
all of them. Without OPENAI_API_KEY a provider on this machine answers, which ``/fail llm`` breaks.
"""

import os
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Response, WebSocket
from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.openai.stt import OpenAISTTService
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.workers.runner import WorkerRunner
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.instrumentation import instrument
from pipecat_circuit_breaker.testing import Provider

metrics.set_meter_provider(MeterProvider([PrometheusMetricReader()]))

#: Of the calls that go on now.
breakers: list[CircuitBreakerProcessor] = []
openai: dict[str, Any] = {}


@asynccontextmanager
async def lifespan(app: FastAPI):
    """Find a provider, the real one or a local one."""
    if "OPENAI_API_KEY" in os.environ:
        openai["api_key"] = os.environ["OPENAI_API_KEY"]
        yield
    else:
        async with Provider() as provider:
            openai.update(api_key="-", base_url=provider.base_url)
            yield


app = FastAPI(lifespan=lifespan)


@app.get("/health")
async def health(response: Response) -> dict[str, Any]:
    """How each call is; 503 where a circuit of one is not closed."""
    calls = [breaker.health() for breaker in breakers]
    is_well = all(call["status"] in ("ok", "idle") for call in calls)
    response.status_code = 200 if is_well else 503
    return {"status": "ok" if is_well else "degraded", "calls": calls}


@app.get("/metrics")
async def scrape() -> Response:
    """What Prometheus collects."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@app.websocket("/ws")
async def call(websocket: WebSocket) -> None:
    """Talk to one client until it hangs up."""
    await websocket.accept()
    transport = FastAPIWebsocketTransport(
        websocket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True, audio_out_enabled=True, serializer=ProtobufFrameSerializer()
        ),
    )
    breaker = CircuitBreakerProcessor(
        params=CircuitBreakerParams(max_errors=3, window_secs=60)  # people do not ask that fast
    )
    breaker.watch(transport)
    instrument(breaker)
    user, assistant = LLMContextAggregatorPair(
        LLMContext(), user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    pipeline = Pipeline(
        [
            breaker,
            transport.input(),
            OpenAISTTService(**openai),
            user,
            OpenAILLMService(**openai),
            OpenAITTSService(**openai),
            transport.output(),
            assistant,
        ]
    )
    worker = PipelineWorker(pipeline)

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport, client):
        await worker.cancel()

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    breakers.append(breaker)
    try:
        await runner.run()
    finally:
        breakers.remove(breaker)


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
