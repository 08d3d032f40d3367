"""Whether images may be written, or a page served, where that is asked for; known before torch is imported."""

from pathlib import Path

from gantry.core.errors import UserError
from gantry.core.processes.locks import LOCK_FILE

SETTINGS = ".samples.json"  # beside the images in a folder: what they were made of


def check_free(out: Path) -> None:
    """Refuse an .npz that is there, a picture's name that is a folder's, and a folder of something else.

    Raises:
        UserError: says what is there.
    """
    suffix = out.suffix.lower()
    if not out.exists():
        return
    if suffix == ".npz":
        raise UserError(f"out={out} is there already; remove it, or choose another name")
    if suffix == ".png":
        if out.is_dir():
            raise UserError(f"out={out} is a folder; name a file")
    elif not out.is_dir():
        raise UserError(f"out={out} is a file; name a folder, or a file that ends in .png or .npz")
    elif not (out / SETTINGS).exists() and any(path.name != LOCK_FILE for path in out.iterdir()):
        raise UserError(f"out={out} holds other files; choose an empty or a new folder")
