"""The command `fleet`: what it prints, what it does by hand, and what its exit codes tell."""

import asyncio
import json

import pytest
from click.testing import CliRunner

pytest.importorskip("redis", reason="redis is not installed")

from pipecat_circuit_breaker.fleet.memory import MemoryStore
from pipecat_circuit_breaker.fleet.store import Report, StoreUnavailable
from pipecat_circuit_breaker.fleet_console import app
from pipecat_circuit_breaker.fleet_console.address import Address

URL = "redis://bot:s3cret@host:6379/0?password=s%33cret2"
KEY = "OpenAILLMService: APIConnectionError in openai:request"
OTHER = "CartesiaTTSService: InvalidStatus in websockets:connect"


class Server:
    """A store in memory where the command expects a server."""

    def __init__(self):
        self.store = MemoryStore()
        self.fault = None
        self.asked = []

    def __call__(self, url, name):
        self.asked.append((url, name))
        return self

    def __getattr__(self, method):
        if self.fault is not None and method != "close":
            raise self.fault
        return getattr(self.store, method)

    def fail(self, *keys, instances=3):
        for key in keys:
            for n in range(instances):
                report = Report(key, f"pod-{n}", "t", True, 5, (f"bot-{n}",), 0.0, (10.0,))
                bounds = {"min_instances": 3, "vote_secs": 10.0, "hold_secs": 600.0}
                asyncio.run(self.store.report(report, **bounds))

    @property
    def knowledge(self):
        return asyncio.run(self.store.read())


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(app, "RedisStore", server)
    return server


def run(*arguments, **environment):
    return CliRunner().invoke(app.fleet, [*arguments], env={"COLUMNS": "80", **environment})


# Shown.


@pytest.mark.parametrize("option", [[], ["--once"], ["--json"]])
def test__exit_code__tells_whether_an_outage_is_open(server, option):
    server.fail(OTHER, instances=1)
    assert run(URL, *option).exit_code == 0

    server.fail(KEY)
    result = run(URL, *option)

    assert result.exit_code == 1
    assert KEY in result.output


def test__options__before_or_after_the_url__or_the_url_in_the_environment(server):
    for arguments, environment in (
        ((URL, "--name", "production", "--json"), {}),
        (("--name", "production", "--json"), {"PIPECAT_FLEET_URL": URL}),
    ):
        result = run(*arguments, **environment)

        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["fleet"] == "production"
    assert server.asked == [(URL, "production")] * 2


@pytest.mark.parametrize("option", ["--once", "--json"])
def test__server_gone__code_3_and_the_reason_without_the_password(server, option):
    server.fault = StoreUnavailable("s3cret: WRONGPASS of bot, s3cret2")

    result = run(URL, option)

    assert result.exit_code == 3
    assert "WRONGPASS" in result.output
    assert "s3cret" not in result.output


def test__json__server_gone__is_the_same_document(server):
    server.fault = StoreUnavailable("connection refused")

    plain = json.loads(run(URL, "--json").output)

    assert (plain["status"], plain["reason"]) == ("unreachable", "connection refused")
    assert (plain["mode"], plain["outages"], plain["server"]) == (None, [], "redis://host:6379/0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Missing URL"),
        (["mode", "guard", "--why", "x"], "Missing URL"),
        (["--once"], "Missing URL"),
        (["http://s3cret@host"], "expected redis://HOST:PORT/DB"),
        (["redis://s3cret@host:port/0"], "expected redis://HOST:PORT/DB"),
        ([URL, "--name", "a b"], "expected 1 to 64 letters"),
        ([URL, "--nope"], "No such option"),
        ([URL, "stop"], "No such command"),
        ([URL, "close", KEY], "Missing option '--why'"),
        ([URL, "open", KEY], "Missing option '--why'"),
        ([URL, "mode", "off", "--why", "x"], "'off' is not one of"),
        ([URL, "open", "voice", "--why", "x"], "expected SERVICE: WHAT"),
        ([URL, "open", KEY, "--why", "\x1b[2J"], "expected 1 to 200 characters"),
        ([URL, "open", KEY, "--why", "x" * 201], "expected 1 to 200 characters"),
        ([URL, "open", KEY, "--why", "x", "--hours", "25"], "25"),
        ([URL, "--json", "close", KEY, "--why", "x"], "not with close"),
    ],
)
def test__wrong_usage__code_2_and_nothing_is_done(server, arguments, said):
    result = run(*arguments)

    assert result.exit_code == 2, result.output
    assert said in result.output
    assert "s3cret" not in result.output
    assert server.asked == []


# By hand.


@pytest.mark.parametrize("command", ["open", "close", "mode"])
def test__help_of_a_command__needs_no_url(command):
    result = run(command, "--help")

    assert result.exit_code == 0 and "--why" in result.output


def test__open__for_all__by_whom_and_why(server):
    result = run(URL, "open", "Voice: by hand", "--who", "ann", "--why", "they move")

    assert result.exit_code == 0, result.output
    assert result.output == "open for all bots of pipecat for 1 h: Voice: by hand\n"
    [outage] = server.knowledge.outages
    assert (outage.is_open, outage.opened_by, outage.why) == (True, "ann", "they move")
    assert outage.is_by_hand and outage.hold_secs == 3600


def test__close__by_as_much_as_tells_it_apart(server, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "bob")
    server.fail(KEY, OTHER)

    result = run(URL, "close", "OpenAI", "--why", "their page is green")

    assert result.exit_code == 0, result.output
    assert result.output == f"closed for all bots of pipecat: {KEY}\n"
    [ended] = server.knowledge.history
    assert (ended.key, ended.closed_by, ended.why) == (KEY, "bob", "their page is green")
    assert [outage.key for outage in server.knowledge.outages if outage.is_open] == [OTHER]


def test__close__whole_name__also_where_another_begins_with_it(server):
    server.fail("Voice: a", "Voice: ab")

    assert run(URL, "close", "Voice: a", "--why", "x").exit_code == 0
    assert [each.key for each in server.knowledge.history] == ["Voice: a"]


@pytest.mark.parametrize(
    ("known", "key", "said"),
    [
        ([KEY, OTHER], "Voice", [f"no such outage is open. There are:\n  {OTHER}\n  {KEY}"]),
        ([], "Voice", ["Voice: no outage is open"]),
        (["Voice: a", "Voice: b"], "Voice", ["more than one outage begins so", "Voice: b"]),
        ([f"Voice: {n:02}" for n in range(30)], "x", ["Voice: 09\n  and 20 more"]),
    ],
)
def test__close__which_one__is_an_error_that_names_those_that_are(server, known, key, said):
    server.fail(*sorted(known))

    result = run(URL, "close", key, "--why", "x")

    assert result.exit_code == 2
    assert all(words in result.output for words in said), result.output
    assert server.knowledge.history == ()


def test__mode__for_all_for_some_hours(server):
    result = run(URL, "mode", "observe", "--who", "ann", "--why", "canary", "--hours", "2")

    assert result.output == "mode of all bots of pipecat for 2 h: observe\n"
    mode = server.knowledge.mode
    assert (mode.mode, mode.who, mode.why) == ("observe", "ann", "canary")


@pytest.mark.parametrize(
    "command", [["open", KEY], ["close", KEY], ["mode", "guard"]], ids=lambda command: command[0]
)
def test__by_hand__server_gone__code_3_without_the_password(server, command):
    server.fault = StoreUnavailable("no route to s3cret")

    result = run(URL, *command, "--why", "x")

    assert result.exit_code == 3
    assert result.output == "Error: redis://host:6379/0: no route to ***\n"


def test__no_login_name__asks_for_one(server, monkeypatch):
    def nobody():
        raise KeyError("uid not found: 1000")

    monkeypatch.setattr("getpass.getuser", nobody)

    result = run(URL, "mode", "guard", "--why", "x")

    assert result.exit_code == 2 and "Missing option '--who'" in result.output


# The address.


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@host", "redis://host"),
        ("rediss://bot:s3cret@[::1]:6380/3", "rediss://[::1]:6380/3"),
        ("unix:///run/redis.sock?db=1&password=s3cret", "unix:///run/redis.sock"),
    ],
)
def test__address__shows_no_secret_and_takes_it_out_of_what_others_say(url, shown):
    address = Address(url)

    assert address.shown == shown and address.url == url
    assert address.clean(f"cannot ask {url}\nnow").endswith(" now")
    assert "s3cret" not in address.clean(f"cannot ask {url}")
