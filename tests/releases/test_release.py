"""The pipecat under test is the one that the session names."""

import os
from importlib.metadata import version

import pytest

pytestmark = pytest.mark.releases


@pytest.mark.skipif("PIPECAT_RELEASE" not in os.environ, reason="no session names a release")
def test__session_names_a_release__it_is_the_one_that_runs():
    assert version("pipecat-ai") == os.environ["PIPECAT_RELEASE"]
