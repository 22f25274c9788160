"""The avatar: what it is, how it is posed and drawn, and its file."""
