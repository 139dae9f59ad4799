#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Texts from elsewhere: bounded before they are kept, and comparable once what varies is out."""

import re
from functools import lru_cache

_TEMPLATE_CHARS = 256

# What differs between two reports of one failure: anything with a digit in it
# (ids, times, addresses, versions, line numbers), hex without digits, long
# random words, and the names that dates carry.
_VARIABLE = re.compile(
    r"""
      [^\s'"`,;()\[\]{}<>=]*\d[^\s'"`,;()\[\]{}<>=]*
    | \b[0-9a-fA-F]{6,}\b
    | \b[A-Za-z_\-]{24,}\b
    | \b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b
    """,
    re.VERBOSE,
)
_RUN = re.compile(r"#(?:\W*#)+")


def template(text: str) -> str:
    """Take everything variable out of a text.

    Example::

        >>> template("peer 10.0.0.7:443 gone at 12:01:07 (id 7f3a9c)")
        'peer # gone at # (id #)'
    """
    return _template(one_line(text, _TEMPLATE_CHARS))


# A storm asks for the same few templates each time: what is kept here makes a
# judgement cheap, and is bounded.
@lru_cache(maxsize=256)
def _template(text: str) -> str:
    return _RUN.sub("#", _VARIABLE.sub("#", text))


def one_line(text: object, limit: int) -> str:
    """Make a text safe to keep, log and show: one line, bounded, valid Unicode.

    Args:
        text: Anything; something whose ``__str__`` raises is shown by its type.
        limit: Most characters that are kept.
    """
    try:
        words = text if isinstance(text, str) else str(text)
    except Exception:
        words = f"<{type(text).__name__}>"
    if len(words) <= limit and words.isprintable():
        return words
    shown = words[: limit + 1].encode("utf-8", "replace").decode("utf-8")
    shown = "".join(c if c.isprintable() else " " for c in shown)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
