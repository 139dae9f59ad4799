"""What the caller hears, and what the application is told."""

from failover_parts import FAIL, HANG, Bot, Call, Pause, Scripted, words

GOOD = words("I am here. What can I do for you today?")
HEARD = "I am here. What can I do for you today?"


async def test__first_fails__second_answers__one_whole_answer_and_no_error():
    first, second = Scripted("first", [FAIL]), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask()

    assert bot.answers == [HEARD]
    assert bot.errors == []
    assert bot.told == ["failed first first failed: no answer True"]
    assert (len(first.asked), len(second.asked)) == (1, 1)


async def test__first_hangs__second_is_asked_after_the_time_limit():
    first, second = Scripted("first", [HANG]), Scripted("second", GOOD)
    async with Bot(first, second).talking() as bot:
        await bot.ask(secs=4.9)
        assert second.asked == []
        await bot.ask(secs=0.2)
        assert bot.answers == [HEARD, HEARD]

    assert bot.told == ["failed first no answer within 5 s True"]
    assert first.running == 0
