"""Exhaustion: whatever a run uses up is its own, and ends with it."""

from __future__ import annotations

import json
import socket

import pytest

from tests.adversarial.arena import Arena, Attack, control_groups, eventually, user_processes

MIB = 1024 * 1024
KEPT_BYTES = 10 * MIB

as_a_whole = pytest.mark.skipif(
    not control_groups(), reason="only a control group bounds a run as a whole; root can give one"
)


def check_timed_out(result: dict[str, object]) -> None:
    assert (result["status"], result["exit_code"]) == ("timeout", 137), result
    error = result["error"]
    assert isinstance(error, dict)
    assert error["error_code"] == "Sandbox.ExecTimeout"


@pytest.mark.parametrize(
    ("language", "code"),
    [
        (
            "python",
            "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n",
        ),
        ("shell", "bomb() { while :; do bomb & done; }\nbomb 2>/dev/null\nwhile :; do :; done"),
    ],
)
def test_a_fork_bomb(attack: Attack, language: str, code: str) -> None:
    check_timed_out(attack.run(code, language, timeout=2))


def test_a_thread_bomb(attack: Attack) -> None:
    result = attack.run(
        "import threading\n"
        "def handler(event):\n"
        "    stop, started = threading.Event(), 0\n"
        "    try:\n"
        "        while True:\n"
        "            threading.Thread(target=stop.wait, daemon=True).start()\n"
        "            started += 1\n"
        "    except RuntimeError:\n"
        "        return started\n"
    )
    assert result["status"] == "success"
    assert 0 < result["return_value"] < 32  # max_processes counts threads


def test_one_huge_allocation(attack: Attack) -> None:
    result = attack.run("b'x' * 2**40")
    assert (result["status"], result["exit_code"]) == ("failed", 1)
    assert "MemoryError" in result["error"]["message"]


@as_a_whole
@pytest.mark.parametrize(
    "code",
    [
        # Shared memory, which no limit of a process counts.
        "import mmap\nm = mmap.mmap(-1, 2**29)\nfor i in range(0, 2**29, 4096): m[i] = 1",
        # Each child leaks a little, and all of them together too much.
        "import os, time\n"
        "for _ in range(25):\n"
        "    if os.fork() == 0:\n"
        "        held = []\n"
        "        while True:\n"
        "            held.append(b'x' * 2**20)\n"
        "            time.sleep(0.01)\n"
        "time.sleep(1000)\n",
        # 50 children one after the other, which leave what they write in a memory file.
        "import os\n"
        "file = os.memfd_create('leak')\n"
        "for _ in range(50):\n"
        "    if os.fork() == 0:\n"
        "        os.write(file, b'x' * (10 * 2**20))\n"
        "        os._exit(0)\n"
        "    os.wait()\n",
    ],
    ids=["shared mapping", "leaking children", "a leak over 50 children"],
)
def test_memory_of_a_run_as_a_whole(attack: Attack, code: str) -> None:
    result = attack.run(code)
    assert (result["status"], result["exit_code"]) == ("failed", 137)
    assert result["error"]["message"] == "the code used more than its 256 MiB of memory"


@pytest.mark.parametrize(("directory", "limit"), [("/tmp", 64 * MIB), ("/dev/shm", 16 * MIB)])
def test_filling_a_tmpfs(attack: Attack, directory: str, limit: int) -> None:
    code = (
        "import errno, os\n"
        "def handler(directory):\n"
        "    written = 0\n"
        "    try:\n"
        "        with open(directory['d'] + '/full', 'wb', buffering=0) as file:\n"
        "            while True: written += file.write(bytes(2**20))\n"
        "    except OSError as error:\n"
        "        return [written, errno.errorcode[error.errno]]\n"
    )
    result = attack.run(code, event={"d": directory})
    assert result["return_value"] == [limit, "ENOSPC"]
    after = attack.run(
        "import os\ndef handler(e): return os.listdir(e['d'])", event={"d": directory}
    )
    assert after["return_value"] == []


def test_filling_the_workspace_with_a_large_file(attack: Attack) -> None:
    code = (
        "import errno, os\n"
        "def attempt(grow):\n"
        "    try: grow(os.open('large', os.O_RDWR | os.O_CREAT))\n"
        "    except OSError as error: return errno.errorcode[error.errno]\n"
        "def handler(event):\n"
        "    return [attempt(lambda fd: os.posix_fallocate(fd, 0, 2**40)),\n"
        "            attempt(lambda fd: os.ftruncate(fd, 2**40)),\n"
        "            attempt(lambda fd: os.pwrite(fd, b'x', 2**30))]\n"
    )
    result = attack.run(code)
    assert result["return_value"] == ["EFBIG"] * 3


def test_a_file_that_grows_too_large_kills_who_does_not_look(attack: Attack) -> None:
    code = (
        "import os, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "os.truncate(os.open('large', os.O_RDWR | os.O_CREAT), 2**31)\n"
    )
    result = attack.run(code)
    assert (result["status"], result["exit_code"]) == ("failed", 153)
    assert "beyond 1024 MiB" in result["error"]["message"]


def test_many_empty_files(attack: Attack) -> None:
    count = 20_000
    code = (
        "import os\n"
        f"for i in range({count}): os.close(os.open(f'f{{i}}', os.O_CREAT))\n"
        "def handler(event): return len(os.listdir())\n"
    )
    result = attack.run(code)
    assert result["return_value"] == count
    assert len(result["artifacts"]) == 1000


def test_large_files_with_nothing_in_them(attack: Attack) -> None:
    """They say that they hold 100 GiB, which nobody shall read."""
    result = attack.run("for i in range(100): open(f'{i}', 'w').truncate(2**30)")
    assert result["status"] == "success"
    assert len(result["artifacts"]) == 100


@pytest.mark.parametrize("stream", [1, 2])
def test_endless_output(attack: Attack, stream: int) -> None:
    code = f"import os\nwhile True: os.write({stream}, b'x' * 999 + b'\\n')"
    result = attack.run(code, timeout=2)
    check_timed_out(result)
    name = ("stdout", "stderr")[stream - 1]
    assert len(result[name]) == KEPT_BYTES
    assert result[f"{name}_truncated"] is True


def test_one_line_of_500_megabytes(attack: Attack) -> None:
    result = attack.run("import os\nfor _ in range(500): os.write(1, b'x' * 10**6)", timeout=60)
    assert result["status"] == "success"
    assert result["stdout"] == "x" * KEPT_BYTES
    assert result["stdout_truncated"] is True


def test_output_to_a_reader_that_stopped_reading(attack: Attack) -> None:
    execution = attack.submit(
        "import os, sys\n"
        "sys.stdin.read()\n"
        "for _ in range(20): os.write(1, b'x' * 2**19)\n"
        "def handler(event): return 'done'\n",
        stdin="",
    )
    token = attack.arena.planted["token"]
    with socket.create_connection(("127.0.0.1", attack.arena.stack.port)) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        request = f"GET /api/v1/executions/{execution}/events HTTP/1.1\r\nhost: sandbox\r\n"
        reader.sendall(f"{request}authorization: Bearer {token}\r\n\r\n".encode())
        assert reader.recv(12) == b"HTTP/1.1 200"  # and from here on it reads nothing
        result = attack.finish(execution)
        assert (result["status"], result["return_value"]) == ("success", "done")
        assert len(result["stdout"]) == KEPT_BYTES


def test_every_descriptor(attack: Attack) -> None:
    code = (
        "import errno, os\n"
        "def handler(event):\n"
        "    opened = 0\n"
        "    try:\n"
        "        while True: opened = os.open('/dev/null', os.O_RDONLY)\n"
        "    except OSError as error:\n"
        "        return [opened < 1024, errno.errorcode[error.errno]]\n"
    )
    assert attack.run(code)["return_value"] == [True, "EMFILE"]


def test_spinning_on_every_core(attack: Attack) -> None:
    execution = attack.submit(
        "import os\nfor _ in range(4): os.fork()\nwhile True: pass", timeout=3
    )
    other = attack.arena.attack()  # while it spins, somebody else is served
    assert other.run("print(1)")["status"] == "success"
    other.check()
    check_timed_out(attack.finish(execution))


@pytest.mark.parametrize(
    "code",
    [
        "import signal\n"
        "for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "while True: signal.pause()\n",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n",
        "import os, signal\nos.fork()\nos.fork()\nos.kill(0, signal.SIGSTOP)\n",
    ],
    ids=["deaf to signals", "stops itself", "stops its group"],
)
def test_a_run_that_does_not_end(attack: Attack, code: str) -> None:
    check_timed_out(attack.run(code, timeout=1))


def test_a_cancelled_tree_is_dead_when_it_is_answered(attack: Attack) -> None:
    execution = attack.submit(
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0: os.setsid()\n"
        "open('up', 'w')\n"
        "while True: time.sleep(1)\n",
        timeout=600,
    )
    eventually((attack.workspace / "up").exists)
    answer = attack.client._call("POST", f"/api/v1/executions/{execution}/cancel", body={})
    assert answer["status"] == "failed"
    assert user_processes(attack.executor()) == []
    result = attack.finish(execution)
    assert (result["status"], result["exit_code"]) == ("failed", 137)
    assert "cancelled" in result["error"]["message"]


@pytest.mark.parametrize("keeps_stdout", [True, False])
def test_a_daemon_ends_with_the_run_that_left_it(attack: Attack, keeps_stdout: bool) -> None:
    code = (
        "import os, time\n"
        "def handler(event):\n"
        "    read, write = os.pipe()\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        "            if not event['keeps_stdout']:\n"
        "                for fd in (0, 1, 2): os.close(fd)\n"
        "            os.write(write, b'up')\n"
        "            while True:\n"
        "                open('alive', 'a').write('x')\n"
        "                time.sleep(0.01)\n"
        "        os._exit(0)\n"
        "    return os.read(read, 2).decode()\n"
    )
    # The daemon would live for ever: that there is an answer says that nobody waits for it.
    result = attack.run(code, timeout=600, event={"keeps_stdout": keeps_stdout})
    assert (result["status"], result["return_value"]) == ("success", "up")
    alive = attack.workspace / "alive"
    size = alive.stat().st_size
    attack.run("import time; time.sleep(0.2)")
    assert alive.stat().st_size == size


def test_an_answer_of_100_megabytes(arena: Arena) -> None:
    attack = arena.attack(memory="1Gi")
    result = attack.run("def handler(event): return 'x' * 10**8")
    assert (result["status"], result["return_value"]) == ("failed", None)
    assert "larger than 16 MiB" in result["error"]["message"]
    largest = attack.run("def handler(event): return 'x' * (15 * 2**20)")
    assert len(json.dumps(largest["return_value"])) == 15 * MIB + 2
    attack.check()
