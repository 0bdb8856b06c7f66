"""Make the C library keep freed memory; by default, giving it back costs a network on large images a fifth of its time on a CPU.

Activations are allocated in the forward pass and freed in the backward pass. By default glibc returns blocks above 32 MB to the
system at once. The system clears them and hands them out again page by page at the next step: millions of page faults per epoch.

Keeping freed memory suits networks whose weights are all small. The gradients of a very large layer are allocated anew at each step
and fit into no gap of the kept memory: a layer of 51 million weights filled 19 GB in minutes. There blocks above 4 MB are given
back at once. glibc's own 32 MB would leave the activations of such a layer beside small blocks that live longer, such as logits kept
until the next evaluation; these settle in the gaps, which then are too small for the next step's activations. With 65,536 units and
batches of 64 that took 15 MB more at each step, up to 12 GB.

What one training has left is given back when the next begins: in pieces that the next could not use, it added up to 5.7 GB in the
process of three trainings of `maxout3` under `standard`.

Each step walks through the kept memory from end to end. Pages of 2 MB make that faster than pages of 4 kB (`d2l` by 2 %, `full` by
4 %, on an Intel Xeon). Linux provides them on request.
"""

import ctypes
import platform
from functools import cache

from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
GIVE_BACK = {M_TRIM_THRESHOLD: 64 * 2**20, M_MMAP_THRESHOLD: 4 * 2**20, M_MMAP_MAX: 65536}
# The heap's end is never returned, and no block is a mapping of its own.
KEEP = {M_TRIM_THRESHOLD: -1, M_MMAP_MAX: 0}
HUGE_PAGE = 2**21
MADV_HUGEPAGE = 14  # madvise(2)
RESERVED = 2**31  # bytes; a process that trains d2l takes 1.5 GB in all
LARGE_WEIGHTS = 16 * 2**20  # bytes of one layer's weights


def keep_freed_memory(model: nn.Module) -> None:
    """Make this process keep and reuse freed memory from now on, in large pages, unless a layer of `model` is very large.

    Results do not change. Without glibc the function does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = _c_library()
    largest = max((weights.nbytes for weights in model.parameters()), default=0)
    for option, value in (GIVE_BACK if largest > LARGE_WEIGHTS else KEEP).items():
        library.mallopt(option, value)
    library.malloc_trim(0)  # what earlier networks have left
    if largest <= LARGE_WEIGHTS:
        _reserve_huge_pages()


@cache
def _reserve_huge_pages() -> None:
    """Reserve addresses for the heap, once per process; they take no memory until they are used, and then large pages."""
    library = _c_library()
    block = library.malloc(RESERVED)
    if block:
        first = -(-block // HUGE_PAGE) * HUGE_PAGE
        library.madvise(first, block + RESERVED - first, MADV_HUGEPAGE)
        library.free(block)


@cache
def _c_library() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library
