"""`python -m benchmarks [NAME …]`: on a stack of their own; prints the figures and keeps them."""

from __future__ import annotations

import argparse
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import figures, machine
from benchmarks.endurance import endurance
from benchmarks.figures import Report
from benchmarks.files import files
from benchmarks.idle import idle
from benchmarks.latency import other_languages, python
from benchmarks.path import path
from benchmarks.throughput import throughput
from tests.flow.stack import Stack

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")
    parser.add_argument("--runs", type=int, default=200, help="measured executions (default 200)")
    parser.add_argument("--sessions", type=int, default=200, help="open at a time (default 200)")
    parser.add_argument("--in-a-row", type=int, default=1000, help="default 1000; 10000 takes long")
    options = parser.parse_args()
    # However it is ended, it ends what it started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    place = Path(tempfile.mkdtemp(prefix="sbxbench"))
    place.chmod(0o711)  # executors that root starts are other users, and pass through
    stack = Stack(place / "data")
    benchmarks: dict[str, Callable[[], Report]] = {
        "python": lambda: python(stack, options.runs),
        "languages": lambda: other_languages(stack, max(10, options.runs // 4)),
        "throughput": lambda: throughput(stack, 2 * options.runs),
        "path": lambda: path(place / "traced", options.runs // 2),
        "endurance": lambda: endurance(stack, options.in_a_row),
        "idle": lambda: idle(stack, options.sessions),
        "files": lambda: files(stack),
    }
    unknown = set(options.names) - set(benchmarks)
    if unknown:
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(benchmarks)}"
        )
    print(f"{machine.in_words()}. Compare within a table only.\n", flush=True)
    reports = {}
    try:
        stack.sandbox("up")
        for name in options.names or benchmarks:
            reports[name] = benchmarks[name]()
            print(reports[name].text(), flush=True)
    finally:
        stack.sandbox("down")
        shutil.rmtree(place)
    figures.write(reports, RESULTS)
    print(f"Also in {RESULTS}: results.json and a plot of each.")


if __name__ == "__main__":
    main()
