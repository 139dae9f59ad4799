"""`tests/typing/api.py` leaves out nothing that is public."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from pipecat_circuit_breaker import CircuitBreakerParams
from pipecat_circuit_breaker.fleet import FleetParams

API = ast.parse((Path(__file__).parents[1] / "typing" / "api.py").read_text())
IMPORTED = {
    (node.module, alias.name)
    for node in ast.walk(API)
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
USED = {node.id for node in ast.walk(API) if isinstance(node, ast.Name)}


@pytest.mark.parametrize(
    "name", ["", ".failover", ".fleet", ".instrumentation", ".logs", ".testing"]
)
def test__module__public_names__are_all_checked(name):
    module = import_module(f"pipecat_circuit_breaker{name}")
    assert {(module.__name__, each) for each in module.__all__} <= IMPORTED


@pytest.mark.parametrize("params", [CircuitBreakerParams, FleetParams])
def test__settings__are_all_checked(params):
    given = {
        keyword.arg
        for node in ast.walk(API)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == params.__name__
        for keyword in node.keywords
    }
    assert set(params.model_fields) <= given


def test__names_that_are_imported__are_used():
    names = {
        alias.asname or alias.name
        for node in ast.walk(API)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert names <= USED
