"""Many images onto the disk: the same whatever makes them, taken up where they stopped, never mixed."""

import json
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from gantry.core.errors import UserError
from gantry.generation import write_images
from gantry.generation.write_images import ArrayFolder, Order, draw_archive, draw_folder
from gantry.models.latents import TILE, stream
from gantry.models.networks.mlp import Generator
from gantry.models.sampling import generate
from gantry.runs.generator_files import load_generator, save_generator
from gantry.runs.generators import ExportedFiles

OURS = ("gantry.models.networks.",)


def exported(folder, channels=1):
    shape = [channels, 8, 8]
    network = Generator(6, tuple(shape))
    for weight in network.parameters():
        weight.data *= 1.4  # a fresh one makes all but grey images
    save_generator(
        folder,
        network,
        {"_target_": "gantry.models.networks.mlp.Generator", "z_dim": 6, "image_shape": shape},
        3,
    )
    return ExportedFiles(folder, OURS)


@pytest.fixture
def order(tmp_path):
    return Order(exported(tmp_path / "generator"), 150, 5, None, 512, "cpu", 1)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def test_files_are_numbered_and_hold_the_generators_images(order, tmp_path):
    draw_folder(order, tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*"))
    assert [path.name for path in files if not path.name.startswith(".")] == [f"{i:06d}.png" for i in range(150)]
    wanted = generate(load_generator(order.files.folder), torch.from_numpy(stream(5, 64, TILE, 6)))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "000070.png")), wanted[6, 0])


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"batch_size": 100}, {"n": 70}])
def test_an_image_is_the_same_to_the_bit_whatever_is_made_beside_it(order, tmp_path, change):
    draw_folder(order, tmp_path / "whole")
    draw_folder(replace(order, **change), tmp_path / "other")
    whole, other = contents(tmp_path / "whole"), contents(tmp_path / "other")
    assert other == {name: whole[name] for name in other}
    assert len(other) == change.get("n", 150)


@pytest.mark.slow
def test_processes_that_share_the_work_make_the_same_images(order, tmp_path):
    draw_folder(order, tmp_path / "one")
    draw_folder(replace(order, devices=2), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    draw_archive(replace(order, devices=2), tmp_path / "two.npz")
    assert len(np.load(tmp_path / "two.npz")["arr_0"]) == 150


def test_a_disk_that_takes_no_more_of_an_archive_is_an_error_and_no_signal(tmp_path):
    """A file's room is promised when it is made and taken when it is written; the limit stands for the full disk."""
    target = ArrayFolder(tmp_path, 150)
    target.prepare((1, 64, 64))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            target.write(1, np.ones((TILE, 1, 64, 64), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not target.has(1)


def test_the_archive_holds_the_same_images_and_leaves_nothing_else(order, tmp_path):
    order = replace(order, files=exported(tmp_path / "colour", channels=3))
    draw_folder(order, tmp_path / "out")
    draw_archive(order, tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz") as file:
        assert file.files == ["arr_0"]
        images = file["arr_0"]
    assert images.shape == (150, 8, 8, 3)
    assert images.dtype == np.uint8
    for number in (0, 63, 64, 149):
        assert np.array_equal(images[number], np.asarray(Image.open(tmp_path / "out" / f"{number:06d}.png")))
    assert not (tmp_path / "images.npz.partial").exists()


class Cut(Exception):
    pass


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_what_was_made_before_a_stop_is_not_made_again(order, tmp_path, monkeypatch, kind):
    draw, target = {
        "folder": (draw_folder, write_images.PngFolder),
        "archive": (draw_archive, write_images.ArrayFolder),
    }[kind]
    out = tmp_path / ("out.npz" if kind == "archive" else "out")
    written, write = [], target.write

    def cut(self, tile, images):
        if len(written) == 2:
            raise Cut
        written.append(tile)
        write(self, tile, images)

    monkeypatch.setattr(write_images, "cores", lambda: 1)
    monkeypatch.setattr(target, "write", cut)
    with pytest.raises(Cut):
        draw(order, out)
    first = list(written)
    assert len(first) == 2
    monkeypatch.setattr(target, "write", lambda self, tile, images: (written.append(tile), write(self, tile, images)))
    draw(order, out)
    assert sorted(written) == [0, 1, 2]
    plain = tmp_path / ("plain.npz" if kind == "archive" else "plain")
    draw(order, plain)
    if kind == "archive":
        assert np.array_equal(np.load(out)["arr_0"], np.load(plain)["arr_0"])
    else:
        assert contents(out) == contents(plain)
        assert not list(out.glob("*.partial"))


def test_what_shares_the_work_ends_when_the_first_process_is_killed(order, tmp_path, monkeypatch):
    monkeypatch.setattr(write_images.multiprocessing, "parent_process", lambda: Mock(is_alive=lambda: False))
    order = replace(order, n=20 * TILE, batch_size=TILE, devices=2)
    write_images.share_drawing(order, write_images.PngFolder(tmp_path, order.n), tmp_path, 1, 2)
    assert len(contents(tmp_path)) <= TILE


def test_more_images_may_be_asked_for_later_and_fewer_may_not(order, tmp_path):
    draw_folder(replace(order, n=20), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.png")}
    draw_folder(order, tmp_path / "out")
    draw_folder(order, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(before) == 20
    with pytest.raises(UserError, match="150 images already, more than n=20"):
        draw_folder(replace(order, n=20), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"), [({"seed": 6}, "seed=5"), ({"truncation": 0.7}, "truncation=None"), ({}, "generator_sha256=")]
)
def test_images_of_another_kind_are_not_mixed_in(order, tmp_path, change, said):
    draw_folder(order, tmp_path / "out")
    other = replace(order, **change) if change else replace(order, files=exported(tmp_path / "other"))
    with pytest.raises(UserError, match=said):
        draw_folder(other, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(order, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match="holds other files"):
        draw_folder(order, tmp_path / "out")
    (tmp_path / "mine.npz").write_text("all of it")
    with pytest.raises(UserError, match="is there already"):
        draw_archive(order, tmp_path / "mine.npz")


def test_a_generator_that_has_diverged_is_refused(order, tmp_path):
    network = load_generator(order.files.folder)
    next(iter(network.state_dict().values()))[:] = float("nan")
    config = json.loads((order.files.folder / "generator.json").read_text())
    save_generator(order.files.folder, network, config, 3)
    with pytest.raises(UserError, match="not finite"):
        draw_folder(order, tmp_path / "out")


@pytest.mark.slow
def test_a_killed_process_leaves_whole_files_that_the_next_keeps(order, tmp_path):
    script = tmp_path / "draw.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom gantry.generation.write_images import Order, draw_folder\n"
        "from gantry.runs.generators import ExportedFiles\n"
        f"files = ExportedFiles(Path({str(order.files.folder)!r}), {OURS!r})\n"
        "draw_folder(Order(files, 30_000, 5, None, 64, 'cpu', 1), Path(sys.argv[1]))\n"
    )
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, str(script), str(out)])
    while len(list(out.glob("*.png"))) < 1000:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = list(out.glob("*.png"))
    assert 1000 <= len(left) < 30_000
    for path in left[:500]:
        Image.open(path).load()
    before = {path.name: path.stat().st_mtime_ns for path in left[:64]}
    subprocess.run([sys.executable, str(script), str(out)], check=True)
    assert len(list(out.glob("*.png"))) == 30_000
    kept = [name for name, stamp in before.items() if (out / name).stat().st_mtime_ns == stamp]
    assert kept
    draw_folder(replace(order, n=6400), tmp_path / "plain")
    assert contents(tmp_path / "plain").items() <= contents(out).items()
