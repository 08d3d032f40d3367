"""Tells folders that are classes from others: parts of a data set, numbered buckets, dates, masks beside images."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import date


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARTS, OTHER_FILES, SIZES = "the parts of a data set", "kinds of files", "sizes of images"
FEWEST = 1.5  # images in a folder, on the average, below which folders are no classes

SPLITS = _words(
    "train training trn val valid validation dev test testing tst eval evaluation holdout unlabeled unlabelled"
)
PIECES = _words(
    "batch part shard chunk fold bucket dir folder new copy of vol volume disc disk archive tar zip images image "
    "imgs img pictures photos files subset bin block cam camera view sensor video clip scene sequence seq session "
    "take roll frame frames page download downloads patient subject case study series scan"
)
FILES = _words(
    "images image imgs img jpegimages pictures photos mask masks annotation annotations labels gt groundtruth "
    "segmentation segmentations depth edges thumbnail thumbnails thumbs preview previews"
)
PICTURES = _words("images image imgs img pics pictures photos")
BESIDE = _words(  # what lies beside pictures
    "mask masks anno annotation annotations label labels gt groundtruth segmentation segmentations trimaps depth edges"
)
NAMED_BESIDE = re.compile(rf"(?P<picture>.+?)[ _.-]+({'|'.join(sorted(BESIDE))}|seg)[ _.-]?\d*", re.IGNORECASE)
MADE_OF = _words("hr lr raw original originals processed unprocessed preprocessed resized cropped aligned")  # versions
FILLERS = _words("a b set data dataset split part images image imgs img the full all hr lr std")
CAMERA = re.compile(r"\d{3}[A-Z0-9_]{5}|DCIM")  # as the cameras' own standard, DCF, names them
SIZE = re.compile(r"\D*\d+ ?x ?\d+(px)?", re.IGNORECASE)
HASH = re.compile(r"[0-9a-f]{16,}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+", re.IGNORECASE)
DAY = re.compile(r"(19|20)\d\d([-_. ]?)(0[1-9]|1[0-2])\2(0[1-9]|[12]\d|3[01])(?!\d)")  # what follows may be anything
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
MONTHS = _words("january february march april may june july august september october november december")


def no_classes(tops: Sequence[str], paths: Sequence[Sequence[str]]) -> str | None:
    """Return what these folders look like rather than classes; None where they may be classes.

    Args:
        tops: the folders' names.
        paths: the files in them, each as the parts of its path, of which a folder is the first.
    """
    words = {top: _words_of(top) for top in tops}
    kinds = Counter(kind for top in tops if (kind := _kind(top)) is not None)
    if kinds.total() == len(tops) or (kinds.total() > 1 and kinds.total() > len(tops) / 2):
        return kinds.most_common(1)[0][0]
    if _differ_by_part(words):
        return PARTS
    if _has_beside(words) or all(_is_version(found) for found in words.values()):
        return OTHER_FILES
    if _begin_alike(paths):
        return "the beginnings of files' names"
    if len(paths) < FEWEST * len(tops):
        return "folders of one image each"
    if all(top.isdecimal() and int(top) >= 16 and int(top).bit_count() == 1 for top in tops):
        return SIZES
    return "numbered buckets" if _run_on(paths) or _filled(paths) or _by_last_digits(paths) else None


def second_copy(tops: Sequence[str], paths: Sequence[Sequence[str]]) -> str | None:
    """Return the folder that holds all others of `tops` once more, as some archives are packed; None without one."""
    within: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        within[path[0]].add(path[1] if len(path) > 2 else "")
    return next((top for top in tops if len(tops) > 2 and within[top] == set(tops) - {top}), None)


def named_beside(names: Sequence[str]) -> str | None:
    """Return a warning of files named after others as their masks or annotations are; None where there are none.

    Args:
        names: the image files, with forward slashes.
    """
    stems = {name.rpartition(".")[0] or name for name in names}
    found = [
        name
        for name in names
        if (ends := NAMED_BESIDE.fullmatch(name.rpartition(".")[0] or name)) and ends["picture"] in stems
    ]
    if not found:
        return None
    return (
        f"{len(found)} of {len(names)} images are named as masks or annotations of others, such as {found[0]}: "
        "they are taken too; move them out of the folder to leave them out"
    )


def of_pictures(tops: Sequence[str]) -> str:
    """Return the folder that a user may want of those that are parts of a data set or kinds of files."""
    words = {top: _words_of(top) for top in tops}
    wanted = [top for top in tops if words[top] & {"train", "training"}]
    wanted = wanted or [top for top in tops if words[top] & (PICTURES | {"jpegimages"}) and not words[top] & BESIDE]
    return min(wanted or tops, key=len)


def _words_of(name: str) -> frozenset[str]:
    """Return the words in a folder's name, in lower case; JPEGImages has two."""
    return frozenset(word.lower() for word in WORDS.findall(name) if not word.isdigit())


def _differ_by_part(words: Mapping[str, frozenset[str]]) -> bool:
    """Return True where two folders, such as seg_train and seg_test, are called alike but for the part of a data set.

    That many of the others may have a name of another kind is usual: seg_pred.
    """
    rests: dict[frozenset[str], set[frozenset[str]]] = defaultdict(set)
    for found in words.values():
        if part := found & SPLITS:
            rests[found - SPLITS].add(part)
    return sum(len(parts) for rest, parts in rests.items() if rest and len(parts) > 1) > len(words) / 2


def _has_beside(words: Mapping[str, frozenset[str]]) -> bool:
    """Return True where one folder is called after pictures and all others after what lies beside them."""
    beside = [found for found in words.values() if found & BESIDE]
    others = [found for found in words.values() if not found & BESIDE]
    return bool(beside) and bool(others) and all(found & PICTURES for found in others)


def _is_version(words: frozenset[str]) -> bool:
    """Return True for the name of a version of pictures: HR and LR, raw and processed, images and unprocessed."""
    return bool(words) and words <= MADE_OF | PICTURES | FILES


def _kind(name: str) -> str | None:
    """Return what a folder of this name holds rather than a class; None where the name may be a class's."""
    words = [word.lower() for word in WORDS.findall(name)]
    letters = {word for word in words if not word.isdigit()}
    if _is_date(name, words):
        return "dates"
    if CAMERA.fullmatch(name) and not name.isdigit():
        return "folders of a camera"
    if SIZE.fullmatch(name):
        return SIZES
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


def _by_last_digits(paths: Sequence[Sequence[str]]) -> bool:
    """Return True where a folder's name is the end of its files' numbers, as in Danbooru: 0042 has 1042 and 7042."""
    width = len(paths[0][0])
    stems = [(path[0], path[-1].rpartition(".")[0]) for path in paths]
    if width < 3 or not all(len(top) == width and top.isdecimal() and stem.isdecimal() for top, stem in stems):
        return False
    modulus = next((10**k for k in (width - 1, width) if max(int(top) for top, _ in stems) < 10**k), 10**width)
    return all(int(stem) % modulus == int(top) for top, stem in stems)


def _begin_alike(paths: Sequence[Sequence[str]]) -> bool:
    """Return True where a folder's name is the beginning of the hash that each of its files is named by."""
    return all(
        re.fullmatch(r"[0-9a-f]{1,3}", path[0], re.IGNORECASE)
        and re.fullmatch(rf"{path[0]}[0-9a-f-]{{7,}}\..*", path[-1], re.IGNORECASE)
        for path in paths
    )
