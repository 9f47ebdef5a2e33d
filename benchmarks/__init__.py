"""`make bench`: what an execution costs, each figure a ratio within one run. See README.md."""
