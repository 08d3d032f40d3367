"""The C library's memory allocator, told to keep what a training step frees for the next one to use."""

import ctypes
import sys

# Of mallopt(3), in glibc's malloc.h, and what to set them to.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}


def keep_freed_memory() -> bool:
    """Have this process keep large blocks of memory that are freed, and say whether that could be done.

    By default glibc gives each back to the kernel, which has to clear its pages before handing them out again:
    activations and gradients of every step. Under another C library nothing changes.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(parameter, value) == 1 for parameter, value in SETTINGS.items())
