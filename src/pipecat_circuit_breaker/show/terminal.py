#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""An incident in the terminal: a tree whose branches are what a person asks first."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from pipecat_circuit_breaker.fleet.incident import FleetIncident
from pipecat_circuit_breaker.incident import Incident
from pipecat_circuit_breaker.show.fleet import FleetStory, tell_of_fleet
from pipecat_circuit_breaker.show.story import Gap, Step, Story, Try, tell

# So that it all fits on a screen, with the advice still in sight.
_MOST_STEPS = 10
_BAR = 20

_STATES = {"open": "bold white on red", "half-open": "bold black on yellow"}
_CLOSED = "bold black on green"
_RESULTS = {"passed": "green", "failed": "red", "timed_out": "red"}


def tree(incident: Incident | FleetIncident) -> Tree:
    """Show an incident.

    Every text in it is shown as it is: nothing in it is taken for markup.

    Args:
        incident: The incident, of one bot or of a fleet.

    Returns:
        What a rich console can print, at 60 columns and more.
    """
    story: Story | FleetStory
    if isinstance(incident, FleetIncident):
        story = tell_of_fleet(incident)
        branches = _branches_of_fleet(story)
    else:
        story = tell(incident, most_steps=_MOST_STEPS)
        branches = _branches(story)
    root = Tree(_headline(story), guide_style="dim")
    for title, content in branches:
        root.add(Group(Text(title, style="bold cyan"), content, Text()))
    return root


def _headline(story: Story | FleetStory) -> RenderableType:
    state = _STATES.get(story.state, _CLOSED)
    title = Text.assemble((f" {story.state.upper()} ", state), " ", (story.title, "bold"))
    return Group(title, Text(", ".join(story.facts)), Text())


def _branches(story: Story) -> Iterator[tuple[str, RenderableType]]:
    advice = Text(story.advice, style="bold yellow")
    look = Text(f"Look at {story.look_at} first: {story.advice_kind}.", style="dim")
    yield "What to do", Group(advice, look)
    if story.chain:
        yield "What set off what", _chain(story)
    yield story.held_title, _held(story)
    if story.tries:
        yield f"Probes: {story.tried}", _tries(story.tries)
    noticed: RenderableType = Text(story.noticed)
    if story.as_of:
        noticed = Group(noticed, Text(story.as_of, style="dim"))
    yield "What the user noticed", noticed
    if story.whose:
        yield "Whose call it was", _pairs(story.whose)


def _branches_of_fleet(story: FleetStory) -> Iterator[tuple[str, RenderableType]]:
    yield "What to do", Text(story.advice, style="bold yellow")
    yield "Who saw it", _pairs(story.seen)
    tried: RenderableType = Text(story.tried)
    if story.as_of:
        tried = Group(tried, Text(story.as_of, style="dim"))
    yield "Probes", tried
    if story.decided:
        yield "By whom", _pairs(story.decided)


def _pairs(pairs: tuple[tuple[str, str], ...]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", overflow="fold")
    grid.add_column(overflow="fold")
    for what, which in pairs:
        grid.add_row(Text(what), Text(which))
    return grid


def _chain(story: Story) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for step in story.chain:
        if isinstance(step, Gap):
            grid.add_row("⋮", "", Text(f"{step.steps:,} more steps", style="dim italic"))
        else:
            grid.add_row(str(step.hop), step.when, _step(step))
    if not story.loop:
        return grid
    return Group(Text(story.loop, style="italic"), grid)


def _step(step: Step) -> Text:
    colour = "red" if step.is_error else "cyan"
    words = Text.assemble((step.processor, "bold"), " ", (step.frame, colour), f" {step.text}")
    if step.trips:
        words.append(" ◀ opened it", style="bold red")
    return words


def _held(story: Story) -> RenderableType:
    if not story.held:
        return Text(story.nothing_held, style="dim")
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(no_wrap=True)
    for row in story.held:
        bar = Text("━" * max(1, round(row.share * _BAR)), style="blue")
        grid.add_row(f"{row.count:,}", Text(row.kind), bar)
    return grid


def _tries(tries: tuple[Try, ...]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(justify="right", style="dim", no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for one in tries:
        outcome = Text(one.outcome, style=_RESULTS.get(one.result, "dim"))
        grid.add_row(one.when, outcome, Text(f"{one.frame} {one.text}"))
    return grid
