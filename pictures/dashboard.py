#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Draws ``dashboard.json`` from what a real Prometheus scraped from a bot in a storm.

It needs ``prometheus`` on the PATH, the extras ``otel`` and ``test``, and matplotlib. It runs for
about two and a half minutes. Each panel is drawn from the answers to the very expressions that are in
the JSON; colours, names and titles are read from there.
"""

import asyncio
import json
import re
import shutil
import time
from importlib.resources import files
from typing import Any

from pictures import IMAGES
from pictures.prometheus import Prometheus

DASHBOARD = files("pipecat_circuit_breaker") / "instrumentation" / "dashboard.json"
PICTURE = IMAGES / "dashboard.png"


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels."""
    read: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return read


def expression(panel: dict[str, Any]) -> str:
    """What a panel asks of Prometheus."""
    [target] = panel["targets"]
    return str(target["expr"])


#
# The storm
#


async def storm() -> None:
    """Run a bot whose client goes twice, and whose speech recognition runs out of quota."""
    from pipecat.frames.frames import (
        Frame,
        InputAudioRawFrame,
        OutputTransportMessageUrgentFrame,
    )
    from pipecat.processors.frame_processor import FrameDirection, FrameProcessor

    from pipecat_circuit_breaker import CircuitBreakerProcessor
    from pipecat_circuit_breaker.instrumentation import instrument
    from pipecat_circuit_breaker.testing import Output, running

    class ClientOutput(Output):
        gone = False

        async def send_message(self, frame: Any) -> None:
            if self.gone:
                raise ConnectionError("the client is gone")

    class SpeechRecognition(FrameProcessor):
        refused = False

        async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
            await super().process_frame(frame, direction)
            if self.refused and isinstance(frame, InputAudioRawFrame):
                await self.push_error("quota exceeded")
            await self.push_frame(frame, direction)

    breaker = CircuitBreakerProcessor()
    instrument(breaker)
    recognition, output = SpeechRecognition(), ClientOutput()
    sound = bytes(640)
    async with running(breaker, recognition, output) as worker:
        begin = time.monotonic()
        for n in range(140 * 25):
            await asyncio.sleep(max(0.0, begin + n / 25 - time.monotonic()))
            at = time.monotonic() - begin
            output.gone = 10 <= at < 40 or 85 <= at < 110
            recognition.refused = 50 <= at < 75
            await worker.queue_frame(InputAudioRawFrame(sound, sample_rate=16000, num_channels=1))
            if n % 5 == 0:
                await worker.queue_frame(OutputTransportMessageUrgentFrame(message={"type": "app"}))


#
# The picture
#

_COLORS = {
    "green": "#56a64b",
    "yellow": "#f2cc0c",
    "red": "#e02f44",
    "orange": "#ff780a",
    "blue": "#3274d9",
    "purple": "#a352cc",
}


def draw(prometheus: Prometheus, start: float, end: float) -> None:
    """Draw each panel from the answers to its own expression."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(13, 7), dpi=90, sharex=True, facecolor="#f7f8fa")
    for axis, panel in zip(axes.flat, panels(), strict=True):
        answers = prometheus.query_range(expression(panel), start, end)
        drawing = _draw_states if panel["type"] == "state-timeline" else _draw_lines
        drawing(axis, panel, answers, start)
        axis.set_title(panel["title"], loc="left", fontsize=11, fontweight="bold")
        axis.set_xlim(0, end - start)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    figure.tight_layout()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE)


def _legend(panel: dict[str, Any], answer: dict[str, Any]) -> str:
    labels = answer["metric"]
    return re.sub(r"{{(\w+)}}", lambda m: labels[m[1]], panel["targets"][0]["legendFormat"])


def _draw_states(axis: Any, panel: dict[str, Any], answers: list[Any], start: float) -> None:
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    for row, answer in enumerate(answers):
        for at, value in answer["values"]:
            color = _COLORS[mapping["options"][value]["color"]]
            axis.barh(row, 1, left=at - start, height=0.55, color=color, linewidth=0)
        axis.text(0, row + 0.34, _legend(panel, answer), fontsize=9)
    for option in mapping["options"].values():
        axis.barh(0, 0, color=_COLORS[option["color"]], label=option["text"])
    axis.set_yticks([])
    axis.set_ylim(-0.5, len(answers) - 0.25)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, frameon=False, fontsize=9)


def _draw_lines(axis: Any, panel: dict[str, Any], answers: list[Any], start: float) -> None:
    colors = {
        override["matcher"]["options"]: _COLORS[override["properties"][0]["value"]["fixedColor"]]
        for override in panel["fieldConfig"]["overrides"]
    }
    for answer in answers:
        name = _legend(panel, answer)
        at = [moment - start for moment, _ in answer["values"]]
        values = [float(value) for _, value in answer["values"]]
        [line] = axis.plot(at, values, label=name, linewidth=2, color=colors.get(name))
        axis.fill_between(at, values, alpha=0.12, color=line.get_color(), linewidth=0)
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])  # room for the legend
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="upper left", frameon=False, fontsize=9)


def main() -> None:
    """Run the storm under a real Prometheus, and draw what it has scraped."""
    from loguru import logger
    from opentelemetry import metrics
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from opentelemetry.sdk.metrics import MeterProvider
    from prometheus_client import CollectorRegistry, start_http_server

    if shutil.which("prometheus") is None:
        raise SystemExit("`prometheus` is not on the PATH (Debian: apt-get install prometheus)")
    logger.remove()
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    metrics.set_meter_provider(MeterProvider(metric_readers=[reader]))
    server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
    with Prometheus.scraping(server.server_port) as prometheus:
        start = time.time()
        asyncio.run(storm())
        end = time.time()
        prometheus.wait_for_scrape_after(end)
        draw(prometheus, start, end)
    server.shutdown()


if __name__ == "__main__":
    main()
