"""Looking at many images: in any order of stops and on any number of processes the same, and each image once."""

import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from metrics_helpers import Means, random_images

from gantry.core.errors import JobFailed, UserError
from gantry.core.processes.workers import Crew
from gantry.evaluation.extractors.networks import NetworkExtractor
from gantry.evaluation.features import AHEAD, CHUNK, PIECE, ArraySource, look_at, look_at_share

COUNT = 3 * CHUNK + 7


def tiny():
    return NetworkExtractor(Means(), "tiny", "0" * 64, resize="none", device=torch.device("cpu"), labelled=True)


def source():
    return ArraySource(random_images(COUNT, size=8))


class Asked:
    """A source that notes which images are asked for."""

    def __init__(self):
        self.source, self.numbers = source(), []

    def __len__(self):
        return COUNT

    def __call__(self, start, count):
        self.numbers.extend(range(start, start + count))
        return self.source(start, count)


def whole():
    features, logits = tiny()(torch.from_numpy(source().images))
    return features, logits


def test_every_image_is_looked_at_once_in_its_place(tmp_path):
    asked = Asked()
    looked = look_at(asked, {"a": tiny()}, tmp_path, "test")["a"]
    assert sorted(asked.numbers) == list(range(COUNT))
    for part, expected in zip(looked, whole(), strict=True):
        torch.testing.assert_close(part, expected, rtol=1e-6, atol=0)
    again = Asked()
    assert torch.equal(look_at(again, {"a": tiny()}, tmp_path, "test")["a"].features, looked.features)
    assert not again.numbers


def test_two_extractors_see_the_same_images(tmp_path):
    asked = Asked()
    looked = look_at(asked, {"a": tiny(), "b": tiny()}, tmp_path, "test")
    assert torch.equal(looked["a"].features, looked["b"].features)
    assert len(asked.numbers) == COUNT


def test_what_was_seen_before_a_stop_is_not_looked_at_again(tmp_path):
    class Stop(Exception):
        pass

    chunks = []

    def stop():
        chunks.append(1)
        if len(chunks) == 2:
            raise Stop

    with pytest.raises(Stop):
        look_at(source(), {"a": tiny()}, tmp_path, "test", between=stop)
    asked = Asked()
    looked = look_at(asked, {"a": tiny()}, tmp_path, "test")["a"]
    assert sorted(asked.numbers) == list(range(2 * CHUNK, COUNT))
    torch.testing.assert_close(looked.features, whole()[0], rtol=1e-6, atol=0)


def share(folder, rank, size):
    (folder / f"rank_{rank}_of_{size}").touch()
    look_at_share(source(), {"a": tiny()}, folder, rank, size)


def test_two_processes_see_what_one_sees(tmp_path):
    alone = look_at(source(), {"a": tiny()}, tmp_path / "1", "test")["a"]
    asked = Asked()
    together = look_at(asked, {"a": tiny()}, tmp_path / "2", "test", Crew(2, share))["a"]
    assert (tmp_path / "2" / "rank_1_of_2").exists()
    assert len(asked.numbers) == 2 * CHUNK  # the other process has seen the rest
    assert torch.equal(together.features, alone.features)
    assert torch.equal(together.logits, alone.logits)


def fail(message, folder, rank, size):
    raise ValueError(message)


def test_a_process_that_fails_ends_the_work(tmp_path, capfd):
    with pytest.raises(JobFailed, match=r"process 1 of 2 has failed \(exit code 1\)"):
        look_at(source(), {"a": tiny()}, tmp_path, "test", Crew(2, partial(fail, "on purpose")))
    assert "ValueError: on purpose" in capfd.readouterr().err


class Held(Means):
    """Looks at nothing before the file `go` is there."""

    def __init__(self, folder):
        super().__init__()
        self.go = folder / "go"

    def forward(self, images):
        appears(self.go)
        return super().forward(images)


def appears(path, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path.name}"
        time.sleep(0.02)


def look_held(folder, rank, size, look=look_at_share):
    (folder / f"begun_{rank}").touch()
    look(
        source(),
        {"a": NetworkExtractor(Held(folder), "held", "0" * 64, "none", torch.device("cpu"))},
        folder,
        rank,
        size,
    )
    (folder / f"ended_{rank}").touch()


ORPHAN = """
import sys
from pathlib import Path
from test_features import Crew, look_at, look_held

look_held(Path(sys.argv[1]), 0, 2, lambda source, by, folder, rank, size:
    look_at(source, by, folder, "test", Crew(size, look_held)))
"""


def test_the_others_stop_when_the_first_process_is_killed(tmp_path):
    first = subprocess.Popen([sys.executable, "-c", ORPHAN, str(tmp_path)], cwd=Path(__file__).parent)
    try:
        appears(tmp_path / "begun_1")
    finally:
        first.kill()
        first.wait()
    (tmp_path / "go").touch()
    appears(tmp_path / "ended_1")
    assert [path.name for path in sorted(tmp_path.glob("0*"))] == ["000001.safetensors"]  # the third is left


def test_a_damaged_file_from_before_a_stop_is_looked_at_again(tmp_path):
    """As a machine leaves it that loses its power."""
    look_at_share(source(), {"a": tiny()}, tmp_path, 0, 1)
    file = sorted(tmp_path.glob("*.safetensors"))[1]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{file.name} was damaged and is deleted; the same command again"):
        look_at(source(), {"a": tiny()}, tmp_path, "test")
    asked = Asked()
    assert torch.equal(look_at(asked, {"a": tiny()}, tmp_path, "test")["a"].features, whole()[0])
    assert sorted(asked.numbers) == list(range(CHUNK, 2 * CHUNK))


def test_images_are_made_while_others_are_looked_at(tmp_path):
    """Otherwise the extractor would wait here for ever."""
    made = threading.Semaphore(0)

    class Waiting(Means):
        def forward(self, images):
            assert made.acquire(timeout=10), "no image is made meanwhile"
            return super().forward(images)

    class Telling(Asked):
        def __call__(self, start, count):
            if start:  # the first piece is looked at only once another one is made
                made.release()
            if start >= COUNT - PIECE:
                made.release()
            return super().__call__(start, count)

    extractor = NetworkExtractor(Waiting(), "tiny", "0" * 64, "none", torch.device("cpu"), batch_size=PIECE)
    look_at(Telling(), {"a": extractor}, tmp_path, "test")


def test_images_are_not_made_further_ahead_than_memory_allows(tmp_path):
    waiting, most = [0], [0]
    lock = threading.Lock()

    class Slow(Means):
        def forward(self, images):
            time.sleep(0.02)
            with lock:
                waiting[0] -= 1
            return super().forward(images)

    class Counted(Asked):
        def __call__(self, start, count):
            with lock:
                waiting[0] += 1
                most[0] = max(most[0], waiting[0])
            return super().__call__(start, count)

    extractor = NetworkExtractor(Slow(), "tiny", "0" * 64, "none", torch.device("cpu"), batch_size=PIECE)
    look_at(Counted(), {"a": extractor}, tmp_path, "test")
    assert 1 < most[0] <= AHEAD + 1


def test_an_error_while_making_images_reaches_the_caller(tmp_path):
    class Broken(Asked):
        def __call__(self, start, count):
            raise OSError("no such image")

    with pytest.raises(OSError, match="no such image"):
        look_at(Broken(), {"a": tiny()}, tmp_path, "test")


def test_the_arrays_are_mapped_from_files_and_never_written_back(tmp_path):
    looked = look_at(source(), {"a": tiny()}, tmp_path, "test")["a"]
    before = Path(tmp_path / "a.features.npy").read_bytes()
    looked.features.zero_()
    assert Path(tmp_path / "a.features.npy").read_bytes() == before


MEMORY = """
import re, sys, threading, time
from pathlib import Path
import numpy as np
import torch
from gantry.data.images import ImageSet
from gantry.evaluation.moments import moments
from gantry.evaluation.features import ArraySource, look_at
from gantry.evaluation.extractors.networks import NetworkExtractor

class Wide(torch.nn.Module):
    def forward(self, images):
        return images.float().flatten(1).repeat(1, 32)

def held():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

most = [0.0]
def watch():
    while True:
        most[0] = max(most[0], held())
        time.sleep(0.002)

count = int(sys.argv[2])
images = np.lib.format.open_memmap(sys.argv[1] + "/images.npy", "w+", np.uint8, (count, 1, 8, 8))
extractor = NetworkExtractor(Wide(), "wide", "0" * 64, "none", torch.device("cpu"), has_logits=False)
moments(look_at(ArraySource(images[:600]), {"a": extractor}, Path(sys.argv[1], "first"), "test")["a"].features)
before = held()
threading.Thread(target=watch, daemon=True).start()
features = look_at(ArraySource(images), {"a": extractor}, Path(sys.argv[1], "all"), "test")["a"].features
moments(features)
print(most[0] - before, features.nbytes / 2**20)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    grown = []
    for count in (1000, 24_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        command = [sys.executable, "-c", MEMORY, str(folder), str(count)]
        # One arena, or what threads have freed counts by chance.
        environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        more, features = map(float, done.stdout.split())
        grown.append(more)
    assert features == 187.5
    assert grown[1] - grown[0] < features / 2
