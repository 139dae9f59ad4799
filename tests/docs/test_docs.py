"""What the docs say works: every block of Python runs, every link and anchor leads somewhere.

A page's blocks run one after another in one namespace. It presupposes the parts of a bot
(`transport`, `stt`, `llm`, `tts`, `breaker`, `pipeline`) and nothing else: what a block uses beyond
those, the page imports. A block that awaits does so while the bot runs, and each bot of a page goes
through an outage in the end, so that the page's handlers are called.

A block that cannot run says so: `<!-- skip: next "why" -->` before it, or `skip: start` before several.
"""

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from unittest import SkipTest
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from loguru import logger
from markdown_it import MarkdownIt
from mdit_py_plugins.anchors import anchors_plugin
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.filters.identity_filter import IdentityFilter
from sybil import Document
from sybil.evaluators.python import pad
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from pipecat_circuit_breaker import CircuitBreakerParams, CircuitBreakerProcessor
from pipecat_circuit_breaker.testing import Transport, ended, running_worker, settle
from tests.support.parts import app_message

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in page.parts),
]

#: Where a file of this checkout is read that is no page of the site.
SOURCE = "https://github.com/pipecat-circuit-breaker/pipecat-circuit-breaker/blob/main/"

#: Blocks that no test runs. One whose reason names the test that runs it does not count.
MOST_SKIPPED = 0

OUTAGE = "the client is gone"

#: Failures after which an outage ends where the breaker does not end it: in `Mode.OBSERVE`.
MOST_FAILURES = 50

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


#
# Blocks
#


class Bot:
    """A bot as a page presupposes it, with the breaker that the page makes, or one of ours."""

    def __init__(self, namespace):
        self._names = namespace
        self._running = AsyncExitStack()
        parts = {name: IdentityFilter(name=name) for name in ("stt", "llm", "tts")}
        namespace.update(transport=Transport(), breaker=CircuitBreakerProcessor(), **parts)
        for made in ("pipeline", "worker"):
            namespace.pop(made, None)

    def complete(self):
        """Put together what the page has not put together itself."""
        names = self._names
        if "pipeline" not in names:
            ends = names["transport"].input(), names["transport"].output()
            services = names["stt"], names["llm"], names["tts"]
            names["pipeline"] = Pipeline([names["breaker"], ends[0], *services, ends[1]])

    async def run(self):
        names = self._names
        if "worker" not in names:
            names["worker"] = PipelineWorker(names["pipeline"], idle_timeout_secs=None)
        if names["breaker"].guard is None:
            await self._running.enter_async_context(running_worker(names["worker"]))
            await names["transport"].connect()

    async def suffers_an_outage(self):
        """Lose the client and get it back; handlers are called, and none may raise."""
        await self.run()
        breaker, output = self._names["breaker"], self._names["transport"].output()
        output.fail(
            ConnectionError(OUTAGE), when=lambda message: len(output.failed) < MOST_FAILURES
        )
        await self._names["worker"].queue_frame(app_message())
        await settle()
        assert breaker.incidents, "the breaker of this page guards nothing"
        output.recover()
        await ended(self._names["worker"])
        await settle()
        await self.leave()

    async def leave(self):
        await self._running.aclose()


class Page:
    """A page whose blocks are run.

    Attributes:
        lines: What pipecat warned of meanwhile.
    """

    def __init__(self, path, runner):
        self.lines = []
        self._sink = 0
        self._runner = runner
        self._document = Document.parse(
            str(path), CodeBlockParser("python", self._evaluate), SkipParser()
        )
        self._names = self._document.namespace
        self._bot = Bot(self._names)
        self._bot.complete()
        self._listen()

    def _listen(self):
        # Anew after each block: one of them may have removed every sink.
        with suppress(ValueError):
            logger.remove(self._sink)
        self._sink = logger.add(
            lambda line: self.lines.append(line.record["message"]),
            level="WARNING",
            filter="pipecat",
        )

    def run(self):
        try:
            for example in self._document:
                with suppress(SkipTest):
                    example.evaluate()
            self._runner.run(self._bot.suffers_an_outage())
        finally:
            self._runner.run(self._bot.leave())

    def _evaluate(self, example):
        line = example.line + example.parsed.line_offset
        tree = compile(
            pad(example.parsed, line),
            example.path,
            "exec",
            flags=ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        )
        code = compile(tree, example.path, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        self._runner.run(self._run(tree, code))

    async def _run(self, tree, code):
        if assigns(tree, "breaker"):
            await self._bot.suffers_an_outage()
            self._bot = Bot(self._names)
        if code.co_flags & inspect.CO_COROUTINE:
            await self._bot.run()
            await eval(code, self._names)
        else:
            eval(code, self._names)
        self._bot.complete()
        self._listen()


def assigns(tree, name):
    """Whether a block makes something new of this name."""
    return any(
        isinstance(target, ast.Name) and target.id == name
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
    )


def blocks(path):
    """The blocks of a page, and why each is skipped; None where it runs."""

    def note(example):
        found.append((example, None))

    found = []
    document = Document.parse(str(path), CodeBlockParser("python", note), SkipParser())
    for example in document:
        try:
            example.evaluate()
        except SkipTest as skipped:
            found.append((example, str(skipped)))
    return found


def fences(path):
    """How many blocks of a page are Python's, whatever is done about them."""
    tokens = MarkdownIt().parse(path.read_text())
    return sum(token.type == "fence" and token.info.lower().startswith("py") for token in tokens)


TEST_FILES = [path for path in PAGES if "\nasync def test_" in path.read_text()]
OF_A_BOT = [path for path in PAGES if blocks(path) and path not in TEST_FILES]


@pytest.mark.parametrize("page", OF_A_BOT, ids=lambda page: str(page.relative_to(ROOT)))
def test__page__blocks_of_python__run_in_a_bot(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with asyncio.Runner() as runner:
        tried = Page(page, runner)
        tried.run()
    # Of the outage pipecat speaks in its words; of a handler or an observer that raises in others.
    assert [line for line in tried.lines if OUTAGE not in line] == []


@pytest.mark.parametrize("page", TEST_FILES, ids=lambda page: str(page.relative_to(ROOT)))
def test__page__is_a_test_file__passes(page, tmp_path):
    code = "\n\n".join(example.parsed for example, _ in blocks(page))
    (tmp_path / "test_bot.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--rootdir", ".", "-o", "asyncio_mode=auto"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert f" {code.count('async def test_')} passed" in done.stdout


def test__settings__are_all_in_the_table():
    text = (ROOT / "docs/how-to/tune.md").read_text().partition("## All settings")[2]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == [*CircuitBreakerParams.model_fields]


@each_page
def test__page__fences_of_python__are_all_blocks(page):
    # One that is marked in another way (`py`, `python title=…`) would not be run, and one that is
    # skipped without a reason is none of the blocks.
    assert fences(page) == len(blocks(page))


def test__blocks_that_are_skipped__say_why_and_are_few():
    reasons = [reason for page in PAGES for _, reason in blocks(page) if reason is not None]
    named = [re.search(r"tests/\S+\.py", reason) for reason in reasons]
    elsewhere = [ROOT / name[0] for name in named if name]
    assert [test for test in elsewhere if not test.exists()] == []
    assert len(reasons) - len(elsewhere) <= MOST_SKIPPED, reasons


def test__block_skipped__is_not_run_and_without_a_reason_is_missed(tmp_path):
    page = tmp_path / "page.md"
    fence = "```python\nraise KeyError\n```\n"
    page.write_text(f'<!-- skip: next "it needs a phone" -->\n\n{fence}')
    with asyncio.Runner() as runner:
        Page(page, runner).run()
    assert [reason for _, reason in blocks(page)] == ["it needs a phone"]
    page.write_text(f"<!-- skip: next -->\n\n{fence}")
    assert fences(page) == 1 and blocks(page) == []


def test__block_that_fails__fails_at_its_own_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nn = 1\n```\n\n```python\nn + 1\nraise KeyError(n)\n```\n")
    with asyncio.Runner() as runner, pytest.raises(KeyError) as failure:
        Page(page, runner).run()
    assert failure.traceback[-1].path == page
    assert failure.traceback[-1].lineno + 1 == 9


def test__block_whose_handler_raises__is_noticed(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n"
        "def handler(breaker, incident):\n"
        "    incident.no_such_field\n\n\n"
        'breaker.add_event_handler("on_circuit_opened", handler)\n'
        "```\n"
    )
    with pytest.raises(AssertionError, match="no_such_field"):
        test__page__blocks_of_python__run_in_a_bot(page, tmp_path, monkeypatch)


#
# Links
#


def parsed(path):
    markdown = MarkdownIt("commonmark").enable("table").use(anchors_plugin, max_level=6)
    return markdown.parse(path.read_text())


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    return {token.attrGet("id") for token in parsed(path) if token.type == "heading_open"}


def links(path):
    """Where a page's links and pictures lead, but for other sites."""
    inline = [child for token in parsed(path) for child in token.children or ()]
    targets = [token.attrGet("href") or token.attrGet("src") for token in inline]
    return [unquote(target) for target in targets if target and is_ours(target)]


def is_ours(target):
    return target.startswith(SOURCE) or not urlsplit(target).scheme


def broken(path):
    """The links of a page that lead nowhere."""
    return [link for link in links(path) if not leads_somewhere(path, link)]


def leads_somewhere(page, link):
    path, anchor = urldefrag(link)
    if path.startswith(SOURCE):
        path = os.path.relpath(ROOT / path.removeprefix(SOURCE), page.parent)
    target = page.parent / path if path else page
    if path.startswith("/") or not target.exists():
        return False
    return not anchor or (target.suffix == ".md" and anchor in anchors(target))


@each_page
def test__page__local_links_and_anchors__lead_somewhere(page):
    assert broken(page) == []


def test__links__of_every_sort__are_followed(tmp_path):
    (tmp_path / "there.md").write_text("# A `code`, and: more\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    good = ["there.md", "there.md#a-code-and-more", "there.md#twice-1", "#here-i-am", "page.md"]
    good.append(f"{SOURCE}README.md#test-it")
    bad = ["gone.md", "there.md#gone", "there.md#twice-2", "#gone", "/page.md"]
    bad += [f"{SOURCE}gone.md", f"{SOURCE}README.md#gone", "gone.png"]
    sites = ["https://example.com/gone", "mailto:a@example.com"]
    cells = [f"| [link]({link}) |" for link in [*good, *bad[:-1], *sites]]
    page.write_text("\n".join(["# Here I *am*", "", "| a |", "| - |", *cells, "", "![](gone.png)"]))
    assert links(page) == [*good, *bad]
    assert broken(page) == bad
