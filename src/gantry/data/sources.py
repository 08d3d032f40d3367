"""Loads the named data sets: digits, included in scikit-learn, and four of torchvision's.

The caller passes `cache` to every source; the other arguments are the user's, from conf/data.
"""

import hashlib
import importlib.util
import math
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock

from gantry.core.errors import UserError
from gantry.core.fast_imports import lean_imports
from gantry.core.processes.host_memory import gib, host_memory
from gantry.data.image_folder import cached_images
from gantry.data.images import ImageSet, digest_of, resize
from gantry.data.named_files import NamedFiles, stamps
from gantry.data.reading import array_reading
from gantry.data.sizes import Size, sides

NETWORK_TIMEOUT = 15.0  # seconds without an answer after which a download fails

IDX_FILES = "train-images-idx3-ubyte train-labels-idx1-ubyte t10k-images-idx3-ubyte t10k-labels-idx1-ubyte"
FILES = {  # what torchvision expects: the folder under `root`, and its files
    "MNIST": ("MNIST/raw", IDX_FILES),
    "FashionMNIST": ("FashionMNIST/raw", IDX_FILES),
    "CIFAR10": ("cifar-10-batches-py", "batches.meta, data_batch_1 to data_batch_5, test_batch"),
    "CelebA": (
        "celeba",
        "img_align_celeba/ identity_CelebA.txt list_attr_celeba.txt list_bbox_celeba.txt "
        "list_eval_partition.txt list_landmarks_align_celeba.txt",
    ),
}


def digits(*, cache: Path, image_size: Size = 8, flip: bool = False) -> ImageSet:
    """Load 1797 handwritten digits of 8x8 pixels and 17 grey levels, resized; greyscale, ten classes, no download.

    They are the test part of Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI.

    Args:
        cache: unused.
        image_size: pixels of a square's side, or [height, width]; other proportions than the files' crop the images.
        flip: whether training may mirror images.
    """
    package = importlib.util.find_spec("sklearn")  # not imported: that takes nearly as long as torch
    assert package is not None
    assert package.submodule_search_locations is not None
    file = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    table = np.loadtxt(file, delimiter=",", dtype=np.uint8)  # 64 pixels and the digit in a line
    images = np.rint(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    classes = tuple(str(digit) for digit in range(10))
    return _in_memory("digits", images, table[:, -1], classes, "all", "scikit-learn load_digits", image_size, flip)


def mnist(
    *,
    root: str | Path,
    cache: Path,
    image_size: Size = 28,
    split: Literal["train", "test"] = "train",
    download: bool = True,
    flip: bool = False,
) -> ImageSet:
    """Load handwritten digits, 60000 or 10000 of 28x28, greyscale, ten classes (LeCun et al. 1998).

    Args:
        root: the folder that holds MNIST/raw.
        cache: holds the lock under which one process downloads.
        image_size: pixels of a square's side, or [height, width]; other proportions than the files' crop the images.
        split: the part of the data set.
        download: whether to download missing files.
        flip: whether training may mirror images.

    Raises:
        UserError: the data is missing or damaged and cannot be fetched.
    """
    return _classified("mnist", "MNIST", Path(root).expanduser(), cache, image_size, split, download, flip)


def fashion_mnist(
    *,
    root: str | Path,
    cache: Path,
    image_size: Size = 28,
    split: Literal["train", "test"] = "train",
    download: bool = True,
    flip: bool = False,
) -> ImageSet:
    """Load images of clothing, 60000 or 10000 of 28x28, greyscale, ten classes (Xiao et al. 2017).

    Arguments and errors: see `mnist`.
    """
    return _classified(
        "fashion_mnist", "FashionMNIST", Path(root).expanduser(), cache, image_size, split, download, flip
    )


def cifar10(
    *,
    root: str | Path,
    cache: Path,
    image_size: Size = 32,
    split: Literal["train", "test"] = "train",
    download: bool = True,
    flip: bool = True,
) -> ImageSet:
    """Load photographs, 50000 or 10000 of 32x32, colour, ten classes (Krizhevsky 2009).

    Arguments and errors: see `mnist`.
    """
    return _classified("cifar10", "CIFAR10", Path(root).expanduser(), cache, image_size, split, download, flip)


def celeba(
    *,
    root: str | Path,
    cache: Path,
    image_size: Size = 64,
    split: Literal["train", "valid", "test", "all"] = "train",
    download: bool = True,
    skip_unreadable: bool = False,
    flip: bool = True,
) -> ImageSet:
    """Load aligned faces, 202599 in all, 178x218, cropped to the centre, colour, no labels (Liu et al. 2015).

    They are decoded once and cached, like a folder of images. Arguments and errors: see `mnist` and
    `gantry.data.image_folder.image_folder`.
    """
    root = Path(root).expanduser()
    _check_root("CelebA", root)
    base = root.resolve() / FILES["CelebA"][0]
    images, parts = base / "img_align_celeba", base / "list_eval_partition.txt"
    if not (images.is_dir() and parts.is_file()):
        _torchvision("CelebA", root, cache, download, split=split)
    # The split's files are read off its list here, since torchvision takes seconds to check and parse all lists.
    wanted = {"train": "0", "valid": "1", "test": "2"}.get(split)
    rows = [line.split() for line in parts.read_text(errors="replace").splitlines()]
    names = [row[0] for row in rows if len(row) == 2 and wanted in (row[1], None)]
    return cached_images(
        NamedFiles(images, names, {}, lambda name: images / name, lambda: ["celeba", split, stamps(images, names)]),
        "none",
        cache=cache,
        image_size=image_size,
        channels=3,
        skip_unreadable=skip_unreadable,
        name="celeba",
        split=split,
        flip=flip,
        check=lambda: _torchvision("CelebA", root, cache, download, split=split),
    )


def _classified(
    name: str, dataset: str, root: Path, cache: Path, image_size: Size, split: str, download: bool, flip: bool
) -> ImageSet:
    data = _torchvision(dataset, root, cache, download, train=split == "train")
    images = np.asarray(data.data)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)  # (N, H, W) or (N, H, W, C)
    source = str(root.resolve() / FILES[dataset][0])
    return _in_memory(name, images, data.targets, data.classes, split, source, image_size, flip)


def _in_memory(
    name: str,
    images: np.ndarray,
    targets: Any,
    classes: Sequence[str],
    split: str,
    source: str,
    image_size: Size,
    flip: bool,
) -> ImageSet:
    _check_memory(name, len(images) * images.shape[1] * math.prod(sides(image_size)))
    reading = array_reading(images, *sides(image_size))
    images = np.ascontiguousarray(resize(images, image_size))
    labels = np.asarray(targets, dtype=np.int64)
    digest = digest_of(images.shape, hashlib.sha256(images.data).digest(), labels)
    return ImageSet(name, images, labels, tuple(classes), split, source, digest, flip, reading=reading)


def _check_memory(name: str, size: int) -> None:
    """Refuse images that do not fit this machine's memory, before they are resized.

    Raises:
        UserError: `size`, their bytes, exceeds the memory.
    """
    memory = host_memory()
    if memory is not None and size > memory[0]:
        raise UserError(
            f"data.image_size: the images of {name} would take {gib(size)} of memory at this size, and this machine "
            f"has {gib(memory[0])}: choose a smaller data.image_size, or a folder of images (data=image_folder), "
            "which is read from the disk"
        )


def _torchvision(dataset: str, root: Path, cache: Path, download: bool, **part: Any) -> Any:
    """Load torchvision's data set of that class name; uses the network only where files are missing."""
    _check_root(dataset, root)
    if not download and not (root / FILES[dataset][0]).is_dir():  # refused before torchvision and torch are imported
        raise _unavailable(
            dataset, root, FileNotFoundError("no such folder"), "data.download=false forbids fetching it"
        )
    with lean_imports():
        kind = getattr(importlib.import_module("torchvision.datasets"), dataset)
    try:
        return kind(root, download=False, **part)
    except Exception as error:  # torchvision's readers raise any kind for missing and for damaged files
        if not download:
            raise _unavailable(dataset, root, error, "data.download=false forbids fetching it") from error
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        (cache / "downloads").mkdir(parents=True, exist_ok=True)
        with FileLock(cache / "downloads" / f"{dataset}.lock"):  # jobs that start together download once
            return kind(root, download=True, **part)
    except Exception as error:  # network, checksum, disk and archive errors share no class
        raise _unavailable(dataset, root, error, "it could not be fetched") from error
    finally:
        socket.setdefaulttimeout(timeout)


def _check_root(dataset: str, root: Path) -> None:
    """Refuse a root within the data set's own folders, into which it would be fetched once more.

    Raises:
        UserError: the message names the folder above, or what the folder must be called.
    """
    folder, files = FILES[dataset]
    whole = root.resolve()
    if (whole / folder).exists():
        return
    own = Path(folder).parts
    inside = (*own, "img_align_celeba") if dataset == "CelebA" else own
    for depth in range(1, len(inside) + 1):
        if whole.parts[-depth:] == inside[:depth] and (whole.parents[depth - 1] / folder).is_dir():
            raise UserError(
                f"data.root={root} is a folder of the {dataset} data itself; "
                f"it must be the one that holds {folder}: data.root={whole.parents[depth - 1]}"
            )
    needed = files.replace(",", " ").replace("/", "").split()
    if any((whole / name).exists() for name in needed if name != "to"):
        raise UserError(
            f"data.root={root} holds files of the {dataset} data itself; they must lie in a folder called "
            f"{folder} in it: data.root=/path with /path/{folder}"
        )


def _unavailable(dataset: str, root: Path, error: Exception, outcome: str) -> UserError:
    folder, files = FILES[dataset]
    reason = " ".join(str(error).split()) or type(error).__name__
    install = "pip install gdown && " if dataset == "CelebA" else ""
    fetch = f"from torchvision.datasets import {dataset}; {dataset}('data', download=True)"
    below = [] if (root / folder).exists() else sorted(root.glob(f"*/{folder}"))
    where = f"{below[0]} is there: data.root={str(below[0]).removesuffix(f'/{folder}')}\n" if below else ""
    return UserError(
        f"the {dataset} data in {root.resolve() / folder} is missing or damaged, and {outcome}: {reason}\n{where}"
        f"That folder must hold: {files}\n"
        f"On a machine with a network, this fetches it into ./data/{folder}, to be copied there "
        f"in place of any damaged files:\n"
        f'  {install}python -c "{fetch}"'
    )
