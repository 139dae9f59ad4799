"""Tools that a shadow request calls are not run, and are no rounds of the turn that goes on."""

import pytest
from pipecat.frames.frames import LLMContextFrame
from tenacity import wait_fixed

from tests.failover.failover_parts import FAIL, Bot, Call, Scripted, passed

pytestmark = pytest.mark.releases


async def test__eight_good_rounds_in_one_turn_beside_shadows__tools_stay_on():
    # The limit is ten rounds. No tools are in the context: models call some all the same.
    called = []

    async def book(params):
        called.append(params.llm.name)
        await params.result_callback({"ok": True})

    first = Scripted("first", [FAIL], [Call("book"), FAIL])
    second = Scripted("second", [Call("book")])
    async with Bot(first, second, cooldown=wait_fixed(1)).talking() as bot:
        bot.switcher.register_function("book", book)
        bot.context.add_message({"role": "user", "content": "one question"})
        for _ in range(8):
            # What a tool has brought asks again, in the same turn of the user.
            await bot.worker.queue_frame(LLMContextFrame(bot.context))
            await passed(2)
        assert called == ["second"] * 8
