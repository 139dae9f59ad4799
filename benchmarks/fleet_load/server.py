#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A Redis server of the benchmark's own, and what it says of its load."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

#: Commands of the fleet's script: the server counts them as it does those of clients.
_IN_SCRIPT = frozenset(
    "time hget hset hdel hlen hkeys hstrlen lpush ltrim lrange llen get set del"
    " pexpire pfadd pfcount publish".split()
)
_START_SECS = 10.0


@dataclass(frozen=True)
class Sample:
    """What a server had done, and how it was, at one moment.

    Parameters:
        at: Seconds of the calendar's clock.
        requests: Commands that clients had sent, without those that ask for this.
        in_script: Commands that scripts had called.
        connections: Connections that had been accepted.
        sockets: Connections that were open.
        cpu_secs: CPU that it had used.
        sent_bytes: What it had sent.
        memory_bytes: Memory in use.
    """

    at: float
    requests: int
    in_script: int
    connections: int
    sockets: int
    cpu_secs: float
    sent_bytes: int
    memory_bytes: int


def program() -> str | None:
    """The server's program; None where there is none on this machine."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


@contextmanager
def running_server(max_clients: int) -> Iterator[str]:
    """Run a server on a port of this machine; it writes nothing down.

    Args:
        max_clients: Connections that it accepts.

    Yields:
        Its URL.

    Raises:
        RuntimeError: There is no program, or it does not start within 10 s.
    """
    if (found := program()) is None:
        raise RuntimeError("there is no redis-server and no valkey-server on this machine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pcb-") as folder:
        process = subprocess.Popen(
            [
                *(found, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
                *("--save", "", "--appendonly", "no", "--maxclients", str(max_clients)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            url = f"redis://127.0.0.1:{port}"
            _wait(url, process)
            yield url
        finally:
            process.kill()
            process.wait()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECS
    while time.monotonic() < end and process.poll() is None:
        try:
            with redis.Redis.from_url(url) as client:
                client.ping()
            return
        except redis.ConnectionError:
            time.sleep(0.02)
    raise RuntimeError("the server did not start")


def sample(client: Any) -> Sample:
    """Ask a server how it is.

    Args:
        client: A client of :mod:`redis`, whose own connection is not counted.
    """
    client.set_response_callback("INFO", lambda reply, **_: reply)
    reply = bytes(client.execute_command("INFO", "everything"))
    info = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
    calls: Counter[str] = Counter()
    for name, stats in info.items():
        if name.startswith("cmdstat_"):
            number = stats.partition(",")[0].removeprefix("calls=")
            calls[name.removeprefix("cmdstat_").partition("|")[0]] += int(number)
    # What is asked here is no load of the fleet's.
    own = calls.pop("info", 0) + 1
    in_script = sum(n for name, n in calls.items() if name in _IN_SCRIPT)
    return Sample(
        at=time.time(),
        requests=sum(calls.values()) - in_script,
        in_script=in_script,
        connections=int(info["total_connections_received"]),
        sockets=int(info["connected_clients"]) - 1,
        cpu_secs=float(info["used_cpu_user"]) + float(info["used_cpu_sys"]),
        # Replies to this are about as long each time.
        sent_bytes=int(info["total_net_output_bytes"]) - own * len(reply),
        memory_bytes=int(info["used_memory"]),
    )
