"""Common parts of the compiled kernels of backend `numba`: compilation, columns of their splat table, tile sizes.

An entry of the table describes a splat as in `core/render/splat_table.py`: a pixel at offset d from its centre has

    alpha = exp2(log2_opacity - |W d|^2),    W = [[p, q], [0, r]].

`CUT` is the value of |W d|^2 beyond which alpha is below `ALPHA_MIN`; it is negative for splats that are not drawn.
"""

import math
import zlib
from collections.abc import Callable

import numba
import numpy as np

from core.render import projection

MEAN_X, MEAN_Y, P, Q, R, LOG2_OPACITY, DEPTH, CUT, RED, GREEN, BLUE = range(11)
STRIDE = 12  # values per splat
NUM_GRADS = 9
"""Gradients per splat and tile: of the columns from MEAN_X to LOG2_OPACITY, and of the colours."""

TILE_WIDTH, TILE_HEIGHT = 64, 16  # pixels; with padding, the arrays of a tile fit into a cache of 32 KB
LANES = 16
"""Pixels of a row that are processed together: a multiple of the width of all vector units."""

WHITENER_UNIT = math.sqrt(math.log2(math.e) / 2)
NEAR_PLANE, DILATION, ALPHA_MIN, ALPHA_MAX, MARGIN, UNIT = (
    np.float32(x)
    for x in (
        projection.NEAR_PLANE,
        projection.DILATION,
        projection.ALPHA_MIN,
        projection.ALPHA_MAX,
        projection.FRUSTUM_MARGIN,
        WHITENER_UNIT,
    )
)

# Sums may be reordered, hence vectorised, and products fused with sums. NaN and infinities keep their meaning.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
_CONSTANTS = {name: value for name, value in globals().items() if name.isupper() and not name.startswith("_")}
_FINGERPRINT = zlib.crc32(repr((sorted(_OPTIONS["fastmath"]), _CONSTANTS)).encode())


def compiled(function: Callable, **options: bool) -> Callable:
    """Decorate a kernel: it runs without Python's global lock, and is compiled once per machine and version.

    Compiled kernels are stored beside the sources, in the user's cache or in `NUMBA_CACHE_DIR`, where one of them can
    be written to.

    Args:
        function: The kernel.
        options: Further options of `numba.njit`.
    """
    # numba compares the age of the kernel's file only. The name of the stored file therefore contains the constants
    # that kernels take from this file.
    function.__qualname__ = f"{function.__qualname__}_{_FINGERPRINT:08x}"
    try:
        return numba.njit(cache=True, **_OPTIONS, **options)(function)
    except RuntimeError:  # no folder for the cache can be written to
        return numba.njit(**_OPTIONS, **options)(function)


def inlined(function: Callable) -> Callable:
    """Decorate a function that kernels call: it becomes part of each of them.

    A call that remains is bound at run time to one of two machine codes: that of the function, or the kernel's copy,
    which LLVM optimises once more. The process that compiles has both, a process that loads a stored kernel has the
    copy only, and the last bits of images would differ between the two.
    """
    return compiled(function, forceinline=True)
