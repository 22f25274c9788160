"""The table of results: what is measured for each of its rows, how rows are kept, and how they are shown."""
