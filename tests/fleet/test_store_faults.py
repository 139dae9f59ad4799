"""What a store does when its server does not, or when somebody else writes there."""

import asyncio
import contextlib
import json
import time
from collections import Counter

import pytest
import redis.asyncio
import servers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from pipecat_circuit_breaker.fleet import redis as redis_store
from pipecat_circuit_breaker.fleet import rules
from pipecat_circuit_breaker.fleet.record import MAX_BYTES, MAX_INSTANCES, MAX_OUTAGES, Outage
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Report, StoreUnavailable

KEY = "TTS: ConnectError"
RECORDS = "{pcb:test}:1:outages"


@pytest.fixture(scope="module", params=servers.KINDS)
def any_server(request):
    with servers.Server(request.param) as server:
        yield server


@pytest.fixture(scope="module")
def redis7():
    with servers.Server("redis7") as server:
        yield server


@pytest.fixture(autouse=True)
def probes_at_once(monkeypatch):
    monkeypatch.setattr(rules, "MIN_WAIT_SECS", 0.0)


@contextlib.asynccontextmanager
async def a_store(server, *, flush=True, **options):
    if flush:
        server.flush()
    store = RedisStore(server.url, "test", **options)
    try:
        yield store
    finally:
        await store.close()


async def report(store, instance="pod-1", need=1, key=KEY, **changes):
    what = dict(
        key=key,
        instance=instance,
        token=instance,
        votes=True,
        failures=1,
        bots=(instance,),
        age_secs=0.0,
        waits=(0.0,),
    )
    return await store.report(
        Report(**(what | changes)), min_instances=need, vote_secs=10.0, hold_secs=100.0
    )


STEPS = {
    "report": report,
    "lease": lambda store: store.lease(KEY, "pod-1", "t", 5.0),
    "settle": lambda store: store.settle(KEY, "t", 1, success=True, waits=(1.0,)),
    "open": lambda store: store.open(KEY, "eva", "", 100.0),
    "close_outage": lambda store: store.close_outage(KEY, "eva", ""),
    "set_mode": lambda store: store.set_mode("observe", "eva", "", 100.0),
    "read": lambda store: store.read("t"),
}


async def listen(store):
    async with store.news() as news:
        return await anext(news)


def records(server):
    with server.client() as client:
        return client.hgetall(RECORDS)


async def soon(condition, secs=5.0):
    for _ in range(int(secs / 0.01)):
        if condition():
            return True
        await asyncio.sleep(0.01)
    return False


# A server that stops -----------------------------------------------------------


async def test_what_a_stopped_server_finds_on_waking_is_not_carried_out(any_server):
    async with (
        a_store(any_server, timeout_secs=0.3) as store,
        a_store(any_server, flush=False, timeout_secs=0.3) as other,
    ):
        await report(store)
        await store.lease(KEY, "pod-1", "t", 100.0)
        before = records(any_server)
        any_server.stop()
        try:
            for step in ("report", "settle", "open", "close_outage", "set_mode"):
                for one in (store, other):  # `other` knows nothing of the server's clock yet.
                    began = time.monotonic()
                    with pytest.raises(StoreUnavailable):
                        await STEPS[step](one)
                    assert time.monotonic() - began < 1.5
        finally:
            any_server.go_on()
        # It executes what it has in its buffers before it answers anything new.
        await asyncio.sleep(0.05)
        assert records(any_server) == before
        assert (await store.read("t")).mode.mode == "guard"
        assert (await STEPS["settle"](store)).did


async def test_a_report_grows_older_until_it_is_sent(redis7):
    # So long that the server, which is stopped, would take it for a fresh one.
    async with a_store(redis7, timeout_secs=1.0) as store:
        await report(store, "pod-1", need=9)
        redis7.stop()
        late = asyncio.create_task(report(store, "pod-2", need=9))
        await asyncio.sleep(0.4)
        redis7.go_on()
        outage = (await late).outage
        assert outage.instances["pod-2"] - outage.instances["pod-1"] < 0.3


async def test_a_report_grows_older_while_the_loop_does_not_come_to_it(redis7):
    async with a_store(redis7, timeout_secs=1.0) as store:
        await report(store, "pod-1", need=9)
        what = Report(KEY, "pod-2", "t", True, 1, ("b",), age_secs=0.0, waits=(1.0,))
        late = store.report(what, min_instances=9, vote_secs=10.0, hold_secs=100.0)
        time.sleep(0.3)  # noqa: ASYNC251
        outage = (await late).outage
        assert outage.instances["pod-2"] - outage.instances["pod-1"] < 0.2


async def test_a_server_whose_clock_is_another_one_is_learned_anew(redis7):
    async with a_store(redis7) as store:
        await report(store)
        for shift in (-1000.0, 1000.0):
            store._offset += shift
            assert (await report(store)).outage is not None
            now = (await store.read("t")).now
            assert store._offset + time.monotonic() == pytest.approx(now, abs=0.2)


async def test_a_process_that_was_held_up_sends_its_step_again(redis7):
    held_up = []

    def clock():
        return time.monotonic() - (held_up.pop() if held_up else 0.0)

    async with a_store(redis7, clock=clock) as store:
        await report(store)
        held_up[:] = [1.5, 0.0, 0.0]  # Between its last look at the clock and sending.
        assert (await report(store)).outage.failures == 2
        assert held_up == []


# A server that goes -------------------------------------------------------------


async def test_a_server_that_is_away_is_told_at_once_and_found_again():
    with servers.Server("redis7") as server:
        async with a_store(server) as store:
            await report(store)
            server.kill()
            for step in STEPS.values():
                with pytest.raises(StoreUnavailable, match="ConnectionError"):
                    await step(store)
            with pytest.raises(StoreUnavailable, match="ConnectionError"):
                await listen(store)
            server.start()
            assert (await report(store)).did


async def test_news_end_with_their_connection():
    with servers.Server("redis7") as server:
        async with a_store(server) as store, store.news() as news:
            await report(store)
            assert (await anext(news)).is_open
            server.kill()
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(anext(news), 2)


async def test_a_client_that_connects_anew_by_itself_may_have_lost_news(redis7):
    def factory():
        return redis.asyncio.Redis.from_url(redis7.url, retry=Retry(NoBackoff(), 3))

    store = RedisStore(factory, "test")
    async with store.news() as news:
        with redis7.client() as client:
            client.client_kill_filter(_type="pubsub")
        with pytest.raises(StoreUnavailable):
            await asyncio.wait_for(anext(news), 2)
    await store.close()


async def test_a_subscription_that_hangs_is_noticed(redis7, monkeypatch):
    monkeypatch.setattr(redis_store, "_PING_SECS", 0.05)
    async with a_store(redis7, timeout_secs=0.3) as store, store.news() as news:
        await asyncio.sleep(0.2)  # Answered pings.
        await report(store)
        assert [n async for n in _until(news, KEY)][-1].is_open
        redis7.stop()
        try:
            with pytest.raises(StoreUnavailable, match="in time"):
                async with asyncio.timeout(2):
                    _ = [n async for n in _until(news, "never")]
        finally:
            redis7.go_on()


async def test_a_hung_server_is_not_subscribed_to(redis7):
    async with a_store(redis7, timeout_secs=0.1) as store:
        redis7.stop()
        try:
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await listen(store)
            assert time.monotonic() - began < 1
        finally:
            redis7.go_on()


async def test_what_is_flushed_is_begun_anew(any_server):
    async with a_store(any_server) as store:
        await report(store)
        any_server.flush()
        assert (await store.read("t")).outages == ()
        assert (await report(store)).outage.failures == 1
        any_server.flush_scripts()
        assert (await report(store)).outage.failures == 2


async def test_a_full_server(any_server):
    async with a_store(any_server) as store:
        await report(store)
        any_server.fill()
        try:
            with pytest.raises(StoreUnavailable, match="OOM"):
                await report(store, "pod-2")
        finally:
            any_server.empty()
        assert (await report(store, "pod-2")).outage.failures == 2


async def test_a_server_that_has_become_a_replica(any_server):
    async with a_store(any_server) as store:
        await report(store)
        any_server.become_replica()
        try:
            with pytest.raises(StoreUnavailable, match="READONLY"):
                await report(store)
        finally:
            any_server.become_master()
        assert (await report(store)).did in (True, False)


async def test_that_a_url_is_none_is_said_without_its_password():
    for url in ("http://:hunter2@host", "redis://:hunter2@host:port/0", "hunter2"):
        with pytest.raises(ValueError) as raised:
            RedisStore(url, "test")
        assert "hunter2" not in f"{raised.value!r} {raised.value.__cause__!r}"


async def test_a_client_that_cannot_be_made_is_unavailable():
    def factory():
        raise RuntimeError("hunter2")

    store = RedisStore(factory, "test")
    for step in (*STEPS.values(), listen):
        with pytest.raises(StoreUnavailable) as raised:
            await step(store)
        assert "hunter2" not in str(raised.value)
    await store.close()


# Permissions ----------------------------------------------------------------------


def documented_rules():
    return redis_store.__doc__.partition(">SECRET")[2].replace("NAME", "test").split()


COMMANDS = [rule for rule in documented_rules() if rule.startswith("+")]


async def _until(news, key):
    async for record in news:
        yield record
        if record is not None and record.key == key:
            return


async def everything(url):
    store = RedisStore(url, "test", timeout_secs=1.0)
    try:
        async with store.news() as news:
            await report(store)
            assert (await anext(news)).is_open
            await asyncio.sleep(0.1)  # A ping.
            await report(store, key="TTS: other")
            assert [n.key async for n in _until(news, "TTS: other") if n][-1] == "TTS: other"
            await store.lease(KEY, "pod-1", "t", 5.0)
            await store.settle(KEY, "t", 1, success=True, waits=(1.0,))
            await store.set_mode("observe", "eva", "", 5.0)
            await store.read("t")
            await store._ask("drop", dict, KEY, records_of(await store._ask("read", dict))[KEY])
    finally:
        await store.close()


def records_of(reply):
    fields = [text.decode() for text in reply[3]]
    return dict(zip(fields[::2], fields[1::2], strict=True))


async def test_the_documented_permissions_are_enough(any_server, monkeypatch):
    monkeypatch.setattr(redis_store, "_PING_SECS", 0.03)
    any_server.flush()
    any_server.flush_scripts()
    await everything(any_server.allow("pcb", "secret", *documented_rules()))


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_of_the_documented_permissions_is_needed(any_server, command, monkeypatch):
    monkeypatch.setattr(redis_store, "_PING_SECS", 0.03)
    any_server.flush()
    any_server.flush_scripts()
    url = any_server.allow("pcb", "secret", *documented_rules(), f"-{command[1:]}")
    with pytest.raises(StoreUnavailable, match="NOPERM"):
        await everything(url)


async def test_whoever_has_no_permission_is_told_so_without_the_password(any_server):
    any_server.flush()
    url = any_server.allow("nobody", "hunter2", "-@all")
    for bad in (url, url.replace("hunter2", "wrong-hunter2")):
        store = RedisStore(bad, "test")
        for step in (*STEPS.values(), listen):
            with pytest.raises(StoreUnavailable) as raised:
                await step(store)
            assert str(raised.value) in ("NOPERM", "NOAUTH")
        await store.close()


async def test_another_fleet_of_the_server_is_out_of_reach(any_server):
    any_server.flush()
    store = RedisStore(any_server.allow("pcb", "secret", *documented_rules()), "production")
    for step in (*STEPS.values(), listen):
        with pytest.raises(StoreUnavailable, match="NOPERM"):
            await step(store)
    await store.close()


class Turns:
    """Counts the turns of the loop."""

    def __init__(self):
        self.number = 0
        self._task = asyncio.ensure_future(self._run())

    async def _run(self):
        while True:
            await asyncio.sleep(0)
            self.number += 1

    def stop(self):
        self._task.cancel()


class Flooded:
    """A client whose channel has more to say than anybody can hear, all of it there at once."""

    def __init__(self, turns, messages):
        self._turns = turns
        self._left = messages
        self.heard_at = []

    async def initialize(self):
        pass

    def pubsub(self):
        return self

    async def subscribe(self, channel):
        pass

    async def get_message(self, timeout):
        self.heard_at.append(self._turns.number)
        self._left -= 1
        if self._left < 0:
            raise ConnectionError("over")
        if len(self.heard_at) == 1:
            return {"type": "subscribe"}
        return {"type": "message", "data": b"garbage"}

    async def aclose(self):
        pass


async def test_a_flood_of_messages_leaves_turns_of_the_loop_to_others():
    turns = Turns()
    client = Flooded(turns, 900)
    store = RedisStore(lambda: client, "test")
    async with store.news() as news:
        with pytest.raises(StoreUnavailable, match="ConnectionError"):
            await anext(news)
    turns.stop()
    assert len(client.heard_at) == 901
    assert max(Counter(client.heard_at).values()) <= 20


async def test_many_records_leave_turns_of_the_loop_to_others(redis7, monkeypatch):
    async with a_store(redis7) as store:
        for n in range(100):
            await store.open(f"s: {n}", "eva", "", 100.0)
        for n in range(50):
            await store.close_outage(f"s: {n}", "eva", "")
        turns, read_at = Turns(), []
        read = Outage.read
        monkeypatch.setattr(Outage, "read", lambda text: read_at.append(turns.number) or read(text))
        knowledge = await store.read("t")
        turns.stop()
    assert len(knowledge.outages) == 100 and len(knowledge.history) == 50
    assert len(read_at) == 150
    assert max(Counter(read_at).values()) <= 16


# What others write there --------------------------------------------------------------

GARBAGE = [
    b"",
    b"\x00\xff",
    b"null",
    b"[]",
    b"7",
    b"{}",
    b"{" * 5_000,
    b"[" * 5_000,
    b'"' + b"x" * 1_000_000 + b'"',
    b'{"version": 2, "key": "TTS: ConnectError", "state": "open"}',
    b'{"version": 1, "key": "TTS: ConnectError", "state": "open", "seen_at": 1e400}',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_is_as_none_and_written_over(any_server, garbage):
    async with a_store(any_server) as store:
        for step in STEPS.values():
            with any_server.client() as client:
                client.hset(RECORDS, KEY, garbage)
                client.lpush("{pcb:test}:1:history", garbage)
                client.set("{pcb:test}:1:mode", garbage)
            await step(store)
        assert (await store.read("t")).mode.mode == "guard"
        assert (await report(store)).did


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"seen_at": 1e13},
        {"opened_at": 1e13},
        {"opened_at": None},
        {"probe_at": 1e13},
        {"probe_at": None},
        {"state": "closed"},
        {"state": "suspected", "closed_at": 1e13},
        {"instances": {"pod-1": 1e13}},
        {"instances": {f"pod-{n}": 1.0 for n in range(MAX_INSTANCES + 1)}},
        {"instances_before": {"pod-1": 1e13}},
        {"instances_before": {f"pod-{n}": 1.0 for n in range(MAX_INSTANCES + 1)}},
        {"instances_before": None},
        {"seen_at": -1},
        {"lease": {"holder": "x", "token": "x", "expires_at": 1e13}},
        {"key": "TTS: another"},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_record_that_no_step_leaves_behind_is_as_none(redis7, changes):
    record = await _sound_record(redis7)
    async with a_store(redis7) as store, store.news() as news:
        with redis7.client() as client:
            client.hset(RECORDS, KEY, json.dumps(record | changes))
            if "key" not in changes:
                client.publish("{pcb:test}:1:news", b"o" + json.dumps(record | changes).encode())
        assert (await store.read("t")).outages == ()
        assert records(redis7) == {}
        with redis7.client() as client:
            client.hset(RECORDS, KEY, json.dumps(record | changes))
        assert (await report(store)).outage.failures == 1
        assert (await anext(news)).failures == 1


async def _sound_record(server):
    async with a_store(server) as store:
        return json.loads((await report(store)).outage.model_dump_json())


_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["open", "closed", "suspected", 1e14, 2**53, -1, 86_400, 86_401, 1e13]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(sorted(Outage.model_fields)), _json_values, max_size=4))
@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_record_that_was_tampered_with_raises_nothing(redis7, changes):
    async def run():
        record = await _sound_record(redis7)
        async with a_store(redis7, timeout_secs=2.0) as store:
            for step in ("report", "lease", "settle", "open", "close_outage"):
                with redis7.client() as client:
                    client.hset(RECORDS, KEY, json.dumps(record | changes))
                await STEPS[step](store)
            with redis7.client() as client:
                client.hset(RECORDS, KEY, json.dumps(record | changes))
            for outage in (await store.read("t")).outages:
                assert outage.key == KEY
                assert len(outage.model_dump_json()) <= MAX_BYTES
            # Whatever it was, the fleet can be used again.
            assert (await store.open(KEY, "eva", "", 10.0)).outage is not None

    asyncio.run(run())


async def test_a_record_of_a_release_that_knew_of_no_instances_before_is_read(any_server):
    record = await _sound_record(any_server)
    del record["instances_before"]
    async with a_store(any_server) as store:
        with any_server.client() as client:
            client.hset(RECORDS, KEY, json.dumps(record))
        assert (await report(store)).outage.failures == record["failures"] + 1


async def test_what_only_the_script_can_read_is_dropped(any_server):
    async with a_store(any_server) as store:
        await report(store)
        record = json.loads(records(any_server)[KEY.encode()])
        with any_server.client() as client:
            client.hset(
                RECORDS, KEY, json.dumps(record | {"why": "@"}).encode().replace(b"@", b"\xff")
            )
        assert not (await STEPS["lease"](store)).did
        assert (await store.read("t")).outages == ()
        assert records(any_server) == {}
        assert (await report(store)).did


async def test_what_was_written_anew_is_not_dropped(redis7):
    async with a_store(redis7) as store:
        await report(store)
        await store._ask("drop", dict, KEY, b"what was there before")
        assert len(records(redis7)) == 1


async def test_megabytes_do_not_leave_the_server(redis7):
    async with a_store(redis7) as store:
        with redis7.client() as client:
            client.hset(RECORDS, KEY, b"x" * 1_000_000)
            client.lpush("{pcb:test}:1:history", b"x" * 1_000_000)
            client.set("{pcb:test}:1:mode", b"x" * 1_000_000)
        for step in ("read", "sweep"):
            assert len(repr(await store._ask(step, dict))) < 1_000


async def test_more_than_was_ever_kept_is_dropped(any_server):
    async with a_store(any_server) as store:
        await report(store)
        with any_server.client() as client:
            client.hset(RECORDS, mapping={f"x{n}": "y" for n in range(2 * MAX_OUTAGES)})
        assert (await store.read("t")).outages == ()
        assert (await report(store)).did


async def test_keys_of_another_type_are_as_no_server(any_server):
    for key in ("outages", "history", "mode"):
        async with a_store(any_server) as store:
            with any_server.client() as client:
                if key == "mode":
                    client.lpush("{pcb:test}:1:mode", "x")
                else:
                    client.set(f"{{pcb:test}}:1:{key}", "x")
            with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
                await store.read("t")
            if key != "mode":
                for name in ("report", "lease", "open"):
                    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
                        await STEPS[name](store)
                assert (await asyncio.to_thread(_keys, any_server)) == {f"{{pcb:test}}:1:{key}"}


def _keys(server):
    with server.client() as client:
        return {key.decode() for key in client.keys()}


async def test_counters_of_another_type_are_begun_anew(any_server):
    async with a_store(any_server) as store:
        await report(store)
        for key in _keys(any_server):
            if "bots" in key or "instances" in key:
                with any_server.client() as client:
                    client.delete(key)
                    client.lpush(key, "x") if "bots" in key else client.set(key, "x")
        outage = (await report(store, "pod-2")).outage
        assert outage.failures == 2 and outage.bots == 1 and outage.instance_count == 2


async def test_all_keys_have_a_time_to_live_and_one_slot(any_server):
    async with a_store(any_server) as store:
        for step in (*STEPS.values(), report):
            await step(store)
        keys = _keys(any_server)
        assert len(keys) == 5
        with any_server.client() as client:
            for key in keys:
                assert key.startswith("{pcb:test}:1:")
                assert 0 < client.ttl(key) <= 7 * 86_400


async def test_the_server_keeps_no_more_history_than_is_read(redis7):
    async with a_store(redis7) as store:
        for _ in range(rules.MAX_HISTORY + 5):
            await STEPS["open"](store)
            await STEPS["close_outage"](store)
        with redis7.client() as client:
            assert client.llen("{pcb:test}:1:history") == rules.MAX_HISTORY


async def test_hostile_news_are_not_heard(any_server):
    async with a_store(any_server) as store, store.news() as news:
        with any_server.client() as client:
            for garbage in GARBAGE:
                client.publish("{pcb:test}:1:news", garbage)
                client.publish("{pcb:test}:1:news", b"o" + garbage)
            client.publish("{pcb:test}:1:news", b'm{"mode": "all is lost"}')
        await report(store)
        assert (await asyncio.wait_for(anext(news), 2)).key == KEY


# Connections ---------------------------------------------------------------------------


def _connections(server):
    with server.client() as client:
        return len(client.client_list()) - 1  # But this one.


async def test_the_connection_for_commands_goes_when_idle(any_server):
    async with a_store(any_server, idle_secs=0.1) as store:
        for _ in range(2):
            await report(store)
            assert _connections(any_server) == 1
            assert await soon(lambda: _connections(any_server) == 0)


async def test_the_connection_stays_while_it_is_used(redis7):
    async with a_store(redis7, idle_secs=0.2) as store:
        await report(store)
        client = store._client
        for _ in range(8):
            await asyncio.sleep(0.05)
            await report(store)
        assert store._client is client


async def test_a_refusal_keeps_the_connection_unless_another_server_is_to_be_asked(redis7):
    async with a_store(redis7) as store:
        await report(store)
        client = store._client
        redis7.fill()
        with pytest.raises(StoreUnavailable, match="OOM"):
            await report(store)
        redis7.empty()
        assert store._client is client
        redis7.become_replica()
        with pytest.raises(StoreUnavailable, match="READONLY"):
            await report(store)
        redis7.become_master()
        assert store._client is None


async def test_nothing_is_left_after_closing(any_server):
    async with a_store(any_server) as store:
        async with store.news():
            await report(store)
            assert _connections(any_server) == 2
        assert await soon(lambda: _connections(any_server) == 1)
    assert await soon(lambda: _connections(any_server) == 0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def _listen_for_good(store):
    async with store.news() as news:
        async for _ in news:
            pass


@pytest.mark.parametrize("is_hung", [False, True], ids=["well", "hung"])
@pytest.mark.parametrize("name", [*STEPS, "news", "close"])
async def test_each_method_may_be_cancelled_at_any_turn(redis7, name, is_hung):
    step = {**STEPS, "news": _listen_for_good, "close": RedisStore.close}[name]
    async with a_store(redis7, timeout_secs=0.1 if is_hung else 1.0) as store:
        turns = (0, 1, 2, 3, 5, 8, 20, 60) if is_hung else range(60)
        for turn in turns:
            if name == "close" or turn % 2:
                await report(store)  # With a connection, and without.
            if is_hung:
                redis7.stop()
            try:
                task = asyncio.create_task(step(store))
                for _ in range(turn):
                    await asyncio.sleep(0)
                began = time.monotonic()
                task.cancel()
                await asyncio.wait({task}, timeout=5)
                assert task.done()
                assert time.monotonic() - began < 0.5
                assert task.cancelled() or task.exception() is None
            finally:
                if is_hung:
                    redis7.go_on()
        assert (await store.read("t")) is not None
        began = time.monotonic()
        await store.close()
        assert time.monotonic() - began < 2
    assert await soon(lambda: _connections(redis7) == 0)


async def test_closing_never_hangs_though_the_server_does(redis7):
    async with a_store(redis7, timeout_secs=0.2) as store, store.news():
        await report(store)
        redis7.stop()
        try:
            began = time.monotonic()
            await store.close()
            assert time.monotonic() - began < 1
        finally:
            redis7.go_on()


# Other clients ---------------------------------------------------------------------------


async def goes_through_its_life(store):
    try:
        async with store.news() as news:
            opened = await report(store)
            assert opened.did
            assert (await asyncio.wait_for(anext(news), 5)).is_open
            assert (await STEPS["lease"](store)).did
            assert (await STEPS["settle"](store)).did
            while (await asyncio.wait_for(anext(news), 5)).is_open:
                pass
        assert len((await store.read("t")).history) == 1
        await store.set_mode("observe", "eva", "", 10.0)
        assert (await store.read("t")).mode.mode == "observe"
    finally:
        await store.close()


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_a_cluster(kind):
    with servers.cluster(kind) as server:
        await goes_through_its_life(
            RedisStore(
                lambda: redis.asyncio.RedisCluster(
                    host="127.0.0.1", port=server.port, socket_timeout=1.0
                ),
                "test",
            )
        )


async def test_a_client_that_cannot_subscribe_is_polled(redis7, monkeypatch):
    monkeypatch.setattr(redis_store, "_POLL_SECS", 0.05)

    class Mute:
        def __init__(self):
            self._client = redis.asyncio.Redis.from_url(redis7.url)

        def __getattr__(self, name):
            if name == "pubsub":
                raise AttributeError(name)
            return getattr(self._client, name)

    redis7.flush()
    store = RedisStore(Mute, "test")
    await goes_through_its_life(store)
    async with store.news() as news:
        await store.set_mode("disabled", "eva", "", 10.0)
        assert (await asyncio.wait_for(anext(news), 2)).mode == "disabled"
        await store.close()
        redis7.stop()
        try:
            with pytest.raises(StoreUnavailable):
                await asyncio.wait_for(anext(news), 5)
        finally:
            redis7.go_on()
    await store.close()


@pytest.mark.parametrize("kind", ["redis7", "valkey"])
async def test_a_sentinel(kind):
    with servers.Server(kind, port=servers.free_port()) as server, servers.sentinel(server) as port:
        watched = Sentinel([("127.0.0.1", port)], socket_timeout=1.0)
        await goes_through_its_life(
            RedisStore(lambda: watched.master_for("fleet", socket_timeout=1.0), "test")
        )
        for client in watched.sentinels:
            await client.aclose()


async def test_a_client_that_decodes(redis7):
    redis7.flush()
    await goes_through_its_life(RedisStore(f"{redis7.url}?decode_responses=True", "test"))
    redis7.flush()
    await goes_through_its_life(
        RedisStore(lambda: redis.asyncio.Redis.from_url(redis7.url, decode_responses=True), "test")
    )
