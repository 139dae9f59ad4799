#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""The command that watches a fleet, and tells all its bots what to do by hand."""

import asyncio
import getpass
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click
from pydantic import ValidationError
from rich.console import Console, RenderableType
from rich.live import Live

from pipecat_circuit_breaker._core.text import one_line
from pipecat_circuit_breaker.fleet.params import FleetParams
from pipecat_circuit_breaker.fleet.record import KEY_CHARS, WHO_CHARS, WHY_CHARS, FleetMode
from pipecat_circuit_breaker.fleet.redis import RedisStore
from pipecat_circuit_breaker.fleet.store import Knowledge, Store, StoreUnavailable
from pipecat_circuit_breaker.fleet_console.address import Address
from pipecat_circuit_breaker.fleet_console.follow import Follower, Sight, look
from pipecat_circuit_breaker.fleet_console.report import document, status
from pipecat_circuit_breaker.fleet_console.table import NARROWEST, board

#: What a monitoring system is told by the exit code. Wrong usage is 2.
EXIT_CODES = {"ok": 0, "open": 1, "unreachable": 3}

_REDRAWS_A_SECOND = 2
_SHOWN_KEYS = 10

_T = TypeVar("_T")


class _Refused(click.ClickException):
    """What was asked for cannot be done."""

    exit_code = 2


class _Unreachable(click.ClickException):
    """The server cannot be asked."""

    exit_code = EXIT_CODES["unreachable"]


class _UrlFirst(click.Group):
    """Takes a URL, then options of its own, then a command: click's groups take options first."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["--url", *args]
        return super().parse_args(ctx, args)


def _address(context: click.Context, parameter: click.Parameter, url: str | None) -> Address | None:
    try:
        return None if url is None else Address(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from error


def _params(context: click.Context, parameter: click.Parameter, name: str) -> FleetParams:
    try:
        return FleetParams(name=name)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise click.BadParameter(said) from error


def _words(most: int) -> Callable[[click.Context, click.Parameter, str], str]:
    """Take a short text that all who watch the fleet will see."""

    def words(context: click.Context, parameter: click.Parameter, text: str) -> str:
        text = text.strip()
        if not text or not text.isprintable() or len(text) > most:
            raise click.BadParameter(f"expected 1 to {most} characters on one line")
        return text

    return words


@dataclass(frozen=True)
class _Fleet:
    """Whom a command concerns."""

    url: Address | None
    params: FleetParams

    @property
    def address(self) -> Address:
        """Where its server is.

        Raises:
            click.UsageError: Nobody has said it; but `fleet close --help` needs none.
        """
        if self.url is None:
            raise click.UsageError(
                "Missing URL: expected redis://HOST:PORT/DB, or PIPECAT_FLEET_URL."
            )
        return self.url

    def ask(self, what: Callable[[Store], Coroutine[Any, Any, _T]]) -> _T:
        """Ask the store, and let go of it.

        Raises:
            _Unreachable: It cannot be asked.
        """
        address = self.address

        async def ask() -> _T:
            try:
                store = RedisStore(address.url, self.params.name)
            except ValueError as error:
                raise click.UsageError(f"{address.shown}: {error}") from error
            try:
                return await what(store)
            finally:
                with suppress(StoreUnavailable):
                    await store.close()

        try:
            return asyncio.run(ask())
        except StoreUnavailable as error:
            raise _Unreachable(f"{address.shown}: {address.clean(error)}") from error


_who = click.option(
    "--who",
    callback=_words(WHO_CHARS),
    default=lambda: one_line(_login(), WHO_CHARS),
    show_default="your login name",
    help="Who says so.",
)
_why = click.option("--why", callback=_words(WHY_CHARS), required=True, help="And why.")
_hours = click.option(
    "--hours",
    type=click.FloatRange(0, 24, min_open=True),
    default=1.0,
    show_default=True,
    help="For how long, unless somebody says otherwise before; at most 24.",
)


@click.group(
    cls=_UrlFirst,
    invoke_without_command=True,
    options_metavar="URL [OPTIONS]",
    subcommand_metavar="[COMMAND]",
)
@click.option("--url", callback=_address, envvar="PIPECAT_FLEET_URL", hidden=True)
@click.option(
    "--name",
    "params",
    default="pipecat",
    callback=_params,
    metavar="NAME",
    show_default=True,
    help="The fleet's name.",
)
@click.option("--once", is_flag=True, help="Print the table once, instead of following.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def fleet(
    context: click.Context, url: Address | None, params: FleetParams, once: bool, as_json: bool
) -> None:
    """Watch a fleet: which outages its bots know of, who sees them, who probes, and what was.

    URL is that of its Redis or Valkey server. In the variable PIPECAT_FLEET_URL a password is in
    nobody's list of processes.

    The table follows the fleet until Ctrl-C. Where the output is no terminal, or with --once or
    --json, it is printed once, and the exit code is 0 where nothing is open, 1 where an outage is
    open, 3 where the server cannot be asked. Wrong usage is 2.
    """
    context.obj = _Fleet(url, params)
    if context.invoked_subcommand is not None:
        if once or as_json:
            raise click.UsageError(f"--once and --json: not with {context.invoked_subcommand}.")
        return
    # Where the terminal has no sign for a character, another one is better than none at all.
    console = Console(file=click.open_file("-", "w", errors="replace"))
    screen = _Screen(console, context.obj)
    if console.is_terminal and not once and not as_json:
        with suppress(KeyboardInterrupt):
            context.obj.ask(screen.follow)
        return
    sight = context.obj.ask(look)
    screen.print(sight, as_json=as_json)
    context.exit(EXIT_CODES[status(sight)])


@fleet.command("open")
@click.argument("key", callback=_words(KEY_CHARS))
@_who
@_why
@_hours
@click.pass_obj
def open_outage(fleet: _Fleet, key: str, who: str, why: str, hours: float) -> None:
    """Open an outage for all bots: nobody probes until it is closed by hand.

    KEY is one that the table shows. Failovers leave a service out by any key that begins with its
    name, label and a colon, as 'OpenAILLMService[api.openai.com]: maintenance'.
    """
    if ": " not in key:
        raise click.BadParameter(
            "expected SERVICE: WHAT, as 'OpenAILLMService[api.openai.com]: maintenance'"
        )
    answer = fleet.ask(lambda store: store.open(key, who, why, hours * 3600))
    if not answer.did:
        raise _Refused(f"{key} is not opened: the fleet has no room for another outage")
    click.echo(f"open for all bots of {fleet.params.name} for {hours:g} h: {key}")


@fleet.command("close")
@click.argument("key", callback=_words(KEY_CHARS))
@_who
@_why
@click.pass_obj
def close_outage(fleet: _Fleet, key: str, who: str, why: str) -> None:
    """Close an outage for all bots.

    Of KEY as much will do as tells it apart from the others that are open.
    """

    async def close(store: Store) -> str:
        found = _meant(key, await store.read())
        if not (await store.close_outage(found, who, why)).did:
            raise _Refused(f"{found} is not open any more")
        return found

    click.echo(f"closed for all bots of {fleet.params.name}: {fleet.ask(close)}")


@fleet.command("mode")
@click.argument("mode", type=click.Choice(["guard", "observe", "disabled"]))
@_who
@_why
@_hours
@click.pass_obj
def set_mode(fleet: _Fleet, mode: FleetMode, who: str, why: str, hours: float) -> None:
    """Say what all bots do with what the fleet knows.

    guard: act on it. observe: report, and only tell. disabled: neither. The bots' own breakers go
    on as they are. When the time is over it is guard again.
    """
    fleet.ask(lambda store: store.set_mode(mode, who, why, hours * 3600))
    click.echo(f"mode of all bots of {fleet.params.name} for {hours:g} h: {mode}")


def _login() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        # A container's user often has no name.
        raise click.UsageError("Missing option '--who': you have no login name.") from None


def _meant(key: str, knowledge: Knowledge) -> str:
    """The open outage that somebody means by a key or its beginning."""
    keys = [outage.key for outage in knowledge.outages if outage.is_open]
    found = [key] if key in keys else [known for known in keys if known.startswith(key)]
    if len(found) == 1:
        return found[0]
    if found:
        raise _Refused(f"{key}: more than one outage begins so:\n{_listed(found)}")
    if keys:
        raise _Refused(f"{key}: no such outage is open. There are:\n{_listed(keys)}")
    raise _Refused(f"{key}: no outage is open")


def _listed(keys: Sequence[str]) -> str:
    more = [f"and {len(keys) - _SHOWN_KEYS} more"] if len(keys) > _SHOWN_KEYS else []
    return "\n".join(f"  {line}" for line in [*keys[:_SHOWN_KEYS], *more])


class _Screen:
    """Where a fleet is shown."""

    def __init__(self, console: Console, fleet: _Fleet) -> None:
        self._console = console
        self._fleet = fleet

    async def follow(self, store: Store) -> None:
        """Show it until cancelled, in place."""
        console = self._console
        follower = Follower(store)

        def draw() -> RenderableType:
            # Drawn by a thread of rich's own, so that what is left goes down between two looks.
            return self._board(follower.sight, console.height)

        with Live(
            console=console,
            get_renderable=draw,
            refresh_per_second=_REDRAWS_A_SECOND,
        ):
            await follower.run()

    def print(self, sight: Sight, *, as_json: bool) -> None:
        """Print it once."""
        if as_json:
            plain = document(self._clean(sight), **self._names, monotonic=time.monotonic())
            click.echo(json.dumps(plain, indent=2))
            return
        if not self._console.is_terminal:
            self._console.width = max(self._console.width, NARROWEST)
        self._console.print(self._board(sight, None))

    def _board(self, sight: Sight, height: int | None) -> RenderableType:
        return board(
            self._clean(sight),
            **self._names,
            monotonic=time.monotonic(),
            width=self._console.width,
            height=height,
        )

    @property
    def _names(self) -> dict[str, str]:
        return {"fleet": self._fleet.params.name, "server": self._fleet.address.shown}

    def _clean(self, sight: Sight) -> Sight:
        return (
            sight
            if sight.lost is None
            else replace(sight, lost=self._fleet.address.clean(sight.lost))
        )
