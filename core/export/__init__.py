"""Export to file formats of other programs."""
