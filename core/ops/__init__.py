"""Operations of the network. Each is defined in plain PyTorch; its Triton kernels stand beside it in `*_kernel.py`."""
