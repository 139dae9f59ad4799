#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Where a fleet's server is, in words that give no secret away."""

from urllib.parse import parse_qsl, unquote, urlsplit

from pipecat_circuit_breaker._core.text import one_line

SCHEMES = ("redis", "rediss", "unix")

_SHOWN_CHARS = 100
_SECRETS = ("username", "password")


class Address:
    """The URL of a server.

    Parameters:
        url: All of it. It may hold a password: not to be shown.
        shown: Scheme, host, port and path.
    """

    def __init__(self, url: str) -> None:
        """Read a URL.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``.

        Raises:
            ValueError: It is none; the message does not repeat it.
        """
        wrong = ValueError("expected redis://HOST:PORT/DB, rediss://… or unix://PATH")
        try:
            parts = urlsplit(url)
            port = "" if parts.port is None else f":{parts.port}"
        except ValueError:
            # Without its cause, whose message quotes parts of it.
            raise wrong from None
        if parts.scheme not in SCHEMES:
            raise wrong
        host = parts.hostname or ""
        host = f"[{host}]" if ":" in host else host
        self.url = url
        self.shown = one_line(f"{parts.scheme}://{host}{port}{parts.path}", _SHOWN_CHARS)
        query = [value for name, value in parse_qsl(parts.query) if name in _SECRETS]
        given = [parts.password or "", unquote(parts.password or ""), *query]
        self._secrets = sorted({secret for secret in given if secret}, key=len, reverse=True)

    def clean(self, text: object) -> str:
        """Take the secrets of the URL out of what somebody says of it.

        Args:
            text: What they say.
        """
        words = str(text)
        for secret in self._secrets:
            words = words.replace(secret, "***")
        return one_line(words, 2 * _SHOWN_CHARS)
