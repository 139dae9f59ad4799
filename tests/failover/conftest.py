"""Time passes only where nobody has anything to do, and then at once."""

from contextlib import suppress

import pytest

from tests.support.jumping import Jumping


@pytest.fixture
def event_loop_policy():
    return Jumping()


@pytest.fixture(autouse=True)
def sentences(monkeypatch):
    """Let sentences end without the data that nltk, pipecat's splitter below 1.12, would download."""
    with suppress(ImportError):
        from nltk.tokenize.punkt import PunktTokenizer

        monkeypatch.setattr(PunktTokenizer, "load_lang", lambda *_: None)
