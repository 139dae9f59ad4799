#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Makes the demo's pictures in docs/images: `python docs/demo_pictures.py`, about six minutes.

Each demo runs in tmux: the chains in terminals of 80 and 120 columns and 40 rows, the failover in one
that has room for each turn. What is drawn is what is on the screen when it is over. `--failover` makes
that one's picture alone. The `demo` extra, tmux and Chromium have to be installed.
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
FAILOVER_ROWS = 80
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
    if "--failover" not in sys.argv:
        for columns in WIDTHS:
            draw("demo", run_in_terminal(columns, ROWS), columns)
    draw("failover-demo", run_in_terminal(80, FAILOVER_ROWS, "--failover"), 80)


if __name__ == "__main__":
    main()
