#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""How a method of one instance is replaced, and comes back again."""

from collections.abc import Callable
from typing import Any

Undo = Callable[[], None]


def replace(instance: object, name: str, function: Callable[..., Any]) -> Undo:
    """Put a function in the place of an instance's method.

    Returns:
        What puts the method back. Where somebody else has put another
        function in its place since, that one stays.
    """
    # Never by `vars(instance)`: CPython then gives the instance a dictionary, and
    # every look at any of its attributes is slower from there on, which costs a
    # frame of sound half an `IdentityFilter`.
    before = getattr(instance, name)
    is_own = getattr(before, "__func__", None) is not getattr(type(instance), name, None)
    setattr(instance, name, function)

    def put_back() -> None:
        if getattr(instance, name, None) is not function:
            return
        if is_own:
            setattr(instance, name, before)
        else:
            delattr(instance, name)

    return put_back
