#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the pictures of an incident: `python -m pictures.incident`, about ten seconds.

A real bot loses its client for six seconds and goes on talking. The incident that comes of it is
shown as `pipecat-circuit-breaker show` shows it. The page is opened in Chromium, which has to be
installed for it; the `cli` extra is for the rest (Pillow comes with Pipecat).
"""

import asyncio
import re
from io import StringIO

from loguru import logger
from pipecat.frames.frames import OutputTransportMessageUrgentFrame
from pipecat.pipeline.worker import PipelineWorker
from rich.console import Console
from rich.terminal_theme import MONOKAI

from pictures import IMAGES
from pictures.page import draw_html
from pipecat_circuit_breaker import CircuitBreakerProcessor, Incident
from pipecat_circuit_breaker.demo.parts import Output
from pipecat_circuit_breaker.demo.tally import Tally
from pipecat_circuit_breaker.show.page import page
from pipecat_circuit_breaker.show.terminal import tree
from pipecat_circuit_breaker.testing import running

CLIENT_AWAY_SECS = 6.0
LONGEST_SECS = 30.0
#: What a bot tells its client as it speaks, in turn.
KINDS = ("bot-llm-text", "bot-tts-text", "metrics")
PAGE_WIDTH = 1000


async def lose_a_client() -> Incident:
    """Run a bot whose client goes away for a while, and return what the breaker wrote down."""
    breaker = CircuitBreakerProcessor()
    tally = Tally()
    closed = asyncio.Event()
    breaker.add_event_handler("on_circuit_closed", lambda *_: closed.set())

    async def talk(worker: PipelineWorker) -> None:
        n = 0
        while not closed.is_set():
            message = {"label": "rtvi-ai", "type": KINDS[n % len(KINDS)], "data": {}}
            await worker.queue_frame(OutputTransportMessageUrgentFrame(message=message))
            n += 1
            await asyncio.sleep(0.05)

    async def come_back() -> None:
        await asyncio.sleep(CLIENT_AWAY_SECS)
        tally.limit = 0

    tally.triggered_at = 0.0
    async with running(breaker, Output(tally, failure="raises")) as worker:
        async with asyncio.timeout(LONGEST_SECS):
            await asyncio.gather(talk(worker), come_back())
    return breaker.incidents[0]


def draw_terminal(incident: Incident) -> None:
    """Draw what the terminal shows."""
    console = Console(record=True, width=104, file=StringIO())
    console.print(tree(incident))
    svg = console.export_svg(title="pipecat-circuit-breaker show incident.json", theme=MONOKAI)
    # The font is whatever there is: a picture in the docs fetches nothing.
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    (IMAGES / "incident-terminal.svg").write_text(svg, encoding="utf-8")


def draw_page(incident: Incident) -> None:
    """Take a picture of the page."""
    draw_html(page([incident]), IMAGES / "incident-page.png", width=PAGE_WIDTH)


def main() -> None:
    """Make the pictures."""
    logger.remove()
    IMAGES.mkdir(exist_ok=True)
    incident = asyncio.run(lose_a_client())
    draw_terminal(incident)
    draw_page(incident)


if __name__ == "__main__":
    main()
