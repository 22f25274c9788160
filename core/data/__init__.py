"""Captures on disk to batches of tensors, and synthetic captures in the same layout."""
