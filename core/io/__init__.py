"""Reading and writing: checkpoints, pictures, videos, point clouds."""
