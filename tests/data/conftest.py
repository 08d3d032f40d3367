"""Fixtures that the tests here share."""

import pytest
from PIL import Image
from sample_arrays import PIXELS


@pytest.fixture
def folder(tmp_path):
    """PIXELS as files of two classes."""
    for place, pixels in enumerate(PIXELS):
        target = tmp_path / "made" / ("cat" if place < 4 else "dog") / f"{place}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(target)
    return tmp_path / "made"
