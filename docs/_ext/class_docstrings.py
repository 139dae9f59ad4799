#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What pipecat's style of docstrings says of a class: its fields and its events.

The docstrings follow pipecat: the fields of a dataclass, a model, an enum or a `TypedDict` stand
under ``Parameters:`` of the class. autodoc would show them as arguments of a call.
"""

import dataclasses
import enum
import inspect
import re
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, get_type_hints, is_typeddict

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

_EVENT = re.compile(r"^- (on_\w+\([\w, ]*\)): ")
_FIELD = re.compile(r"    (\w+): (.*)")


def show_as_attributes(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Turn the section ``Parameters:`` of a class into attributes, and names of events into code.

    What the class says of its own ``__init__`` stands behind it.
    """
    if what == "class":
        if "__init__" in vars(obj) and not inspect.isabstract(obj):
            lines += ["", *(inspect.getdoc(obj.__init__) or "").splitlines(), ""]
        lines[:] = [_EVENT.sub(r"- ``\1``: ", line) for line in lines]
        if "Parameters:" in lines:
            start = lines.index("Parameters:")
            lines[start:] = _attributes(obj, lines[start + 1 :])


def hide_arguments(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, arguments: str | None, returns: str
) -> tuple[str, None] | None:
    """Leave out the arguments of a class that nobody makes, or whose fields are shown: the same."""
    # A `TypedDict` has no arguments to leave out.
    if what != "class" or is_typeddict(obj):
        return None
    has_fields = "\n    Parameters:\n" in (obj.__doc__ or "")
    return ("", None) if has_fields or inspect.isabstract(obj) else None


def _attributes(cls: type, lines: list[str]) -> Iterator[str]:
    types = _types(cls)
    for n, line in enumerate(lines):
        if line and not line.startswith("    "):
            # The next section.
            yield from lines[n:]
            return
        if field := _FIELD.fullmatch(line):
            yield ""
            yield f".. attribute:: {field[1]}"
            if field[1] in types:
                yield f"   :type: {stringify_annotation(types[field[1]], 'smart')}"
            if default := _default(cls, field[1]):
                yield f"   :value: {default}"
            yield ""
            yield f"   {field[2]}"
        else:
            yield line[5:] if line.startswith("        ") else line


def _types(cls: type) -> dict[str, Any]:
    """What a class annotates itself, without what pydantic checks besides."""
    if issubclass(cls, enum.Enum):
        return {}
    own = SimpleNamespace(__annotations__=inspect.get_annotations(cls))
    return get_type_hints(own, vars(sys.modules[cls.__module__]))


def _default(cls: type, name: str) -> str:
    """The default of a field, or the value of a member, as it would be written; or nothing."""
    if issubclass(cls, enum.Enum):
        return repr(cls[name].value)
    value: Any = PydanticUndefined
    if issubclass(cls, BaseModel) and name in cls.model_fields:
        value = cls.model_fields[name].default
    elif dataclasses.is_dataclass(cls):
        value = {field.name: field.default for field in dataclasses.fields(cls)}.get(name)
    if value in (PydanticUndefined, dataclasses.MISSING):
        return ""
    # A function or a tenacity wait shows an address: the text of the field says what it is.
    text = str(value) if isinstance(value, enum.Enum) else repr(value)
    return "" if " at 0x" in text else text


def setup(app: Sphinx) -> dict[str, bool]:
    """Come before napoleon, which would take them for arguments."""
    app.connect("autodoc-process-docstring", show_as_attributes, priority=100)
    app.connect("autodoc-process-signature", hide_arguments)
    return {"parallel_read_safe": True}
