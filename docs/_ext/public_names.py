#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Warns of each public name that the reference lacks; `nox -s docs` makes it an error.

A module is public if it has an ``__all__``, and what stands there is. A name that several modules
offer has to be in the reference once. Events count as well: a class has to describe each of its own.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import pipecat_circuit_breaker

logger = logging.getLogger(__name__)

#: Names of events in a module's source, but for those of others that it listens to.
_EVENT = re.compile(r'(?<!add_event_handler\()"(on_\w+)"')


def public_modules() -> Iterator[ModuleType]:
    """Each module of the package that says what it offers."""
    package = pipecat_circuit_breaker
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not re.search(r"\._", found.name):
            module = importlib.import_module(found.name)
            if hasattr(module, "__all__"):
                yield module


def public_objects() -> Iterator[tuple[Any, set[str]]]:
    """Each public object, with all names under which it is offered."""
    offered: dict[int, tuple[Any, set[str]]] = {}
    for module in public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            offered.setdefault(id(value), (value, set()))[1].add(f"{module.__name__}.{name}")
    yield from offered.values()


def public_members(cls: type) -> Iterator[str]:
    """What a class of this package offers itself: methods, properties and fields."""
    for name, value in vars(cls).items():
        if not name.startswith("_") and (inspect.isroutine(value) or isinstance(value, property)):
            yield name
    for name in vars(cls).get("__annotations__", {}):
        if not name.startswith("_") and name != "model_config":
            yield name


def missing(known: set[str]) -> Iterator[str]:
    """The public names that are not among those that are known."""
    for value, names in public_objects():
        here = names & known
        if not here:
            yield min(names, key=len)
        elif inspect.isclass(value):
            for member in public_members(value):
                if not any(f"{name}.{member}" in known for name in here):
                    yield f"{min(here, key=len)}.{member}"


def undescribed_events() -> Iterator[str]:
    """Events of public classes that the docstring of their class does not describe, with its arguments."""
    for cls, names in public_objects():
        if inspect.isclass(cls) and "_register_event_handler(" in inspect.getsource(cls):
            for event in sorted({*_EVENT.findall(inspect.getsource(inspect.getmodule(cls)))}):
                if not re.search(rf"- {event}\([\w, ]+\): ", cls.__doc__):
                    yield f"{min(names, key=len)}, event {event}"


def check(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of what is missing, once all pages are read."""
    for name in (*missing({*env.domains.python_domain.objects}), *undescribed_events()):
        logger.warning("the reference lacks %s", name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Look when all pages are read."""
    app.connect("env-check-consistency", check)
    return {"parallel_read_safe": True}
