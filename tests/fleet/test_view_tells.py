"""What one bot tells its fleet: its failures, and what ends an outage."""

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import Fleet, FleetParams
from tests.fleet.fleet_parts import KEY, FakeStore, Process, Voice, outage, turns


async def test_what_it_tells_has_the_bots_own_name(process, store):
    other = process.fleet.join("other", lambda: (), lambda origins: None)
    process.fail()
    other.learn(process.origin(), process.service, exception=OSError())
    other.failed(process.origin(), votes=True)
    await turns()
    (report,) = store.reports
    token = report.token
    assert report.instance == "pod-1"
    assert len(report.bots) == 2
    assert all(bot.partition(".")[0] == token and len(token) == 12 for bot in report.bots)


async def test_one_who_has_left_tells_nothing(process, view, store):
    origin = process.origin()
    view.leave()
    view.failed(origin, votes=True)
    view.learn(origin, process.service, exception=OSError())
    view.failed(origin, votes=True)
    await turns()
    assert store.reports == []


async def test_one_who_has_left_knows_nothing_and_keeps_nothing(process, view, store):
    origin = process.origin()
    store.put(outage())
    await turns()
    assert view.knows(origin) is not None
    view.leave()
    assert not view.learn(origin, process.service, exception=OSError())
    assert view.knows(origin) is None
    assert not (view._keys or view._processors or view._asked or view._heard)
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.closed == []


async def test_one_who_has_left_ends_nothing(process, view, store):
    store.put(outage(probe_at=store.now))
    await turns()
    view.leave()
    view.service_worked(process.service)
    await turns()
    assert "lease" not in store.log


async def test_what_works_while_nobody_can_be_told_ends_nothing_later(process, view, store, time):
    store.put(outage(probe_at=store.now))
    await turns()
    store.drop_connections()
    await turns()
    view.service_worked(process.service)
    await time.pass_(2)
    assert process.fleet.is_connected
    assert "lease" not in store.log


async def test_alone_nothing_is_known(process, view, store):
    origin = process.origin()
    store.put(outage(probe_at=store.now))
    await turns()
    service = process.service
    assert view.is_connected and view.is_out(service) and view.may_probe_soon(service)
    store.drop_connections()
    await turns()
    assert not (view.is_connected or view.is_out(service) or view.may_probe_soon(service))
    assert view.knows(origin) is None


async def test_a_label_is_asked_for_once_of_each_of_the_latest_services(store, time):
    asked = []
    process = Process(store, time, label=lambda processor: asked.append(processor) or "")
    view = process.join()
    store.put(outage())
    await turns()
    services = [Voice() for _ in range(300)]
    for service in [*services, *services[-100:]]:
        assert view.is_out(service)
    assert asked == services
    assert len(view._names) <= 256
    await process.fleet.close()


async def test_a_success_before_the_probe_is_due_decides_nothing(process, view, store, time):
    store.put(outage(probe_at=store.now + 20))
    await turns()
    view.service_worked(process.service)
    await turns()
    assert "lease" not in store.log


async def test_a_success_when_it_is_due_closes_for_all(process, view, store, time):
    origin = process.origin()
    store.put(outage(probe_at=store.now))
    await turns()
    assert view.knows(origin) == 1
    view.service_worked(process.service)
    await turns()
    assert store.records[KEY].ending == "recovered"
    assert process.closed == [frozenset({origin})]


async def test_only_who_has_asked_about_an_outage_is_told_of_its_end(process, view, store):
    origin = process.origin()
    store.put(outage())
    await turns()
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.closed == []

    store.put(outage(generation=2))
    await turns()
    view.knows(origin)
    view.knows(process.origin("other"))
    store.put(outage(state="closed", generation=3))
    await turns()
    assert process.closed == [frozenset({origin})]

    store.put(outage(generation=4))
    store.put(outage(state="closed", generation=5))
    await turns()
    assert len(process.closed) == 1


async def test_a_failure_that_may_happen_to_anybody_is_not_told(process, view, store, time):
    for _ in range(5):
        view.failed(process.origin(), votes=False)
        await time.pass_(2)
    assert store.reports == []


async def test_in_an_outage_that_is_known_each_failure_is_told_and_none_of_it_votes(
    process, view, store
):
    store.put(outage())
    await turns()
    view.failed(process.origin(), votes=False)
    await turns()
    assert [report.votes for report in store.reports] == [False]


async def test_who_has_failed_before_the_outage_was_known_is_told_of_its_end(process, view, store):
    origin = process.origin()
    view.failed(origin, votes=False)
    store.put(outage())
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.closed == [frozenset({origin})]


async def test_of_two_outages_the_end_of_one_is_not_that_of_the_other(process, view, store):
    one, other = process.origin(), process.origin("other")
    for origin in (one, other):
        view.failed(origin, votes=True)
    await turns()
    store.put(outage(state="closed", generation=99, at=store.now))
    await turns()
    assert process.closed == [frozenset({one})]


async def test_it_is_told_of_the_end_also_where_its_latest_failure_was_another(
    process, view, store
):
    origin = process.origin()
    store.put(outage())
    await turns()
    assert view.knows(origin) is not None
    view.learn(origin, process.service, category="invalid_request", exception=OSError())
    assert view.knows(origin) is None
    store.put(outage(state="closed", generation=1))
    await turns()
    assert process.closed == [frozenset({origin})]


async def test_within_one_process_each_bot_has_a_vote(time, monkeypatch):
    store = FakeStore(time)
    monkeypatch.setattr("pipecat_circuit_breaker.fleet.fleet._store", lambda url, params: store)
    params = FleetParams(instance="pod", share=lambda failure: True, label=lambda p: "")
    fleet = Fleet(params=params, clock=time, sleep=time.sleep)
    service = Voice()
    origin = Origin.of(service, "ConnectError", where="here")
    for _ in range(3):
        view = fleet.join("bot", lambda: None, lambda origins: None)
        view.learn(origin, service, exception=OSError())
        await turns()
        assert fleet.outages == ()
        view.failed(origin, votes=True)
    await turns()
    assert [o.key for o in fleet.outages] == [KEY]
    await fleet.close()


async def test_of_a_channel_each_failure_is_asked_for(store, time):
    shared = [True, False]
    process = Process(store, time, share=lambda f: f.by_delivery and shared[f.exception is None])
    process.join()
    origin = Origin.of(process.service, "channel down")
    how = {"by_delivery": True}
    assert not process.view.learn(origin, process.service, **how)
    assert process.view.learn(origin, process.service, exception=OSError(), **how)
    assert not process.view.learn(origin, process.service, **how)
    # What was shared once is not forgotten by one that is not.
    process.view.failed(origin, votes=True)
    await turns()
    assert len(store.reports) == 1
    await process.fleet.close()
