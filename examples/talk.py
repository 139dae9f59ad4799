#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Talk to a bot over a WebSocket, from a terminal: each line that you type is what you say.

pip install "pipecat-ai[websocket]"
python examples/talk.py ws://localhost:8000/ws
"""

import asyncio
import json
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

from pipecat.frames.protobufs import frames_pb2
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed


def send_text(text: str) -> dict[str, Any]:
    """What pipecat's clients send for somebody who types."""
    options = {"run_immediately": True, "audio_response": True}
    data = {"content": text, "options": options}
    return {"label": "rtvi-ai", "type": "send-text", "id": "1", "data": data}


async def say(bot: ClientConnection, text: str) -> None:
    """Say something to a bot."""
    message = json.dumps(send_text(text))
    frame = frames_pb2.Frame(message=frames_pb2.MessageFrame(data=message))
    await bot.send(frame.SerializeToString())


async def messages(bot: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """What the bot sends, until it hangs up; sound is a message of type ``sound``."""
    try:
        async for received in bot:
            frame = frames_pb2.Frame.FromString(received)
            match frame.WhichOneof("frame"):
                case "message":
                    yield json.loads(frame.message.data)
                case "audio":
                    yield {"type": "sound", "data": len(frame.audio.audio)}
    except ConnectionClosed:
        pass  # it has gone without a word


async def listen(bot: ClientConnection) -> None:
    """Print what the bot says."""
    async for message in messages(bot):
        match message["type"]:
            case "bot-tts-text":
                print("bot:", message["data"]["text"], flush=True)
            case "server-message":
                print("bot shows:", message["data"], flush=True)
            case "error":
                print("    error:", message["data"]["error"], flush=True)
    print("The bot has hung up.")


async def main(url: str) -> None:
    """Talk until either side has had enough."""
    async with connect(url) as bot:
        listening = asyncio.create_task(listen(bot))
        typing = asyncio.create_task(type_to(bot))
        await asyncio.wait([listening, typing], return_when=asyncio.FIRST_COMPLETED)
        typing.cancel()


async def type_to(bot: ClientConnection) -> None:
    """Say each line, until there are no more."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()

    def read() -> None:
        while line := sys.stdin.readline():
            loop.call_soon_threadsafe(lines.put_nowait, line)
        loop.call_soon_threadsafe(lines.put_nowait, "")

    # Nobody waits for this thread, so the bot may hang up while you type.
    threading.Thread(target=read, daemon=True).start()
    while line := await lines.get():
        await say(bot, line.strip())
        await asyncio.sleep(2)  # where the lines come from a file, let the bot answer


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["ws://localhost:8000/ws"]))
