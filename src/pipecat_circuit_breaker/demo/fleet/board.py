#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""What is shown while the bots talk: each of them, what has happened, and the runs over time."""

import time
from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.spinner import Spinner
from rich.text import Text

from pipecat_circuit_breaker.demo.fleet.events import What
from pipecat_circuit_breaker.demo.fleet.pod import has_failover
from pipecat_circuit_breaker.demo.fleet.timeline import timelines
from pipecat_circuit_breaker.demo.fleet.trial import Trial

#: How many of the latest news are shown.
NEWS = 3

_ALONE, _FAILOVER = "●", "◆"


class Board:
    """Shows the bots and the runs until now.

    Args:
        pods: Names of the pods.
        bots: How many bots each has.
    """

    def __init__(self, pods: Sequence[str], bots: int) -> None:
        """Start with no run."""
        self._pods = pods
        self._bots = bots
        self._trials: Sequence[Trial] = ()
        self._wait = Spinner("dots", "starting the processes of bots, which import Pipecat")

    def follow(self, trials: Sequence[Trial]) -> None:
        """Show these runs, of which the last one goes on."""
        self._trials = trials
        self._wait.update(text=f"{trials[-1].name}: calls begin")

    def __rich__(self) -> RenderableType:
        """What it looks like now."""
        if not self._trials:
            return self._wait
        trial, now = self._trials[-1], time.monotonic()
        # Those that have begun.
        lines = timelines([one for one in self._trials if one.began_at <= now], now)
        if now < trial.began_at:
            return Group(lines, self._wait)
        pods = Columns([self._pod(trial, pod) for pod in self._pods], padding=(0, 3))
        legend = Text.assemble(
            *(f"{_ALONE} a bot, {_FAILOVER} one with failover; ", ("green", "green"), ": works, "),
            *(("red", "red"), ": its circuit is open"),
            style="dim",
        )
        return Group(lines, Text(), pods, legend, Text(), *self._news(trial))

    def _pod(self, trial: Trial, pod: str) -> Text:
        text = Text(f"{pod} ")
        for bot in range(self._bots):
            style = "red" if trial.is_open(pod, bot) else "green"
            text.append(_FAILOVER if has_failover(bot) else _ALONE, style)
        return text

    def _news(self, trial: Trial) -> list[Text]:
        lines = [Text(f"{at - trial.began_at:5.1f} s  {news}") for at, news in news_of(trial)]
        return lines[-NEWS:]


def news_of(trial: Trial) -> list[tuple[float, str]]:
    """What somebody who watches should hear of: when, and what.

    Args:
        trial: The run.
    """
    news, alarms, probes = [], 0, 0
    for event in [*trial.events]:
        if event.what is What.OPENED and not trial.is_fleet:
            alarms += 1
            times = "once" if event.failures == 1 else f"{event.failures} times"
            who = f"{event.pod}'s bot {event.bot + 1}"
            news.append((event.at, f"alarm {alarms}: {who} has failed {times}"))
        elif event.what is What.FLEET_OPENED and event.first:
            alarms += 1
            news.append((event.at, f"alarm {alarms}, by {event.pod}: an outage of the fleet"))
        elif event.what is What.FLEET_CHANGED and event.probes > probes:
            probes = event.probes
            news.append((event.at, f"probe {probes}, by one bot of all: still dead"))
        elif event.what is What.FLEET_CLOSED and event.first:
            news.append((event.at, f"probe {event.probes}, by {event.pod}: over, for every bot"))
    for at, text in ((trial.died_at, "the provider dies"), (trial.back_at, "the provider is back")):
        if at <= trial.ended_at and at <= time.monotonic():
            news.append((at, text))
    return sorted(news)
