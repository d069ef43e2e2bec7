"""What the process keeps of the memory that it takes and gives back many times a second; of glibc alone."""

import ctypes
import os

_ARENA_MAX = -8
"""As malloc.h numbers it."""


def one_heap() -> None:
    """Have threads take from one heap: one for each would keep its own peak. To be called before numpy is loaded."""
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_ARENA_MAX, 1)


def tidy() -> None:
    """Give back what loading left free between what it kept."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
