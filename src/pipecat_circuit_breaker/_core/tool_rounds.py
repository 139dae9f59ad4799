#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""How often a model has called tools in one turn of the user, and how often in vain.

A round is one answer in which a model calls tools, however many at once. Rounds
are counted where they begin and not read out of the messages: one answer with
two calls and two answers with one each leave the same messages behind, and
applications shorten what they keep. The messages say two things only: whether a
new turn has begun, and what came of the calls.
"""

import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipecat_circuit_breaker._core.text import one_line

_MAX_TOOLS = 16
_MAX_NAME_CHARS = 64

# Rounds whose results are still awaited: more than one where tools run on while
# the model answers.
_MAX_AWAITED = 16

# A longer result is no error message.
_MAX_RESULT_CHARS = 65_536

# What is in the place of a result as long as there is none.
_IN_PROGRESS = "IN_PROGRESS"

_FAILED = {"error", "failed", "failure"}


class ToolRounds:
    """The rounds of the turn that is going on.

    Args:
        max_rounds: Rounds in one turn, at least 1; None for any number.
        max_failed: Rounds in one turn of which nothing came but errors, at
            least 1; None for any number.
    """

    def __init__(self, max_rounds: int | None, max_failed: int | None) -> None:
        """Start with a turn in which no tool was called."""
        self._max_rounds = max_rounds
        self._max_failed = max_failed
        self._begin_turn(())

    def _begin_turn(self, messages: Sequence[Any]) -> None:
        #: What the user had said last when the turn began, and how much in all.
        self._said = _last_said(messages)
        self._times_said = _times_said(messages)
        self.rounds = 0
        self.failed_rounds = 0
        #: Whether somebody was told that the limit is reached, and that the model went on.
        self.is_warned = self.is_told = False
        self._tools = dict[str, None]()
        self._awaited = deque[Mapping[str, Collection[str]]](maxlen=_MAX_AWAITED)

    @property
    def are_spent(self) -> bool:
        """Whether the limit is reached: then the model gets no more tools in this turn."""
        return (self._max_rounds is not None and self.rounds >= self._max_rounds) or (
            self._max_failed is not None and self.failed_rounds >= self._max_failed
        )

    @property
    def tools(self) -> tuple[str, ...]:
        """Names of the tools that were called in this turn, at most 16."""
        return tuple(self._tools)

    def called(self, calls: Mapping[str, Collection[str]], names: Iterable[str]) -> None:
        """Note a round: one answer in which the model calls tools.

        Args:
            calls: For the id of each call, results that mean that the tool has
                failed, whatever they say.
            names: The tools' names.
        """
        self.rounds += 1
        self._awaited.append(calls)
        self.names(names)

    def names(self, names: Iterable[str]) -> None:
        """Note the names of tools that the model has called, or wanted to."""
        for name in names:
            if len(self._tools) < _MAX_TOOLS:
                self._tools.setdefault(one_line(name, _MAX_NAME_CHARS))

    def asked(self, messages: Sequence[Any], *, by_user: bool) -> None:
        """Note that the model is asked.

        Args:
            messages: The conversation, oldest first, in OpenAI's format; what
                is in any other decides nothing.
            by_user: Whether it is what the user said that asks, as far as
                anybody can tell, and not what came of a tool.
        """
        if self._begins_turn(messages, by_user=by_user):
            self._begin_turn(messages)
            return
        for _ in range(len(self._awaited)):
            calls = self._awaited.popleft()
            results = dict(_results(messages, calls))
            if any(result == _IN_PROGRESS for result in results.values()):
                self._awaited.append(calls)
            elif results and all(is_failure(results[id], calls[id]) for id in results):
                self.failed_rounds += 1

    def _begins_turn(self, messages: Sequence[Any], *, by_user: bool) -> bool:
        """Whether the user has said something."""
        if by_user:
            return self._is_news(messages)
        for message in reversed(messages):
            role = _role_of(message)
            if role == "tool":
                return False
            # A picture that a tool has taken stands there as if the user had sent it.
            if role == "user" and not _has_picture(message):
                return True
        return False

    def _is_news(self, messages: Sequence[Any]) -> bool:
        """Whether the user has said something since the turn began.

        The message itself does not tell: applications append one and the same object
        again, and hand on copies of what was said before. Nor does it where it stands:
        what a tool has returned meanwhile may stand behind it.
        """
        said = _last_said(messages)
        if said is None:
            return False
        if said != self._said or _times_said(messages) > self._times_said:
            return True
        # The same words, and no more of them: said again where what was said before is
        # cut off, or a copy, which has behind it what came of the tools.
        return said is not self._said and _role_of(messages[-1]) != "tool"


def is_failure(result: str, failures: Collection[str] = ()) -> bool:
    """Whether a tool says that it has failed.

    It does by what pipecat says in its place, and by what tools commonly return
    in JSON: an ``error`` that is neither null nor empty, ``"status": "error"``,
    ``"success": false``, ``"ok": false``, MCP's ``isError``, or a text that begins
    with "Error:".

    Args:
        result: What a tool has returned, as it is in the conversation.
        failures: Texts that mean that it has failed, whatever they say.
    """
    said: Any = result
    # JSON, and where the tool has encoded it already, JSON in JSON.
    for _ in range(2):
        if isinstance(said, str):
            said = _decoded(said)
    if isinstance(said, str):
        return said in failures or said.lstrip()[:6].casefold() == "error:"
    if not isinstance(said, dict):
        return False
    status = said.get("status")
    return (
        bool(said.get("error"))
        or said.get("isError") is True
        or said.get("success") is False
        or said.get("ok") is False
        or (isinstance(status, str) and status.casefold() in _FAILED)
    )


def _decoded(text: str) -> Any:
    if len(text) > _MAX_RESULT_CHARS:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _last_said(messages: Sequence[Any]) -> object:
    """What the user has said last."""
    return next((m for m in reversed(messages) if _role_of(m) == "user"), None)


def _times_said(messages: Sequence[Any]) -> int:
    """How many messages the user has sent."""
    return sum(_role_of(message) == "user" for message in messages)


def _results(messages: Sequence[Any], ids: Collection[str]) -> Iterator[tuple[str, str]]:
    """The results of some calls, as far as there are any."""
    missing = set(ids)
    for message in reversed(messages):
        if not missing:
            return
        id, result = _result_of(message)
        if id in missing:
            missing.discard(id)
            yield id, result


def _result_of(message: Any) -> tuple[Any, str]:
    role = _role_of(message)
    content = message.get("content") if role in ("tool", "developer") else None
    if not isinstance(content, str):
        return None, ""
    # A tool that runs on while the model answers: pipecat has messages of its own.
    if '"async_tool"' in content[:64]:
        payload = _decoded(content)
        if isinstance(payload, dict) and payload.get("type") == "async_tool":
            is_over = payload.get("status") == "finished"
            return payload.get("tool_call_id"), (
                str(payload.get("result")) if is_over else _IN_PROGRESS
            )
    return message.get("tool_call_id"), content


def _role_of(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _has_picture(message: Any) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") == "image_url" for part in content
    )
