"""What `scripts/benchmark.py` times, one file for each of its commands."""
