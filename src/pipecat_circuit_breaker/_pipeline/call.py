#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Whose call it was: what this process, the worker and the application know of a pipeline."""

import os
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from typing import Any

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker._pipeline import releases
from pipecat_circuit_breaker._pipeline.releases import Worker
from pipecat_circuit_breaker.incident import Call

#: Tags as given: what they are, or who knows them once there is an incident.
Tags = Mapping[str, Any] | Callable[[Any], Mapping[str, Any]] | None

#: What is kept of them.
_MAX_TAGS = 32
_NAME_CHARS = 64


def call_of(
    worker: Worker,
    tags: Iterable[Tags],
    *,
    max_text: int,
    report: Callable[[Exception], None],
) -> Call:
    """Say whose an incident is.

    Args:
        worker: The worker of the pipeline.
        tags: The tags of each breaker in it.
        max_text: Characters of each text that are kept.
        report: Called with what a function that knows the tags has raised.
    """
    known: dict[str, str] = {}
    for given in tags:
        try:
            found = given(worker) if callable(given) else given
            for name, value in islice((found or {}).items(), _MAX_TAGS - len(known)):
                known[one_line(name, _NAME_CHARS)] = one_line(value, max_text)
        except Exception as e:
            report(e)
    session = releases.session_of(worker)
    return Call(
        pipeline=one_line(worker.name, max_text),
        session=None if session is None else one_line(session, max_text),
        process=os.getpid(),
        host=_host(),
        pipecat=_version("pipecat-ai"),
        version=_version("pipecat-circuit-breaker"),
        tags=known,
    )


@cache
def _host() -> str:
    return one_line(socket.gethostname(), 100)


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree on the path
        return "unknown"
