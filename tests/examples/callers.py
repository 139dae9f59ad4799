"""Examples as a user runs them, in processes of their own, and who calls them."""

import asyncio
import atexit
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import aiohttp
from aiortc import RTCPeerConnection, RTCSessionDescription
from websockets.asyncio.client import connect

from examples import talk

EXAMPLES = Path(__file__).parents[2] / "examples"

#: Of a machine that is busy. Nothing here takes a tenth of it on one that is not.
LIMIT_SECS = 90


class Bot:
    """A process that runs an example."""

    def __init__(self, process):
        self._process = process
        self._stirred = asyncio.Event()
        self.lines = []
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        async for line in self._process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())
            self._stirred.set()

    @property
    def log(self):
        return "\n".join(self.lines)

    async def says(self, pattern):
        """Wait for a line that contains the pattern, and return what it matched."""
        seen = 0

        async def look():
            nonlocal seen
            while True:
                for line in self.lines[seen:]:
                    if found := re.search(pattern, line):
                        return found
                seen = len(self.lines)
                if self.reading.done():
                    raise AssertionError(f"it ended without {pattern!r}:\n{self.log[-4000:]}")
                self._stirred.clear()
                await asyncio.wait(
                    [self.reading, stirred := asyncio.create_task(self._stirred.wait())],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                stirred.cancel()

        try:
            return await asyncio.wait_for(look(), LIMIT_SECS)
        except TimeoutError:
            raise AssertionError(f"it does not say {pattern!r}:\n{self.log[-4000:]}") from None

    async def ends(self):
        """Wait for its end, and return its exit code."""
        code = await asyncio.wait_for(self._process.wait(), LIMIT_SECS)
        await self.reading
        return code


@asynccontextmanager
async def started(example, *args, **env):
    """Run an example as a user does, without an account."""
    without = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLES / example,
        *args,
        env=without | {"PYTHONUNBUFFERED": "1", "NLTK_DATA": _sentences()} | env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    bot = Bot(process)
    try:
        yield bot
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 10)
            except TimeoutError:
                process.kill()
        await process.wait()
        await bot.reading


@cache
def _sentences():
    """Data for nltk, which splits sentences below pipecat 1.12, and would download it."""
    directory = tempfile.mkdtemp(prefix="nltk-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    english = Path(directory, "tokenizers", "punkt_tab", "english")
    english.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (english / name).touch()
    return directory


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Heard:
    """What a caller has heard: messages of RTVI."""

    def __init__(self):
        self._messages = []
        self._came = asyncio.Event()

    def hear(self, message):
        self._messages.append(message)
        self._came.set()

    def of(self, kind):
        return [message.get("data") for message in self._messages if message["type"] == kind]

    @property
    def errors(self):
        return [data["error"] for data in self.of("error")]

    async def hears(self, text):
        """Wait until the bot has spoken a sentence."""
        await self.until(
            lambda _: any(text in data["text"] for data in self.of("bot-tts-text")), text
        )

    async def hears_of(self, errors):
        """Wait until it was told of so many errors."""
        await self.until(lambda _: len(self.errors) >= errors, f"{errors} errors")

    async def until(self, condition, what):
        async def look():
            while not condition(self):
                self._came.clear()
                await self._came.wait()

        try:
            await asyncio.wait_for(look(), LIMIT_SECS)
        except TimeoutError:
            raise AssertionError(f"not heard: {what}; but {self._messages[-20:]}") from None


class WebRtcCaller(Heard):
    """A browser, as far as a bot can tell."""

    def __init__(self):
        super().__init__()
        self._connection = RTCPeerConnection()
        self._channel = self._connection.createDataChannel("chat")

    async def call(self, bot, url):
        is_open = asyncio.Event()
        self._channel.on("open", is_open.set)
        self._channel.on("message", lambda message: self.hear(json.loads(message)))
        self._connection.addTransceiver("audio", direction="sendrecv")
        await self._connection.setLocalDescription(await self._connection.createOffer())
        offer = {
            "sdp": self._connection.localDescription.sdp,
            "type": self._connection.localDescription.type,
        }
        async with aiohttp.ClientSession() as http:
            answer = await answered(bot, lambda: http.post(f"{url}/api/offer", json=offer))
            described = await answer.json()
        await self._connection.setRemoteDescription(
            RTCSessionDescription(described["sdp"], described["type"])
        )
        await asyncio.wait_for(is_open.wait(), LIMIT_SECS)

    async def say(self, text):
        self._channel.send(json.dumps(talk.send_text(text)))

    async def hang_up(self):
        await self._connection.close()


class WebSocketCaller(Heard):
    """Calls over a WebSocket, as talk.py does."""

    async def call(self, bot, url):
        self._bot = await answered(bot, lambda: connect(url))
        self.listening = asyncio.create_task(self._listen())

    async def _listen(self):
        async for message in talk.messages(self._bot):
            self.hear(message)

    async def say(self, text):
        await talk.say(self._bot, text)

    async def hang_up(self):
        await self._bot.close()
        await self.listening

    async def hung_up(self):
        """Wait until the bot has hung up."""
        await asyncio.wait_for(self.listening, LIMIT_SECS)


async def answered(bot, call):
    """Call again and again, until somebody answers."""
    for _ in range(LIMIT_SECS * 10):
        try:
            return await call()
        except OSError:
            assert not bot.reading.done(), f"it has ended:\n{bot.log[-4000:]}"
            await asyncio.sleep(0.1)
    raise AssertionError(f"nobody answers:\n{bot.log[-4000:]}")
