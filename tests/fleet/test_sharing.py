"""What is shared, and what it is called: whatever the application's own functions say."""

import multiprocessing

import pytest
from loguru import logger
from pipecat.frames.frames import LLMTextFrame
from pipecat.services.ai_service import AIService
from pipecat.services.llm_service import LLMService
from pipecat.services.settings import LLMSettings

from pipecat_circuit_breaker._core.origin import Origin
from pipecat_circuit_breaker.fleet import Failure, Fleet, FleetParams, params, sharing
from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.testing import Output
from tests.support.parts import Failing


class Model(LLMService):
    def __init__(self, address=None):
        super().__init__(settings=LLMSettings(model="m"))
        self._base_url = address


class Answer:
    def __init__(self, status):
        self.status_code = status


class StatusError(Exception):
    """As httpx has it: one type for every status."""

    def __init__(self, status):
        super().__init__(f"status {status}")
        self.response = Answer(status)


class DailyOutputTransport(Output):
    """Its clients are behind a server, as far as its module says."""


DailyOutputTransport.__module__ = "pipecat.transports.daily.transport"


def failure(processor=None, **how):
    return Failure(processor or Model(), kind="StatusError", **how)


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test__one_request_is_wrong__is_no_concern_of_the_fleet__with_a_category_or_without(status):
    assert not sharing.shares(failure(exception=StatusError(status)))
    assert not sharing.shares(failure(category="invalid_request"))


@pytest.mark.parametrize("status", [401, 402, 403, 408, 429, 500, 503])
def test__provider_refuses__is_shared(status):
    assert sharing.shares(failure(exception=StatusError(status)))


def test__category__is_believed_before_the_status():
    assert sharing.shares(failure(category="server", exception=StatusError(400)))


def test__service_whose_answers_cannot_be_heard__is_not_shared():
    assert not sharing.shares(failure(AIService(), exception=OSError()))
    assert not sharing.shares(failure(Failing(LLMTextFrame, dict), exception=OSError()))


def test__output__signalling_alone():
    daily, own = DailyOutputTransport(), Output()
    assert sharing.shares(failure(daily, exception=ConnectionError(), by_delivery=True))
    assert sharing.shares(failure(daily, by_delivery=True)), "Daily only says that it failed"
    assert not sharing.shares(failure(daily, exception=TypeError(), by_delivery=True))
    assert not sharing.shares(failure(daily, exception=ConnectionError()))
    assert not sharing.shares(failure(own, exception=ConnectionError(), by_delivery=True))


@pytest.mark.parametrize(
    "address, label",
    [
        ("https://user:secret@api.example.com/v1?key=secret", "api.example.com"),
        ("api.example.com:443", "api.example.com"),
        ("http://[broken", ""),
        (None, ""),
        (lambda: None, ""),
    ],
)
def test__label__is_the_host_and_no_secret(address, label):
    assert sharing.label_of(Model(address)) == label


async def yes(subject):
    return True


@pytest.mark.parametrize(
    "setting",
    [
        {"share": yes},
        {"share": lambda failure: None},
        {"label": yes},
        {"label": lambda processor: None},
        {"label": lambda processor: 1 / 0},
    ],
    ids=["async share", "no answer", "async label", "no label", "raises"],
)
async def test__function_of_the_application_that_is_wrong__shares_nothing_and_is_told_once(setting):
    lines = []
    sink = logger.add(lambda line: lines.append(line.record["message"]), level="ERROR")
    fleet = Fleet(store=MemoryStore(), params=FleetParams(**setting))
    model = Model()
    view = fleet.join("bot", lambda: [model], lambda origins: None)
    origin = Origin.of(model, "StatusError")
    for _ in range(3):
        assert not view.learn(origin, model, exception=OSError())
    assert not view.is_out(model)
    assert len(lines) == 1
    logger.remove(sink)
    await fleet.close()


async def test__label_that_is_known_only_later__is_asked_again():
    labels = iter([None, "eu"])
    fleet = Fleet(store=MemoryStore(), params=FleetParams(label=lambda service: next(labels)))
    model = Model()
    view = fleet.join("bot", lambda: [model], lambda origins: None)
    origin = Origin.of(model, "StatusError")
    assert not view.learn(origin, model, exception=OSError())
    assert view.learn(origin, model, exception=OSError())
    assert view.learn(origin, model, exception=OSError()), "and no more, once it is known"
    await fleet.close()


def test__long_names_of_pods__stay_apart(monkeypatch):
    names = []
    for tail in ("abcde", "fghij"):
        monkeypatch.setenv("POD_NAME", "voice-bot-" + "x" * 80 + tail)
        names.append(params.this_instance())
    assert names[0] != names[1]
    assert all(len(name) <= params.INSTANCE_CHARS for name in names)
    assert FleetParams().instance == names[1]


def _name_after_fork(fleet, names):
    import asyncio

    async def join():
        await fleet.start()
        names.put(fleet._next_name())
        await fleet.close()

    asyncio.run(join())


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork"
)
def test__made_before_a_fork__each_process_is_another():
    fork = multiprocessing.get_context("fork")
    fleet, names = Fleet(store=MemoryStore()), fork.Queue()
    children = [fork.Process(target=_name_after_fork, args=(fleet, names)) for _ in range(3)]
    for child in children:
        child.start()
    tokens = {names.get(timeout=20).partition(".")[0] for _ in children}
    for child in children:
        child.join()
    assert len(tokens) == 3
