#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A Redis server of the demo's own, for as long as the demo runs."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

#: Seconds that it may take to start, and to stop.
_START_SECS = 10.0
_STOP_SECS = 3.0


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
        TimeoutError: It does not start in time.
    """
    with TemporaryDirectory(prefix="fleet-") as directory:
        socket = Path(directory, "socket")
        server = await asyncio.create_subprocess_exec(
            *(program, "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700"),
            *("--save", "", "--appendonly", "no", "--dir", directory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for the demo, which stops the bots first.
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_START_SECS):
                while not socket.exists():
                    await asyncio.sleep(0.02)
            yield f"unix://{socket}"
        finally:
            await stopped(server)


async def stopped(process: asyncio.subprocess.Process) -> None:
    """End a process that was started here, whether it wants to or not.

    Args:
        process: The process.
    """
    try:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), _STOP_SECS)
    except TimeoutError:
        process.kill()
        await process.wait()
    except ProcessLookupError:
        await process.wait()
