#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command: makes pictures anew."""

import argparse
from collections.abc import Sequence
from importlib import import_module

#: What is drawn, by its name on the command line. A module is only imported when it draws: each
#: needs other programs.
PICTURES = {
    "incident": "an incident, in the terminal and as a page: ten seconds",
    "terminals": "what the demos and the command `fleet` show: eight minutes",
    "dashboard": "the dashboard, from what a real Prometheus scraped: two and a half minutes",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make pictures.

    Args:
        arguments: The command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pictures",
        description="Makes pictures of the docs anew.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:<12}{what}" for name, what in PICTURES.items()),
    )
    parser.add_argument("picture", choices=[*PICTURES])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(arguments)
    import_module(f"pictures.{options.picture}").main(options.arguments)


if __name__ == "__main__":
    main()
