"""A short soak; the long one is `python -m checks soak`."""

from checks.soak import soak


async def test__soak__invariants_hold_and_memory_is_flat():
    lines = []
    assert await soak(20_000, seed=2, report=lines.append), lines
