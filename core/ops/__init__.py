"""Operations of the graph, each defined in plain PyTorch."""
