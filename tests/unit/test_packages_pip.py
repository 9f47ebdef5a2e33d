"""What pip is started with: no shell, no prompt, wheels alone, the operator's choice of index."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from scheduler_svc.packages.pip import Pip, follow, reason

TARGET = Path("/target")


def test_requirements_stand_behind_the_end_of_options() -> None:
    command = Pip().command(TARGET, ["--index-url=x", "numpy"])
    assert command[command.index("--") :] == ["--", "--index-url=x", "numpy"]


def test_only_wheels_are_taken_and_nobody_is_asked() -> None:
    command = Pip().command(TARGET, ["numpy"])
    assert command[command.index("--only-binary") + 1] == ":all:"
    assert command[command.index("--target") + 1] == str(TARGET)
    assert {"--no-input", "--no-cache-dir"} <= {*command}
    assert "--no-index" not in command
    assert "--find-links" not in command


def test_it_runs_under_the_interpreter_that_sandboxes_have_in_isolated_mode() -> None:
    interpreter, mode, runner, verb = Pip().command(TARGET, ["numpy"])[:4]
    assert interpreter == os.path.realpath(sys.executable)
    assert (mode, Path(runner).name, verb) == ("-I", "__pip-runner__.py", "install")
    assert Path(runner).is_file()


def test_offline_asks_no_index() -> None:
    command = Pip(offline=True, find_links="/wheels").command(TARGET, ["numpy"])
    assert "--no-index" in command
    assert command[command.index("--find-links") + 1] == "/wheels"


def test_the_machines_configuration_of_pip_reaches_it_and_secrets_do_not() -> None:
    theirs = {
        "PIP_INDEX_URL": "one",
        "PIP_EXTRA_INDEX_URL": "two",
        "PIP_REQUIRE_VIRTUALENV": "1",
        "HOME": "/home",
        "HTTPS_PROXY": "proxy",
        "no_proxy": "none",
        "SSL_CERT_FILE": "/ca",
    }
    ours = {
        "SANDBOX_SECRET_FILE": "x",
        "SANDBOX_PACKAGE_INDEX_URL": "x",
        "PYTHONPATH": "x",
        "LD_PRELOAD": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    given = Pip().environment(theirs | ours, Path("/tmp/here"))
    assert given == theirs | {
        "PIP_REQUIRE_VIRTUALENV": "0",
        "PIP_USER": "0",
        "TMPDIR": "/tmp/here",
    }


def test_an_index_of_the_operators_is_the_only_one() -> None:
    pip = Pip(index_url="mine-with-password")
    given = pip.environment({"PIP_INDEX_URL": "one", "PIP_EXTRA_INDEX_URL": "two"}, Path("/t"))
    assert given["PIP_INDEX_URL"] == "mine-with-password"
    assert given["PIP_CONFIG_FILE"] == os.devnull
    assert "PIP_EXTRA_INDEX_URL" not in given
    # Arguments can be read by every user of the machine.
    assert "mine-with-password" not in " ".join(pip.command(TARGET, ["numpy"]))
    assert "mine-with-password" not in repr(pip)


async def test_what_pip_prints_becomes_progress() -> None:
    stream = asyncio.StreamReader()
    for data in (
        b"Looking in links: /wheels\nCollecting num",
        b"py>=1.26 (from -r x)\n  Downloading numpy.whl (18.0 MB)\n",
        b"Collecting six\nnot UTF-8: \xff\nInstalling collected packages: six, numpy\n",
        b"Successfully installed",
    ):
        stream.feed_data(data)
    stream.feed_eof()
    reports: list[str] = []
    lines = await follow(stream, reports.append, "installing 1 package")
    assert reports == [
        "installing 1 package",
        "installing 1 package: fetching numpy",
        "installing 1 package: fetching six",
        "installing 1 package: unpacking 2, with what they need",
    ]
    assert lines[-1] == "Successfully installed"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ([], "pip said nothing"),
        (["Collecting x", "Killed"], "Killed"),
        (
            ["ERROR: Could not find a version", "ERROR: No matching distribution found for x"],
            "No matching distribution found for x",
        ),
        (
            ["ERROR: Cannot install a==1 and a==2", "", "ERROR: ResolutionImpossible: for help"],
            "Cannot install a==1 and a==2",
        ),
        (["ERROR: Exception:", "Traceback …", "MemoryError"], "MemoryError"),
        (["ERROR: " + "x" * 1000], "x" * 500),
    ],
)
def test_the_reason_is_the_last_line_that_says_why(lines: list[str], why: str) -> None:
    assert reason(lines) == why
