"""Finds the labels of image files: in a dataset.json such as StyleGAN's, or in sub-folders that look like classes."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from gantry.core.errors import UserError
from gantry.data.named_files import LABELS_FILE, NamedFiles

How = Literal["auto", "folders", "none"]
INSIST = "data.labels=folders takes them for classes"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARTS, OTHER_FILES = "the parts of a data set", "kinds of files"
FEWEST = 1.5  # images in a folder, on the average, below which folders are no classes

SPLITS = _words(
    "train training trn val valid validation dev test testing tst eval evaluation holdout unlabeled unlabelled"
)
PIECES = _words(
    "batch part shard chunk fold bucket dir folder new copy of vol volume disc disk archive tar zip images image "
    "imgs img pictures photos files subset bin block cam camera view sensor video clip scene sequence seq session "
    "take roll frame frames page download downloads"
)
FILES = _words(
    "images image imgs img jpegimages pictures photos mask masks annotation annotations labels gt groundtruth "
    "segmentation segmentations depth edges thumbnail thumbnails thumbs preview previews"
)
FILLERS = _words("a b set data dataset split part images image imgs img the full all hr lr std")
CAMERA = re.compile(r"\d{3}[A-Z0-9_]{5}|DCIM")  # as the cameras' own standard, DCF, names them
SIZE = re.compile(r"\D*\d+ ?x ?\d+(px)?", re.IGNORECASE)
HASH = re.compile(r"[0-9a-f]{16,}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+", re.IGNORECASE)
DAY = re.compile(r"(19|20)\d\d([-_. ]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")  # what follows may be anything
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")
MONTHS = _words("january february march april may june july august september october november december")


@dataclass(frozen=True)
class Labels:
    """The labels of image files.

    Attributes:
        values: of each file an index into `classes`; None where there are no labels.
        classes: the names of the classes; None where there are no labels.
        origin: where the labels are from, or why there are none; for users.
        warning: what users should look at; None where all is usual.
    """

    values: list[int] | None
    classes: list[str] | None
    origin: str
    warning: str | None = None


def find_labels(files: NamedFiles, names: Sequence[str], how: How = "auto") -> Labels:
    """Return the labels of the files `names`.

    Args:
        files: the data set, perhaps with a dataset.json.
        names: the files that could be read, in order.
        how: "auto": those of dataset.json, or else sub-folders unless they look like something else than classes;
            "folders": sub-folders, whatever they look like; "none".

    Raises:
        UserError: dataset.json cannot be read, or not all files have a label in it; or "folders" where there are none.
    """
    if how == "none":
        return Labels(None, None, "no labels: data.labels=none")
    if how == "auto" and files.labels_file is not None:
        told = _told(files, names)
        if told is not None:
            return told
    found = of_folders(names, insist=how == "folders")
    if how == "folders" and found.values is None:
        raise UserError(f"data.labels=folders: {files.base} has {found.origin}; data.labels=auto goes without labels")
    return found


def of_folders(names: Sequence[str], insist: bool = False) -> Labels:
    """Return labels by the first sub-folders that differ, where they hold every file and look like classes.

    Folders of the parts of a data set (train, test) are looked into: the folders within may be classes.

    Args:
        names: the files, with forward slashes.
        insist: take the folders for classes whatever they look like.
    """
    paths = [name.split("/") for name in names]
    while paths and len({path[0] for path in paths}) == 1 and all(len(path) > 1 for path in paths):
        paths = [path[1:] for path in paths]
    outside = sum(len(path) == 1 for path in paths)
    if outside == len(paths):
        return Labels(None, None, "no labels: all images lie in one folder")
    if outside:
        return Labels(None, None, f"no labels: {outside} of {len(paths)} images lie outside the sub-folders")
    tops = sorted({path[0] for path in paths})
    what = None if insist else _no_classes(tops, paths)
    if what is None:
        index = {top: label for label, top in enumerate(tops)}
        return Labels([index[path[0]] for path in paths], tops, "by sub-folder")
    shown = ", ".join(tops[:4]) + (f" and {len(tops) - 4} more" if len(tops) > 4 else "")
    one = next((top for top in tops if top.lower().startswith("train")), tops[0])
    together = f"its sub-folders {shown} look like {what}: all are taken together; data.folder=.../{one} takes one"
    warning = together if what in (PARTS, OTHER_FILES) else None
    if what == PARTS:
        inner = of_folders(["/".join(["all", *path[1:]]) for path in paths])
        if inner.values is not None:
            return Labels(inner.values, inner.classes, f"by sub-folder of {shown}", warning)
    return Labels(None, None, f"no labels: the sub-folders {shown} look like {what} ({INSIST})", warning)


def _no_classes(tops: Sequence[str], paths: Sequence[Sequence[str]]) -> str | None:
    """Return what these folders look like rather than classes; None where they may be classes."""
    kinds = Counter(kind for top in tops if (kind := _kind(top)) is not None)
    if kinds.total() == len(tops) or (kinds.total() > 1 and kinds.total() > len(tops) / 2):
        return kinds.most_common(1)[0][0]
    if _begin_alike(paths):
        return "the beginnings of files' names"
    if len(paths) < FEWEST * len(tops):
        return "folders of one image each"
    return "numbered buckets" if _run_on(paths) or _filled(paths) else None


def _kind(name: str) -> str | None:
    """Return what a folder of this name holds rather than a class; None where the name may be a class's."""
    words = [word.lower() for word in WORDS.findall(name)]
    letters = {word for word in words if not word.isdigit()}
    if _is_date(name, words):
        return "dates"
    if CAMERA.fullmatch(name) and not name.isdigit():
        return "folders of a camera"
    if SIZE.fullmatch(name):
        return "sizes of images"
    if HASH.fullmatch(name):
        return "names of single things"
    if letters & SPLITS and letters <= SPLITS | FILLERS:
        return PARTS
    if letters and letters <= PIECES and (len(letters) < len(words) or letters >= {"new", "folder"}):
        return "numbered pieces of a collection"
    return OTHER_FILES if letters and letters <= FILES and len(letters) == len(words) else None


def _is_date(name: str, words: Sequence[str]) -> bool:
    """Return True for a year, a month of a year or a day, in any usual order, or the name of a month."""
    if DAY.match(name):
        return True
    if set(words) & MONTHS:
        return all(word in MONTHS or word.isdigit() for word in words)
    if not all(word.isdigit() for word in words) or re.sub(r"[\d\W_]", "", name):
        return False
    parts = [name[:4], name[4:6]] if len(words) == 1 and len(name) == 6 else list(words)
    if len(parts) == 3 and len(parts[2]) == 4:
        parts = parts[::-1]
    if not 1 <= len(parts) <= 3 or len(parts[0]) != 4 or not 1900 <= int(parts[0]) <= 2099:
        return False
    try:
        date(int(parts[0]), *(int(part) for part in [*parts[1:], "1", "1"][:2]))
    except ValueError:
        return False
    return True


def _run_on(paths: Sequence[Sequence[str]]) -> bool:
    """Return True where the files' numbers run on from folder to folder, as in StyleGAN's and FFHQ's data sets.

    Folder f then holds the files from f * w to (f + 1) * w, or from f to f + w, for some width w.
    """
    held: dict[str, list[int]] = defaultdict(list)
    for path in paths:
        digits = re.findall(r"\d+", path[-1].rpartition(".")[0] or path[-1])
        if not path[0].isdecimal() or not digits:
            return False
        held[path[0]].append(int(digits[-1]))
    ends = {int(top): (min(numbers), max(numbers)) for top, numbers in held.items()}
    if len(ends) < len(held):  # 1 and 01
        return False
    widths = {max(map(len, held.values())), *(10**k for k in range(1, 7)), *(2**k for k in range(5, 15))}
    return any(_has_width(ends, width, first) for width in widths for first in (0, 1))


def _has_width(ends: Mapping[int, tuple[int, int]], width: int, first: int) -> bool:
    places = {folder: (low - first) // width for folder, (low, _) in ends.items()}
    if any((high - first) // width != places[folder] for folder, (_, high) in ends.items()):
        return False
    begins = all(place * width == folder for folder, place in places.items())
    return begins or len({place - folder for folder, place in places.items()}) == 1


def _filled(paths: Sequence[Sequence[str]]) -> bool:
    """Return True where three or more numbered folders hold equally many files, but the last of them fewer."""
    counts = Counter(path[0] for path in paths)
    if len(counts) < 3 or not all(top.isdecimal() for top in counts):
        return False
    *full, last = (counts[top] for top in sorted(counts, key=int))
    return len(set(full)) == 1 and last < full[0]


def _begin_alike(paths: Sequence[Sequence[str]]) -> bool:
    """Return True where a folder's name is the beginning of the hash that each of its files is named by."""
    return all(
        re.fullmatch(r"[0-9a-f]{1,3}", path[0], re.IGNORECASE)
        and re.fullmatch(rf"{path[0]}[0-9a-f-]{{7,}}\..*", path[-1], re.IGNORECASE)
        for path in paths
    )


def _told(files: NamedFiles, names: Sequence[str]) -> Labels | None:
    """Return the labels in dataset.json; None where it is another file of that name."""
    assert files.labels_file is not None
    key, origin = f"{files.base}/{files.labels_file}", f"by {files.labels_file}"
    try:
        about = json.loads(files.read(files.labels_file))
    except Exception as error:  # of the disk, of a damaged zip file, of its text
        raise UserError(
            f"{key} cannot be read: {error}; mend or remove it, or leave it alone with data.labels=folders or none"
        ) from error
    inside = files.labels_file.removesuffix(LABELS_FILE)
    if not isinstance(about, dict) or "labels" not in about or not all(name.startswith(inside) for name in names):
        return None
    if about["labels"] is None or about["labels"] == []:
        return Labels(None, None, f"no labels: {files.labels_file} has none")
    labels = _by_name(about["labels"], inside, key)
    missing = [name for name in names if name not in labels]
    if missing:
        raise UserError(
            f"{key} has no label for {len(missing)} of {len(names)} images, such as {missing[0]}; "
            "add them, remove it, or leave it alone with data.labels=folders or none"
        )
    values = [_class_of(labels[name]) for name in names]
    if any(value is None for value in values):
        first = next(labels[name] for name, value in zip(names, values, strict=True) if value is None)
        shape = f"lists of {len(first)} numbers" if isinstance(first, list) else f"such values as {first!r}"
        said = f"{files.labels_file} holds {shape}, which are no classes, and are left out"
        return Labels(None, None, f"no labels: {said}", said)
    known = [value for value in values if value is not None]
    ordered: list[Any] = sorted(set(known), key=lambda value: (isinstance(value, str), value))
    index = {value: place for place, value in enumerate(ordered)}
    return Labels([index[value] for value in known], [str(value) for value in ordered], origin)


def _by_name(labels: object, inside: str, key: str) -> dict[str, Any]:
    """Return the labels of dataset.json, which lies in the folder `inside`, by file: it has pairs or a mapping."""
    pairs: Iterable[Any] = labels.items() if isinstance(labels, dict) else labels if isinstance(labels, list) else [0]
    found = {}
    for pair in pairs:
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise UserError(
                f'{key}: its "labels" must be [file name, label] pairs or null, and hold {json.dumps(pair)[:60]}; '
                "data.labels=folders or none leaves it alone"
            )
        found[inside + pair[0].replace("\\", "/").removeprefix("./")] = pair[1]
    return found


def _class_of(label: object) -> int | str | None:
    """Return the class that a label is: a whole number, a name, or the place of the one in a one-hot list."""
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if isinstance(label, str):
        return label
    if isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
        return int(label)
    if isinstance(label, list) and _is_one_hot(label):
        return next(place for place, value in enumerate(label) if value == 1)
    return None


def _is_one_hot(values: Sequence[object]) -> bool:
    return sum(value == 1 for value in values) == 1 and sum(value == 0 for value in values) == len(values) - 1
