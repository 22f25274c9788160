"""Kernel launches with little host overhead.

`kernel[grid](...)` inspects every argument to select a compiled variant, which takes longer than many kernels of this
package. A `Launcher` selects the variant once. This is valid because pointers are aligned and integer arguments are not
specialised.
"""

import itertools

import torch
from triton import JITFunction
from triton.compiler import CompiledKernel

ALIGNMENT = 16  # bytes; the pointer alignment that Triton specialises on


class Launcher:
    """Launches one kernel, and caches its compiled form per device and constants.

    Args:
        kernel: Its parameters are tensors and integers first, no integer specialised (`do_not_specialize`), then
            constants. Each tensor argument always has the same dtype.
        options: Compilation options of Triton (`num_warps`, `maxnreg`).
    """

    def __init__(self, kernel: JITFunction, **options: int):
        self.kernel, self.options = kernel, options
        self._compiled: dict[tuple, CompiledKernel] = {}

    def __call__(self, grid: tuple[int, ...], *arguments: torch.Tensor | int, constants: tuple = ()) -> None:
        """Launch on the current device, which must hold the tensors.

        Args:
            grid: Number of programs along one to three axes.
            arguments: Tensors, each starting at a multiple of `ALIGNMENT` bytes, and integers.
            constants: Values of the kernel's constants, in order.
        """
        device = torch.cuda.current_device() if torch.cuda.is_available() else None  # None: in the interpreter
        compiled = self._compiled.get((device, constants))
        if compiled is not None:
            compiled[(*grid, 1, 1)[:3]](*arguments, *constants)
            return
        # Once per variant, and always in the interpreter, where unaligned pointers would have no consequence.
        assert all(x.data_ptr() % ALIGNMENT == 0 for x in arguments if isinstance(x, torch.Tensor)), self.kernel
        compiled = self.kernel[grid](*arguments, *constants, **self.options)
        if isinstance(compiled, CompiledKernel):
            self._compiled[device, constants] = compiled


def aligned(values: torch.Tensor) -> torch.Tensor:
    """The same values in contiguous memory that starts at a multiple of `ALIGNMENT` bytes."""
    values = values.contiguous()
    return values if values.data_ptr() % ALIGNMENT == 0 else values.clone()


def aligned_zeros(device: torch.device, *counts: int) -> tuple[torch.Tensor, ...]:
    """Aligned int32 vectors of zeros that share their memory: one allocation and one launch for all."""
    step = ALIGNMENT // 4
    ends = list(itertools.accumulate(-(-count // step) * step for count in counts))
    parts = torch.zeros(ends[-1], dtype=torch.int32, device=device).tensor_split(ends[:-1])
    return tuple(part[:count] for part, count in zip(parts, counts))
