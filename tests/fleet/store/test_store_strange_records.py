"""What others write where a store reads: as nothing, and written over."""

import asyncio
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipecat_circuit_breaker.fleet import rules
from pipecat_circuit_breaker.fleet.record import MAX_BYTES, MAX_INSTANCES, MAX_OUTAGES, Outage
from pipecat_circuit_breaker.fleet.store import StoreUnavailable
from tests.fleet.store.store_parts import KEY, RECORDS, STEPS, a_store, records, report

pytestmark = pytest.mark.usefixtures("probes_at_once")


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
    f'{{"version": 2, "key": "{KEY}", "state": "open"}}'.encode(),
    f'{{"version": 1, "key": "{KEY}", "state": "open", "seen_at": 1e400}}'.encode(),
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
