"""What a fleet is given, and what it shows."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from tests.fleet.fleet_parts import AHEAD, KEY, FakeStore, Voice, outage, turns


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("http://user:secret@host", ValueError, "scheme 'http'"),
        ("localhost:6379", ValueError, "begins with redis://"),
        ("", ValueError, "begins with redis://"),
        (6379, TypeError, "expected a URL, or what makes a client, got 6379"),
    ],
)
def test_what_is_no_url_of_a_server_is_refused_without_telling_its_secrets(url, error, text):
    with pytest.raises(error, match=text) as raised:
        Fleet(url)
    assert "secret" not in str(raised.value)


def test_two_stores_are_refused(time):
    with pytest.raises(ValueError, match="either `url` or `store`"):
        Fleet("redis://localhost", store=FakeStore(time))


def test_other_parameters_are_refused(time):
    with pytest.raises(TypeError, match="expected FleetParams"):
        Fleet(store=FakeStore(time), params={"name": "x"})


@pytest.mark.parametrize("url", ["redis://localhost", lambda: None])
def test_without_redis_a_url_is_refused_and_says_what_to_install(monkeypatch, url):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"pip install pipecat-circuit-breaker\[fleet\]"):
        Fleet(url)


async def test_a_status_page_is_told_all_there_is(start, store, time):
    process = await start()
    store.put(
        outage(
            at=store.now,
            instance_count=3,
            bots=40,
            failures=90,
            openings=2,
            probe_at=store.now + 5,
        )
    )
    await time.pass_(2)
    assert process.fleet.status() == {
        "name": "pipecat",
        "instance": "pod-1",
        "connected": True,
        "alone_reason": None,
        "mode": "guard",
        "bots": 1,
        "outages": [
            {
                "key": KEY,
                "instances": 3,
                "bots": 40,
                "failures": 90,
                "openings": 2,
                "open_secs": 2.0,
                "probe_in_secs": 3.0,
                "is_probing": False,
                "is_by_hand": False,
            }
        ],
    }


async def test_what_is_open_by_hand_waits_for_no_probe(start, store):
    process = await start()
    store.put(outage(at=AHEAD, is_by_hand=True, probe_at=None))
    await turns()
    (shown,) = process.fleet.status()["outages"]
    assert shown["is_by_hand"] and shown["probe_in_secs"] is None


def test_its_settings_can_be_read(time):
    params = FleetParams(name="other")
    assert Fleet(store=FakeStore(time), params=params).params is params


def test_without_a_url_redis_is_not_even_looked_for():
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from pipecat_circuit_breaker.fleet import Fleet, FleetParams\n"
        "from tests.fleet import fleet_parts as parts\n"
        "time = parts.Time(); Fleet(store=parts.FakeStore(time))\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=60)


async def test_without_a_url_all_fleets_of_a_name_in_a_process_know_the_same(time):
    fleets = [
        Fleet(
            params=FleetParams(name=name, share=lambda failure: True),
            clock=time,
            sleep=time.sleep,
        )
        for name in ("one-of-a-test", "one-of-a-test", "another-of-a-test")
    ]
    one, two, other = fleets
    service = Voice()
    origin = Origin.of(service, "ConnectError", where="here")
    views = [
        fleet.join("bot", lambda: None, lambda origins: None)
        for fleet in (one, one, two, other, other)
    ]
    for view in views:
        view.learn(origin, service, exception=OSError())
        view.failed(origin, votes=True)
    await turns()
    assert [len(fleet.outages) for fleet in fleets] == [1, 1, 0]
    for fleet in fleets:
        await fleet.close()
