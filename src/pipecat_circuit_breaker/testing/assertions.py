#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Asserts on incidents, and tells them in a few lines where they are not as expected."""

from collections.abc import Mapping, Sequence

from pipecat.processors.frame_processor import FrameProcessor

from pipecat_circuit_breaker._core.circuit import CircuitState
from pipecat_circuit_breaker.incident import AdviceKind, Ending, Incident, Trigger
from pipecat_circuit_breaker.processor import CircuitBreakerProcessor
from pipecat_circuit_breaker.show.story import Gap, Step, tell

#: Steps of a chain that are told: the root and the latest.
_MOST_STEPS = 4


def assert_no_incidents(breaker: CircuitBreakerProcessor) -> None:
    """Assert that no circuit has opened.

    Args:
        breaker: The breaker, while its pipeline runs or after that.

    Raises:
        AssertionError: One has; the message tells each incident.
    """
    __tracebackhide__ = True
    if breaker.incidents:
        raise AssertionError(f"expected no incident, {_told(breaker.incidents)}")


def assert_incident(
    breaker: CircuitBreakerProcessor,
    *,
    processor: FrameProcessor | str | None = None,
    kind: str | None = None,
    trigger: Trigger | None = None,
    state: CircuitState | None = None,
    ending: Ending | None = None,
    advice: AdviceKind | None = None,
) -> Incident:
    """Assert that exactly one incident is as described; others may be there too.

    Args:
        breaker: The breaker, while its pipeline runs or after that.
        processor: Which processor failed: itself, its name, or the name of its class.
        kind: How it failed, as in :attr:`.Origin.kind`: ``ConnectionError``, say.
        trigger: Why the circuit opened.
        state: The circuit's state as of now.
        ending: How the incident ended.
        advice: What it comes down to.

    Returns:
        The incident, for whatever else there is to assert.

    Raises:
        AssertionError: None is, or several are; the message tells all there are.
    """
    __tracebackhide__ = True
    asked = {
        "processor": processor,
        "kind": kind,
        "trigger": trigger,
        "state": state,
        "ending": ending,
        "advice": advice,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    found = [incident for incident in breaker.incidents if _is(incident, asked)]
    if len(found) != 1:
        wanted = " with " + ", ".join(f"{name} {value}" for name, value in asked.items())
        raise AssertionError(
            f"expected one incident{wanted if asked else ''}, found {len(found)}; "
            f"{_told(breaker.incidents)}"
        )
    return found[0]


def _is(incident: Incident, asked: Mapping[str, object]) -> bool:
    origin = incident.origin
    facts = {
        "processor": (origin.processor, origin.processor_class),
        "kind": (origin.kind,),
        "trigger": (incident.trigger,),
        "state": (incident.state,),
        "ending": (incident.ending,),
        "advice": (incident.advice.kind,),
    }
    return all(
        value.id == origin.processor_id
        if isinstance(value, FrameProcessor)
        else value in facts[name]
        for name, value in asked.items()
    )


def _told(incidents: Sequence[Incident]) -> str:
    if not incidents:
        return "there is none"
    lines = [f"there {'is 1' if len(incidents) == 1 else f'are {len(incidents)}'}:"]
    for incident in incidents:
        story = tell(incident, most_steps=_MOST_STEPS)
        held = ", ".join(f"{held.count} {held.kind}" for held in story.held)
        lines += [
            f"  {story.title} ({story.state})",
            f"    trigger {incident.trigger}: {', '.join(story.facts)}",
            f"    chain: {' → '.join(map(_step, story.chain))}",
            f"    held back: {held or story.nothing_held}",
            f"    advice {incident.advice.kind}: {story.advice}",
        ]
    return "\n".join(lines)


def _step(step: Step | Gap) -> str:
    if isinstance(step, Gap):
        return f"{step.steps} more"
    return f"{step.processor} ({step.text})"
