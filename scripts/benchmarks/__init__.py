"""Commands of `scripts/benchmark.py`, one module each."""
