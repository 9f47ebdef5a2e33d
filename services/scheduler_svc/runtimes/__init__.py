"""What runs sandboxes: one seam (`base`), one file for each implementation."""
