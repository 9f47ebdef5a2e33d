"""Modules that a template names are imported before a run, and runs do not share them."""

from __future__ import annotations

from pathlib import Path

import pytest
from sandbox.execution.v1 import execution_pb2 as pb

from tests.flow.execution import ExecService

STATE = "import sys; print('tinymod' in sys.modules)"
CHANGE = (
    "import tinymod\n"
    "print(tinymod.VALUE, tinymod.__file__)\n"
    "tinymod.VALUE = 'changed'\n"
    "print('tinymod' in sys.modules)\n"
)


@pytest.fixture
def packages(place: Path) -> Path:
    """As an installer leaves them: a module, and what says whose it is."""
    directory = place / "packages"
    information = directory / "tiny_package-1.0.dist-info"
    information.mkdir(parents=True)
    (directory / "tinymod.py").write_text("VALUE = 'fresh'\n")
    metadata = "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n"
    (information / "METADATA").write_text(metadata)
    (information / "RECORD").write_text("tinymod.py,,\ntiny_package-1.0.dist-info/METADATA,,\n")
    return directory


@pytest.mark.parametrize("preload", ["tiny-package", ""])
async def test_a_named_packages_modules_are_there_already(
    exec_service: ExecService, packages: Path, preload: str
) -> None:
    session = await exec_service.session("p")
    extra = {"SANDBOX_PACKAGES": str(packages), "SANDBOX_PRELOAD": preload}
    await exec_service.attach(session, exec_service.executor(session, **extra))
    for _ in range(3):  # what one run does to a module, no other sees
        result = await exec_service.run(session, f"{STATE}\n{CHANGE}")
        assert result.status == pb.ResultStatus.success, result
        there, value, after = result.stdout.decode().splitlines()
        assert there == str(bool(preload))
        assert value == "fresh /opt/packages/tinymod.py"
        assert after == "True"


async def test_a_module_that_cannot_be_preloaded_costs_nothing_else(
    exec_service: ExecService, packages: Path
) -> None:
    (packages / "tinymod.py").write_text("raise RuntimeError('not today')\n")
    session = await exec_service.session("q")
    extra = {"SANDBOX_PACKAGES": str(packages), "SANDBOX_PRELOAD": "tiny-package,absent"}
    await exec_service.attach(session, exec_service.executor(session, **extra))
    assert (await exec_service.run(session, "print(1)")).stdout == b"1\n"
    result = await exec_service.run(session, "import tinymod")
    assert "not today" in result.error.message


def test_only_top_level_modules_of_the_named_are_found(packages: Path) -> None:
    from executor.preload import modules_of

    assert modules_of(packages, ["tiny-package"]) == ["tinymod"]
    assert modules_of(packages, ["absent"]) == []
