"""Triton kernels of the second look, imported only where Triton can run."""
