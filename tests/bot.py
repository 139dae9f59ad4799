"""What most tests need: a pipeline that runs, and parts for it."""

from pipecat_circuit_breaker.testing import Output, ended, running
from support.parts import Failing, Tap, app_message, dead, of_type, settle

__all__ = [
    "Failing",
    "Output",
    "Tap",
    "app_message",
    "dead",
    "ended",
    "of_type",
    "running",
    "settle",
]
