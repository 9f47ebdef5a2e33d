"""`python -m cli.validate DIRECTORY`: writes the bootstrap of a default stack there.

For `envoy --mode validate`, which checks what `sandbox up` would start the edge with.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cli import stack
from cli.layout import Layout
from cli.settings import StackSettings


def main() -> None:
    places = Layout(Path(sys.argv[1]).resolve())
    # With a collector, so that the tracing that is off by default is checked too.
    settings = StackSettings(otlp_endpoint="http://127.0.0.1:4318")
    places.bootstrap.write_text(stack.bootstrap(settings, places))


if __name__ == "__main__":
    main()
