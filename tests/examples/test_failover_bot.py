"""The bot with failover, as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(example, *lines):
    env = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    done = subprocess.run(
        [sys.executable, EXAMPLES / example],
        input="\n".join([*lines, ""]),
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def heard(out):
    return [line.split(" (")[0] for line in out if line.startswith("bot:")]


def test__failover_bot__each_question_is_answered_once_by_whoever_works():
    out = run(
        "failover_bot.py",
        *("one", "/fail llm", "two", "three", "/heal llm", "/wait 4", "four", "/wait 2", "five"),
    )

    assert heard(out) == [
        f"bot: The {who} model heard: {word}. What else? "
        for who, word in [
            *(("first", "one"), ("second", "two"), ("second", "three")),
            # Nobody waits for the first to prove that it works again.
            *(("second", "four"), ("first", "five")),
        ]
    ]
    assert sum("works again" in line for line in out) == 1


def test__failover_bot__first_voice_fails__the_second_speaks_each_sentence_once():
    out = run("failover_bot.py", "one", "/fail tts", "two")

    assert heard(out) == [
        "bot: The first model heard: one. What else? ",
        "bot: The first model heard: two. What else? ",
    ]
    # The first has spoken two sentences, and refused one.
    asked = [line.strip() for line in out if "asked so far" in line]
    assert asked[-1] == "[asked so far: first llm 2, tts 3; second llm 0, tts 2]"
