#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A Redis server of the demo's own, for as long as the demo runs."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

#: Seconds that it may take to start, and to stop.
_START_SECS = 10.0
_STOP_SECS = 3.0

#: Runs a program, with a directory for it, for as long as somebody holds the other end of its
#: standard input: both are gone too where the demo was killed.
_AS_LONG_AS_WE_ARE = '"$@" & cat; kill $!; wait $!; rmdir "$0"'


class FleetDemoError(Exception):
    """The server or the bots did not start, or one of their processes has ended."""


def find_server() -> tuple[str | None, str]:
    """Look for a server on this machine.

    Returns:
        Its program, and its version; or None, and why there is none that can be used.
    """
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        return None, "there is no redis-server on this machine"
    if find_spec("redis") is None:
        return None, "redis-py is missing: pip install 'pipecat-circuit-breaker[fleet]'"
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    versions = [word[2:] for word in said.stdout.split() if word.startswith("v=")]
    return program, " ".join([Path(program).name, *versions[:1]])


@asynccontextmanager
async def running_server(program: str) -> AsyncIterator[str]:
    """Run a server that nobody else can reach: its socket is a file, and it writes nothing down.

    Args:
        program: The server's program.

    Yields:
        Its URL.

    Raises:
        FleetDemoError: It does not start in time.
    """
    with TemporaryDirectory(prefix="fleet-", ignore_cleanup_errors=True) as directory:
        socket = Path(directory, "socket")
        server = await asyncio.create_subprocess_exec(
            *("sh", "-c", _AS_LONG_AS_WE_ARE, directory),
            *(program, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for the demo, which stops the bots first.
            start_new_session=True,
        )
        try:
            await _started(socket)
            yield f"unix://{socket}"
        finally:
            await _stopped(server)


async def _started(socket: Path) -> None:
    for _ in range(round(_START_SECS / 0.02)):
        if socket.exists():
            return
        await asyncio.sleep(0.02)
    raise FleetDemoError(f"the server has not started within {_START_SECS:g} s")


async def _stopped(server: asyncio.subprocess.Process) -> None:
    assert server.stdin is not None
    server.stdin.close()
    try:
        await asyncio.wait_for(server.wait(), _STOP_SECS)
    except TimeoutError:
        # The shell, and what it runs.
        os.killpg(server.pid, signal.SIGKILL)
        await server.wait()
