"""Files from elsewhere, what they leave where they run code, and the rows of the table of faults."""

import os
from pathlib import Path

DCGAN = {"_target_": "gantry.models.networks.dcgan.Generator", "z_dim": 4, "image_shape": [1, 8, 8], "width": 2}


def row(fault: str, injected: int) -> dict[str, object]:
    return {"fault": fault, "injected": injected, "happened": "refused, nothing ran", "lost": "nothing"}


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
