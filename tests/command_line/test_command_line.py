"""The command line works without extras, says what it is, and lets nothing else talk into it."""

import subprocess
import sys
from importlib.metadata import version
from importlib.resources import files

import pytest

import pipecat_circuit_breaker_cli as cli

# What only the extras install, and what takes a second and logs a banner.
HEAVY = {"click", "jinja2", "rich", "websockets", "loguru", "pipecat", "pipecat_circuit_breaker"}


def run(*arguments: str, after: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, and then something else in it."""
    script = (
        "import sys, pipecat_circuit_breaker_cli as cli\n"
        f"sys.argv = ['pipecat-circuit-breaker', *{arguments!r}]\n"
        f"try: cli.main()\nfinally: {after or 'pass'}\n"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test__command_line__help_and_version__import_no_extra_and_no_pipecat(option):
    result = run(option, after="print({m.partition('.')[0] for m in sys.modules})")

    assert result.returncode == 0
    *said, modules = result.stdout.splitlines()
    assert said and not HEAVY & {*eval(modules)}
    assert result.stderr == ""


def test__command_line__help__names_every_command():
    said = run("--help").stdout

    assert all(
        name in said and command.help[:20] in said for name, command in cli._COMMANDS.items()
    )
    assert all(name in said and what in said for name, (what, _) in cli._FILES.items())


def test__command_line__version__is_the_installed_one():
    assert run("--version").stdout == (
        f"pipecat-circuit-breaker {version('pipecat-circuit-breaker')}\n"
    )


@pytest.mark.parametrize(
    ("name", "file", "begins"),
    [("alerts", "alerts.yml", "#"), ("dashboard", "dashboard.json", "{")],
)
def test__command_line__file__is_printed_as_it_is_and_imports_no_pipecat(name, file, begins):
    result = run(name, after="print({m.partition('.')[0] for m in sys.modules})")

    *lines, modules = result.stdout.splitlines(keepends=True)
    path = files("pipecat_circuit_breaker") / "instrumentation" / file
    assert "".join(lines) == path.read_text(encoding="utf-8")
    assert lines[0].startswith(begins)
    assert not HEAVY & {*eval(modules)}
    assert (result.returncode, result.stderr) == (0, "")


def test__command_line__file_and_an_argument__usage_and_code_2():
    result = run("alerts", "incident.json")

    assert result.returncode == 2
    assert "unrecognized arguments: incident.json" in result.stderr


@pytest.mark.parametrize("arguments", [[], ["dmeo"]])
def test__command_line__no_command__usage_and_code_2(arguments):
    result = run(*arguments)

    assert result.returncode == 2
    assert result.stderr.startswith("usage: pipecat-circuit-breaker")


@pytest.mark.parametrize(
    ("name", "extra"), [("show", "cli"), ("demo", "demo"), ("fleet", "cli,fleet")]
)
@pytest.mark.parametrize("arguments", [[], ["--help"], ["incident.json"]])
def test__command__extra_not_installed__says_what_is_missing_why_and_how_to_get_it(
    name, extra, arguments, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["pipecat-circuit-breaker", name, *arguments])
    monkeypatch.setattr(cli, "find_spec", lambda need: None if need == "rich" else need)

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"{name} needs rich: not installed, as a bot runs without them." in said
    assert f"pip install 'pipecat-circuit-breaker[{extra}]'" in said


def test__fleet__redis_not_installed__one_line_that_names_both_extras(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pipecat-circuit-breaker", "fleet", "redis://host"])
    monkeypatch.setattr(cli, "find_spec", lambda need: None if need == "redis" else need)

    with pytest.raises(SystemExit) as ended:
        cli.main()

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "fleet needs redis: not installed" in said
    assert "pip install 'pipecat-circuit-breaker[cli,fleet]'" in said


@pytest.mark.parametrize("name", ["demo", "fleet", "show"])
def test__command__help__from_the_command_and_without_pipecats_banner(name):
    if name == "fleet":
        pytest.importorskip("redis", reason="redis is not installed")
    result = run(name, "--help")

    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: pipecat-circuit-breaker {name} ")
    assert result.stderr == ""


def test__show__unreadable_file__its_arguments_and_its_exit_code_are_passed_on():
    result = run("show", "--html", "page.html", "no such file.json")

    assert result.returncode == 2
    assert result.stderr == "Error: no such file.json: No such file or directory\n"
