"""A real Chromium hangs up as browsers do, over WebRTC: no alarm.

Those of the hundred calls of `test_normal_calls.py` that take a browser.
"""

import os

import pytest

pytest.importorskip("aiortc", reason="needs pipecat-ai[webrtc]")
playwright = pytest.importorskip("playwright.async_api", reason="needs playwright")

from functools import partial

import aioice

from tests.browser.tabs import CHROMIUM, launch, new_context
from tests.calls.call import Alarms, Call
from tests.calls.lines import bot_hangs_up, client_comes_back, client_hangs_up, client_vanishes
from tests.calls.webrtc import BrowserLine

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH"),
    pytest.mark.skipif(
        "NORMAL_CALLS" not in os.environ, reason="run by hand with `nox -s normal_calls`"
    ),
]

WAYS = [client_hangs_up, client_vanishes, bot_hangs_up, client_comes_back]


@pytest.fixture(autouse=True)
def impatient_ice(monkeypatch):
    """Let a silent peer be taken for gone after seconds, not after half a minute."""
    monkeypatch.setattr(aioice.ice, "CONSENT_INTERVAL", 0.1)


@pytest.fixture
async def chromium():
    async with playwright.async_playwright() as driver:
        chromium = await launch(driver)
        yield await new_context(chromium)
        await chromium.close()


@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
async def test__normal_calls__no_alarm(chromium, watched):
    alarms = Alarms()
    for way in WAYS:
        async with BrowserLine.laid_to(
            chromium, partial(Call, alarms=alarms, watched=watched)
        ) as line:
            await line.dial()
            await way(line)
            for call in line.calls:
                await call.ended()

    assert set(alarms.raised.values()) == {0}
    assert alarms.failures == 0
    assert (alarms.unsent > 0) is watched, "the bot went on"
