"""Time passes only where nobody has anything to do, as in the tests of failover."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "failover"))

import importlib.util

_spec = importlib.util.spec_from_file_location(
    "failover_clock", Path(__file__).parents[1] / "failover" / "conftest.py"
)
_clock = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_clock)
event_loop_policy = _clock.event_loop_policy
