"""Operations of the network, each defined in plain PyTorch; on a CUDA device they are kernels (`core/ops/kernels`)."""
