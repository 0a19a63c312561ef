"""Files of several processes: written whole, claimed by one of them, claims of dead ones free."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from threeregime import _files
from threeregime._files import HeldError, atomic_write, claims, remove_partial, remove_stale

HOLD = """
import sys, time
from pathlib import Path
from threeregime._files import claims
with claims([Path(sys.argv[1])]):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_claim_excludes_others_and_names_its_holder(tmp_path: Path) -> None:
    one, two = tmp_path / "state" / "one", tmp_path / "state" / "two"
    with claims([one, two]):
        for held in ([one], [two], [two, one]):
            with (
                pytest.raises(HeldError, match=f"process {os.getpid()} on .*, since 20"),
                claims(held),
            ):
                pass
    assert list((tmp_path / "state").iterdir()) == []
    with claims([one]):
        pass


def test_of_several_claims_all_are_held_or_none(tmp_path: Path) -> None:
    names = [tmp_path / name for name in "abc"]
    with claims([names[1]]):
        with pytest.raises(HeldError), claims(names):
            pass
        with claims([names[0]]), claims([names[2]]):
            pass


def test_the_claim_of_a_process_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    words = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match=f"process {process.pid} on "), claims([path]):
            pass
        remove_stale([path])
        assert path.exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.exists()
    with claims([path]):
        pass
    assert not path.exists()


def write_claim(path: Path, boot: str, age: float) -> None:
    """Leave a claim that nobody has locked, as machines do that do not see each other's locks."""
    holder = {"host": "far", "process": 1, "since": "today", "boot": boot, "token": "t"}
    path.write_text(json.dumps(holder))
    then = time.time() - age
    os.utime(path, (then, then))


def test_a_claim_of_another_machine_is_held_while_it_is_renewed(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    write_claim(path, "another", age=_files.STALE_SECONDS / 2)
    with pytest.raises(HeldError, match="process 1 on far, since today"), claims([path]):
        pass
    write_claim(path, "another", age=_files.STALE_SECONDS + 5)
    with claims([path]):
        pass


def test_a_claim_of_this_machine_that_is_not_locked_is_stale_at_once(tmp_path: Path) -> None:
    write_claim(tmp_path / "claim", _files._boot(), age=0)
    with claims([tmp_path / "claim"]):
        pass


def test_a_claim_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_files, "HEARTBEAT_SECONDS", 0.01)
    path = tmp_path / "claim"
    with claims([path]):
        os.utime(path, (0, 0))
        end = time.monotonic() + 30
        while path.stat().st_mtime < 1 and time.monotonic() < end:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1


def test_a_claim_that_was_taken_over_is_not_removed_by_its_former_holder(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    with claims([path]):
        path.unlink()
        write_claim(path, "another", age=0)
    assert path.exists()


def test_a_new_claim_that_another_looks_at_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process opens and locks the file between its making and its locking."""
    path, lock = tmp_path / "claim", _files._lock
    others: list[int] = []

    def look_first(handle: int) -> bool:
        if not others:
            others.append(os.open(path, os.O_RDWR))
            assert lock(others[0])
            assert not lock(handle)
            os.close(others[0])
            return False
        return lock(handle)

    monkeypatch.setattr(_files, "_lock", look_first)
    with claims([path]):
        assert path.exists()
    assert not path.exists()


def test_one_of_many_threads_at_a_time(tmp_path: Path) -> None:
    """Each opens the file while others remove it."""
    inside, most, turns = 0, 0, 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal inside, most, turns
        for _ in range(30):
            try:
                with claims([tmp_path / "claim"]):
                    with lock:
                        inside += 1
                        most, turns = max(most, inside), turns + 1
                    time.sleep(0.0005)
                    with lock:
                        inside -= 1
            except HeldError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert turns > 0


def test_a_fleet_may_have_more_claims_than_files_may_be_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("the system allows few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with claims(tmp_path / str(number) for number in range(500)):
            assert len(list(tmp_path.iterdir())) == 500
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_partial_files_are_removed_when_they_are_old(tmp_path: Path) -> None:
    names = [".nets-1.parquet.host-12", ".fleet-2.safetensors.0a.partial", ".new.json.0b.partial"]
    others = [".gitignore", "nets-1.parquet", "dense-1.parquet.broken"]
    for name in (*names, *others):
        (tmp_path / name).touch()
    for name in (*names[:2], *others):
        os.utime(tmp_path / name, (0, 0))
    remove_partial(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {names[2], *others}
    remove_partial(tmp_path / "no such folder")


def test_an_error_while_writing_names_the_file(tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left\non device")

    path = tmp_path / "table.parquet"
    with pytest.raises(OSError, match="No space left on device") as caught:
        atomic_write(path, refuse)
    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert list(tmp_path.iterdir()) == []
