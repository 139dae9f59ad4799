#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the pictures in docs/images: `python docs/pictures.py`, about ten seconds.

A real bot loses its client for six seconds and goes on talking. The incident that comes of it is
shown as `pipecat-circuit-breaker show` shows it. The page is opened in Chromium, which has to be
installed for it; the `cli` extra is for the rest (Pillow comes with Pipecat).
"""

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from loguru import logger
from PIL import Image, ImageChops
from pipecat.frames.frames import OutputTransportMessageUrgentFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.workers.runner import WorkerRunner
from rich.console import Console
from rich.terminal_theme import MONOKAI

from pipecat_circuit_breaker import CircuitBreakerProcessor, Incident
from pipecat_circuit_breaker.demo.parts import Output
from pipecat_circuit_breaker.demo.tally import Tally
from pipecat_circuit_breaker.show.page import page
from pipecat_circuit_breaker.show.terminal import tree

IMAGES = Path(__file__).parent / "images"
CLIENT_AWAY_SECS = 6.0
LONGEST_SECS = 30.0
#: What a bot tells its client as it speaks, in turn.
KINDS = ("bot-llm-text", "bot-tts-text", "metrics")
PAGE_WIDTH = 1000
TALLEST = 2400


async def lose_a_client() -> Incident:
    """Run a bot whose client goes away for a while, and return what the breaker wrote down."""
    breaker = CircuitBreakerProcessor()
    tally = Tally()
    worker = PipelineWorker(
        Pipeline([breaker, Output(tally, failure="raises")]), idle_timeout_secs=None
    )
    started, closed = asyncio.Event(), asyncio.Event()
    worker.add_event_handler("on_pipeline_started", lambda *_: started.set())
    breaker.add_event_handler("on_circuit_closed", lambda *_: closed.set())
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.create_task(runner.run())
    await started.wait()

    async def talk() -> None:
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
    async with asyncio.timeout(LONGEST_SECS):
        await asyncio.gather(talk(), come_back())
    await runner.cancel()
    await running
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


def draw_html(html: str, file: Path, *, width: int, scale: float = 1.0) -> None:
    """Take a picture of a page in Chromium, down to where the page ends."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("expected chromium or google-chrome on the PATH, got neither")
    with tempfile.TemporaryDirectory() as directory:
        source, shot = Path(directory, "page.html"), Path(directory, "page.png")
        source.write_text(html, encoding="utf-8")
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                f"--user-data-dir={directory}/profile",
                f"--window-size={width},{TALLEST}",
                f"--force-device-scale-factor={scale}",
                f"--screenshot={shot}",
                source.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        image = Image.open(shot).convert("RGB")
    # A window is a little taller than the page in it; the page ends where its background begins.
    image = image.crop((0, 0, image.width, image.height - round(200 * scale)))
    background = Image.new("RGB", image.size, image.getpixel((0, 0)))
    _, top, _, bottom = ImageChops.difference(image, background).getbbox()
    image = image.crop((0, 0, image.width, bottom + top))
    image.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


def main() -> None:
    """Make the pictures."""
    logger.remove()
    IMAGES.mkdir(exist_ok=True)
    incident = asyncio.run(lose_a_client())
    draw_terminal(incident)
    draw_page(incident)


if __name__ == "__main__":
    main()
