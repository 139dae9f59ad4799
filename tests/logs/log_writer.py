"""A process that logs numbered lines to a file that it shares; see test_shared_file.py."""

import json
import sys

from loguru import logger

from pipecat_circuit_breaker.logs import add_log_file


def main(name: str, lines: str, options: str) -> None:
    logger.remove()
    add_log_file(**json.loads(options), format="{message}", storm_filter=lambda line: True)
    print("ready", flush=True)
    sys.stdin.readline()
    for n in range(int(lines)):
        logger.error(f"{name} {n}")


if __name__ == "__main__":
    main(*sys.argv[1:])
