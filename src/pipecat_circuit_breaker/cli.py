#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command line's entry point, which has to work where its extras are not installed."""

import sys
from importlib.util import find_spec

_NEEDS = {
    "cli": ("click", "jinja2", "rich"),
    # Pipecat's WebSocket transport needs the last one, and only once a chain runs.
    "demo": ("click", "jinja2", "rich", "websockets"),
}


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    extra = "demo" if sys.argv[1:2] == ["demo"] else "cli"
    if any(find_spec(name) is None for name in _NEEDS[extra]):
        print(f"pip install 'pipecat-circuit-breaker[{extra}]'", file=sys.stderr)
        sys.exit(2)
    import click

    from pipecat_circuit_breaker.demo.app import demo
    from pipecat_circuit_breaker.show.app import show

    commands = click.Group(commands=[demo, show], help="A circuit breaker for Pipecat.")
    commands(prog_name="pipecat-circuit-breaker")


if __name__ == "__main__":
    main()
