"""What is asked for is read by the kernel meanwhile, and nothing else; batches are the same."""

import ctypes
import itertools
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gantry.data import read_ahead
from gantry.data.batches import Batches
from gantry.data.images import ImageSet
from gantry.data.read_ahead import ReadAhead

pytestmark = pytest.mark.skipif(not hasattr(mmap.mmap, "madvise"), reason="a system without madvise")


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """A map of 64 images of 4 pages each."""
    monkeypatch.setattr(read_ahead, "LARGE", 1)
    images = np.random.default_rng(0).integers(0, 256, (64, 1, 128, 128), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    return np.load(tmp_path / "images.npy", mmap_mode="r")


def in_memory(images):
    """Which whole images the kernel has in memory, by mincore(2)."""
    whole = np.frombuffer(images._mmap, np.uint8)
    pages = -(-whole.nbytes // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mincore(ctypes.c_void_p(whole.ctypes.data), ctypes.c_size_t(whole.nbytes), found):
        pytest.skip("a system without mincore")
    resident = np.frombuffer(found, np.uint8) & 1
    begin = images.ctypes.data - whole.ctypes.data + np.arange(len(images)) * images[0].nbytes
    last = (begin + images[0].nbytes - 1) // mmap.PAGESIZE
    return {n for n in range(len(images)) if resident[begin[n] // mmap.PAGESIZE : last[n] + 1].all()}


def forget(images):
    """Have the kernel drop the file's pages."""
    images._mmap.madvise(mmap.MADV_DONTNEED)
    with Path(images.filename).open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if in_memory(images):
        pytest.skip("a file system whose files stay in memory")


def test_what_is_asked_for_is_read_and_no_more(mapped):
    forget(mapped)
    asked = {3, 17, 40, 63}
    ReadAhead(mapped).ask(asked)
    deadline = time.monotonic() + 30
    while not asked <= in_memory(mapped) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert in_memory(mapped) == asked


def test_the_next_step_is_asked_for_during_this_one(mapped, monkeypatch):
    asked = []
    monkeypatch.setattr(ReadAhead, "ask", lambda self, chosen: asked.append(list(chosen)))
    data = ImageSet("mapped", mapped, np.arange(64), tuple(map(str, range(64))), "all", "test", "0", True)
    batches = iter(Batches(data, 8, 2, seed=0))
    first = next(batches)["labels"].flatten().tolist()
    assert len(asked) == 2
    assert asked[0] == first
    assert asked[1] == next(batches)["labels"].flatten().tolist()


@pytest.mark.parametrize("cut", [slice(None), slice(5, None)])
def test_batches_of_a_large_map_are_those_of_memory(mapped, cut):
    def taken(images):
        data = ImageSet("images", images, None, None, "all", "test", "0", True)
        return [batch["images"] for batch in itertools.islice(Batches(data, 8, 2, seed=0), 9)]

    assert ReadAhead(mapped[cut]).mapped is not None
    assert all(map(torch.equal, taken(mapped[cut]), taken(np.array(mapped[cut]))))


def test_small_maps_and_plain_arrays_are_left_alone(mapped, monkeypatch):
    assert ReadAhead(np.array(mapped)).mapped is None
    assert ReadAhead(mapped[:, :, ::2]).mapped is None
    monkeypatch.setattr(read_ahead, "LARGE", mapped.nbytes + 1)
    assert ReadAhead(mapped).mapped is None
