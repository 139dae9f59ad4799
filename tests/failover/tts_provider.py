"""A provider of speech behind a real WebSocket; its sound is the text that it speaks."""

import asyncio
import base64
import json
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.services.elevenlabs.tts import ElevenLabsTTSService
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

RATE = 16000

#: What becomes of a text: all is well, and how a provider fails.
WELL, CLOSES, REFUSES, SILENT, ERROR = "well", "closes", "refuses", "silent", "error"
#: After half of the sound: the socket closes; nothing more comes.
BREAKS, STOPS = "breaks", "stops"
#: Aborts the connection, without a close frame.
DROPS = "drops"
#: Speaks when it has been given up.
LATE = "late"
#: Tells an end, and there was no sound.
EMPTY = "empty"


class Provider:
    """Answers each text with the next script, the last one from there on."""

    def __init__(self, *scripts):
        self.scripts = list(scripts) or [WELL]
        self.asked = []
        self.script = None
        self.connected = self.most_connected = 0
        self.refuses = False

    @asynccontextmanager
    async def serving(self):
        async with serve(self.talk, "127.0.0.1", 0, process_request=self.admit) as server:
            self.port = server.sockets[0].getsockname()[1]
            yield self

    def admit(self, connection, request):
        if self.refuses:
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "no\n")
        return None

    async def talk(self, socket):
        self.connected += 1
        self.most_connected = max(self.connected, self.most_connected)
        texts = {}
        try:
            with suppress(ConnectionClosed):
                async for message in socket:
                    await self.hear(socket, json.loads(message), texts)
        finally:
            self.connected -= 1

    async def hear(self, socket, message, texts):
        raise NotImplementedError

    async def speak(self, socket, text, context_id):
        script = self.script = self.scripts[min(len(self.asked), len(self.scripts) - 1)]
        self.asked.append(text)
        if script == SILENT:
            return
        if script == EMPTY:
            await self.send_end(socket, context_id)
            return
        if script == ERROR:
            await self.send_error(socket, context_id)
            return
        if script == REFUSES:
            self.refuses = True
        if script in (CLOSES, REFUSES):
            await socket.close()
            return
        if script == DROPS:
            socket.transport.abort()
            return
        if script == LATE:
            await asyncio.sleep(5.5)
        sound = text.encode("utf-16-le")
        half = len(sound) // 4 * 2
        await self.send_sound(socket, sound[:half], context_id)
        if script == BREAKS:
            await socket.close()
        if script in (BREAKS, STOPS):
            return
        await asyncio.sleep(0)
        await self.send_words(socket, text.split(), context_id)
        await self.send_sound(socket, sound[half:], context_id)
        await self.send_end(socket, context_id)

    async def send_error(self, socket, context_id):
        await socket.close(1011, "no voice")

    async def send_words(self, socket, words, context_id):
        pass


class Cartesia(Provider):
    def service(self, name, **settings):
        return CartesiaTTSService(
            api_key="key",
            name=name,
            url=f"ws://127.0.0.1:{self.port}",
            sample_rate=RATE,
            settings=CartesiaTTSService.Settings(voice="a"),
            **settings,
        )

    async def hear(self, socket, message, texts):
        context_id = message["context_id"]
        if message.get("cancel"):
            texts.pop(context_id, None)
            return
        texts[context_id] = texts.get(context_id, "") + message["transcript"]
        if not message["continue"]:
            if text := texts.pop(context_id):
                await self.speak(socket, text, context_id)
            else:
                await self.send_error(socket, context_id)

    async def send(self, socket, context_id, kind, **more):
        await socket.send(json.dumps({"type": kind, "context_id": context_id, **more}))

    async def send_sound(self, socket, sound, context_id):
        await self.send(socket, context_id, "chunk", data=base64.b64encode(sound).decode())

    async def send_words(self, socket, words, context_id):
        times = {"words": words, "start": [0.001 * n for n in range(len(words))]}
        await self.send(socket, context_id, "timestamps", word_timestamps=times)

    async def send_end(self, socket, context_id):
        await self.send(socket, context_id, "done")

    async def send_error(self, socket, context_id):
        await self.send(socket, context_id, "error", error="no voice")


class ElevenLabs(Provider):
    def service(self, name, **settings):
        return ElevenLabsTTSService(
            api_key="key",
            name=name,
            url=f"ws://127.0.0.1:{self.port}",
            sample_rate=RATE,
            settings=ElevenLabsTTSService.Settings(voice="a"),
            **settings,
        )

    async def hear(self, socket, message, texts):
        context_id = message.get("context_id")
        if message.get("close_socket"):
            await socket.close()
        elif message.get("text"):
            texts[context_id] = (texts.get(context_id, "") + message["text"]).lstrip()
        elif message.get("flush"):
            await self.speak(socket, texts[context_id], context_id)
        elif message.get("close_context") and texts.pop(context_id, None):
            if self.script not in (SILENT, STOPS):
                await socket.send(json.dumps({"contextId": context_id, "isFinal": True}))

    async def send_sound(self, socket, sound, context_id):
        data = base64.b64encode(sound).decode()
        await socket.send(json.dumps({"contextId": context_id, "audio": data}))

    async def send_words(self, socket, words, context_id):
        chars = [*" ".join(words), " "]
        alignment = {
            "chars": chars,
            "charStartTimesMs": [*range(len(chars))],
            "charDurationsMs": [1] * len(chars),
        }
        await socket.send(json.dumps({"contextId": context_id, "alignment": alignment}))

    async def send_end(self, socket, context_id):
        pass  # after `close_context`


class Deepgram(Provider):
    """No ids, no words."""

    def service(self, name, **settings):
        from pipecat.services.deepgram.tts import DeepgramTTSService  # needs its SDK before 1.14

        return DeepgramTTSService(
            api_key="key",
            name=name,
            base_url=f"ws://127.0.0.1:{self.port}",
            sample_rate=RATE,
            **settings,
        )

    async def hear(self, socket, message, texts):
        if message["type"] == "Speak":
            texts[""] = texts.get("", "") + message["text"]
        elif message["type"] == "Clear":
            texts.clear()
        elif message["type"] == "Flush" and texts:
            await self.speak(socket, texts.pop("").strip(), "")

    async def send_sound(self, socket, sound, context_id):
        await socket.send(sound)

    async def send_end(self, socket, context_id):
        await socket.send(json.dumps({"type": "Flushed"}))


class Endless(Deepgram):
    """Never tells the end of a text, as some do: only silence does."""

    def service(self, name, **settings):
        service = super().service(name, **settings)
        service._push_stop_frames = True
        return service

    async def send_end(self, socket, context_id):
        pass
