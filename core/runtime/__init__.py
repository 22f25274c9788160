"""How the network runs fast: CUDA graphs, low-precision copies, counts that arrive asynchronously."""
