"""Makes glibc's allocator keep freed memory, so that each training step reuses that of the step before."""

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h, and their values.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
SETTINGS = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}


def keep_freed_memory() -> bool:
    """Make this process keep large freed blocks of memory; return True where that succeeded.

    By default glibc returns them to the kernel, which must clear their pages before reuse: activations and gradients
    of every step. With another C library nothing changes.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(parameter, value) == 1 for parameter, value in SETTINGS.items())
