"""The page of scripts/view.py: avatars in a browser by viser, and images and videos of what it shows."""
