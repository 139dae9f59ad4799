#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the pictures of terminals: `python -m pictures.terminals`, about eight minutes.

Each demo runs in tmux: the chains in terminals of 80 and 120 columns and 40 rows, the others in ones
that have room for all they say. What is drawn is what is on the screen when it is over. `--chains`,
`--failover` and `--fleet-demo` make the pictures of one demo alone, `--fleet` those of the command
`fleet`: it watches a real server, and what the server knows has been reported to it by this program in
the half minute before. The extras `demo` and `fleet`, tmux, Chromium and, for the fleet, `redis-server`
have to be installed.
"""

import asyncio
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from pictures import IMAGES
from pictures.page import draw_html
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Report, StoreUnavailable

WIDTHS = (80, 120)
ROWS = 40
FAILOVER_ROWS = 80
FLEET_DEMO_ROWS = 50
FLEET_ROWS = 32
COMMAND = [sys.executable, "-m", "pipecat_circuit_breaker_cli"]
FLEET_NAME = "production"
LONGEST_START_SECS = 10.0

#: Pixels of a character of DejaVu Sans Mono at 14 px, and of both margins.
ADVANCE = 8.43
MARGINS = 24
PAGE = """\
<!DOCTYPE html>
<meta charset="utf-8">
<style>
body {{ margin: 12px; background: {background}; color: {foreground} }}
pre {{ margin: 0; font: 14px/1.2 "DejaVu Sans Mono", monospace }}
</style>
<pre>{code}</pre>
"""


def run_in_terminal(columns: int, rows: int, *options: str) -> str:
    """Run a command in a terminal, and return what is on its screen then, with its colours."""
    with tempfile.TemporaryDirectory() as directory:
        # A server of its own: nobody's sessions, and nobody's configuration.
        tmux = ["tmux", "-S", f"{directory}/socket", "-f", "/dev/null"]
        run = f"{shlex.join([*COMMAND, *options])}; tmux wait-for -S over; cat"
        size = ["-x", str(columns), "-y", str(rows)]
        start = ["set", "-g", "default-terminal", "tmux-256color", ";"]
        start += ["set", "-g", "status", "off", ";", "new-session", "-d", *size, run]
        try:
            subprocess.run([*tmux, *start], check=True)
            subprocess.run([*tmux, "wait-for", "over"], check=True)
            screen = [*tmux, "capture-pane", "-e", "-p"]
            return subprocess.run(screen, check=True, capture_output=True, text=True).stdout
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)


def draw(name: str, screen: str, columns: int) -> None:
    """Draw what a terminal shows."""
    console = Console(record=True, width=columns, file=StringIO())
    console.print(Text.from_ansi(screen))
    html = console.export_html(theme=MONOKAI, code_format=PAGE, inline_styles=True)
    width = round(columns * ADVANCE) + MARGINS
    draw_html(html, IMAGES / f"{name}-{columns}.png", width=width, scale=1.5)


@contextmanager
def server() -> Iterator[str]:
    """Run a Redis server, and return its URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    running = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        running.terminate()
        running.wait(10)


class Outages:
    """Tells a fleet's store what its bots would, in the same steps."""

    def __init__(self, store: RedisStore) -> None:
        """Tell a store."""
        self._store = store
        self._leases = 0

    async def begin(self, key: str, instances: int, bots: int, waits: Sequence[float]) -> None:
        """Let so many instances fail, each with so many bots."""
        for n in range(instances):
            names = tuple(f"{n}.{bot}" for bot in range(bots))
            instance = f"bots-7d9f-{n:02}"
            report = Report(key, instance, instance, True, len(names), names, 0.0, tuple(waits))
            await self._store.report(report, min_instances=3, vote_secs=10.0, hold_secs=600.0)

    async def probe(self, key: str, success: bool | None, *, secs: float = 15.0) -> None:
        """Probe when it is time: it is answered, fails, or (None) nobody hears of it any more."""
        instance = f"bots-7d9f-{3 + self._leases:02}"
        while not (lease := await self._store.lease(key, instance, instance, secs)).did:
            await asyncio.sleep(0.05)
        self._leases += 1
        if success is not None and lease.outage is not None:
            generation = lease.outage.generation
            await self._store.settle(
                key, instance, generation, success=success, waits=(1.0, 2.0, 30.0)
            )


async def fail(url: str) -> None:
    """Let a fleet have outages: two that are over, two that go on, one that may become one."""
    store = RedisStore(url, FLEET_NAME)
    deadline = time.monotonic() + LONGEST_START_SECS
    while True:
        try:
            await store.read()
            break
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)
    outages = Outages(store)
    llm = "OpenAILLMService[api.openai.com]: APIConnectionError in openai._base_client:request"
    tts = (
        "CartesiaTTSService[api.eu.cartesia.ai]: InvalidStatus in websockets.asyncio.client:connect"
    )
    stt = "DeepgramSTTService: TimeoutError in asyncio.timeouts:__aexit__"
    channel = "DailyOutputTransport: channel down"
    await outages.begin(stt, 5, 7, [1.0])
    await outages.begin(channel, 4, 3, [60.0])
    await outages.begin(llm, 41, 20, [1.0, 2.0, 30.0])
    await outages.probe(stt, True)
    await outages.probe(llm, False)
    await outages.probe(llm, None, secs=2.0)
    await store.close_outage(channel, "ann", "Daily says that its signalling is back")
    await outages.probe(llm, False)
    await asyncio.sleep(15)
    await outages.begin(tts, 6, 5, [1.0])
    await outages.begin(llm, 41, 20, [1.0, 2.0, 30.0])
    await outages.probe(tts, None, secs=60.0)
    await outages.begin("AzureTTSService[westeurope]: CancellationError", 1, 2, [1.0])
    await store.close()


def draw_fleet() -> None:
    """Draw a fleet in both widths."""
    with server() as url:
        asyncio.run(fail(url))
        for columns in WIDTHS:
            options = ["fleet", url, "--name", FLEET_NAME, "--once"]
            draw("fleet", run_in_terminal(columns, FLEET_ROWS, *options), columns)


def main() -> None:
    """Make the pictures."""
    every = {"--chains", "--failover", "--fleet-demo", "--fleet"}
    wanted = every & {*sys.argv} or every
    if "--chains" in wanted:
        for columns in WIDTHS:
            draw("demo", run_in_terminal(columns, ROWS, "demo"), columns)
    if "--failover" in wanted:
        draw("failover-demo", run_in_terminal(80, FAILOVER_ROWS, "demo", "--failover"), 80)
    if "--fleet-demo" in wanted:
        draw("fleet-demo", run_in_terminal(80, FLEET_DEMO_ROWS, "demo", "--fleet"), 80)
    if "--fleet" in wanted:
        draw_fleet()


if __name__ == "__main__":
    main()
