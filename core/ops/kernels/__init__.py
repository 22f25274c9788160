"""Triton kernels of the graph, one file per operation; the files of the same names in `core/ops` define them."""
