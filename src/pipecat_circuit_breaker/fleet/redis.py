#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A fleet over a Redis or Valkey server, from 6.2 on; needs the extra ``fleet``.

The server decides by one script, ``rules.lua``, on its own clock. All keys begin
with ``{pcb:NAME}:``, share one slot of a cluster, and have a time to live. This is
all that a user of the server has to be allowed for the fleet ``NAME``::

    ACL SETUSER pcb on >SECRET resetkeys ~{pcb:NAME}:* resetchannels &{pcb:NAME}:*
        -@all +eval +evalsha +time +hget +hset +hdel +hlen +hkeys +hstrlen
        +lpush +ltrim +lrange +llen +get +set +del +pexpire +pfadd +pfcount
        +publish +subscribe +ping
"""

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from hashlib import sha1
from importlib.resources import files
from itertools import count
from typing import Any

import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

from pipecat_circuit_breaker.fleet import rules
from pipecat_circuit_breaker.fleet.news import Unread
from pipecat_circuit_breaker.fleet.record import (
    MAX_BYTES,
    MAX_INSTANCES,
    MAX_OUTAGES,
    MAX_WAIT_SECS,
    RECORD_VERSION,
    TOMBSTONE_SECS,
    FleetMode,
    ModeSet,
    Outage,
)
from pipecat_circuit_breaker.fleet.store import Answer, Knowledge, Report, StoreUnavailable

_SCRIPT = files(__package__).joinpath("rules.lua").read_text("utf-8")
_SHA = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

# Seconds of silence after which a subscription is asked whether it still lives. That is all
# that a process asks while nothing fails, so its other connection may go.
_PING_SECS = 5.0

# News in a second that a fleet never has: 256 outages, each at most once a second, and
# their openings, probes and ends.
_MOST_NEWS = 1_000

# Messages that are heard, and records that are read, in one turn of the loop: bots have
# frames to push meanwhile.
_MESSAGES_A_TURN = 20
_RECORDS_A_TURN = 16

# Seconds between two looks at a server that cannot be subscribed to.
_POLL_SECS = 1.0

# A first try that only learns the clock, one that is carried out, one for bad luck.
_TRIES = 3

# redis-py takes the code off an error of the server, and of some makes a type.
_CODES = {
    "AuthenticationError": "NOAUTH",
    "BusyLoadingError": "LOADING",
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
}

# An error of a script has it anywhere in its text.
_CODE = re.compile(
    r"\b(OOM|READONLY|WRONGTYPE|NOPERM|NOAUTH|WRONGPASS|LOADING|MISCONF|MASTERDOWN|NOREPLICAS"
    r"|CLUSTERDOWN|CROSSSLOT|MOVED|BUSY|EXECABORT)\b"
)

# What a script says where its user may not: of Redis 7 and Valkey, and of Redis 6.2.
_DENIED = re.compile(r"ACL failure|user executing the script")


class RedisStore:
    """Keeps the outages of a fleet on a server, see :class:`~.store.Store`.

    It belongs to the loop that uses it. One connection for commands, which is
    given up when nothing was asked for some seconds, and one for each subscription.

    Example::

        sentinel = Sentinel([("sentinel-1", 26379)], socket_timeout=1.0)
        RedisStore(lambda: sentinel.master_for("fleet", socket_timeout=1.0), "pipecat")
        RedisStore(lambda: RedisCluster(host="node-1", socket_timeout=1.0), "pipecat")
    """

    def __init__(
        self,
        source: str | Callable[[], Any],
        name: str,
        *,
        timeout_secs: float = 1.0,
        idle_secs: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Say where the server is; nothing is connected yet.

        Args:
            source: A URL: ``redis://``, ``rediss://`` (TLS) or ``unix://``. Or a
                function that returns a new client of :mod:`redis.asyncio` each
                time, which the store closes: for Sentinel, Cluster, or what a URL
                cannot say. It should wait for about a second at most, and not retry.
            name: The fleet's, see :class:`~.params.FleetParams`.
            timeout_secs: Seconds to wait for connecting, and for an answer, above 0.
                A step that the server comes to later is not carried out.
            idle_secs: Seconds after which an unused connection is given up.
            clock: Seconds that never go back.

        Raises:
            ValueError: The URL is none that redis-py knows.
        """
        self._source = source
        self._timeout_secs = timeout_secs
        self._idle_secs = idle_secs
        self._clock = clock
        # Records of another version must go elsewhere: each drops what it cannot read.
        # Releases whose records differ share nothing, and spoil nothing.
        self._prefix = f"{{pcb:{name}}}:{RECORD_VERSION}:"
        self._turn = asyncio.Lock()
        self._client: Any = None
        self._idle: asyncio.TimerHandle | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        # The server's clock less ours.
        self._offset: float | None = None
        if isinstance(source, str):
            try:
                self._connect()
            except Exception:
                # Without redis-py's text, which may quote the password.
                raise ValueError("not a URL of a Redis server") from None

    def report(
        self, report: Report, *, min_instances: int, vote_secs: float, hold_secs: float
    ) -> Coroutine[Any, Any, Answer]:
        """Take in a report, see :meth:`.store.Store.report`."""
        report = rules.bounded(report)
        # How old it is now, and not when the loop comes to it; it grows older until it is sent.
        happened_at = self._clock() - min(report.age_secs, 1e9)
        return self._step(
            "report",
            report.key,
            lambda: {
                "instance": report.instance,
                "token": report.token,
                "votes": report.votes,
                "failures": report.failures,
                "bots": report.bots,
                "age": self._clock() - happened_at,
                "waits": report.waits,
                "need": min_instances,
                "vote": rules.secs(vote_secs),
                "hold": rules.secs(hold_secs),
            },
        )

    async def lease(self, key: str, instance: str, token: str, lease_secs: float) -> Answer:
        """Ask to be the one that probes, see :meth:`.store.Store.lease`."""
        return await self._step(
            "lease",
            rules.key(key),
            lambda: {
                "instance": rules.who(instance),
                "token": rules.who(token),
                "lease_secs": rules.secs(lease_secs),
            },
        )

    async def settle(
        self, key: str, token: str, generation: int, *, success: bool, waits: tuple[float, ...]
    ) -> Answer:
        """Report the outcome of a probe, see :meth:`.store.Store.settle`."""
        return await self._step(
            "settle",
            rules.key(key),
            lambda: {
                "token": rules.who(token),
                "generation": generation,
                "success": success,
                "waits": rules.waits(waits),
            },
        )

    async def open(self, key: str, who: str, why: str, hold_secs: float) -> Answer:
        """Open by hand, see :meth:`.store.Store.open`."""
        return await self._step(
            "open",
            rules.key(key),
            lambda: {
                "who": rules.who(who),
                "why": rules.why(why),
                "hold": rules.secs(hold_secs),
            },
        )

    async def close_outage(self, key: str, who: str, why: str) -> Answer:
        """Close by hand, see :meth:`.store.Store.close_outage`."""
        return await self._step(
            "close", rules.key(key), lambda: {"who": rules.who(who), "why": rules.why(why)}
        )

    async def set_mode(self, mode: FleetMode, who: str, why: str, hold_secs: float) -> None:
        """Say what the bots do with what the fleet knows, see :meth:`.store.Store.set_mode`."""
        ask = {
            "mode": mode,
            "who": rules.who(who),
            "why": rules.why(why),
            "hold": rules.secs(hold_secs),
        }
        await self._ask("mode", lambda: ask)

    async def read(self, token: str = "") -> Knowledge:
        """Read all there is, see :meth:`.store.Store.read`."""
        token = rules.who(token)
        knowledge, unread = await _read(await self._ask("read", dict))
        kept = tuple(outage for outage in knowledge.outages if outage.expires_at > knowledge.now)
        if token and (unread or len(kept) < len(knowledge.outages)):
            knowledge, unread = await _read(await self._ask("sweep", lambda: {"token": token}))
            for name, text in unread:
                await self._ask("drop", dict, name, text)
            return knowledge
        return replace(knowledge, outages=kept)

    @asynccontextmanager
    async def news(self) -> AsyncIterator[AsyncIterator[Outage | ModeSet | None]]:
        """Hear of every change from now on, see :meth:`.store.Store.news`.

        Where the client cannot subscribe (a cluster's, in redis-py 5), the server
        is read each second instead.
        """
        try:
            client = self._connect()
        except Exception as error:
            raise StoreUnavailable(_reason(error)) from None
        subscription = _Subscription(self._prefix + "news", self._timeout_secs, self._now)
        work = asyncio.create_task(
            subscription.listen(client)
            if hasattr(client, "pubsub")
            else subscription.poll(self.read)
        )
        try:
            ready = asyncio.ensure_future(subscription.is_ready.wait())
            try:
                await asyncio.wait({ready}, timeout=3 * self._timeout_secs)
            finally:
                ready.cancel()
            if subscription.lost is not None or not subscription.is_ready.is_set():
                raise StoreUnavailable(subscription.lost or "no answer in time")
            yield subscription.unread
        finally:
            subscription.is_over = True
            self._let_go(client, work)

    async def close(self) -> None:
        """Let go of connections, for at most about two timeouts; then they are abandoned."""
        self._give_up()
        if self._leaving:
            _, pending = await asyncio.wait(self._leaving, timeout=2 * self._timeout_secs)
            for task in pending:
                task.cancel()

    async def _step(self, step: str, key: str, ask: Callable[[], dict[str, Any]]) -> Answer:
        reply = await self._ask(step, lambda: {"key": key, **ask()})
        try:
            _, now, did, text = reply
            outage = _outage(text, float(now))
        except (TypeError, ValueError):
            raise StoreUnavailable("the server's answer makes no sense") from None
        # What nobody can read has opened, granted and closed nothing; a read drops it.
        return Answer(outage, did == 1 and outage is not None)

    async def _ask(self, step: str, ask: Callable[[], dict[str, Any]], *more: bytes | str) -> Any:
        """One step, whole or not at all.

        redis-py waits by ``asyncio.wait_for``, which on Python 3.11 may swallow a
        cancellation. So it works in a task of its own, which nobody has to wait for.
        """
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                client = self._client = self._client or self._connect()
            except Exception as error:
                raise StoreUnavailable(_reason(error)) from None
            work = asyncio.create_task(self._carry_out(client, step, ask, *more))
            is_kept = False
            try:
                done, _ = await asyncio.wait({work}, timeout=3 * self._timeout_secs)
                if not done:
                    raise StoreUnavailable("no answer in time")
                failed = work.exception()
                if failed is None:
                    is_kept = True
                    return work.result()
                reason = _reason(failed)
                # What the server has refused says nothing of the connection, unless
                # another server has become the one to ask.
                is_kept = isinstance(failed, ResponseError) and reason != "READONLY"
                raise StoreUnavailable(reason)
            finally:
                if is_kept:
                    loop = asyncio.get_running_loop()
                    self._idle = loop.call_later(self._idle_secs, self._give_up)
                else:
                    self._client = self._offset = None
                    self._let_go(client, work)

    async def _carry_out(
        self, client: Any, step: str, ask: Callable[[], dict[str, Any]], *more: bytes | str
    ) -> Any:
        for _ in range(_TRIES):
            needs = ask()
            name = sha1(needs.get("key", "").encode(), usedforsecurity=False).hexdigest()[:16]
            keys = [self._prefix + key for key in ("outages", "history", "mode")]
            keys += [self._prefix + f"bots:{name}", self._prefix + f"instances:{name}"]
            body = json.dumps(needs | self._bounds())
            for evaluate, script in ((client.evalsha, _SHA), (client.eval, _SCRIPT)):
                sent_at = self._clock()
                there = "" if self._offset is None else f"{sent_at + self._offset:.6f}"
                arguments = (step, there, f"{self._timeout_secs:.3f}", body, *more)
                try:
                    reply = await evaluate(script, len(keys), *keys, *arguments)
                except NoScriptError:
                    continue
                self._learn_clock(float(reply[1]), sent_at)
                if reply[0] in (b"ok", "ok"):
                    return reply
                break
        raise StoreUnavailable("the server's answers come too late")

    def _learn_clock(self, theirs: float, sent_at: float) -> None:
        """Keep what was known of the server's clock, within what this answer allows."""
        # It read its clock, to a millisecond, between our asking and our hearing of it.
        least, most = theirs - self._clock(), theirs + 0.001 - sent_at
        self._offset = min(most, max(least, least if self._offset is None else self._offset))

    def _now(self) -> float:
        """The server's clock, as far as it is known."""
        return math.inf if self._offset is None else self._clock() + self._offset

    def _bounds(self) -> dict[str, Any]:
        return {
            "news": self._prefix + "news",
            "max_bytes": MAX_BYTES,
            "max_instances": MAX_INSTANCES,
            "max_outages": MAX_OUTAGES,
            "max_history": rules.MAX_HISTORY,
            "max_wait": MAX_WAIT_SECS,
            "tombstone": TOMBSTONE_SECS,
            "news_secs": rules.NEWS_SECS,
        }

    def _connect(self) -> Any:
        """A client, which connects when it is first asked something."""
        if not isinstance(self._source, str):
            return self._source()
        return redis.asyncio.Redis.from_url(
            self._source,
            socket_timeout=self._timeout_secs,
            socket_connect_timeout=self._timeout_secs,
            retry=Retry(NoBackoff(), 0),
            health_check_interval=0,
            decode_responses=False,
            protocol=2,
        )

    def _give_up(self) -> None:
        """Let go of the connection for commands; the next step makes another."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if self._client is not None and not self._turn.locked():
            client, self._client = self._client, None
            self._let_go(client)

    def _let_go(self, client: Any, work: "asyncio.Task[Any] | None" = None) -> None:
        """Close a client once its work is at an end, without anybody waiting for it."""
        leaving = asyncio.create_task(self._leave(client, work))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _leave(self, client: Any, work: "asyncio.Task[Any] | None") -> None:
        if work is not None:
            # Nobody wants to know any more what becomes of it.
            work.add_done_callback(lambda work: work.cancelled() or work.exception())
            work.cancel()
            await asyncio.wait({work}, timeout=self._timeout_secs)
        closing = asyncio.create_task(_close(client))
        _, pending = await asyncio.wait({closing}, timeout=self._timeout_secs)
        for task in pending:
            task.cancel()


async def _close(client: Any) -> None:
    with suppress(Exception):
        await client.aclose()


class _Subscription:
    """One subscription, read in a task of its own."""

    def __init__(self, channel: str, timeout_secs: float, now: Callable[[], float]):
        self.unread = Unread()
        self.is_ready = asyncio.Event()
        self.lost: str | None = None
        # Cancellation may be swallowed.
        self.is_over = False
        self._channel = channel
        self._now = now
        self._timeout_secs = timeout_secs

    async def listen(self, client: Any) -> None:
        """Hear of what is published."""
        pubsub = None
        try:
            # A cluster has to find out first whom to ask.
            await client.initialize()
            pubsub = client.pubsub()
            await pubsub.subscribe(self._channel)
            wait = self._timeout_secs
            second, news = self._now(), 0
            for heard in count(1):
                if self.is_over:
                    return
                if heard % _MESSAGES_A_TURN == 0:
                    # What has come already is read without waiting for anything.
                    await asyncio.sleep(0)
                message = await pubsub.get_message(timeout=wait)
                news += 1
                if self._now() - second >= 1.0:
                    second, news = self._now(), 0
                elif news > _MOST_NEWS:
                    self._lose("more news than a fleet has")
                    return
                if message is None:
                    if wait != _PING_SECS:
                        self._lose("no answer in time")
                        return
                    await pubsub.ping()
                    wait = self._timeout_secs
                    continue
                wait = _PING_SECS
                if message["type"] == "subscribe":
                    if self.is_ready.is_set():
                        self._lose("the connection was made anew")
                        return
                    self.is_ready.set()
                elif message["type"] == "message":
                    self._hear(message["data"])
                else:
                    self.unread.put(None)
        except Exception as error:
            self._lose(_reason(error))
        finally:
            if pubsub is not None:
                with suppress(Exception):
                    await pubsub.aclose()

    async def poll(self, read: Callable[[], Coroutine[Any, Any, Knowledge]]) -> None:
        """Find out what has changed."""
        try:
            known = await read()
            self.is_ready.set()
            while not self.is_over:
                await asyncio.sleep(_POLL_SECS)
                found = await read()
                for outage in found.outages:
                    if outage not in known.outages:
                        self.unread.put(outage)
                if found.mode != known.mode:
                    self.unread.put(found.mode)
                known = found
        except StoreUnavailable as error:
            self._lose(str(error))

    def _hear(self, data: bytes | str) -> None:
        text = data if isinstance(data, bytes) else data.encode()
        news: Outage | ModeSet | None = None
        if text[:1] == b"o":
            news = _outage(text[1:], self._now())
        elif text[:1] == b"m":
            news = ModeSet.read(text[1:])
        if news is not None:
            self.unread.put(news)

    def _lose(self, why: str) -> None:
        self.lost = why
        self.unread.lose(why)
        self.is_ready.set()


async def _read(reply: Any) -> tuple[Knowledge, list[tuple[Any, Any]]]:
    """What a server knows, and those of its records that are none of ours."""
    try:
        _, text, mode, fields, history = reply
        now = float(text)
        outages: list[Outage] = []
        unread: list[tuple[Any, Any]] = []
        turn = count(1)
        for name, text in zip(fields[::2], fields[1::2], strict=True):
            outage = await _read_one(text, now, turn)
            if outage is not None and name in (outage.key, outage.key.encode()):
                outages.append(outage)
            else:
                unread.append((name, text))
        over = [await _read_one(text, now, turn) for text in history]
        knowledge = Knowledge(
            now=now,
            mode=ModeSet.read(mode) or ModeSet(),
            outages=tuple(outages),
            history=tuple(outage for outage in over if outage is not None),
        )
    except (TypeError, ValueError):
        raise StoreUnavailable("the server's answer makes no sense") from None
    return knowledge, unread


async def _read_one(text: bytes | str, now: float, turn: "count[int]") -> Outage | None:
    if next(turn) % _RECORDS_A_TURN == 0:
        await asyncio.sleep(0)
    return _outage(text, now)


def _outage(text: bytes | str, now: float) -> Outage | None:
    outage = Outage.read(text)
    return outage if outage is not None and rules.is_sound(outage, now) else None


def _reason(error: BaseException) -> str:
    """Why, in a word or two: never the server's text, which may quote what it was sent."""
    if isinstance(error, StoreUnavailable):
        return str(error)
    if isinstance(error, ResponseError):
        if code := _CODE.search(str(error)):
            return code[1]
        if _DENIED.search(str(error)):
            return "NOPERM"
    # What went wrong while connecting is the cause of a plain ConnectionError.
    for one in (error.__cause__, error):
        if (name := type(one).__name__) in _CODES:
            return _CODES[name]
    return type(error).__name__
