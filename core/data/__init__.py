"""Captures on disk: readers of their layouts, samples and batches of tensors, packed copies, protocols."""
