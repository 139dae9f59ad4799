#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command: runs a check, and exits with 1 where something is not as it has to be."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

#: What each check is called on the command line, and what it looks at. A module is only imported
#: when its check is run: each needs other packages.
CHECKS = {
    "api": "what has changed since a release stands in the changelog",
    "calls": "ten thousand calls one after another, and two hundred at once: nothing is left",
    "core-rules": "each rule of the core is taken out: a test has to fail",
    "soak": "a million frames, with failures and recoveries at random",
    "log-storm": "a million error lines: what is written, and what it costs",
    "pipecat-suite": "pipecat's own tests with a breaker in every pipeline",
    "community": "packages of pipecat's community, without a breaker and with one",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a check.

    Args:
        arguments: The command line.

    Returns:
        The exit code of the check: 0 if all is well, else 1.
    """
    parser = argparse.ArgumentParser(
        prog="python -m checks",
        description="Runs a check. What follows its name is explained by `CHECK --help`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"{name:<15}{what}" for name, what in CHECKS.items()),
    )
    parser.add_argument("check", choices=[*CHECKS])
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    options = parser.parse_args(arguments)
    check = import_module(f"checks.{options.check.replace('-', '_')}")
    return int(check.main(options.arguments))


if __name__ == "__main__":
    sys.exit(main())
