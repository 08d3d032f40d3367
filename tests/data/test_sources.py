"""The named data sets: from real files, from small files in the same formats, and without a network."""

import gzip
import hashlib
import inspect
import os
import shutil
import socket
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf
from PIL import Image

from gantry.core.errors import UserError
from gantry.data import sources

REPO = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("GANTRY_TEST_DATA") or REPO.parent / "shared" / "data")
CONF = REPO / "conf" / "data"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def real():
    def there(name: str) -> Path:
        if not (REAL / name).is_dir():
            pytest.skip(f"no {name} in the test data")
        return REAL

    return there


def write_idx(raw: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">IIII", 0x00000803, *images.shape)
    (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x00000801, len(labels)) + labels.tobytes())


@pytest.fixture
def small(tmp_path):
    """A data root with an MNIST of 20 training and 10 test images, in its own file format."""
    rng = np.random.default_rng(0)
    parts = {}
    for part, n in (("train", 20), ("t10k", 10)):
        parts[part] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), (np.arange(n) % 10).astype(np.uint8)
        for dataset in ("MNIST", "FashionMNIST"):
            write_idx(tmp_path / "root" / dataset / "raw", part, *parts[part])
    return tmp_path / "root", parts


def test_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    theirs, data = load_digits(), sources.digits(cache=tmp_path)
    assert np.array_equal(data.images[:, 0], np.rint(theirs.images * (255 / 16)))
    assert np.array_equal(data.labels, theirs.target)


def test_digits_need_no_files_and_span_the_grey_levels(tmp_path):
    data = sources.digits(cache=tmp_path / "cache")
    assert (len(data), data.shape) == (1797, (1, 8, 8))
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    levels = np.unique(data.images)
    assert len(levels) == 17
    assert (levels[0], levels[-1]) == (0, 255)
    assert (data.name, data.split, data.flip) == ("digits", "all", False)
    larger = sources.digits(cache=tmp_path, image_size=16)
    assert larger.shape == (1, 16, 16)
    assert larger.digest == sources.digits(cache=tmp_path, image_size=16).digest != data.digest
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read_as_they_are_and_quietly(small, tmp_path, capfd, name):
    root, parts = small
    for split, part in (("train", "train"), ("test", "t10k")):
        data = getattr(sources, name)(root=root, cache=tmp_path / "cache", split=split)
        images, labels = parts[part]
        assert np.array_equal(data.images[:, 0], images)
        assert np.array_equal(data.labels, labels)
        assert (data.name, data.split, data.flip, len(data.classes)) == (name, split, False, 10)
        expected = hashlib.sha256(images.tobytes()).digest()
        assert data.digest == sources.digest_of(data.images.shape, expected, data.labels)
    assert sources.mnist(root=root, cache=tmp_path, image_size=32).shape == (1, 32, 32)
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "cache").exists()


def test_downloaded_archives_that_were_not_unpacked_yet_serve_offline(small, tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    root, parts = small
    known = []
    for file in sorted((root / "MNIST/raw").iterdir()):
        packed = gzip.compress(file.read_bytes())
        (file.parent / f"{file.name}.gz").write_bytes(packed)
        known.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
        file.unlink()
    monkeypatch.setattr(MNIST, "resources", known)
    data = sources.mnist(root=root, cache=tmp_path / "cache")
    assert np.array_equal(data.images[:, 0], parts["train"][0])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba"])
@pytest.mark.parametrize("download", [True, False])
def test_offline_without_data_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch, name, download):
    monkeypatch.setitem(sys.modules, "gdown", None)
    dataset = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "celeba": "CelebA"}[name]
    folder, files = sources.FILES[dataset]
    before = socket.getdefaulttimeout()
    with pytest.raises(UserError) as refused:
        getattr(sources, name)(root=tmp_path / "root", cache=tmp_path / "cache", download=download)
    message = str(refused.value)
    assert str(tmp_path / "root" / folder) in message
    assert files in message
    assert f"python -c \"from torchvision.datasets import {dataset}; {dataset}('data', download=True)\"" in message
    assert ("data.download=false" in message) != download
    assert ("pip install gdown" in message) == (name == "celeba")
    assert socket.getdefaulttimeout() == before


def test_a_download_is_given_a_time_limit(tmp_path, monkeypatch):
    seen = []

    def connect(*args, **kwargs):
        seen.append(socket.getdefaulttimeout())
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(UserError):
        sources.cifar10(root=tmp_path, cache=tmp_path / "cache")
    assert set(seen) == {sources.NETWORK_TIMEOUT}


@pytest.mark.parametrize("damage", [b"", b"\x00\x00\x08\x03", b"garbage" * 50])
def test_a_damaged_file_is_a_clear_refusal(small, tmp_path, damage):
    root, _ = small
    (root / "MNIST/raw/train-images-idx3-ubyte").write_bytes(damage)
    with pytest.raises(UserError, match="missing or damaged"):
        sources.mnist(root=root, cache=tmp_path / "cache")


LISTS = {
    "identity_CelebA.txt": "{n} {i}\n",
    "list_attr_celeba.txt": "{n} -1  1\n",
    "list_bbox_celeba.txt": "{n}  95  71  226  313\n",
    "list_landmarks_align_celeba.txt": "{n} 69 109 106 113\n",
    "list_eval_partition.txt": "{n} {part}\n",
}


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """A CelebA of eight images in its own format; only the checksums of the real lists are let go."""
    from torchvision.datasets import CelebA

    monkeypatch.setattr(CelebA, "file_list", [(key, None, name) for key, _, name in CelebA.file_list])
    base = tmp_path / "root" / "celeba"
    (base / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06}.jpg" for i in range(8)]
    for i, name in enumerate(names):
        pixels = np.full((218, 178, 3), 255, np.uint8)
        pixels[20:198] = 30 * i
        Image.fromarray(pixels).save(base / "img_align_celeba" / name, quality=100, subsampling=0)
    heads = {"list_attr_celeba.txt": "6\nA B\n", "list_bbox_celeba.txt": "6\nimage_id x_1 y_1 w h\n"}
    heads["list_landmarks_align_celeba.txt"] = "6\na b c d\n"
    for file, row in LISTS.items():
        rows = (row.format(n=name, i=i, part=[0, 0, 0, 0, 1, 1, 2, 2][i]) for i, name in enumerate(names))
        (base / file).write_text(heads.get(file, "") + "".join(rows))
    return tmp_path / "root"


def test_celeba_keeps_the_centre_square_by_split_and_starts_from_its_cache(faces, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    data = sources.celeba(root=faces, cache=cache)
    assert data.shape == (3, 64, 64)
    means = data.images.reshape(4, -1).mean(1)
    assert np.allclose(means, [0, 30, 60, 90], atol=3)  # none of the white above and below
    assert (data.name, data.split, data.flip, data.labels) == ("celeba", "train", True, None)
    sizes = [len(sources.celeba(root=faces, cache=cache, split=split)) for split in ("valid", "test", "all")]
    assert sizes == [2, 2, 8]
    monkeypatch.setattr(sources, "_torchvision", lambda *args, **part: pytest.fail("read the lists again"))
    again = sources.celeba(root=faces, cache=cache)
    assert isinstance(again.images, np.memmap)
    assert again.digest == data.digest


def test_celeba_names_images_that_were_not_extracted(faces, tmp_path):
    (faces / "celeba/img_align_celeba/000002.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 4 images .*\n.*000002\.jpg"):
        sources.celeba(root=faces, cache=tmp_path / "cache")
    assert sources.celeba(root=faces, cache=tmp_path / "cache", skip_unreadable=True).skipped == 1


@pytest.mark.data
def test_real_mnist(real, tmp_path):
    data = sources.mnist(root=real("MNIST"), cache=tmp_path)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert (data.images.shape, np.bincount(data.labels).tolist()) == ((60000, 1, 28, 28), counts)
    assert data.images.mean() == pytest.approx(33.3184, abs=1e-4)  # the published 0.1307 of 255
    assert data.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.data
def test_real_fashion_mnist(real, tmp_path):
    data = sources.fashion_mnist(root=real("FashionMNIST"), cache=tmp_path, split="test")
    assert (data.images.shape, np.bincount(data.labels).tolist()) == ((10000, 1, 28, 28), [1000] * 10)
    assert data.classes[data.labels[0]] == "Ankle boot"


@pytest.mark.data
def test_real_cifar10(real, tmp_path):
    data = sources.cifar10(root=real("cifar-10-batches-py"), cache=tmp_path)
    assert (data.images.shape, np.bincount(data.labels).tolist()) == ((50000, 3, 32, 32), [5000] * 10)
    assert data.classes[data.labels[0]] == "frog"
    means = data.images.mean((0, 2, 3)) / 255
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    assert data.flip


@pytest.mark.data
def test_a_damaged_real_cifar10_is_refused(real, tmp_path):
    root = tmp_path / "root"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file in (real("cifar-10-batches-py") / "cifar-10-batches-py").iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "test_batch").unlink()
    shutil.copyfile(folder / "batches.meta", folder / "test_batch")
    with pytest.raises(UserError, match=r"CIFAR10 data in .* missing or damaged"):
        sources.cifar10(root=root, cache=tmp_path / "cache")


NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_config_file_shows_every_option_with_the_default_of_the_code(name):
    node = OmegaConf.load(CONF / f"{name}.yaml")
    parameters = inspect.signature(get_method(node["_target_"])).parameters
    options = {key: value.default for key, value in parameters.items() if key not in ("root", "cache")}
    names = [key for key in node if key not in ("_target_", "defaults", "root")]
    assert {key: "???" if OmegaConf.is_missing(node, key) else node[key] for key in names} == {
        key: "???" if default is inspect.Parameter.empty else default for key, default in options.items()
    }


@pytest.fixture
def conf(tmp_path):
    """A primary config as train.yaml lists its groups: metrics before data, which chooses among them."""
    shutil.copytree(CONF, tmp_path / "conf" / "data")
    (tmp_path / "conf/metrics").mkdir()
    for kind in ("classifier", "inception"):
        (tmp_path / f"conf/metrics/{kind}.yaml").write_text(f"kind: {kind}\n")
    (tmp_path / "conf/train.yaml").write_text("defaults: [metrics: classifier, data: digits, _self_]\n")
    return tmp_path / "conf"


@pytest.mark.parametrize("name", NAMES)
def test_a_data_set_chooses_its_metrics_and_the_command_line_wins(conf, name):
    grey = name in ("digits", "mnist", "fashion_mnist")
    usual, other = ("classifier", "inception") if grey else ("inception", "classifier")
    with initialize_config_dir(str(conf), version_base="1.3"):
        assert compose("train", [f"data={name}"]).metrics.kind == usual
        assert compose("train", [f"data={name}", f"metrics={other}"]).metrics.kind == other


def test_a_config_builds_its_data_set(conf, small, tmp_path):
    root, parts = small
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("train", ["data=mnist", "data.split=test", "data.image_size=32"]).data
    data = instantiate(config, root=root, cache=tmp_path / "cache")
    assert (len(data), data.shape) == (len(parts["t10k"][0]), (1, 32, 32))


ROOTS = {
    "MNIST/raw": ("mnist", "MNIST/raw"),
    "MNIST": ("mnist", "MNIST/raw"),
    "FashionMNIST/raw": ("fashion_mnist", "FashionMNIST/raw"),
    "cifar-10-batches-py": ("cifar10", "cifar-10-batches-py"),
    "celeba": ("celeba", "celeba"),
    "celeba/img_align_celeba": ("celeba", "celeba"),
}


@pytest.mark.parametrize("inside", ROOTS)
@pytest.mark.parametrize("download", [True, False])
def test_a_root_inside_the_data_is_refused_with_the_folder_above(tmp_path, inside, download):
    """Downloading would begin a second copy there."""
    name, folder = ROOTS[inside]
    (tmp_path / "sets" / folder).mkdir(parents=True)
    (tmp_path / "sets" / inside).mkdir(exist_ok=True)
    (tmp_path / "link").symlink_to(tmp_path / "sets" / inside)
    for root in (tmp_path / "sets" / inside, tmp_path / "link"):
        with pytest.raises(UserError) as refused:
            getattr(sources, name)(root=root, cache=tmp_path / "cache", download=download)
        assert f"data.root={root} is a folder of the" in str(refused.value)
        assert str(refused.value).endswith(f"data.root={(tmp_path / 'sets').resolve()}")


@pytest.mark.parametrize(
    ("name", "file", "folder"),
    [
        ("mnist", "train-images-idx3-ubyte", "MNIST/raw"),
        ("cifar10", "data_batch_1", "cifar-10-batches-py"),
        ("celeba", "list_eval_partition.txt", "celeba"),
    ],
)
def test_a_root_with_the_files_themselves_says_where_they_must_lie(tmp_path, name, file, folder):
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=f"must lie in a folder called {folder}"):
        getattr(sources, name)(root=tmp_path, cache=tmp_path / "cache")


def test_data_one_folder_further_down_is_pointed_to(small, tmp_path):
    root, _ = small
    with pytest.raises(UserError, match=rf"(?m)is there: data\.root={root}$"):
        sources.mnist(root=tmp_path, cache=tmp_path / "cache", download=False)


def test_swapped_faces_are_read_again(faces, tmp_path):
    """A copy that keeps times leaves the folder and the list as they were."""
    images = faces / "celeba/img_align_celeba"
    first = sources.celeba(root=faces, cache=tmp_path / "cache")
    times = {path: path.stat().st_mtime_ns for path in (images, images / "000000.jpg", images / "000001.jpg")}
    one, other = ((images / name).read_bytes() for name in ("000000.jpg", "000001.jpg"))
    (images / "000000.jpg").write_bytes(other)
    (images / "000001.jpg").write_bytes(one)
    for path, time in times.items():
        os.utime(path, ns=(time, time))
    second = sources.celeba(root=faces, cache=tmp_path / "cache")
    assert first.digest != second.digest
    assert second.images[1].mean() < second.images[0].mean()
