#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A Prometheus server on this machine."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

# Nothing of this goes through a proxy: it is all on this machine.
_open = build_opener(ProxyHandler({})).open


class Prometheus:
    """A Prometheus server that scrapes one target once a second.

    Args:
        port: Its port on loopback.
    """

    def __init__(self, port: int) -> None:
        """Talk to a server that runs."""
        self._url = f"http://127.0.0.1:{port}"

    @classmethod
    @contextmanager
    def scraping(cls, target_port: int, rules: Path | None = None) -> "Iterator[Prometheus]":
        """Run one, and stop it in the end.

        Args:
            target_port: Port on loopback of what is to be scraped.
            rules: A file of rules, which are evaluated once a second.

        Raises:
            TimeoutError: It was not ready in 60 s.
        """
        with TemporaryDirectory() as folder:
            config = Path(folder, "prometheus.yml")
            config.write_text(
                "global: {scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}\n"
                f"rule_files: [{'' if rules is None else rules}]\n"
                "scrape_configs:\n"
                f"  - {{job_name: bot, static_configs: [{{targets: ['127.0.0.1:{target_port}']}}]}}\n"
            )
            port = _free_port()
            with Path(folder, "log").open("wb") as log:
                server = subprocess.Popen(
                    [
                        "prometheus",
                        f"--config.file={config}",
                        f"--storage.tsdb.path={folder}/data",
                        f"--web.listen-address=127.0.0.1:{port}",
                    ],
                    stdout=log,
                    stderr=log,
                )
            try:
                prometheus = cls(port)
                prometheus._wait_until_ready(server)
                yield prometheus
            finally:
                server.terminate()
                server.wait(30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask for the values now.

        Raises:
            ValueError: Prometheus does not understand the expression.
        """
        return self._ask("query", query=expression)

    def query_range(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """Ask for the values of a time, one a second.

        Raises:
            ValueError: Prometheus does not understand the expression.
        """
        return self._ask("query_range", query=expression, start=start, end=end, step=1)

    def wait_for_scrape_after(self, moment: float) -> None:
        """Wait until it has scraped the target after a moment.

        Raises:
            TimeoutError: It had not in 30 s.
        """
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            scrapes = self.query("timestamp(up) and up == 1")
            if scrapes and float(scrapes[0]["value"][1]) > moment:
                return
            time.sleep(0.1)
        raise TimeoutError("expected a scrape within 30 s")

    def _wait_until_ready(self, server: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and server.poll() is None:
            try:
                _open(f"{self._url}/-/ready", timeout=5).close()
                return
            except (URLError, ConnectionError):
                time.sleep(0.1)
        raise TimeoutError("expected Prometheus to be ready within 60 s")

    def _ask(self, what: str, **parameters: Any) -> list[dict[str, Any]]:
        try:
            with _open(f"{self._url}/api/v1/{what}?{urlencode(parameters)}", timeout=30) as answer:
                result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
                return result
        except URLError as error:
            said = error.read().decode() if hasattr(error, "read") else str(error)
            raise ValueError(f"{parameters['query']}: {said}") from error


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
