#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What is known of a channel from the outcomes of what was sent over it."""

from collections import OrderedDict

_MAX_KINDS = 64


class Channel:
    """Which kinds of message a channel can still take.

    A message that cannot be serialised fails on a healthy channel, and keeps
    failing; that is no reason to hold back any other. A channel is taken to be
    down as a whole once messages of two kinds have failed with no success in
    between. (RTVI's notice of a failure is a second kind, so a dead channel
    shows itself with the first failure that is reported.)

    Args:
        processor_id: The processor that delivers.
        destination: Whom it delivers to, where the channel serves several apart.
    """

    def __init__(self, processor_id: int = 0, destination: str | None = None) -> None:
        """Start with nothing known against the channel."""
        self.processor_id = processor_id
        self.destination = destination
        self.generation = 0
        self._failing: OrderedDict[str, None] = OrderedDict()
        self._failed_since_success: set[str] = set()

    @property
    def failing_kinds(self) -> tuple[str, ...]:
        """Kinds of message that failed when they were last sent, the latest last."""
        return tuple(self._failing)

    @property
    def is_failing(self) -> bool:
        """Whether any kind of message failed when it was last sent."""
        return bool(self._failing)

    def is_suspect(self, kind: str) -> bool:
        """Whether a message of this kind has to be expected to fail."""
        return len(self._failed_since_success) > 1 or kind in self._failing

    def failed(self, kind: str) -> None:
        """Note a message that failed."""
        self._failing[kind] = None
        self._failing.move_to_end(kind)
        if len(self._failing) > _MAX_KINDS:
            self._failing.popitem(last=False)
        if len(self._failed_since_success) < 2:
            self._failed_since_success.add(kind)

    def succeeded(self, kind: str) -> None:
        """Note a message that arrived."""
        self._failing.pop(kind, None)
        self._failed_since_success.clear()

    def recovered(self) -> None:
        """Let nothing stand against the channel any more."""
        self._failing.clear()
        self._failed_since_success.clear()
