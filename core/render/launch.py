"""Launching kernels at little cost on the host.

`kernel[grid](...)` looks at every argument to find the compilation that fits, which takes longer than many a kernel
here. A `Launcher` looks once: it knows that pointers are aligned, and its kernels do not care what integers they get.
"""

import torch
from triton import JITFunction
from triton.compiler import CompiledKernel

ALIGNMENT = 16  # bytes; what Triton finds out about pointers


class Launcher:
    """Launches one kernel, and keeps what Triton made of it.

    Args:
        kernel: With tensors and integers first, none of the latter specialised (`do_not_specialize`), then constants.
            Each tensor argument always has the same type.
        options: What Triton compiles with (`num_warps`, `maxnreg`).
    """

    def __init__(self, kernel: JITFunction, **options: int):
        self.kernel, self.options = kernel, options
        self._compiled: dict[tuple, CompiledKernel] = {}

    def __call__(self, grid: tuple[int, ...], *arguments: torch.Tensor | int, constants: tuple = ()) -> None:
        """Launch on the current device, which the tensors are on.

        Args:
            grid: Programs, along one to three axes.
            arguments: Tensors, each beginning at a multiple of `ALIGNMENT`, and integers.
            constants: The kernel's constants, in order.
        """
        device = torch.cuda.current_device() if torch.cuda.is_available() else None  # None: in the interpreter
        compiled = self._compiled.get((device, constants))
        if compiled is not None:
            compiled[(*grid, 1, 1)[:3]](*arguments, *constants)
            return
        compiled = self.kernel[grid](*arguments, *constants, **self.options)
        if isinstance(compiled, CompiledKernel):
            self._compiled[device, constants] = compiled


def aligned(values: torch.Tensor) -> torch.Tensor:
    """The same values in adjacent words, beginning at a multiple of `ALIGNMENT`."""
    values = values.contiguous()
    return values if values.data_ptr() % ALIGNMENT == 0 else values.clone()
