"""The files of workspaces: stored, read, listed, removed, always beneath the workspace."""
