"""The parametric body: model files, skinning, mesh topology, and a small mesh rasterizer."""
