"""One workspace against what user code may put in it, by both ways of resolving a path."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from exec_svc.files import beneath, staging
from exec_svc.files.staging import Staged
from exec_svc.files.workspace import NoWorkspace, Workspace, Workspaces
from sandbox_rpc.errors import InvalidParameter, NotFound, StateConflict

from tests.support import PATIENCE

SECRET = b"what only the platform may read"
WHAT = "Field 'path'"


@pytest.fixture(params=[beneath.by_openat2, beneath.by_walking])
def by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    if request.param is beneath.by_openat2 and beneath.supported() is not beneath.by_openat2:
        pytest.skip("no openat2 here")
    monkeypatch.setattr(beneath, "_open", request.param)
    opener: Callable[..., int] = request.param
    return opener


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The workspace, with a secret beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    made = tmp_path / "sess_a"
    made.mkdir()
    (made / "dir").mkdir()
    (made / "file").write_bytes(b"old")
    return made


@pytest.fixture
def workspace(home: Path, by: Callable[..., int]) -> Iterator[Workspace]:
    with Workspaces(home.parent).open("sess_a") as opened:
        yield opened


def read(workspace: Workspace, path: str) -> bytes:
    descriptor, version = workspace.open(path, WHAT)
    try:
        return os.pread(descriptor, version.size, 0)
    finally:
        os.close(descriptor)


def store(workspace: Workspace, path: str, data: bytes) -> None:
    staged = workspace.stage()
    try:
        staged.write(data)
        workspace.publish(staged, path, WHAT)
    finally:
        staged.close()


def everything(workspace: Workspace) -> list[str]:
    return [version.path for version in workspace.page("", "", offset=0, limit=200)[0]]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_without_openat2_the_path_is_walked(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(directory: int, path: str, flags: int) -> int:
        raise OSError(number, "as a kernel before 5.6 or a seccomp filter says")

    monkeypatch.setattr(beneath, "by_openat2", missing)

    assert beneath.supported() is beneath.by_walking


# --- links


def link_to_a_file(home: Path) -> str:
    (home / "link").symlink_to(home.parent / "outside" / "secret")
    return "link"


def relative_link(home: Path) -> str:
    (home / "link").symlink_to("../outside/secret")
    return "link"


def link_within(home: Path) -> str:
    (home / "link").symlink_to("file")
    return "link"


def dangling_link(home: Path) -> str:
    (home / "link").symlink_to(home.parent / "outside" / "new")
    return "link"


def chain_of_links(home: Path) -> str:
    (home / "last").symlink_to(home.parent / "outside")
    (home / "middle").symlink_to("last")
    (home / "link").symlink_to("middle")
    return "link/secret"


def loop_of_links(home: Path) -> str:
    (home / "link").symlink_to("other")
    (home / "other").symlink_to("link")
    return "link"


def link_to_itself(home: Path) -> str:
    (home / "link").symlink_to("link")
    return "link/x"


def linked_parent(home: Path) -> str:
    (home / "dir" / "link").symlink_to(home.parent / "outside")
    return "dir/link/secret"


def link_to_the_root(home: Path) -> str:
    (home / "link").symlink_to("/")
    return f"link{home.parent}/outside/secret"


def magic_link(home: Path) -> str:
    (home / "link").symlink_to("/proc/self/root")
    return f"link{home.parent}/outside/secret"


LINKS = [
    link_to_a_file,
    relative_link,
    link_within,
    dangling_link,
    chain_of_links,
    loop_of_links,
    link_to_itself,
    linked_parent,
    link_to_the_root,
    magic_link,
]


def outside(home: Path) -> dict[str, bytes]:
    directory = home.parent / "outside"
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("make", LINKS)
def test_a_link_is_refused_and_nothing_touched(
    workspace: Workspace, home: Path, make: Callable[[Path], str]
) -> None:
    path = make(home)
    entries = sorted(entry.name for entry in home.rglob("*"))

    with pytest.raises(InvalidParameter, match="symbolic link"):
        read(workspace, path)
    with pytest.raises(InvalidParameter, match="symbolic link"):
        workspace.check_target(path, WHAT)
    with pytest.raises(InvalidParameter, match="symbolic link"):
        store(workspace, path, b"new")
    with pytest.raises(InvalidParameter, match="symbolic link"):
        workspace.delete(path, WHAT)
    assert outside(home) == {"secret": SECRET}
    assert sorted(entry.name for entry in home.rglob("*")) == entries
    assert "secret" not in "".join(everything(workspace))


def test_a_link_as_the_parent_of_new_directories(workspace: Workspace, home: Path) -> None:
    (home / "link").symlink_to(home.parent / "outside")

    with pytest.raises(InvalidParameter, match="symbolic link"):
        store(workspace, "link/new/file", b"x")
    assert outside(home) == {"secret": SECRET}


def test_a_link_in_a_prefix(workspace: Workspace, home: Path) -> None:
    (home / "link").symlink_to(home.parent / "outside")

    with pytest.raises(InvalidParameter, match="symbolic link"):
        workspace.page("link", "", offset=0, limit=1)


def test_a_workspace_that_is_a_link(home: Path) -> None:
    (home.parent / "sess_b").symlink_to(home.parent / "outside")

    with pytest.raises(NoWorkspace):
        Workspaces(home.parent).open("sess_b")


# Swaps two names in one step, for ever (renameat2(2), RENAME_EXCHANGE), and puts the link
# back when a delete or a replacement has met it.
ATTACKER = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, other, target = map(os.fsencode, sys.argv[1:])
while True:
    if libc.renameat2(-100, one, -100, other, 2) and not os.path.lexists(other):
        os.symlink(target, other)
    if os.path.lexists(one) and not (os.path.islink(one) or os.path.islink(other)):
        os.unlink(other) if os.path.isfile(other) else None
        os.path.lexists(other) or os.symlink(target, other)
"""


@pytest.mark.parametrize("path", ["swapped/secret", "swapped"])
def test_a_link_swapped_in_a_tight_loop(workspace: Workspace, home: Path, path: str) -> None:
    """What the path names and a link to the outside change places as fast as they can."""
    swapped, link = home / "swapped", home / "link"
    target = home.parent / "outside"
    if path == "swapped":
        swapped.write_bytes(b"decoy")
        target = target / "secret"
    else:
        swapped.mkdir()
    link.symlink_to(target)
    outcomes: Counter[str] = Counter()

    def attempt(what: str, work: Callable[[], object]) -> None:
        try:
            assert work() in (b"decoy", None)
            outcomes[f"{what} done"] += 1
        except (InvalidParameter, NotFound, StateConflict):
            outcomes[f"{what} refused"] += 1

    kinds = {f"{what} {how}" for what in ("write", "read", "delete") for how in ("done", "refused")}
    deadline = time.monotonic() + PATIENCE
    attacker = subprocess.Popen([sys.executable, "-c", ATTACKER, swapped, link, target])
    try:
        # Until each call has met the file and met the link, and then for a while.
        while set(outcomes) < kinds or outcomes.total() < 1000:
            attempt("write", lambda: store(workspace, path, b"decoy"))
            attempt("read", lambda: read(workspace, path))
            attempt("delete", lambda: workspace.delete(path, WHAT))
            listed = workspace.page("", "", offset=0, limit=9)[0]
            assert len(SECRET) not in {version.size for version in listed}
            assert time.monotonic() < deadline, outcomes
            assert attacker.poll() is None
    finally:
        attacker.kill()
        attacker.wait()

    assert outside(home) == {"secret": SECRET}


# --- what is not a regular file


def fifo(home: Path) -> None:
    os.mkfifo(home / "thing")


def unix_socket(home: Path) -> None:
    here = os.open(home, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{here}/thing")
    os.close(here)


def directory(home: Path) -> None:
    (home / "thing").mkdir()


def device(home: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    os.mknod(home / "thing", stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero


@pytest.mark.parametrize("make", [fifo, unix_socket, directory, device])
def test_only_regular_files(workspace: Workspace, home: Path, make: Callable[[Path], None]) -> None:
    make(home)

    with pytest.raises(InvalidParameter, match="not a regular file"):
        read(workspace, "thing")
    with pytest.raises(InvalidParameter, match="not a regular file"):
        store(workspace, "thing", b"x")
    with pytest.raises(InvalidParameter, match="not a regular file"):
        workspace.delete("thing", WHAT)
    assert everything(workspace) == ["file"]
    assert (home / "thing").exists()


def test_a_hard_link_is_a_file(workspace: Workspace, home: Path) -> None:
    os.link(home / "file", home / "other")

    assert read(workspace, "other") == b"old"
    store(workspace, "other", b"new")
    assert (read(workspace, "file"), read(workspace, "other")) == (b"old", b"new")


def test_a_file_as_a_directory(workspace: Workspace) -> None:
    with pytest.raises(NotFound):
        read(workspace, "file/x")
    with pytest.raises(NotFound):
        workspace.delete("file/x", WHAT)
    for path in ("file/x", "file/x/y"):
        with pytest.raises(InvalidParameter, match="as if it were a directory"):
            store(workspace, path, b"x")
    assert workspace.page("file", "", offset=0, limit=1) == ([], 0)


def test_a_leased_file_does_not_make_us_wait(workspace: Workspace, home: Path) -> None:
    previous = signal.signal(signal.SIGIO, signal.SIG_IGN)  # what tells the holder
    try:
        with (home / "file").open("r+b") as held:
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            # Breaking the lease would take the kernel 45 s.
            with pytest.raises(StateConflict, match="locked"):
                read(workspace, "file")
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        signal.signal(signal.SIGIO, previous)


# --- storing


def test_missing_directories_are_made(workspace: Workspace, home: Path) -> None:
    previous = os.umask(0o077)
    try:
        store(workspace, "a/b/c", b"deep")
    finally:
        os.umask(previous)

    assert (home / "a" / "b" / "c").read_bytes() == b"deep"
    modes = [stat.S_IMODE((home / path).stat().st_mode) for path in ("a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o755, 0o644]


def test_what_is_stored_is_the_sessions_own(workspace: Workspace, home: Path) -> None:
    if os.geteuid() == 0:
        os.chown(home, 61_777, 61_778)

    store(workspace, "a/b", b"x")

    owners = [(home / path).stat() for path in ("a", "a/b")]
    wanted = home.stat()
    assert {(each.st_uid, each.st_gid) for each in owners} == {(wanted.st_uid, wanted.st_gid)}


@pytest.fixture(params=["with O_TMPFILE", "without"])
def tmpfile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The second is a file system without O_TMPFILE, to be known by its error."""
    if request.param == "without":
        real = os.open

        def refuse(path: str, flags: int, *args: int, **kwargs: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            return real(path, flags, *args, **kwargs)

        monkeypatch.setattr(staging.os, "open", refuse)
    return bool(request.param == "with O_TMPFILE")


def test_nothing_shows_until_it_is_published(
    workspace: Workspace, home: Path, tmpfile: bool
) -> None:
    staged = workspace.stage()
    staged.write(b"half of it")
    assert everything(workspace) == ["file"]
    assert tmpfile is (len(list(home.iterdir())) == 2)

    staged.close()

    assert sorted(entry.name for entry in home.iterdir()) == ["dir", "file"]


def test_replacing_leaves_readers_the_old_file(
    workspace: Workspace, home: Path, tmpfile: bool
) -> None:
    descriptor, before = workspace.open("file", WHAT)
    store(workspace, "file", b"new and longer")

    assert os.pread(descriptor, 100, 0) == b"old"
    os.close(descriptor)
    assert read(workspace, "file") == b"new and longer"
    assert workspace.open("file", WHAT)[1].etag != before.etag
    assert sorted(entry.name for entry in home.iterdir()) == ["dir", "file"]


def test_a_crash_leaves_nothing_after_the_next_start(
    workspace: Workspace, home: Path, tmpfile: bool
) -> None:
    staged = Staged(workspace.directory)
    staged.write(b"cut off")
    os.close(staged._descriptor)  # as the end of the process does

    workspace.sweep()

    assert sorted(entry.name for entry in home.iterdir()) == ["dir", "file"]


def test_an_upload_whose_temporary_name_was_taken_away(
    workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch, tmpfile: bool
) -> None:
    """User code that is quicker than the rename harms its own file only."""
    staged = workspace.stage()
    staged.write(b"new")
    real = os.rename

    def remove_first(source: str, target: str, **directories: int) -> None:
        os.unlink(source, dir_fd=directories["src_dir_fd"])
        real(source, target, **directories)

    monkeypatch.setattr(staging.os, "rename", remove_first)
    with pytest.raises(StateConflict, match="moved away"):
        workspace.publish(staged, "file", WHAT)
    staged.close()

    assert (home / "file").read_bytes() == b"old"
    assert sorted(entry.name for entry in home.iterdir()) == ["dir", "file"]


# --- listing


def test_a_page_is_sorted_and_counts_all(workspace: Workspace, home: Path) -> None:
    for name in ("b", "a", "dir/z", "dir/y", "dir.txt", "äpfel"):
        (home / name).write_bytes(b"12")

    paths = ["a", "b", "dir.txt", "dir/y", "dir/z", "file", "äpfel"]
    assert everything(workspace) == paths
    page, total = workspace.page("", "", offset=2, limit=3)
    assert ([version.path for version in page], total) == (paths[2:5], 7)
    assert workspace.page("", "", offset=9, limit=3) == ([], 7)
    for directory, start, found in [
        ("dir", "", ["dir/y", "dir/z"]),
        ("", "dir", ["dir.txt", "dir/y", "dir/z"]),
        ("dir", "z", ["dir/z"]),
        ("none", "", []),
        ("a", "", []),
    ]:
        page, total = workspace.page(directory, start, offset=0, limit=9)
        assert ([version.path for version in page], total) == (found, len(found))


def test_what_cannot_be_named_is_left_out(workspace: Workspace, home: Path) -> None:
    Path(os.fsdecode(bytes(home) + b"/not-\xff-utf8")).write_bytes(b"")
    (home / ".upload-0").write_bytes(b"")
    deepest = home
    for _ in range(70):
        deepest = deepest / "d"
        deepest.mkdir()
        (deepest / "f").write_bytes(b"")

    paths = everything(workspace)
    assert len([path for path in paths if path.endswith("/f")]) == 63
    assert [path for path in paths if not path.startswith("d/")] == ["file"]


def test_times_and_types(workspace: Workspace, home: Path) -> None:
    for name in ("t.csv", "t.json", "t.tar.gz", "t", "data:text,html"):
        (home / name).write_bytes(b"")
        os.utime(home / name, ns=(1, 1_700_000_000_123_456_789))

    page, _ = workspace.page("", "t", offset=0, limit=9)

    assert [(version.path, version.mime_type) for version in page] == [
        ("t", "application/octet-stream"),
        ("t.csv", "text/csv"),
        ("t.json", "application/json"),
        ("t.tar.gz", "application/gzip"),
    ]
    assert {version.modified_ns for version in page} == {1_700_000_000_123_456_789}
    (other,) = workspace.page("", "data:", offset=0, limit=9)[0]
    assert other.mime_type == "application/octet-stream"


def test_the_etag_changes_though_the_time_is_set_back(workspace: Workspace, home: Path) -> None:
    before = workspace.page("", "file", offset=0, limit=1)[0][0]
    (home / "file").write_bytes(b"bad")  # as long as before
    os.utime(home / "file", ns=(before.modified_ns, before.modified_ns))

    after = workspace.page("", "file", offset=0, limit=1)[0][0]

    assert (after.modified_ns, after.size) == (before.modified_ns, before.size)
    assert after.etag != before.etag
