"""The parametric body: model files, posing, skinning, mesh topology, and a mesh rasterizer."""
