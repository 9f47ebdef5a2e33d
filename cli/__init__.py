"""The `sandbox` command: the embedded stack, and a client of its REST API."""
