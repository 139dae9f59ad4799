#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""A fleet in the terminal: what fails, who sees it, who looks after it; what was; who decides.

Whatever comes from the server is shown as it is: nothing in it is taken for markup, and the
records have let nothing through that does not print.
"""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from pipecat_circuit_breaker.fleet.incident import rate
from pipecat_circuit_breaker.fleet.record import ModeSet, Outage
from pipecat_circuit_breaker.fleet_console.follow import Sight
from pipecat_circuit_breaker.show.story import duration

#: Columns from which what is said of the probe stands beside the figures, and not below.
WIDE = 110
NARROWEST = 80

_STATES = {"open": "bold white on red", "suspected": "bold black on yellow"}
_MODES = {"observe": "bold black on yellow", "disabled": "bold white on red"}
_ENDINGS = {"recovered": "recovered", "by_hand": "closed by hand", "forgotten": "forgotten"}
_ENDED = {"recovered": "green", "by_hand": "yellow", "forgotten": "dim"}

#: What the columns of figures are called, and how wide they are.
_FIGURES = {
    "for": 11,
    "instances": 9,
    "bots": 7,
    "failures": 9,
    "a second": 8,
    "openings": 8,
    "lost probes": 11,
}
_GAP = 2
_INDENT = 2
_FIGURES_WIDTH = sum(_FIGURES.values()) + _GAP * (len(_FIGURES) - 1)

#: Lines of an outage, of one that is over, and of all the rest.
_OUTAGE_LINES = 4
_ENDED_LINES = 2
_OTHER_LINES = 9
_MOST_ENDED = 10

#: Longer times than these ten years are somebody's jest.
_LONGEST_SECS = 315_360_000.0


def board(
    sight: Sight, *, fleet: str, server: str, monotonic: float, width: int, height: int | None
) -> RenderableType:
    """Show a fleet.

    Args:
        sight: What is seen of it.
        fleet: Its name.
        server: Where its server is, without any secret.
        monotonic: The present moment, in the sight's monotonic seconds.
        width: Columns there are, 80 and more.
        height: Lines there are; None where it scrolls.
    """
    return Group(*_parts(sight, fleet, server, monotonic, width, height))


def _parts(
    sight: Sight, fleet: str, server: str, monotonic: float, width: int, height: int | None
) -> Iterator[RenderableType]:
    yield Text.assemble(("fleet ", "dim"), (fleet, "bold"), (" on ", "dim"), server)
    if sight.lost is not None:
        yield from _lost(sight, monotonic)
    knowledge = sight.knowledge
    if knowledge is None:
        return
    now = sight.now(monotonic)
    yield _mode(knowledge.mode, now)
    yield Text()
    going_on = sorted(
        (outage for outage in knowledge.outages if outage.state in _STATES),
        key=lambda outage: (outage.state != "open", outage.opened_at or outage.seen_at),
    )
    most = most_ended = None
    if height is not None:
        most = max(1, (height - _OTHER_LINES) // _OUTAGE_LINES)
        shown = min(most, len(going_on))
        most_ended = max(0, (height - _OTHER_LINES - shown * _OUTAGE_LINES) // _ENDED_LINES)
    yield _title(_counted(going_on))
    yield from _outages(going_on[:most], now, width)
    yield from _more(len(going_on), most)
    history = knowledge.history
    if history:
        yield _title("over")
        most_ended = _MOST_ENDED if most_ended is None else min(most_ended, _MOST_ENDED)
        yield from (_ended(outage, now) for outage in history[:most_ended])
        yield from _more(len(history), most_ended)


def _title(text: str) -> RenderableType:
    return Rule(Text(text, style="bold"), align="left", style="dim", characters="─")


def _lost(sight: Sight, monotonic: float) -> Iterator[Text]:
    since = _span(monotonic - sight.lost_at)
    yield Text.assemble((" NO ANSWER ", "bold white on red"), f" for {since}: {sight.lost}")
    age = "" if sight.knowledge is None else f"This is {_span(monotonic - sight.read_at)} old. "
    yield Text(
        f"{age}Bots that cannot reach it either behave as if alone. Trying again.", style="dim"
    )


def _mode(mode: ModeSet, now: float) -> Text:
    if mode.who is None:
        return Text.assemble(("mode ", "dim"), mode.mode)
    badge = (f" {mode.mode.upper()} ", _MODES[mode.mode]) if mode.mode in _MODES else mode.mode
    who = f", set by {mode.who} {_span(now - mode.at)} ago"
    return Text.assemble(("mode ", "dim"), badge, who, f": {mode.why}" if mode.why else "")


def _counted(going_on: Sequence[Outage]) -> str:
    opened = sum(outage.is_open for outage in going_on)
    suspected = len(going_on) - opened
    counts = [f"{opened} open" if opened else "nothing open"]
    if suspected:
        counts.append(f"{suspected} suspected")
    return ", ".join(counts)


def _outages(outages: Sequence[Outage], now: float, width: int) -> Iterator[RenderableType]:
    if not outages:
        return
    yield _row([Text(name, style="dim") for name in _FIGURES])
    for outage in outages:
        name = Table.grid(padding=(0, 1, 0, 0))
        name.add_column(no_wrap=True)
        name.add_column(overflow="fold")
        badge = Text(f" {outage.state.upper()} ", style=_STATES[outage.state])
        name.add_row(badge, Text(outage.key, style="bold"))
        yield name
        figures, probe = _row(_figures(outage, now)), _probe(outage, now)
        if width < WIDE:
            yield figures
            yield Padding(probe, (0, 0, 0, _INDENT))
        else:
            grid = Table.grid(padding=(0, _GAP, 0, 0))
            grid.add_column(width=_INDENT + _FIGURES_WIDTH)
            grid.add_column(width=width - _INDENT - _FIGURES_WIDTH - 2 * _GAP)
            grid.add_row(figures, probe)
            yield grid
        yield Text()


def _row(cells: Sequence[Text]) -> RenderableType:
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    for n, column in enumerate(_FIGURES.values()):
        grid.add_column(justify="right" if n else "left", width=column, no_wrap=True)
    grid.add_row(*cells)
    return Padding(grid, (0, 0, 0, _INDENT))


def _figures(outage: Outage, now: float) -> list[Text]:
    since = outage.opened_at
    lost = Text("–", style="dim")
    if outage.lost_probes:
        lost = Text(_short(outage.lost_probes), style="bold red")
    return [
        Text("–" if since is None else _span(now - since)),
        Text(_short(instances_of(outage))),
        Text(_short(outage.bots)),
        Text(_short(outage.failures)),
        Text("–" if since is None else _rate(rate(outage.failures, outage.failed_at - since))),
        Text(_short(outage.openings) if outage.openings else "–"),
        lost,
    ]


def _probe(outage: Outage, now: float) -> Text:
    if outage.state == "suspected":
        return Text(f"too few instances so far; seen {_span(now - outage.seen_at)} ago")
    if outage.is_by_hand:
        by, why = outage.opened_by, outage.why
        who = f" by {by}" if by else ""
        return Text(f"no probe: opened by hand{who}{f': {why}' if why else ''}")
    lease = outage.lease
    if lease is not None and lease.expires_at > now:
        words = Text.assemble(
            (lease.holder, "cyan"), f" probes, {_span(lease.expires_at - now)} left"
        )
    elif outage.probe_at is None:
        words = Text("no probe")
    elif outage.probe_at > now:
        words = Text(f"next probe in {_span(outage.probe_at - now)}")
    else:
        words = Text("probe due: the next request is one")
    if outage.opened_by:
        words.append(f"; opened by {outage.opened_by}", style="dim")
    return words


def _ended(outage: Outage, now: float) -> RenderableType:
    ending = outage.ending or "forgotten"
    words = Text(_ENDINGS[ending], style=_ENDED[ending])
    if ending == "by_hand" and outage.closed_by:
        words.append(f" by {outage.closed_by}")
    said = [""]
    if outage.closed_at is not None:
        if outage.opened_at is not None:
            said = [f" after {_span(outage.closed_at - outage.opened_at)}"]
        said.append(f"{_span(now - outage.closed_at)} ago")
    said.append(f"{_short(instances_of(outage))} instances")
    said.append(f"{_short(outage.bots)} bots")
    if ending == "recovered" and outage.closed_by:
        said.append(f"probe of {outage.closed_by}")
    words.append(", ".join(said), style="default")
    if outage.why:
        words.append(f": {outage.why}", style="default")
    return Group(Text(outage.key), Padding(words, (0, 0, 0, _INDENT)))


def _more(count: int, most: int | None) -> Iterator[Text]:
    if most is not None and count > most:
        yield Text(f"and {count - most} more", style="dim italic")


def instances_of(outage: Outage) -> int:
    """How many instances have seen an outage."""
    return max(outage.instance_count, len(outage.instances))


def _span(secs: float) -> str:
    secs = min(max(secs, 0.0), _LONGEST_SECS)
    # What changes at each look without telling anything is left out.
    if secs < 99.5:
        return f"{secs:.0f} s"
    return duration(secs) if not 600 <= secs < 6000 else f"{secs / 60:.0f} min"


def _short(count: int) -> str:
    size, unit = 1, ""
    while count >= 100_000 * size and unit != "G":
        size, unit = 1000 * size, {"": "k", "k": "M", "M": "G"}[unit]
    return f"{count / size:,.0f} {unit}".rstrip()


def _rate(a_second: float) -> str:
    return _short(round(a_second)) if a_second >= 10 else f"{a_second:.1f}"
