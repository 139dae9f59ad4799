#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the demo's pictures in docs/images: `python docs/demo_pictures.py`, about seven minutes.

Each demo runs in tmux: the chains in terminals of 80 and 120 columns and 40 rows, the failover and the
fleet in ones that have room for all they say. What is drawn is what is on the screen when it is over.
`--failover` and `--fleet` make those alone. The `demo` extra, tmux and Chromium have to be installed;
for the fleet the `fleet` extra and redis-server too.
"""

import shlex
import subprocess
import sys
import tempfile
from io import StringIO

from pictures import IMAGES, draw_html
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

WIDTHS = (80, 120)
ROWS = 40
#: Rows of the demos that have a picture of 80 columns alone.
TALL = {"failover": 80, "fleet": 50}
DEMO = [sys.executable, "-m", "pipecat_circuit_breaker_cli", "demo"]

#: Pixels of a character of DejaVu Sans Mono at 14 px, and of both margins.
ADVANCE = 8.43
MARGINS = 24
PAGE = """\
<!DOCTYPE html>
<meta charset="utf-8">
<style>
body {{ margin: 12px; background: {background}; color: {foreground} }}
pre {{ margin: 0; font: 14px/1.2 "DejaVu Sans Mono", monospace }}
</style>
<pre>{code}</pre>
"""


def run_in_terminal(columns: int, rows: int, *options: str) -> str:
    """Run the demo in a terminal, and return what is on its screen then, with its colours."""
    with tempfile.TemporaryDirectory() as directory:
        # A server of its own: nobody's sessions, and nobody's configuration.
        tmux = ["tmux", "-S", f"{directory}/socket", "-f", "/dev/null"]
        run = f"{shlex.join([*DEMO, *options])}; tmux wait-for -S over; cat"
        size = ["-x", str(columns), "-y", str(rows)]
        start = ["set", "-g", "default-terminal", "tmux-256color", ";"]
        start += ["set", "-g", "status", "off", ";", "new-session", "-d", *size, run]
        try:
            subprocess.run([*tmux, *start], check=True)
            subprocess.run([*tmux, "wait-for", "over"], check=True)
            screen = [*tmux, "capture-pane", "-e", "-p"]
            return subprocess.run(screen, check=True, capture_output=True, text=True).stdout
        finally:
            subprocess.run([*tmux, "kill-server"], check=False)


def draw(name: str, screen: str, columns: int) -> None:
    """Draw what a terminal shows."""
    console = Console(record=True, width=columns, file=StringIO())
    console.print(Text.from_ansi(screen))
    html = console.export_html(theme=MONOKAI, code_format=PAGE, inline_styles=True)
    width = round(columns * ADVANCE) + MARGINS
    draw_html(html, IMAGES / f"{name}-{columns}.png", width=width, scale=1.5)


def main() -> None:
    """Make the pictures."""
    chosen = [name for name in TALL if f"--{name}" in sys.argv]
    if not chosen:
        for columns in WIDTHS:
            draw("demo", run_in_terminal(columns, ROWS), columns)
    for name in chosen or TALL:
        draw(f"{name}-demo", run_in_terminal(80, TALL[name], f"--{name}"), 80)


if __name__ == "__main__":
    main()
