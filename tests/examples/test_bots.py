"""Each other example that is called over a WebSocket."""

import asyncio
import shutil

import aiohttp
import pytest

from tests.examples.callers import EXAMPLES, WebSocketCaller, free_port, started


async def called(bot, port, path="/ws-client"):
    caller = WebSocketCaller()
    await caller.call(bot, f"ws://localhost:{port}{path}")
    await caller.say("hello")
    await caller.hears("heard: hello")
    return caller


def runner(port):
    return "-t", "websocket", "--host", "127.0.0.1", "--port", str(port)


async def test__polite_bot__its_model_is_out__it_says_goodbye_and_hangs_up():
    port = free_port()
    async with started("polite_bot.py", *runner(port)) as bot:
        caller = await called(bot, port)
        await caller.say("/fail llm")
        await caller.hears_of(1)
        await caller.say("one")
        await bot.says("circuit open: OpenAILLMService#0")
        # Its cooldown: the bot is another process, whose time nobody can move.
        await asyncio.sleep(2.2)
        await caller.say("two")
        await bot.says("circuit half-open: OpenAILLMService#0")
        await caller.say("three")

        await caller.hears("Goodbye.")
        await caller.hung_up()
        assert caller.of("server-message")[0]["type"] == "goodbye"
        assert caller.of("sound")
        await bot.says(r"circuit closed \(pipeline_over\)")
    assert "Traceback" not in bot.log


async def test__plain_bot__with_the_setup_file__the_loop_ends():
    port = free_port()
    setup = {"PIPECAT_SETUP_FILES": str(EXAMPLES / "add_breaker.py")}
    async with started("plain_bot.py", *runner(port), **setup) as bot:
        caller = await called(bot, port)
        await caller.say("/fail tts")
        await bot.says("add_breaker:on_circuit_opened.* Outage of OpenAITTSService#0")

        await caller.say("/heal tts")
        await caller.hears("tts works now")
        assert len(caller.errors) < 20
        await caller.hang_up()
    assert "Traceback" not in bot.log


async def test__plain_bot__with_the_setup_file__observes_only_where_it_is_told_to():
    port = free_port()
    setup = {
        "PIPECAT_SETUP_FILES": str(EXAMPLES / "add_breaker.py"),
        "CIRCUIT_BREAKER_MODE": "observe",
    }
    async with started("plain_bot.py", *runner(port), **setup) as bot:
        caller = await called(bot, port)
        await caller.say("/fail tts")
        await bot.says("Outage of OpenAITTSService#0")

        # So it goes round without a breaker: each apology that fails is the next error.
        await caller.hears_of(50)


async def test__fastapi_app__health_and_metrics_tell_of_an_outage_and_of_its_end():
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with started("fastapi_app.py", PORT=str(port)) as bot, aiohttp.ClientSession() as http:
        caller = await called(bot, port, "/ws")
        async with http.get(f"{url}/health") as health:
            assert (health.status, (await health.json())["status"]) == (200, "ok")

        for n, said in enumerate(("/fail llm", "one", "two"), 1):
            await caller.say(said)
            await caller.hears_of(n)
        async with http.get(f"{url}/health") as health:
            assert health.status == 503
            call = (await health.json())["calls"][0]
            assert call["processors"]["OpenAILLMService#0"]["state"] == "open"
        async with http.get(f"{url}/metrics") as metrics:
            counted = await metrics.text()
            openings = [line for line in counted.splitlines() if "_openings_total{" in line]
            assert [line.split()[-1] for line in openings] == ["1.0"]

        await caller.hang_up()
        await bot.says(r"circuit closed \(pipeline_over\)")
        await bot.says("finished running")
        async with http.get(f"{url}/health") as health:
            assert (health.status, (await health.json())["calls"]) == (200, [])
    assert "Traceback" not in bot.log


@pytest.mark.parametrize("server", ["redis-server", None])
async def test__fleet_of_bots__what_two_have_found_out_the_third_knows(server, tmp_path):
    if server is not None and shutil.which(server) is None:
        pytest.skip(f"there is no {server} here")
    ports = [free_port() for _ in range(3)]
    env = {"PORTS": " ".join(map(str, ports))}
    if server is None:
        env["PATH"] = str(tmp_path)
    async with started("fleet_of_bots.py", **env) as bots:
        callers = [await called(bots, port, "") for port in ports]
        first, second, third = callers
        await first.say("/fail llm")
        await first.hears_of(1)
        await first.say("one")
        await bots.says(r"bot 1: circuit open \(errors\) after 2 failures")
        await second.say("two")
        await second.hears_of(1)
        await second.say("two")
        await bots.says(r"bot 2: circuit open")
        await bots.says("bot 3: the fleet is in an outage")

        await third.say("three")
        await bots.says(r"bot 3: circuit open \(fleet\) after 1 failure")

        await third.say("/heal llm")
        await third.hears("llm works now")
        # An answer counts as proof once the fleet has waited for a second.
        while "circuit closed" not in bots.log:
            await asyncio.sleep(0.5)
            await third.say("and now")
        for number in (1, 2, 3):
            await bots.says(rf"bot {number}: circuit closed \(recovered\)")
        for caller in callers:
            await caller.hang_up()
        assert ("all bots run in this process" in bots.log) == (server is None)
    assert "Traceback" not in bots.log
