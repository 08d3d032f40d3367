"""Finds the labels of image files: in a dataset.json such as StyleGAN's, or in sub-folders that look like classes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gantry.core.errors import UserError
from gantry.data.folder_kinds import OTHER_FILES, PARTS, no_classes, of_pictures, second_copy
from gantry.data.named_files import LABELS_FILE, NamedFiles

How = Literal["auto", "folders", "none"]
INSIST = "data.labels=folders takes them for classes"


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
    if not insist and (copy := second_copy(tops, paths)) is not None:
        inner = of_folders(["/".join(path[1:] if path[0] == copy else path) for path in paths])
        said = f"its sub-folder {copy} has the same sub-folders again: all are taken; data.folder=.../{copy} takes one"
        return replace(inner, warning="; ".join(filter(None, (said, inner.warning))))
    what = None if insist else no_classes(tops, paths)
    if what is None:
        index = {top: label for label, top in enumerate(tops)}
        return Labels([index[path[0]] for path in paths], tops, "by sub-folder")
    shown = ", ".join(tops[:4]) + (f" and {len(tops) - 4} more" if len(tops) > 4 else "")
    one = of_pictures(tops)
    together = f"its sub-folders {shown} look like {what}: all are taken together; data.folder=.../{one} takes one"
    warning = together if what in (PARTS, OTHER_FILES) else None
    if what == PARTS:
        classes = _of_parts(tops, paths)
        if isinstance(classes, str):
            return Labels(None, None, f"no labels: of its sub-folders {shown}, {classes} has none ({INSIST})", warning)
        if classes:
            names_of = sorted(set(classes))
            index = {name: label for label, name in enumerate(names_of)}
            return Labels([index[name] for name in classes], names_of, f"by sub-folder of {shown}", warning)
    return Labels(None, None, f"no labels: the sub-folders {shown} look like {what} ({INSIST})", warning)


def _of_parts(tops: Sequence[str], paths: Sequence[Sequence[str]]) -> list[str] | str | None:
    """Return the class of each file in the parts `tops` of a data set.

    A part is looked into as a whole data set is; one with a single class is known by a class of another part.

    Returns:
        the classes' names, or the part that has none while others have; None where no part has any.
    """
    found: dict[int, str] = {}
    places = {top: [place for place, path in enumerate(paths) if path[0] == top] for top in tops}
    bare = []
    for top in tops:
        inner = of_folders(["/".join(paths[place][1:]) for place in places[top]])
        if inner.values is None or inner.classes is None:
            bare.append(top)
        else:
            found |= {place: inner.classes[value] for place, value in zip(places[top], inner.values, strict=True)}
    known = set(found.values())
    for top in bare:
        inside = [next((name for name in paths[place][1:-1] if name in known), None) for place in places[top]]
        if None in inside:
            return top if known else None
        found |= {place: name for place, name in zip(places[top], inside, strict=True) if name is not None}
    return [found[place] for place in range(len(paths))] if found else None


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
