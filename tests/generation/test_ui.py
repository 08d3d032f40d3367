"""The page that shows a generator, driven as Streamlit's own tests drive pages, and once as a real server."""

import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import psutil
import pytest
import torch
from streamlit.testing.v1 import AppTest

from gantry.core.errors import UserError
from gantry.data.grid import enlarged_grid
from gantry.generation.ui import server as page
from gantry.models.latents import stream
from gantry.models.networks.dcgan import Generator
from gantry.models.sampling import generate
from gantry.runs.generator_files import load_generator, save_generator

TRUSTED = ("gantry.models.networks.",)


@pytest.fixture
def generator(tmp_path):
    config = {"z_dim": 4, "image_shape": [1, 8, 8], "width": 4}
    network = Generator(**config)
    for weights in network.parameters():
        weights.data.normal_()  # the initial ones make greys all alike
    save_generator(tmp_path, network, {"_target_": "gantry.models.networks.dcgan.Generator"} | config, 3)
    return tmp_path


@pytest.fixture
def port():
    with socket.socket() as tried:
        tried.bind((page.ADDRESS, 0))
        return tried.getsockname()[1]


def test_each_slider_changes_the_images_and_back_again(generator, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(page.APP), str(generator), *TRUSTED])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # Streamlit leaves the page there
    drawn = []
    picture = page.picture
    monkeypatch.setattr(page, "picture", lambda *given: drawn.append(picture(*given)) or drawn[-1])
    app = AppTest.from_file(str(page.APP)).run()
    sliders = {slider.label: slider for slider in app.sidebar.slider}
    moved = {"seed": 7, "images": 5, "truncation": 0.5, "first direction": 2.0, "second direction": -2.0}
    assert sliders.keys() == moved.keys()
    for name, value in moved.items():
        before = sliders[name].value
        app = sliders[name].set_value(value).run()
        assert not app.exception
        sliders = {slider.label: slider for slider in app.sidebar.slider}
        app = sliders[name].set_value(before).run()
        sliders = {slider.label: slider for slider in app.sidebar.slider}
    shown = [image.tobytes() for image in drawn]
    assert set(shown[::2]) == {shown[0]}
    assert len(set(shown)) == 1 + len(moved)
    assert page.loaded.cache_info().misses == 1
    page.loaded.cache_clear()


def test_a_port_in_use_is_named_before_the_generator_is_looked_at(tmp_path):
    with socket.socket() as taken:
        taken.bind((page.ADDRESS, 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port={number}.*another with port="):
            page.serve(tmp_path / "none", TRUSTED, number)


def test_without_streamlit_the_page_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit", None)
    with pytest.raises(UserError, match=r"pip install -c constraints.txt -e '\.\[ui\]'"):
        page.serve(tmp_path, TRUSTED, 8501)


def test_the_seed_has_the_images_of_the_samples(generator):
    """Those that `python sample.py seed=5` writes."""
    network = load_generator(generator)
    expected = generate(network, torch.from_numpy(stream(5, 0, 3, 4, 0.7)))
    grid = page.picture(page.loaded(generator, TRUSTED), 5, 3, 0.7, (0.0, 0.0))
    plain = enlarged_grid(expected)
    scale = grid.shape[0] // plain.shape[0]
    assert np.array_equal(grid[::scale, ::scale], plain)


def test_no_generator_no_page(tmp_path, port):
    with pytest.raises(UserError, match="no exported generator"):
        page.serve(tmp_path, TRUSTED, port)


def answered(url, seconds=60):
    """What a server that is starting answers once it does."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url) as answer:
                return answer.read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_to_this_machine_until_a_signal_ends_it(generator, port, number):
    code = (
        "from pathlib import Path; from gantry.generation.ui.server import serve; "
        f"serve(Path({str(generator)!r}), {TRUSTED}, {port})"
    )
    server = subprocess.Popen(
        [sys.executable, "-c", code], cwd=generator, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert server.stdout.readline().startswith(f"http://{page.ADDRESS}:{port} ")
        assert answered(f"http://{page.ADDRESS}:{port}/_stcore/health") == b"ok"
        assert b"<title>" in answered(f"http://{page.ADDRESS}:{port}/")
        listening = {
            socket.laddr for socket in psutil.Process(server.pid).net_connections() if socket.status == "LISTEN"
        }
        assert listening == {(page.ADDRESS, port)}
        server.send_signal(number)
        assert server.wait(60) == 0
        assert "Traceback" not in server.stdout.read()
    finally:
        server.kill()
        server.wait()
