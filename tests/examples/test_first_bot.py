"""The first bot, called over WebRTC as by a browser, on every release."""

import pytest

from tests.examples.callers import WebRtcCaller, free_port, started

pytestmark = pytest.mark.releases


async def test__first_bot__its_voice_fails__the_apologies_end_and_it_talks_again():
    port = free_port()
    async with started("first_bot.py", "--host", "127.0.0.1", "--port", str(port)) as bot:
        caller = WebRtcCaller()
        await caller.call(bot, f"http://127.0.0.1:{port}")
        await caller.say("hello")
        await caller.hears("heard: hello")

        await caller.say("/fail tts")
        await bot.says("Outage of OpenAITTSService#0: openai.InternalServerError")
        await caller.hears_of(5)
        assert "circuit open, 5 related errors" in caller.errors[4]

        await caller.say("/heal tts")
        await caller.hears("tts works now")
        # Each apology that fails would be the next error: thousands in the time that this took.
        assert len(caller.errors) <= 7

        await caller.hang_up()
        await bot.says("Over: .* held back")
    assert "Traceback" not in bot.log
