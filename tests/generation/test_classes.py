"""A generator that takes labels: which class is asked for, pictures of its classes, its exports, its page."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from registry_helpers import TRUSTED
from safetensors.torch import load_file, save_file
from sharing_helpers import CLASSES, WITH_LABELS, Z_DIM, images_of, python_with, small_with_labels
from streamlit.testing.v1 import AppTest

from gantry.core.errors import UserError
from gantry.data.sample_files import samples
from gantry.generation import pictures
from gantry.generation.classes import class_rows, in_turn, label_of, labels_of, mixtures, said, valid
from gantry.generation.export import standalone
from gantry.generation.export.export import export_generator
from gantry.generation.export.programs import write_onnx, write_torch_export, write_torchscript
from gantry.generation.latent.directions import directions
from gantry.generation.latent.projection import project
from gantry.generation.ui import server as page
from gantry.generation.write_images import Order, draw_archive, draw_folder
from gantry.models.labels import BY_SHARES, Classes, LabelSource, label_stream
from gantry.models.latents import stream
from gantry.models.sampling import generate
from gantry.runs.generators import ExportedFiles

LABELS = [0, 2, 1, 1, 0]
MANY = Classes(tuple(f"class {label}" for label in range(1000)), (0.001,) * 1000)


def test_a_class_is_found_by_its_name_and_else_by_its_number():
    assert [label_of(CLASSES, one) for one in ("dog", "2", 0, "a, b")] == [1, 2, 0, 2]
    shifted = Classes(("1", "2", "cat"), (0.2, 0.3, 0.5))
    assert [label_of(shifted, one) for one in ("1", 2, "0", "cat")] == [0, 1, 0, 2]
    assert labels_of(CLASSES, ["dog", "0..2", "2..1"]) == (1, 0, 1, 2, 2, 1)
    assert labels_of(Classes(("a..b", "c"), (0.5, 0.5)), ["a..b"]) == (0,)
    assert [said(shifted, label) for label in (0, 2)] == ["0 (1)", "2 (cat)"]


@pytest.mark.parametrize("asked", ["3", "-1", "dgo", "", "9" * 5000, "1.0"])
def test_a_class_that_there_is_not_is_refused_with_the_valid_ones(asked):
    with pytest.raises(UserError, match=r"^class=.*: no such class.*\(valid: cat, dog, a, b; or 0 to 2\)$") as refused:
        label_of(CLASSES, asked)
    assert len(str(refused.value)) < 200
    assert ("did you mean 'dog'?" in str(refused.value)) == (asked == "dgo")
    assert valid(MANY).endswith("class 29 and 970 more; or 0 to 999")


@pytest.mark.parametrize(("count", "classes"), [(64, 10), (64, 2), (10, 10), (3, 5), (64, 3)])
def test_each_row_of_a_grid_is_of_one_class(count, classes):
    columns, numbers = class_rows(count, classes)
    rows = numbers.reshape(-1, columns) % classes
    assert (rows == rows[:, :1]).all()
    assert rows[:, 0].tolist() == sorted(rows[:, 0].tolist())
    assert sorted(numbers) == list(range(len(numbers)))  # no image is missing
    assert count <= len(numbers)


def test_labels_between_classes_change_evenly_and_end_on_them():
    found = mixtures((2, 0, 1), 4, 4)
    assert found.shape == (9, 4)
    assert np.allclose(found.sum(1), 1)
    assert np.array_equal(found[[0, 4, 8]], np.eye(4)[[2, 0, 1]])
    assert np.allclose(found[1], [0.25, 0, 0.75, 0])


@pytest.fixture
def order(tmp_path):
    """An order of 6 images of a generator with labels."""
    small_with_labels(tmp_path / "generator")
    return Order(ExportedFiles(tmp_path / "generator", TRUSTED), 6, 5, None, 512, "cpu", 1)


def asked(order, *labels, **more):
    return Order(**vars(order) | {"labels": in_turn(CLASSES, labels or None)} | more)


def tile(path, row, column):
    """An image of 8 pixels of an enlarged grid."""
    return np.asarray(Image.open(path))[::6, ::6, 0][row * 9 + 1 :, column * 9 + 1 :][:8, :8].astype(int)


def test_the_grid_has_a_class_a_row_of_the_same_images_as_the_files(order, tmp_path):
    order = asked(order, 2, 0)
    draw_folder(order, tmp_path / "files")
    pictures.grid(order, tmp_path / "grid.png")
    for row, column, number in ((0, 0, 0), (0, 2, 4), (1, 0, 1), (1, 2, 5)):
        one = np.asarray(Image.open(tmp_path / "files" / f"{number:06d}.png"))
        assert np.array_equal(tile(tmp_path / "grid.png", row, column), one)
    expected = generate(order.files.load(), *map(torch.from_numpy, (stream(5, 0, 64, Z_DIM), order.labels(5, 0, 64))))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "files" / "000004.png")), expected[4, 0])


@pytest.mark.parametrize("made", ["folder", "archive"])
def test_files_hold_the_classes_that_were_asked_for(made, order, tmp_path):
    order = asked(order, 2, 0, 1)
    out = tmp_path / ("files" if made == "folder" else "files.npz")
    (draw_folder if made == "folder" else draw_archive)(order, out)
    found = samples(out, tmp_path / "cache", (1, 8, 8))
    assert found.labels.tolist() == [2, 0, 1, 2, 0, 1]
    if made == "folder":
        draw_folder(asked(order, 2, 0, 1, n=8), out)  # more of the same
        assert samples(out, tmp_path / "cache", (1, 8, 8)).labels.tolist() == [2, 0, 1, 2, 0, 1, 2, 0]


def test_files_without_a_class_have_the_datas_shares_and_a_folder_keeps_to_its_labels(order, tmp_path):
    drawn = Order(**vars(order) | {"labels": LabelSource(CLASSES.shares), "n": 70})
    draw_folder(drawn, tmp_path / "files")
    labels = torch.from_numpy(label_stream(5, 64, 64, CLASSES.shares))
    expected = generate(order.files.load(), torch.from_numpy(stream(5, 64, 64, Z_DIM)), labels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "files" / "000069.png")), expected[5, 0])
    assert json.loads((tmp_path / "files" / ".samples.json").read_text())["labels"] == BY_SHARES
    with pytest.raises(UserError, match=rf"holds images with labels={BY_SHARES}; asked for is labels=\[1\]"):
        draw_folder(asked(order, 1, n=70), tmp_path / "files")
    draw_folder(asked(order, 1, 2), tmp_path / "two")
    draw_folder(asked(order, 1, 2, n=9), tmp_path / "two")  # more of the same
    assert "labels" not in order.settings()  # as in folders of before


def test_the_walks_have_their_classes_in_turn(order, tmp_path):
    order = asked(order, n=3)
    pictures.walk(order, 2, 1, tmp_path / "strip.png")
    expected = generate(order.files.load(), torch.from_numpy(stream(5, 0, 6, Z_DIM)), torch.tensor([0, 1, 2] * 2))
    for row in range(3):
        for column in range(2):
            assert np.abs(tile(tmp_path / "strip.png", row, column) - expected[column * 3 + row, 0].numpy()).max() <= 1


def test_a_plane_is_of_one_class_and_of_its_directions(order, tmp_path):
    order = asked(order, 2)
    pictures.plane(order, 3, (1, 0), 2.0, tmp_path / "plane.png")
    network, z = order.files.load(), torch.from_numpy(stream(5, 0, 1, Z_DIM))
    assert np.abs(tile(tmp_path / "plane.png", 1, 1) - generate(network, z, torch.tensor([2]))[0, 0].numpy()).max() <= 1
    first = directions(network, Z_DIM, 5, 2, order.labels).vectors[1]
    right = generate(network, z + 2 * first, torch.tensor([2]))[0, 0].numpy()
    assert np.abs(tile(tmp_path / "plane.png", 1, 2) - right).max() <= 1
    others = directions(network, Z_DIM, 5, 2, in_turn(CLASSES, [0])).vectors[1]
    assert not torch.allclose(first, others, atol=1e-3)


def test_between_classes_a_row_keeps_its_latent_and_its_ends_are_the_classes(order, tmp_path):
    pictures.between(asked(order, 0, 2, n=11), 4, 3, tmp_path / "between.png")
    network, z = order.files.load(), torch.from_numpy(stream(5, 0, 2, Z_DIM))
    for row in range(2):
        middle = torch.tensor([[0.5, 0, 0.5]])
        for column, labels in ((0, torch.tensor([0])), (2, middle), (4, torch.tensor([2]))):
            one = generate(network, z[row : row + 1], labels)[0, 0].numpy()
            assert np.abs(tile(tmp_path / "between.png", row, column) - one).max() <= 1
    assert Image.open(tmp_path / "between.png").size == (6 * (5 * 9 + 1), 6 * (2 * 9 + 1))


def test_a_projection_finds_the_class_among_those_it_may(order, tmp_path):
    network = order.files.load()
    target = generate(network, torch.from_numpy(stream(9, 0, 3, Z_DIM)), torch.tensor([2, 0, 1]))
    found = project(network, Z_DIM, target, steps=100, labels=(0, 1, 2))
    again = generate(network, found.latents, found.labels)
    assert (again.float() - found.images.float()).abs().max() <= 1
    assert found.errors.max() < 12
    only = project(network, Z_DIM, target, steps=20, labels=(1,))
    assert only.labels.tolist() == [1, 1, 1]
    assert only.errors[:2].min() > found.errors[:2].max()
    Image.fromarray(target[0, 0].numpy()).save(tmp_path / "given.png")
    printed = pictures.projected(
        asked(order, 2), tmp_path / "given.png", None, tmp_path / "out.png", tmp_path / "cache", CLASSES
    )
    assert "\nof class 2 (a, b)\n" in printed
    assert np.load(tmp_path / "out.labels.npy").tolist() == [2]


@pytest.fixture(scope="module")
def only_torch(tmp_path_factory):
    return python_with(tmp_path_factory.mktemp("python") / "packages", "torch")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "conditional_dcgan" else pytest.mark.slow) for n in WITH_LABELS]
)
def test_an_export_takes_labels_in_every_format(tmp_path, only_torch, name):
    network = small_with_labels(tmp_path / "source", name)
    made = export_generator(tmp_path / "source", tmp_path / "out", trusted=TRUSTED)
    assert not made.failed
    expected, out = images_of(network, LABELS), tmp_path / "out"
    printed = only_torch(
        "import torch, json, importlib.util\n"
        "assert not any(map(importlib.util.find_spec, ('numpy', 'gantry')))\n"
        f"sys.path.insert(0, {str(out)!r})\n"
        "import generator\n"
        f"z = torch.randn(5, {Z_DIM}, generator=torch.Generator().manual_seed(1))\n"
        "names = {'classes': ''}\n"
        f"program = torch.export.load({str(out / 'generator.pt2')!r}, extra_files=names).module()\n"
        f"print(json.dumps([f(z, torch.tensor({LABELS})).tolist() for f in (generator.load(), program)]))\n"
        "print(json.dumps([generator.classes(), json.loads(names['classes']), generator.about()['class_shares']]))"
    )
    images, names = map(json.loads, printed.splitlines())
    for found in images:
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=1e-6)
    assert names == [list(CLASSES.names), list(CLASSES.names), "[0.5, 0.25, 0.25]"]
    session = onnxruntime.InferenceSession(out / "generator.onnx")
    z, labels = session.get_inputs()
    assert [[one.name, one.shape, one.type] for one in (z, labels)] == [
        ["z", ["batch", Z_DIM], "tensor(float)"],
        ["labels", ["batch"], "tensor(int64)"],
    ]
    latents = torch.randn(5, Z_DIM, generator=torch.Generator().manual_seed(1)).numpy()
    (found,) = session.run(["images"], {"z": latents, "labels": np.array(LABELS)})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
    meta = session.get_modelmeta().custom_metadata_map
    assert json.loads(meta["classes"]) == list(CLASSES.names)
    onnx.checker.check_model(out / "generator.onnx", full_check=True)


def test_the_card_names_the_classes_and_its_code_runs(tmp_path, monkeypatch):
    small_with_labels(tmp_path / "source")
    formats = ("safetensors", "torch_export", "onnx", "torchscript")
    export_generator(tmp_path / "source", tmp_path / "out", formats=formats, trusted=TRUSTED)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "- labels: 0 `cat`, 1 `dog`, 2 `a, b`\n" in card
    assert "and labels, int64 (B,), 0 to 2\n" in card
    assert "It can be asked for one of 3 classes" in card
    assert "- class-conditional\n" in card
    assert "unconditional" not in card
    monkeypatch.chdir(tmp_path / "out")
    monkeypatch.setattr(sys, "path", list(sys.path))
    blocks = [part.partition("```")[0] for part in card.split("```python\n")[1:]]
    assert len(blocks) == len(formats)
    for block in blocks:
        monkeypatch.delitem(sys.modules, "generator", raising=False)
        exec(block, drawn := {})
        assert drawn["images"].shape == (64, 1, 8, 8)
    with Image.open(tmp_path / "out" / "samples.png") as opened:
        assert opened.size == (6 * (8 * 9 + 1), 6 * (9 * 9 + 1))  # three rows of eight of each class


@pytest.mark.parametrize("condition", ["concat", "batch_norm"])
def test_a_program_goes_where_it_is_moved(tmp_path, condition):
    """No constant of it stays on the device that it was exported on."""
    network = small_with_labels(tmp_path / "source", condition=condition)
    write_torch_export(network, Z_DIM, tmp_path / "g.pt2", CLASSES)
    inputs = torch.zeros(4, Z_DIM, device="meta"), torch.zeros(4, dtype=torch.int64, device="meta")
    program = torch.export.load(tmp_path / "g.pt2").module().to("meta")
    assert program(*inputs).device.type == "meta"
    assert write_torchscript(network, Z_DIM, tmp_path / "g.torchscript", CLASSES) == 0
    graph = str(torch.jit.load(tmp_path / "g.torchscript").inlined_graph)
    assert "aten::arange" not in graph


def test_a_program_that_confuses_classes_is_refused(tmp_path):
    network = small_with_labels(tmp_path / "source")
    right = network.forward

    def shifted(z, labels):
        return right(z, labels if torch.compiler.is_compiling() else (labels + 1) % 3)

    network.forward = shifted
    for write in (write_torch_export, write_onnx):
        with pytest.raises(UserError, match="makes other images: they differ by up to"):
            write(network, Z_DIM, tmp_path / "g", classes=CLASSES)
    assert not (tmp_path / "g").exists()


def test_weights_that_do_not_name_their_classes_are_refused(tmp_path):
    small_with_labels(tmp_path / "source")
    weights = tmp_path / "source" / "generator.safetensors"
    files = ExportedFiles(tmp_path / "source", TRUSTED)
    assert files.classes() == CLASSES
    tensors = load_file(weights)
    few = {"classes": '["cat"]', "class_shares": "[1.0]"}
    for about, why in ({}, "do not name the classes"), (few, "name 1 classes with 1 shares, not 3"):
        save_file(tensors, weights, metadata={"step": "1", **about})
        with pytest.raises(UserError, match=why):
            files.classes()


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_metadata_of_damaged_weights_are_an_error(tmp_path, content):
    (tmp_path / "generator.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged, or no safetensors file"):
        standalone.classes(tmp_path)


def test_the_page_has_a_selector_of_the_classes(tmp_path, monkeypatch):
    network = small_with_labels(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(page.APP), str(tmp_path), *TRUSTED])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # Streamlit leaves the page there
    drawn = []
    picture = page.picture
    monkeypatch.setattr(page, "picture", lambda *given: drawn.append(picture(*given)) or drawn[-1])
    app = AppTest.from_file(str(page.APP)).run()
    (box,) = app.sidebar.selectbox
    assert box.options == ["all", "cat", "dog", "a, b"]
    for name, command in (("dog", "class=dog"), ("a, b", "'class=a, b'"), ("all", "seed=0")):
        app = app.sidebar.selectbox[0].select_index(box.options.index(name)).run()
        assert not app.exception
        assert app.sidebar.caption[0].value.endswith(f"{command}`")
    assert len({image.tobytes() for image in drawn}) == 3
    assert np.array_equal(drawn[0], drawn[-1])
    page.loaded.cache_clear()
    shown = page.Shown(network, Z_DIM, np.zeros((2, Z_DIM), np.float32), CLASSES)
    grid = page.picture(shown, 5, 6, None, (0.0, 0.0))
    scale = grid.shape[0] // (6 * (3 * 9 + 1))
    labels = torch.tensor([0, 1, 2] * 2)
    expected = generate(network, torch.from_numpy(stream(5, 0, 6, Z_DIM)), labels)
    one = grid[:: 6 * scale, :: 6 * scale, 0][10:18, 10:18]  # the second image of the second class
    assert np.array_equal(one, expected[4, 0])
