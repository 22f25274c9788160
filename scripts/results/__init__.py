"""The results page: its rows, how they are measured and stored, and its tables."""
