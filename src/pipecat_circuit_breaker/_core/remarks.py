#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What the breaker adds to the text of an error, and how to take it off again.

An error with a remark may come back through a bus, where only its text is left.
It must not look like another failure for it.
"""

import re

_REMARK = re.compile(r" \((?:circuit open, |circuit probed, )[^()]*\)?")


def opened(why: str) -> str:
    """What the error says that has opened a circuit."""
    return f"circuit open, {why}: more like it are held back until it recovers"


def probed(held: int) -> str:
    """What an error says that is let through as the probe."""
    return f"circuit probed, {held} more like it were held back"


def without(text: str) -> str:
    """An error's text without what breakers, this one or a remote one, have added."""
    return _REMARK.sub("", text) if " (circuit " in text else text
