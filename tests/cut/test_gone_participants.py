"""A room that hundreds have left, and an application that goes on sending to each of them."""

from pipecat.transports.livekit.transport import LiveKitOutputTransportMessageUrgentFrame

from pipecat_circuit_breaker.testing import Output, running
from tests.support.parts import settle

GONE = 300
ROUNDS = 12

#: Failing sends until an output is down, whomever they are for: as many errors as are too many of
#: one processor, and what is under way.
AT_MOST = 60

#: Where somebody is still there, each of the others may be found gone once.
AT_MOST_BESIDE_ONE = GONE + 60


class Room(Output):
    """Sends to participants; all are gone but those who stay."""

    def __init__(self, *stay):
        super().__init__()
        self.to = []
        self.gone = 0
        self._stay = stay

    async def send_message(self, frame):
        to = getattr(frame, "participant_id", None)
        if to is not None and to not in self._stay:
            self.gone += 1
            raise ConnectionError(f"{to} has left")
        self.to.append(to)


def to(participant):
    return LiveKitOutputTransportMessageUrgentFrame(
        message={"type": "app"}, participant_id=participant
    )


async def send(worker, participant):
    await worker.queue_frame(to(participant))
    await settle(12)


def check(guard, room, at_most):
    """Without a breaker each message fails; with one, so many."""
    if guard.breaker is None:
        assert room.gone == ROUNDS * GONE
    else:
        assert 1 <= room.gone <= at_most


async def test__all_participants_are_gone__twelve_rounds__bounded(guard):
    room = Room()
    async with running(*guard.line(room)) as worker:
        for _ in range(ROUNDS):
            for n in range(GONE):
                await send(worker, f"participant-{n}")

    check(guard, room, AT_MOST)


async def test__all_participants_are_gone__one_after_another__bounded(guard):
    room = Room()
    async with running(*guard.line(room)) as worker:
        for n in range(GONE):
            for _ in range(ROUNDS):
                await send(worker, f"participant-{n}")

    check(guard, room, AT_MOST)


async def test__one_participant_stays__twelve_rounds__hears_all_and_the_rest_is_bounded(guard):
    room = Room("host")
    async with running(*guard.line(room)) as worker:
        for _ in range(ROUNDS):
            for n in range(GONE):
                await send(worker, f"participant-{n}")
                if n % 10 == 0:
                    await send(worker, "host")

    assert room.to.count("host") == ROUNDS * GONE // 10
    check(guard, room, AT_MOST_BESIDE_ONE)
