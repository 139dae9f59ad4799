"""Optional backends: absent they cost nothing, and asked for in vain they say what is missing."""

import subprocess
import sys


def test__opentelemetry_missing__instrument__names_the_extra():
    code = """
import sys
sys.modules["opentelemetry"] = None
from pipecat_circuit_breaker import CircuitBreakerProcessor
from pipecat_circuit_breaker.instrumentation import instrument
try:
    instrument(CircuitBreakerProcessor())
except ImportError as error:
    print(error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert "pipecat-circuit-breaker[otel]" in run.stdout


def test__breaker_alone__imports_no_opentelemetry_of_its_own():
    code = """
import sys
import pipecat_circuit_breaker
print([name for name in sys.modules if name.startswith("pipecat_circuit_breaker.instr")])
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.strip() == "[]"
