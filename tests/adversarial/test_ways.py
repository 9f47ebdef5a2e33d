"""However a sandbox is made, by bwrap or by a fork of the zygote, its guarantees are the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.checks import Finding
from cli.isolation import isolation
from executor import proof
from executor.bwrap import IsolationError, Tools

ROOT = Path(__file__).parents[2]
# What a process is, and what it can see, as it finds both itself.
VIEW = r"""
import fcntl, os, re, resource, socket, struct, sys

def mounts():
    # The last mount on a path is the one that counts.
    found = {}
    for line in open('/proc/self/mountinfo'):
        before, after = line.split(' - ')
        place, options = before.split()[4:6]
        # Which of the kernel's own numbers a mount has says nothing.
        size = re.findall(r'size=\w+', after.split()[2])
        found[place] = [after.split()[0], sorted(set(options.split(',')) - {'relatime'}), size]
    return found

def kind(fd):
    return re.sub(r'\d+', 'N', os.readlink(f'/proc/self/fd/{fd}'))

def handler(event):
    status = dict(line.split(':\t', 1) for line in open('/proc/self/status'))
    names = ('Uid', 'Gid', 'Groups', 'CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb',
             'NoNewPrivs', 'Seccomp', 'Seccomp_filters', 'SigBlk', 'SigIgn', 'Umask')
    descriptors = []
    for name in sorted(os.listdir('/proc/self/fd')):
        try: descriptors.append(kind(name))
        except OSError: pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = fcntl.ioctl(any_socket, 0x8913, struct.pack('16sh22x', b'lo', 0))
    return {
        'status': {name: status.get(name, '').strip() for name in names},
        'mounts': mounts(),
        'shared with the host': [kind for kind, outside in event['namespaces'].items()
                                 if os.readlink(f'/proc/self/ns/{kind}') == outside],
        'processes': sorted(name for name in os.listdir('/proc') if name.isdigit()),
        'directories': {path: sorted(os.listdir(path)) for path in
                        ('/', '/dev', '/etc', '/run', '/tmp', '/dev/shm', '/dev/pts')},
        'descriptors': descriptors,
        'limits': {name: resource.getrlimit(getattr(resource, name))
                   for name in dir(resource) if name.startswith('RLIMIT_')},
        'environment': dict(os.environ),
        'users': [open(f'/proc/self/{map}').read().split()[2] for map in ('uid_map', 'gid_map')],
        'setgroups': open('/proc/self/setgroups').read(),
        'interfaces': socket.if_nameindex(),
        'loopback': struct.unpack_from('h', flags, 16)[0] & 1,
        'oom score': open('/proc/self/oom_score_adj').read(),
        'cgroup': open('/proc/self/cgroup').read(),
        'host': os.uname().nodename,
        'directory': os.getcwd(),
        'niceness': os.nice(0),
        'path': sys.path,
        'leads its session': os.getsid(0) in (0, 1),
    }
"""
# What only the filter stops; everything else has two walls.
BY_THE_FILTER_ALONE = {
    "system calls",
    "other calling conventions",
    "kernel interfaces by socket",
    "terminal injection",
}


def ways(code: str, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.adversarial.ways", *options],
        cwd=ROOT,
        env={"PATH": os.defpath},
        input=code.encode(),
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, Any] = json.loads(done.stdout)
    assert list(found) == ["zygote", "bwrap"]
    return found


def test_a_run_finds_the_same_in_both() -> None:
    found = ways(VIEW)
    for what, seen in found["bwrap"].items():
        assert found["zygote"][what] == seen, what
    assert found["bwrap"]["shared with the host"] == []
    assert found["bwrap"]["status"]["CapBnd"] == "0" * 16


def test_without_the_filter_the_other_wall_still_stands() -> None:
    for way, found in ways(proof.PROBE.read_text(), "--unfiltered").items():
        opened = {name for name, how in found.items() if how}
        assert opened <= BY_THE_FILTER_ALONE, (way, found)
        assert {"system calls", "other calling conventions"} <= opened  # or the test shows nothing


def test_the_probe_finds_what_is_open() -> None:
    """With two namespaces and nothing else around it, every class has something open."""
    planted = f"planted-{'0' * 32}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.adversarial.half_open", planted],
        cwd=ROOT,
        env={"PATH": os.defpath, "PLANTED": planted},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert len(found) == 15
    assert not {name for name, how in found.items() if not how}, found


def test_doctor_says_of_each_class_that_it_is_closed() -> None:
    findings = isolation()
    assert len(findings) == 15
    for finding in findings:
        assert finding.level == "ok", finding
        assert finding.found == "closed (zygote and bwrap)"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ('print(\'{"zygote": {"network": []}, "bwrap": {"network": ["it answers"]}}\')', "OPEN"),
        ('print(\'{"zygote": {"network": []}, "bwrap": {}}\')', "bwrap: it was not tried"),
        ("import sys; sys.exit('bwrap is not installed')", "bwrap is not installed"),
        ("print('?')", "no sandbox"),
        ("import os; os.abort()", "no sandbox"),
    ],
)
def test_doctor_fails_for_an_open_class_and_for_no_answer(program: str, words: str) -> None:
    (finding,) = isolation([sys.executable, "-c", program])
    assert isinstance(finding, Finding)
    assert finding.level == "fail"
    assert words in finding.found
    assert finding.advice


def test_where_bwrap_is_missing_there_is_a_typed_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.bwrap._from_package", lambda *_: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(IsolationError, match="bwrap is not installed"):
        Tools.find()
