"""Makes .venv exactly as requirements.lock says; ``make`` calls it before everything else.

What was installed is written down last, in ``.venv/.installed``, as a hash of all that determines
it: so a second call returns at once, and the call after one that was cut off starts afresh.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".installed"
LOG = VENV / "install.log"


def fingerprint() -> str:
    """What .venv follows from: the lock, the package's metadata, this folder, this Python."""
    version = ".".join(map(str, sys.version_info[:2]))
    parts = [version, str(ROOT), LOCK.read_text(), (ROOT / "pyproject.toml").read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def installed() -> bool:
    """Whether .venv is already what :func:`fingerprint` asks for."""
    return STAMP.is_file() and STAMP.read_text() == fingerprint()


def usable() -> bool:
    """Whether .venv is one, runs, here, with the version of the Python that runs this script."""
    # What is left of a deleted .venv may still run, as the Python that it was made from.
    code = "import sys, pip; print(*sys.version_info[:2], sys.prefix != sys.base_prefix)"
    try:
        answer = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True)
        # Commands carry the path of their Python: in a folder that was moved, they are dead.
        here = str(VENV / "bin") in (VENV / "bin" / "pip").read_text()
    except OSError:
        return False
    return here and answer.stdout.split() == [*map(str, sys.version_info[:2]), "True"]


def pip(*arguments: str) -> None:
    """Runs pip in .venv, its output going to the log; raises CalledProcessError."""
    # A user's own settings must not redirect what is installed where, and nothing goes elsewhere.
    ours = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "1", "PIP_NO_INPUT": "1"}
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(PYTHON), "-m", "pip", "install", "--progress-bar", "off", *arguments]
    with LOG.open("a") as log:
        print("$", *command, file=log, flush=True)
        subprocess.run(
            command, check=True, cwd=ROOT, env=environment | ours, stdout=log, stderr=log
        )


def install() -> None:
    """Creates .venv where there is none that works, then installs the lock and the package."""
    # A log without a stamp: cut off, perhaps within a package that pip would now take for whole.
    cut_off = LOG.is_file() and not STAMP.is_file()
    if cut_off or not usable():
        venv.create(VENV, clear=True, symlinks=True, with_pip=True)
    LOG.write_text("")
    STAMP.unlink(missing_ok=True)
    pip("--no-deps", "-r", str(LOCK))
    pip("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    STAMP.write_text(fingerprint())


def main() -> int:
    """Installs if there is anything to install; 1, after the end of pip's log, if that fails."""
    # Locked, because two makes may run at once; the lock ends with this process however it ends.
    with LOCK.open("rb+") as handle:
        if installed():
            return 0
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another make that is installing into .venv", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        if installed():
            return 0
        print("Installing into .venv; the first time takes a few minutes and 6 GB", flush=True)
        try:
            install()
        except subprocess.CalledProcessError:
            lines = LOG.read_text().splitlines() if LOG.is_file() else []
            print(*lines[-25:], sep="\n", file=sys.stderr)
            print(f"The installation failed: the whole log is {LOG}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Interrupted: the next make installs afresh", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
