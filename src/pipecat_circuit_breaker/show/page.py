#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Incidents as one page for a browser, complete in itself: it works without a network."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipecat_circuit_breaker.fleet.incident import FleetIncident
from pipecat_circuit_breaker.incident import Incident
from pipecat_circuit_breaker.show.fleet import FleetStory, tell_of_fleet
from pipecat_circuit_breaker.show.story import Gap, Story, tell
from pipecat_circuit_breaker.show.timeline import WIDTH, Timeline, timeline

_environment = Environment(
    loader=PackageLoader("pipecat_circuit_breaker.show", ""),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_environment.tests["gap"] = lambda step: isinstance(step, Gap)
_environment.tests["of_fleet"] = lambda story: isinstance(story, FleetStory)


def page(incidents: Sequence[Incident | FleetIncident]) -> str:
    """Write incidents as HTML.

    Args:
        incidents: At least one.

    Returns:
        A whole document, with no script and nothing that is fetched from elsewhere.
    """
    return _environment.get_template("page.html.jinja").render(
        stories=[_told(incident) for incident in incidents], width=WIDTH
    )


def _told(incident: Incident | FleetIncident) -> tuple[Story | FleetStory, Timeline | None]:
    if isinstance(incident, FleetIncident):
        return tell_of_fleet(incident), None
    return tell(incident), timeline(incident)
