"""From captures and a checkpoint to avatars, pictures, videos and numbers; `infer.py` is the command line of it."""
