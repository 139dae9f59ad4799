"""The line to a real Chromium, over pipecat's SmallWebRTC transport."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import FileResponse
from pipecat.transports.base_transport import TransportParams
from pipecat.transports.smallwebrtc.request_handler import (
    SmallWebRTCRequest,
    SmallWebRTCRequestHandler,
)
from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport
from playwright.async_api import BrowserContext, Page

from tests.browser.tabs import PAGE, close_tab, hears, leave_page
from tests.calls.call import AUDIO, TALK
from tests.calls.lines import Answer, Line, served

#: What the page takes down: RTVI's messages.
RTVI = sorted(TALK - {"app", "caption"})


class BrowserLine(Line):
    """A tab of Chromium; a new one is a new connection, with a bot of its own."""

    page: Page

    def __init__(self, answer: Answer, browser: BrowserContext) -> None:
        super().__init__(answer)
        self._browser = browser
        self._connections = SmallWebRTCRequestHandler()

    @classmethod
    @asynccontextmanager
    async def laid_to(cls, browser: BrowserContext, answer: Answer) -> AsyncIterator["BrowserLine"]:
        app, line = FastAPI(), cls(answer, browser)
        app.get("/")(line._page)
        app.post("/api/offer")(line._offer)
        async with served(app) as line._port:
            yield line
            await line._connections.close()

    async def dial(self) -> None:
        self.page = await self._browser.new_page()
        await self.page.goto(f"http://127.0.0.1:{self._port}/")
        await self.page.evaluate("connect()")
        for kind in RTVI:
            await self.page.wait_for_function(f"count('\u2190', '{kind}') > 0")
        await hears(self.page)

    async def hang_up(self) -> None:
        await leave_page(self.page)

    async def vanish(self) -> None:
        await close_tab(self.page)

    async def come_back(self) -> None:
        await self.dial()

    async def _page(self) -> FileResponse:
        return FileResponse(PAGE)

    async def _offer(self, request: SmallWebRTCRequest) -> dict[str, str] | None:
        async def serve(connection: object) -> None:
            # A write that is under way when a client leaves never returns.
            params = TransportParams(**AUDIO, audio_out_write_timeout_secs=1.0)
            await self._start(SmallWebRTCTransport(connection, params))

        return await self._connections.handle_web_request(request, serve)
