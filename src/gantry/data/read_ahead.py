"""Prefetches memory-mapped images from the disk."""

import mmap
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

LARGE = 2**30  # bytes; a smaller file is soon in memory as a whole


class ReadAhead:
    """Makes the kernel read images from the disk in the background.

    Without it each page of each image is waited for in turn, together with neighbouring pages that are not needed.
    It does nothing for data sets smaller than `LARGE` and for those in memory already.

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
        """Prefetch the images with these indices."""
        if self.mapped is not None:
            for number in chosen:
                begin = self.first + int(number) * self.size
                page = begin - begin % mmap.PAGESIZE
                with suppress(OSError):  # madvise is only advice
                    self.mapped.madvise(mmap.MADV_WILLNEED, page, begin + self.size - page)
