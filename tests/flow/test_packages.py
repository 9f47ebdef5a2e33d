"""Packages and templates on a running stack: from wheels of the tests, without a network."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client import Client, Json
from tests.flow.stack import SECONDS, Stack
from tests.wheels import make_wheel

# What a hostile package would like to run in trusted code; inside it is only user code.
TRAP = "import os\nopen('/workspace/trap-%s' % os.getpid(), 'w').close()\n"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    place = Path(tempfile.mkdtemp(prefix="sbx"))
    place.chmod(0o711)
    wheels = place / "wheels"
    make_wheel(wheels, "alpha", {"alpha/__init__.py": "import beta\nNAME = beta.NAME\n"})
    make_wheel(
        wheels,
        "beta",
        {"beta.py": "NAME = 'beta'\n\ndef main():\n    print(NAME)\n"},
        scripts={"beta-says": "beta:main"},
    )
    make_wheel(wheels, "trap", dict.fromkeys(("sitecustomize.py", "json.py", "runpy.py"), TRAP))
    made = Stack(place / "data")
    made.environment |= {
        "SANDBOX_PACKAGE_OFFLINE": "true",
        "SANDBOX_PACKAGE_FIND_LINKS": str(wheels),
    }
    made.sandbox("up")
    yield made
    made.sandbox("down")
    shutil.rmtree(place)


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as made:
        yield made
        for session in made.sessions(status="running")["sessions"]:
            made.delete_session(session["session_id"])


def run(client: Client, session: Json, code: str, language: str = "python") -> Json:
    result = client.execute(session["session_id"], code, language, wait=int(SECONDS))
    assert result["status"] == "success", result
    return result


def test_code_imports_the_packages_of_its_session(client: Client, stack: Stack) -> None:
    session = client.create_session("python-basic", dependencies=["alpha", "beta>=1"])
    assert session["status"] == "running", session
    code = "import alpha, sys\ndef handler(event): return [alpha.NAME, alpha.__file__]"
    assert run(client, session, code)["return_value"] == ["beta", "/opt/packages/alpha/__init__.py"]
    said = run(client, session, "beta-says; python3 -c 'import alpha; print(alpha.NAME)'", "shell")
    assert said["stdout"] == "beta\nbeta\n"
    code = "def handler(event):\n    open('/opt/packages/beta.py', 'w')"
    result = client.execute(session["session_id"], code, "python", wait=int(SECONDS))
    assert "Read-only file system" in result["error"]["message"]

    bystander = client.create_session("python-basic")
    code = "import os\ndef handler(event): return os.path.exists('/opt/packages')"
    assert run(client, bystander, code)["return_value"] is False


def test_equal_sets_are_installed_once(client: Client, stack: Stack) -> None:
    made = [
        client.create_session("python-basic", dependencies=dependencies)
        for dependencies in (["beta"], ["Beta", "beta"])
    ]
    log = stack.places.log("scheduler_svc").read_text()
    assert [session["status"] for session in made] == ["running", "running"]
    assert log.count("installed beta in") == 1


def test_an_unknown_package_is_a_failed_session_that_says_so(client: Client) -> None:
    session = client.create_session("python-basic", dependencies=["nowhere-to-be-found"])
    assert session["status"] == "failed"
    assert session["status_reason"] == (
        "the packages could not be installed (wheels only): "
        "No matching distribution found for nowhere-to-be-found"
    )


def test_a_template_brings_its_packages_and_an_update_spares_who_is_there(client: Client) -> None:
    template = {"id": "with-beta", "name": "With beta", "image": "an/image"}
    template |= {"default_resources": {"memory": "256Mi"}}
    body = template | {"pre_installed_packages": ["beta"], "env_vars": {"A": "1"}}
    made = client.create_template(**body)
    assert client.template("with-beta") == made
    session = client.create_session("with-beta")
    client.replace_template(template["id"], **template)

    code = "import os, beta\ndef handler(event): return [beta.NAME, os.environ['A']]"
    assert run(client, session, code)["return_value"] == ["beta", "1"]
    later = client.create_session("with-beta")
    result = client.execute(later["session_id"], "import beta", "python", wait=int(SECONDS))
    assert "No module named 'beta'" in result["error"]["message"]
    with pytest.raises(Exception, match="is used by 2 live sessions"):
        client.delete_template("with-beta")
    for each in (session, later):
        client.delete_session(each["session_id"])
    client.delete_template("with-beta")


def test_executions_wait_for_the_packages(client: Client) -> None:
    session = client.create_session("python-basic", wait=False, dependencies=["alpha", "beta<9"])
    assert session["status"] == "creating"
    code = "import alpha\ndef handler(event): return alpha.NAME"
    assert run(client, session, code)["return_value"] == "beta"
    assert client.session(session["session_id"])["status"] == "running"
    assert "status_reason" not in client.session(session["session_id"])


def test_a_module_of_a_package_never_replaces_one_that_trusted_code_uses(client: Client) -> None:
    session = client.create_session("python-basic", dependencies=["trap"])
    for name in ("sitecustomize.py", "json.py", "python.py", "init.py", "runpy.py"):
        run(client, session, f"open({name!r}, 'w').write({TRAP!r})")
    code = "import os\ndef handler(event): return [n for n in os.listdir() if 'trap' in n]"
    for _ in range(4):  # more than there were sandboxes made ahead
        assert run(client, session, code)["return_value"] == []


def test_a_session_keeps_its_packages_when_it_is_recovered(client: Client, stack: Stack) -> None:
    session = client.create_session("python-basic", dependencies=["beta"])
    (executor,) = stack.executors()
    os.kill(executor, 9)
    deadline = time.monotonic() + SECONDS
    while client.session(session["session_id"])["container_id"] == session["container_id"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    code = "import beta\ndef handler(event): return beta.NAME"
    assert run(client, session, code)["return_value"] == "beta"
