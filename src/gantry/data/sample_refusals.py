"""Says which of somebody's images cannot be measured against a data set, and what to do."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from gantry.core.errors import UserError
from gantry.data.sizes import as_given

NAMED = 5  # files, and sizes, that are named
FEW = 0.5  # largest share of files that are strays among the others

Size = tuple[int, int]  # (width, height) in pixels


class WrongSizes(UserError):
    """Images have another size than the reference data's."""


def wrong_sizes(
    path: Path,
    sizes: Mapping[Size, int],
    total: int,
    shape: tuple[int, int, int],
    names: Mapping[str, Size] | None = None,
    fitting: Sequence[str] = (),
) -> WrongSizes:
    """Return the error for images of other sizes than `shape`, (C, H, W).

    Args:
        path: the folder or file of the images.
        sizes: the number of the unfitting images by their size.
        total: number of all images.
        names: the unfitting files with their sizes; None for an array.
        fitting: the other files.
    """
    names, height, width = names or {}, *shape[1:]
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    counts = ", ".join(f"{_shown(size)} ({count})" for size, count in ordered[:NAMED])
    more = f" and {len(ordered) - NAMED} more sizes" if len(ordered) > NAMED else ""
    wrong, (commonest, most) = sum(sizes.values()), ordered[0]
    others = [*fitting, *(name for name, size in names.items() if size != commonest)]
    why = "How they are resized changes the scores, so it is not done here"
    if names and wrong <= FEW * total:
        remedy = f"{_listed(list(names), names)}\nRemove {'it' if wrong == 1 else 'them'}. {why}."
    elif most <= FEW * total:
        remedy = f"{_listed(list(names), names)}\n{why}: do it yourself"
    else:
        size = str(as_given(commonest[1], commonest[0])).replace(" ", "")
        remedy = f"{why}: measure at their size with data.image_size={size}"
        remedy += f" and remove the others: {_listed(others, names)}" if others else ", or resize them yourself"
        if commonest[0] >= 2 * width and commonest[1] >= 2 * height:
            remedy += ". If they are sheets of several images, save single images instead"
    return WrongSizes(
        f"images={path}: {wrong} of {total} images are not {width}x{height}, the size at which the reference data "
        f"is read: {counts}{more}.\n{remedy}"
    )


def coloured(path: Path, what: str, names: Sequence[str] = (), total: int = 0) -> UserError:
    """Return the error for images with colours where the reference data is greyscale; `names` are their files."""
    strays = 0 < len(names) <= FEW * total
    remedy = f"Remove {_listed(names, {})}, or save them in greyscale" if strays else "Save them in greyscale"
    return UserError(f"images={path}: {what}; the reference data is greyscale. {remedy}")


def _shown(size: Size) -> str:
    return "{}x{}".format(*size)


def _listed(names: Sequence[str], sizes: Mapping[str, Size]) -> str:
    """Return the first names, with their sizes where those are known."""
    shown = [f"{name} ({_shown(sizes[name])})" if name in sizes else name for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
