#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What is known of a channel from the outcomes of what was delivered over it.

A message that cannot be serialised fails on a healthy channel, and keeps
failing; that is no reason to hold back any other. So only an unbroken row of
failures speaks against a channel, and while they were of few kinds of message,
a message of another kind is still tried: kinds can only release.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from pipecat_circuit_breaker._core.advice import ChannelFacts
from pipecat_circuit_breaker._core.circuits import Guarded
from pipecat_circuit_breaker._core.window import Window

# Kinds of message that an incident names.
_MAX_KINDS = 64


@dataclass(slots=True, eq=False)
class Channel:
    """An output transport, or one destination of it.

    Parameters:
        destination: Whom it delivers to, where the output serves several apart.
        most_kinds: So many kinds of message that have failed in a row, and
            none that has not, speak against the channel and not the kinds.
        guarded: Its circuit, once anything has failed.
        kinds: Kinds of the messages that have failed since it last delivered,
            as many as matter.
        has_failed: Whether any has failed since it last delivered.
        has_delivered: Whether it has ever delivered anything.
        successes: Deliveries that succeeded.
    """

    destination: str | None
    most_kinds: int
    guarded: Guarded | None = None
    kinds: set[str] = field(default_factory=set)
    has_failed: bool = False
    has_delivered: bool = False
    successes: int = 0

    def tries(self, kind: str) -> bool:
        """Whether a message of this kind may still get through where others fail."""
        return self.has_failed and kind not in self.kinds and len(self.kinds) < self.most_kinds

    def failed(self, kind: str) -> None:
        """Note a message that failed."""
        if len(self.kinds) < self.most_kinds:
            self.kinds.add(kind)
        self.has_failed = True

    def delivered(self) -> None:
        """Note a message that got through."""
        self.kinds.clear()
        self.has_failed, self.has_delivered = False, True
        self.successes += 1


@dataclass(slots=True, eq=False)
class Absence:
    """What is not sent while nobody is connected: a state of the channel, and no failure.

    Parameters:
        since: When the first message was not sent; None as long as there was none.
        messages: How many were not sent.
        is_told: Whether somebody was told that the bot goes on all the same.
    """

    since: float | None = None
    messages: int = 0
    is_told: bool = False


class Output:
    """What is known of one output transport.

    Args:
        id: pipecat's id of the processor.
        max_errors: Deliveries in a row that have to fail before it looks down
            as a whole, whomever they were for.
        most_kinds: See :class:`Channel`.
        window_secs: The time in which they fail.
        most: Channels that are kept; the one longest without news goes first.
    """

    def __init__(
        self, id: int, *, max_errors: int, most_kinds: int, window_secs: float, most: int
    ) -> None:
        """Start with nothing known against it."""
        self.id = id
        # Whether anybody is connected, None where nobody has said so; or whether it has
        # let its client go: states, and no failures.
        self.is_connected: bool | None = None
        self.has_ended = False
        # All its destinations together.
        self.whole = Channel(None, most_kinds)
        self.whole_failures = Window(max_errors, window_secs)
        # Whether a transport is asked who is connected.
        self.is_watched = False
        self.went_at: float | None = None
        # Since when nothing has been sent because nobody is, and how much of it.
        self.absence = Absence()
        # Kinds of message that failed when they were last sent, the latest last, and
        # how many messages had got through when each began to fail.
        self._failing_kinds: OrderedDict[str, int] = OrderedDict()
        self._delivered = 0
        self._most = most
        self._to_all = Channel(None, most_kinds)
        self._most_kinds = most_kinds
        self._channels: OrderedDict[str, Channel] = OrderedDict()

    @property
    def is_reachable(self) -> bool:
        """Whether anybody may be there to send to."""
        # As long as nobody knows, somebody may be there: what is sent may get through.
        return self.is_connected is not False and not self.has_ended

    def channel(self, destination: str | None) -> Channel:
        """The channel to a destination; None for the one to all."""
        if destination is None:
            return self._to_all
        channel = self._channels.get(destination)
        if channel is None:
            channel = self._channels[destination] = Channel(destination, self._most_kinds)
            if len(self._channels) > self._most:
                self._channels.popitem(last=False)
        else:
            self._channels.move_to_end(destination)
        return channel

    @property
    def facts(self) -> ChannelFacts:
        """What an incident says of it."""
        return ChannelFacts(
            failing_kinds=tuple(self._failing_kinds),
            delivered=self._delivered - min(self._failing_kinds.values(), default=self._delivered),
            is_connected=self.is_connected,
            went_at=self.went_at,
        )

    def failed(self, kind: str) -> None:
        """Note that a message of a kind has failed."""
        self._failing_kinds.setdefault(kind, self._delivered)
        self._failing_kinds.move_to_end(kind)
        if len(self._failing_kinds) > _MAX_KINDS:
            self._failing_kinds.popitem(last=False)

    def delivered(self, kind: str) -> tuple[int, int | None]:
        """Note that a message of a kind has got through.

        Returns:
            What :meth:`take_back` takes.
        """
        before, failed_since = self._delivered, self._failing_kinds.pop(kind, None)
        self._delivered += 1
        return before, failed_since

    def take_back(self, kind: str, success: tuple[int, int | None]) -> None:
        """Note that a message has not got through after all."""
        before, failed_since = success
        if failed_since is not None:
            self._failing_kinds[kind] = failed_since
        for failing, since in self._failing_kinds.items():
            if since <= before:
                self._failing_kinds[failing] = since + 1

    def let_go(self, guarded: Guarded) -> None:
        """Forget a circuit that is no more."""
        for channel in (self.whole, self._to_all, *self._channels.values()):
            if channel.guarded is guarded:
                channel.guarded = None

    @property
    def unreached(self) -> int:
        """To how many of its destinations nothing has ever got through that was tried."""
        return sum(
            channel.has_failed and not channel.has_delivered for channel in self._channels.values()
        )
