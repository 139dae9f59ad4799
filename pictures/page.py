#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Takes pictures of pages in Chromium."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

TALLEST = 2400


def draw_html(html: str, file: Path, *, width: int, scale: float = 1.0) -> None:
    """Take a picture of a page in Chromium, down to where the page ends."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("expected chromium or google-chrome on the PATH, got neither")
    with tempfile.TemporaryDirectory() as directory:
        source, shot = Path(directory, "page.html"), Path(directory, "page.png")
        source.write_text(html, encoding="utf-8")
        subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--hide-scrollbars",
                f"--user-data-dir={directory}/profile",
                f"--window-size={width},{TALLEST}",
                f"--force-device-scale-factor={scale}",
                f"--screenshot={shot}",
                source.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        image = Image.open(shot).convert("RGB")
    # A window is a little taller than the page in it; the page ends where its background begins.
    image = image.crop((0, 0, image.width, image.height - round(200 * scale)))
    background = Image.new("RGB", image.size, image.getpixel((0, 0)))
    _, top, _, bottom = ImageChops.difference(image, background).getbbox()
    image = image.crop((0, 0, image.width, bottom + top))
    image.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
