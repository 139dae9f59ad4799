#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command line's entry point, which has to work where the ``demo`` extra is not installed."""

import sys

EXTRA = {"click", "rich", "websockets"}


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        # Pipecat's WebSocket transport needs the last one, and only once a chain runs.
        import click  # noqa: F401
        import rich  # noqa: F401
        import websockets  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        print("pip install 'pipecat-circuit-breaker[demo]'", file=sys.stderr)
        sys.exit(2)
    from pipecat_circuit_breaker.demo.app import main as run

    run(prog_name="pipecat-circuit-breaker")


if __name__ == "__main__":
    main()
