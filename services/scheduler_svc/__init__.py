"""Containers: where sandboxes live. It obeys session_svc and calls nobody."""
