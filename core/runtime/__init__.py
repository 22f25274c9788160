"""Fast execution of the network: CUDA graphs, low-precision copies, asynchronous counts."""
