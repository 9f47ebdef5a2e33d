"""Boundary and secrets: nothing of the host, of the platform or of others is in sight."""

from __future__ import annotations

import json
import os
import signal
import socket

import pytest

from executor import proof
from tests.adversarial.arena import SECRET, Attack, eventually

PROBE = proof.PROBE.read_text()
# Run by whoever imports or sources it; the names say in which language, and as which process.
MARK = "import os\nopen(f'/workspace/ran-{__name__}-{os.getpid()}-{os.getuid()}', 'w')\n"
# What trusted code imports, and what interpreters import or source by themselves.
TRAPS = (
    *("json", "sitecustomize", "usercustomize", "init", "python", "isolation", "zygote", "struct"),
    *("ctypes", "traceback", "linecache", "threading", "executor", "sandbox", "grpc", "resource"),
)


def test_no_attempt_to_get_out_succeeds(attack: Attack) -> None:
    places = attack.arena.stack.places
    with socket.create_server(("127.0.0.1", 0)) as neighbour:
        event = proof.event(
            secret=SECRET,
            paths=[
                *(str(places.data), str(places.token), str(places.secret), str(places.workspaces)),
                *(str(path) for path in places.run.resolve().iterdir()),
                *(str(path) for path in places.sandboxes.rglob("*")),
                str(proof.PROBE),
            ],
            ports=[
                *(attack.arena.stack.port, attack.arena.stack.internal_port),
                *(neighbour.getsockname()[1], 5432, 2375, 9901),
            ],
        )
        assert any(path.endswith("admin.sock") for path in event["paths"])
        result = attack.run(PROBE, event=event)
    found = result["return_value"]
    assert len(found) == 15, result
    assert not {name: how for name, how in found.items() if how}


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", "import os\nfor item in os.environ.items(): print(*item)"),
        ("javascript", "for (const [k, v] of Object.entries(process.env)) console.log(k, v)"),
        ("shell", "env; cat /proc/*/environ | tr '\\0' '\\n'; cat /proc/*/cmdline"),
    ],
)
def test_an_environment_holds_what_is_documented(attack: Attack, language: str, code: str) -> None:
    result = attack.run(code, language)
    assert result["stdout"]
    for word in ("TOKEN", "SECRET", "SANDBOX_", "PLANTED", "OTEL", "SOCK", "DATABASE"):
        assert word not in result["stdout"]


@pytest.mark.parametrize("language", ["javascript", "shell"])
def test_other_languages_are_closed_in_as_well(attack: Attack, language: str) -> None:
    """The probe is Python; what the kernel says of the process holds for every language."""
    code = {
        "shell": "cat /proc/self/status; ls -d /proc/[0-9]* | wc -l",
        "javascript": "const fs = require('fs');"
        "console.log(fs.readFileSync('/proc/self/status', 'utf8'));"
        "console.log(fs.readdirSync('/proc').filter((n) => /^[0-9]+$/.test(n)).length)",
    }[language]
    lines = attack.run(code, language)["stdout"].splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == ["1000"] * 4
    assert int(lines[-1]) <= 5


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("shell", "ls -l /proc/self/fd"),
        (
            "javascript",
            "const fs = require('fs'); for (const fd of fs.readdirSync('/proc/self/fd'))"
            "  try { console.log('->', fs.readlinkSync('/proc/self/fd/' + fd)) } catch {}",
        ),
    ],
)
def test_other_languages_inherit_pipes_and_their_code(
    attack: Attack, language: str, code: str
) -> None:
    result = attack.run(code, language)
    targets = {line.split("-> ")[1] for line in result["stdout"].splitlines() if "-> " in line}
    assert targets
    for target in targets:
        assert target.startswith(("pipe:", "/memfd:input", "/dev/null", "/proc/", "anon_inode:"))


def test_names_of_the_environment_do_not_reach_trusted_code(attack: Attack) -> None:
    env = {
        "LD_PRELOAD": "/workspace/evil.so",
        "LD_LIBRARY_PATH": "/workspace",
        "LD_AUDIT": "/workspace/evil.so",
        "GCONV_PATH": "/workspace",
        "PYTHONPATH": "/workspace",
        "PYTHONSTARTUP": "/workspace/evil.py",
        "PYTHONHOME": "/workspace",
        "PYTHONINSPECT": "1",
        "BASH_ENV": "/workspace/evil.sh",
        "ENV": "/workspace/evil.sh",
        "SHELLOPTS": "xtrace",
        "PS4": "$(touch /workspace/ran-ps4-$$)",
        "NODE_OPTIONS": "--require=/workspace/evil.js",
        "SANDBOX_ID": "sbx_other-1",
        "INTERNAL_API_TOKEN": "other",
        "PATH": "/workspace",
        "HOME": "/nowhere",
    }
    attack.run(
        "import os\n"
        "open('evil.sh', 'w').write('echo x > /workspace/ran-bash-$$')\n"
        "open('evil.js', 'w').write(\n"
        '    \'require("fs").writeFileSync(`/workspace/ran-node-${process.pid}`, "")\')\n'
        "open('evil.so', 'w').write('not a library')\n"
        f"open('evil.py', 'w').write({MARK!r})\n"
        f"open('sitecustomize.py', 'w').write({MARK!r})\n"
    )
    result = attack.run("def handler(event): return 1", env_vars=env)
    assert (result["status"], result["return_value"]) == ("success", 1)
    for language, code in (("shell", "true"), ("javascript", "exports.handler = () => 1")):
        attack.run(code, language, env_vars=env)  # its own process, and therefore its own harm
    marks = [path.name for path in attack.workspace.glob("ran-*")]
    assert "ran-bash-1" not in marks
    assert not [mark for mark in marks if mark.endswith("-1") or "sitecustomize" in mark], marks
    code = "import os\ndef handler(event): return sorted(set(os.environ) & set(event))"
    assert attack.run(code, event=env)["return_value"] == ["HOME", "PATH"]


def test_modules_in_the_workspace_never_run_in_trusted_code(attack: Attack) -> None:
    plant = "".join(f"open('{name}.py', 'w').write({MARK!r})\n" for name in TRAPS)
    attack.run(plant + "import os\nos.mkdir('encodings')\nopen('encodings/__init__.py', 'w')")
    # A new executor, zygote and sandbox with all of that in the workspace.
    os.kill(attack.executor(), signal.SIGKILL)
    again = attack.arena.stack.places.sandboxes / f"{attack._sandbox}-2" / "sandbox.json"
    eventually(again.exists)
    for language, code in (
        ("python", "def handler(event): return 1"),
        ("python", "raise ValueError('traced')"),
        ("javascript", "exports.handler = () => 1"),
        ("shell", "true"),
    ):
        attack.run(code, language)
    assert not [path.name for path in attack.workspace.glob("ran-*")]
    attack.generation = 2


def test_names_that_begin_with_a_dash_are_names(attack: Attack) -> None:
    result = attack.run("for name in ('-rf', '--help', '-c'): open(name, 'w')")
    assert result["artifacts"] == ["--help", "-c", "-rf"]
    assert attack.run("ls", "shell")["stdout"].split() == ["--help", "-c", "-rf"]


def test_a_call_of_another_convention_kills_and_says_so(attack: Attack) -> None:
    code = (
        "import ctypes, mmap, platform\n"
        "assert platform.machine() == 'x86_64'\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(bytes.fromhex('b814000000cd80c3'))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()\n"
    )
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 is of x86")
    result = attack.run(code)
    assert (result["status"], result["exit_code"]) == ("failed", 159)
    assert "system call that is not allowed" in result["error"]["message"]


def test_one_run_cannot_see_another_of_its_session(attack: Attack) -> None:
    """They share a workspace, and nothing else: no process, tmpfs, IPC or abstract socket."""
    first = attack.run(
        "import os, socket\n"
        "open('/tmp/left', 'w'), open('/dev/shm/left', 'w')\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0left'); s.listen()\n"
        "import ctypes\n"
        "assert ctypes.CDLL(None).shmget(0x5afe, 4096, 0o1666) >= 0\n"
    )
    assert first["status"] == "success"
    code = (
        "import ctypes, os, socket\n"
        "def handler(event):\n"
        "    found = os.listdir('/tmp') + os.listdir('/dev/shm')\n"
        "    try: socket.socket(socket.AF_UNIX).connect('\\0left'); found.append('socket')\n"
        "    except OSError: pass\n"
        "    if ctypes.CDLL(None).shmget(0x5afe, 4096, 0o666) >= 0: found.append('shm')\n"
        "    return found\n"
    )
    assert json.dumps(attack.run(code)["return_value"]) == "[]"
