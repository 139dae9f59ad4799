"""What each of these tests has: a storm that is counted."""

import pytest

from tests.cut.cut_parts import Storm


@pytest.fixture
def storm():
    return Storm()
