"""Environments of Python packages: what sandboxes can import besides the standard library."""
