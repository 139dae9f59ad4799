"""A short soak, and a few calls; the long ones are `python -m checks soak` and `python -m checks calls`."""

import asyncio

from checks.calls import call
from checks.soak import soak


async def test__soak__invariants_hold_and_memory_is_flat():
    lines = []
    assert await soak(20_000, seed=2, report=lines.append), lines


async def test__calls__one_after_another_and_at_once__each_is_as_it_has_to_be():
    tasks = len(asyncio.all_tasks())
    assert [await call(number) for number in range(4)] == [None] * 4
    assert await asyncio.gather(*map(call, range(8))) == [None] * 8
    assert len(asyncio.all_tasks()) == tasks
