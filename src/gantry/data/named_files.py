"""Finds the image files of a data set: in a folder, or in a zip file such as StyleGAN's, which is never unpacked.

`NamedFiles` is all that reading needs of them: names, and bytes to each name.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import weakref
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from gantry.core.errors import UserError
from gantry.data.reading import HIDDEN, LINKED, NO_ENDING

ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".jfif", ".jpe", ".pjpeg", ".pjp", ".apng", ".avif", ".pbm", ".pnm", ".dib", ".tga", ".qoi", ".pcx", ".sgi"),
    *(".jp2", ".j2k", ".jpf", ".jpx"),
)
PASSED_OVER = (".", "__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN")  # folders of an operating system, by their start
SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")  # and RIFF....WEBP
ENDING = re.compile(r"\.[A-Za-z0-9_]{1,11}$")
LABELS_FILE = "dataset.json"
LOOKED_AT, BLOCK = 64, 2**16  # files, or places of one file, of which a part stands for the contents; bytes of each
IN_MEMORY = 2**26  # bytes: a larger member of a zip file is unpacked as it is read


@dataclass(frozen=True, eq=False)
class NamedFiles:
    """The image files of a data set, by name.

    Attributes:
        base: the folder or the archive.
        names: of the image files, relative to it with forward slashes, sorted.
        left_out: other files, counted by ending.
        open: returns the path or the open file of a name; any thread may call it. Raises what reading it raises.
        identity: returns what changes when a file's contents change, JSON-serialisable.
        labels_file: the name of its `LABELS_FILE`; None where there is none.
    """

    base: Path
    names: Sequence[str]
    left_out: Mapping[str, int]
    open: Callable[[str], Path | IO[bytes]]
    identity: Callable[[], object]
    labels_file: str | None = None

    def read(self, name: str) -> bytes:
        """Return the contents of a file."""
        found = self.open(name)
        return found.read_bytes() if isinstance(found, Path) else found.read()


def named_files(base: Path, key: str = "data.folder") -> NamedFiles:
    """Find the image files in the folder or the zip file `base`.

    Hidden files, and folders that operating systems make for themselves, are left out; links are followed, but a
    folder is taken once, and counted where it is met again. Files without an ending are taken where they begin as a
    PNG, JPEG, GIF, BMP or WebP file does.

    Raises:
        UserError: no such folder, no images in it, or a zip file that is damaged; the message names `key`=`base`.
    """
    accepted = f"accepted endings: {' '.join(ending[1:] for ending in ENDINGS)}"
    if base.is_dir():
        found = _folder(base, key)
    elif base.is_file() and base.suffix.lower() != ".npz" and (base.suffix.lower() == ".zip" or _is_zip(base)):
        found = _zip(base, key)
    else:
        what = "is a file, not a folder" if base.exists() else "does not exist"
        raise UserError(f"{key}={base} {what}; it must be a folder with images, or a .zip of one ({accepted})")
    if not found.names:
        raise UserError(f"{key}={base} {_lacking(found, key)} ({accepted})")
    return found


def _lacking(found: NamedFiles, key: str) -> str:
    """Say what a folder or a zip file without images has instead."""
    base, archive = found.base, found.base.is_file()
    what = "is not a folder, but a zip file, and " if archive else ""
    counts = ", ".join(f"{count} {ending}" for ending, count in found.left_out.items())
    if counts:
        zips = [] if archive else sorted(base.glob("*.zip"))
        hint = f"; {key}={zips[0]} reads the zip file" if zips else ""
        return f"{what}holds no images, nor do its sub-folders: there are {counts}{hint}"
    return f"{what}is empty" if archive or not any(base.iterdir()) else "holds no images, nor do its sub-folders"


def resolved(path: str | Path, key: str) -> Path:
    """Return the absolute path, with links followed.

    Raises:
        UserError: a link leads to itself, or there is no such user (~name); the message names `key`=`path`.
    """
    try:
        return Path(path).expanduser().resolve()
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(f"{key}={path}: {error}") from error


@dataclass
class _Sorted:
    """Sorts files into images and others."""

    names: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    labels_files: list[str] = field(default_factory=list)

    def add(self, name: str, begins: Callable[[], bytes]) -> None:
        """Sort in the file `name`, whose first bytes `begins` returns."""
        last = name.rpartition("/")[2]
        ending = found[0].lower() if (found := ENDING.search(last)) else ""
        if last.startswith("."):
            self.left_out.update([HIDDEN] if ending in ENDINGS else [])
        elif ending in ENDINGS or (not ending and _is_image(begins)):
            self.names.append(name)
        elif last == LABELS_FILE:
            self.labels_files.append(name)
        else:
            self.left_out[ending or NO_ENDING] += 1

    def files(self, base: Path, open: Callable[[str], Path | IO[bytes]], identity: Callable[[], object]) -> NamedFiles:
        """Return what was found; of several files of labels the uppermost counts, where one is."""
        ordered = dict(sorted(self.left_out.items(), key=lambda item: (-item[1], item[0])))
        uppermost = sorted(self.labels_files, key=lambda name: (name.count("/"), name))[:1]
        return NamedFiles(base, sorted(self.names), ordered, open, identity, uppermost[0] if uppermost else None)


def _is_image(begins: Callable[[], bytes]) -> bool:
    try:
        head = begins()
    except Exception:  # of a link that leads nowhere, a pipe, or a damaged member of a zip file
        return False
    return head.startswith(SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _head(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        return b""
    with path.open("rb") as file:
        return file.read(12)


def _folder(base: Path, key: str) -> NamedFiles:
    found = _Sorted()
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{key}={base}: cannot list {error.filename}: {error.strerror}") from error

    for here, folders, files in os.walk(base, onerror=refuse, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link back up, or to a folder that was listed already
            found.left_out[LINKED] += 1
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(PASSED_OVER))
        inside = Path(here).relative_to(base).as_posix()
        for name in files:
            whole = name if inside == "." else f"{inside}/{name}"
            found.add(whole, partial(_head, Path(here, name)))
    names = sorted(found.names)
    return found.files(base, lambda name: base / name, lambda: stamps(base, names))


def stamps(base: Path, names: Sequence[str]) -> list[object]:
    """Return (name, bytes, times of modification and of change in ns) of each file, and a sum of some contents.

    The time of modification alone may be any: archives and `cp -p` set it. The time of change cannot be set, but not
    every file system keeps it, so that parts of `LOOKED_AT` files are read as well.
    """
    step = max(1, len(names) // LOOKED_AT)
    some = hashlib.sha256()
    for name in names[::step]:
        some.update(_part(f"{base}/{name}"))
    return [some.hexdigest(), *((name, *_stamp(f"{base}/{name}")) for name in names)]


def file_stamp(path: Path) -> list[object]:
    """Return what `stamps` does for a single file, of which `LOOKED_AT` places are read."""
    size = path.stat().st_size
    some = hashlib.sha256()
    with path.open("rb") as file:
        for place in range(0, size, max(BLOCK, size // LOOKED_AT)):
            file.seek(place)
            some.update(file.read(BLOCK))
    return [some.hexdigest(), *_stamp(str(path))]


def _stamp(path: str) -> tuple[int, int, int]:
    """Return (bytes, times in ns); zeros for a broken link, which decoding then reports."""
    try:
        found = os.stat(path)  # noqa: PTH116 Path.stat takes twice the time, over a hundred thousand files
    except OSError:
        return 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _part(path: str) -> bytes:
    """Return the file's beginning and its end; nothing for what is no regular file."""
    try:
        size = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(size.st_mode):
            return b""
        with open(path, "rb") as file:  # noqa: PTH123
            begin = file.read(BLOCK)
            file.seek(max(BLOCK, size.st_size - BLOCK))
            return begin + file.read(BLOCK)
    except OSError:
        return b""


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except OSError:
        return False


def _zip(base: Path, key: str) -> NamedFiles:
    try:
        # The archive is given a file that is open, since ZipFile counts its users of one it opened without a lock.
        file = base.open("rb")
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{key}={base} is no zip file that can be read: {error}") from error
    weakref.finalize(archive, file.close)
    members = {info.filename.replace("\\", "/"): info for info in archive.infolist() if not info.is_dir()}

    def opened(name: str) -> IO[bytes]:
        member = archive.open(members[name])
        return io.BytesIO(member.read()) if members[name].file_size <= IN_MEMORY else member

    def begins(name: str) -> bytes:
        with archive.open(members[name]) as member:
            return member.read(12)

    found = _Sorted()
    for name in members:
        if not any(part.startswith(PASSED_OVER) for part in name.split("/")[:-1]):
            found.add(name, partial(begins, name))
    names = sorted(found.names)
    return found.files(base, opened, lambda: [(name, members[name].file_size, members[name].CRC) for name in names])
