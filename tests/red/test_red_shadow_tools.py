"""Shadow requests and rounds of tools."""

from failover_parts import FAIL, Bot, Call, Scripted, passed, words
from pipecat.frames.frames import LLMContextFrame
from tenacity import wait_fixed

from pipecat_circuit_breaker._core.tool_rounds import ToolRounds


async def test__tool_calls_of_a_shadow__are_no_rounds():
    called = []

    async def book(params):
        called.append(params.llm.name)
        await params.result_callback({"ok": True})

    # Each answer of the first is a tool call: the live one fails, the shadows call.
    first = Scripted("first", [FAIL], [Call("book"), FAIL])
    second = Scripted("second", [Call("book")])
    bot = Bot(first, second, cooldown=wait_fixed(1))
    called_rounds = []
    original = ToolRounds.called

    def note(self, calls, names):
        called_rounds.append(list(names))
        return original(self, calls, called_rounds[-1])

    ToolRounds.called = note
    try:
        async with bot.talking():
            bot.switcher.register_function("book", book)
            for _ in range(4):
                await bot.ask()
            shadows = len(first.asked) - 1
            assert shadows == 3
            assert called == ["second"] * 4
            assert len(called_rounds) == 4, f"{len(called_rounds)} rounds for 4 answers"
    finally:
        ToolRounds.called = original


async def test__eight_good_rounds_in_one_turn_beside_shadows__tools_stay_on():
    """The limit is ten rounds; the calls of shadows are not run, and are none."""
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


async def test__observe_mode__shadow_sets_off_no_on_tool_loop():
    from pipecat_circuit_breaker import Mode

    async def book(params):
        await params.result_callback({"ok": True})

    first = Scripted("first", [FAIL], [Call("book"), FAIL])
    second = Scripted("second", words("I am here. Good."))
    bot = Bot(first, second, cooldown=wait_fixed(1))
    told = []
    bot.breaker.add_event_handler("on_tool_loop", lambda *a: told.append(a))
    async with bot.talking():
        bot.switcher.register_function("book", book)
        await bot.breaker.set_mode(Mode.OBSERVE) if hasattr(bot.breaker, "set_mode") else None
        bot.context.add_message({"role": "user", "content": "one question"})
        for _ in range(15):
            await bot.worker.queue_frame(LLMContextFrame(bot.context))
            await passed(2)
        assert told == []
