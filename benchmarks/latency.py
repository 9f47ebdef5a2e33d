"""One execution at a time: REST through Envoy against the interpreter itself, interleaved."""

from __future__ import annotations

import time

from benchmarks import bare
from benchmarks.figures import Report, row
from benchmarks.rest import Rest
from tests.flow.stack import Stack

HANDLER = "def handler(event): pass"


# Between two measurements: what one leaves to do (namespaces that the kernel takes apart,
# the next sandbox made ahead) is not the other's. Throughput, elsewhere, counts all of it.
GAP_SECONDS = 0.05


def _seconds(client: Rest, session: str, code: str, language: str) -> float:
    begun = time.perf_counter()
    client.run(session, code, language)
    return time.perf_counter() - begun


def python(stack: Stack, runs: int) -> Report:
    report = Report("An empty Python handler over REST, with wait")
    client = Rest(stack)
    session = client.session()
    rest, plain, without_site, isolated = [], [], [], []
    with bare.bwrap() as (sandbox, tools):
        interpreter = str(tools.python)
        for index in range(runs + 5):
            measured = _seconds(client, session, HANDLER, "python")
            time.sleep(GAP_SECONDS)
            bare_python = bare.seconds([interpreter, "-c", "pass"])
            time.sleep(GAP_SECONDS)
            smallest = bare.seconds([interpreter, "-I", "-S", "-c", "pass"])
            time.sleep(GAP_SECONDS)
            under_bwrap = sandbox.seconds(interpreter, "-c", "pass")
            time.sleep(GAP_SECONDS)
            if index >= 5:  # the first ones warm up
                rest.append(measured)
                plain.append(bare_python)
                without_site.append(smallest)
                isolated.append(under_bwrap)
    client.delete(session)
    client.close()
    bases = {
        row("python3 -c pass", plain): "≤ 0.5",
        row("bwrap … python3 -c pass", isolated): "≤ 0.3",
        row("python3 -I -S -c pass", without_site): "",
    }
    report.rows = list(bases)
    for base, aim in bases.items():
        report.rows.append(row("REST execute", rest, (base.name, base.median / 1000), aim))
    # What a machine's site-packages do at every start (.pth files) makes a base look slow.
    report.notes = ["The interpreter without site is what no start can be faster than."]
    return report


def other_languages(stack: Stack, runs: int) -> Report:
    report = Report("JavaScript and shell over REST, against their interpreters under bwrap")
    client = Rest(stack)
    session = client.session()
    programs = {
        "javascript": ("exports.handler = () => null", (bare.NODE, "-e", "0")),
        "shell": (":", ("/bin/bash", "-c", ":")),
    }
    with bare.bwrap() as (sandbox, _):
        for language, (code, command) in programs.items():
            rest, isolated = [], []
            for index in range(runs + 3):
                measured = _seconds(client, session, code, language)
                time.sleep(GAP_SECONDS)
                under_bwrap = sandbox.seconds(*command)
                time.sleep(GAP_SECONDS)
                if index >= 3:
                    rest.append(measured)
                    isolated.append(under_bwrap)
            first = row(f"bwrap … {command[0].rpartition('/')[2]}", isolated)
            base = (first.name, first.median / 1000)
            report.rows += [first, row(f"REST execute, {language}", rest, base, "≤ 1.3")]
    client.delete(session)
    client.close()
    return report
