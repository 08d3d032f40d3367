"""Images mapped from the disk, asked for before they are needed."""

import mmap
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

LARGE = 2**30  # bytes; fewer are soon in memory, all of them


class ReadAhead:
    """Has the kernel read images from the disk while something else is computed: nobody waits for it.

    Without it each page of each image is waited for in turn, with the pages around it that nobody has asked for.
    For data sets from `LARGE` on; below, and for what is in memory already, it does nothing.

    Args:
        images: uint8 (N, C, H, W), perhaps a memory map.
    """

    def __init__(self, images: np.ndarray) -> None:
        mapped = getattr(images, "_mmap", None)
        large = images.nbytes >= LARGE and images.flags.c_contiguous and hasattr(mmap, "MADV_WILLNEED")
        self.mapped: mmap.mmap | None = mapped if large else None
        if self.mapped is not None:
            self.size = images[0].nbytes
            self.first = images.ctypes.data - np.frombuffer(self.mapped, np.uint8).ctypes.data

    def ask(self, chosen: Iterable[int]) -> None:
        """For these images."""
        if self.mapped is not None:
            for number in chosen:
                begin = self.first + int(number) * self.size
                page = begin - begin % mmap.PAGESIZE
                with suppress(OSError):  # it is advice
                    self.mapped.madvise(mmap.MADV_WILLNEED, page, begin + self.size - page)
