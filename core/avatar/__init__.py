"""The avatar: its type, its file, skinning and rendering."""
