"""Fixtures that the tests here share."""

import pytest
from tiny_sweeps import Tiny


@pytest.fixture
def tiny(tmp_path):
    return Tiny(tmp_path)
