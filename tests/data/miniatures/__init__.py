"""Data sets in miniature, in their exact layout on disk, of a scene whose every point is known."""
