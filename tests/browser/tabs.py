"""Chromium, and what a test does with its tabs."""

import shutil
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, Error, Page, Playwright

CHROMIUM = next(
    filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None
)

PAGE = Path(__file__).parent / "page.html"

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    # Nobody here answers for the names that would stand for its addresses.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
]


async def launch(driver: Playwright) -> Browser:
    return await driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


async def new_context(chromium: Browser) -> BrowserContext:
    context = await chromium.new_context(
        viewport={"width": 1000, "height": 300}, device_scale_factor=1.5
    )
    context.set_default_timeout(20_000)
    return context


async def hears(page: Page) -> None:
    await page.wait_for_function("heard().then((sound) => sound > 0)")


async def close_tab(page: Page) -> None:
    """No goodbye over WebRTC: Chromium just ends the tab's process."""
    await page.close()


async def leave_page(page: Page) -> None:
    """A goodbye: Chromium closes the page's connection, as the page itself can."""
    await page.goto("about:blank")


async def crash(page: Page) -> None:
    with pytest.raises(Error):
        await page.goto("chrome://crash")
