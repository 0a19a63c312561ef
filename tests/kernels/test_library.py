"""The library of kernels: compiled once, by one process or several, or refused in one line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import sanitized_kernels
from tests.helpers.small_nets import needs_compiler
from threeregime import _paths
from threeregime.errors import ThreeRegimeError
from threeregime.kernels import find_compiler, library, processor_field

ROOT = Path(__file__).parents[2]
SOURCE = 'extern "C" int plan_bytes() { return BYTES; }\n'


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder of compiled kernels; the source to compile is one line."""
    source = tmp_path / "short.cpp"
    source.write_text(SOURCE)
    monkeypatch.setattr(library, "KERNELS", source)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "threeregime"


@pytest.fixture
def fresh() -> Iterator[None]:
    """Forget the loaded library during a test."""
    library.load_library.cache_clear()
    yield
    library.load_library.cache_clear()


def test_no_compiler_is_one_line(
    cache: Path, fresh: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert find_compiler() is None
    with pytest.raises(ThreeRegimeError, match=r"^no C\+\+ compiler \(g\+\+ or clang\+\+\)$"):
        library.load_library()
    assert capsys.readouterr().err == ""
    assert not cache.exists()


@pytest.mark.parametrize("compiler", ["false", "/no such folder/g++", "true"])
def test_a_compiler_that_fails_is_one_line(
    compiler: str, cache: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fails, one does not exist, and one writes nothing."""
    monkeypatch.setenv("CXX", compiler)
    assert find_compiler() == compiler
    for _ in range(2):
        with pytest.raises(ThreeRegimeError, match=f"^{compiler.replace('+', '.')} could not") as e:
            library.load_library()
        assert len(str(e.value).splitlines()) == 1
    assert not list(cache.iterdir())


def test_compilers_are_looked_for_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"g++": "/usr/bin/g++", "clang++": "/usr/bin/clang++"}
    monkeypatch.setattr("shutil.which", found.get)
    monkeypatch.setenv("CXX", "c++")
    assert find_compiler() == "c++"
    monkeypatch.delenv("CXX")
    assert find_compiler() == "/usr/bin/g++"
    del found["g++"]
    assert find_compiler() == "/usr/bin/clang++"


@needs_compiler
def test_a_library_is_compiled_once(
    cache: Path, fresh: None, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = library.load_library()
    assert loaded.plan_bytes() in (32, 64)
    assert "compiling short.cpp for this processor, once" in capsys.readouterr().err
    (path,) = cache.iterdir()
    written = path.stat().st_mtime_ns
    library.load_library.cache_clear()
    assert library.load_library() is not loaded
    assert library.load_library() is library.load_library()
    assert capsys.readouterr().err == ""
    assert list(cache.iterdir()) == [path]
    assert path.stat().st_mtime_ns == written


@needs_compiler
def test_options_source_and_compiler_make_another_library(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = find_compiler()
    assert compiler
    paths = {library.compile_library(compiler), library.compile_library(compiler, "-DBYTES=16")}
    library.KERNELS.write_text(SOURCE + "// changed\n")
    paths.add(library.compile_library(compiler))
    monkeypatch.setattr(library, "processor_field", lambda *names: "flags : avx2")
    paths.add(library.compile_library(compiler))
    assert set(cache.iterdir()) == paths
    assert len(paths) == 4


@needs_compiler
def test_what_does_not_compile_leaves_nothing(cache: Path, fresh: None) -> None:
    library.KERNELS.write_text("this is no C++\n")
    with pytest.raises(ThreeRegimeError, match=r"could not compile short.cpp"):
        library.load_library()
    assert not list(cache.iterdir())


@needs_compiler
def test_a_folder_that_cannot_be_written_is_one_line(cache: Path, fresh: None) -> None:
    cache.write_text("in the way")
    with pytest.raises(ThreeRegimeError, match=r"could not compile short.cpp"):
        library.load_library()


def compiled(source: Path) -> Path:
    compiler = find_compiler()
    assert compiler
    return library.compile_library(compiler, source=source)


@needs_compiler
@pytest.mark.parametrize("damage", ["cut off", "empty", "other bytes", "a link", "open to all"])
def test_a_library_that_is_not_as_it_was_compiled_is_compiled_again(
    damage: str, cache: Path, fresh: None, tmp_path: Path
) -> None:
    """Before anything of it runs: to load a library that is cut off is a bus error."""
    path = compiled(library.KERNELS)
    whole = path.read_bytes()
    if damage == "a link":
        path.rename(tmp_path / "elsewhere.so")
        path.symlink_to(tmp_path / "elsewhere.so")
    elif damage == "open to all":
        path.chmod(0o777)
    else:
        changed = {"cut off": whole[:-100], "empty": b"", "other bytes": whole + b"x"}
        path.write_bytes(changed[damage])
    assert library.load_library().plan_bytes() in (32, 64)
    (again,) = cache.iterdir()
    assert not again.is_symlink()
    assert again.stat().st_mode & 0o777 == 0o700


@needs_compiler
def test_a_library_of_another_system_is_compiled_again(cache: Path, fresh: None) -> None:
    """The name says that it is whole, but the system does not load it."""
    path = compiled(library.KERNELS)
    junk = b"no library"
    path.unlink()
    digest = hashlib.sha256(junk).hexdigest()[:16]
    (cache / f"{path.stem.rpartition('-')[0]}-{digest}.so").write_bytes(junk)
    assert library.load_library().plan_bytes() in (32, 64)


@needs_compiler
def test_the_folder_is_the_users_own(
    cache: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    compiled(library.KERNELS)
    assert cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(ThreeRegimeError, match="of another user, or a link: set XDG_CACHE_HOME"):
        library.load_library()


def test_a_link_to_a_folder_is_not_trusted(cache: Path, fresh: None, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ThreeRegimeError, match="or a link: set XDG_CACHE_HOME"):
        library.load_library()


@needs_compiler
@pytest.mark.parametrize("words", ["env", "'{}'", "{} -O1", "  {}  "])
def test_the_compiler_may_have_words_before_and_after(
    words: str, cache: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in CXX="ccache g++"."""
    compiler = find_compiler()
    assert compiler
    command = words.format(compiler) if "{}" in words else f"{words} {compiler}"
    monkeypatch.setenv("CXX", command)
    assert library.load_library().plan_bytes() in (32, 64)


def test_words_that_no_shell_understands_are_one_line(
    cache: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "g++ 'oops")
    with pytest.raises(ThreeRegimeError, match="No closing quotation"):
        library.load_library()


def test_a_compiler_that_never_ends_is_ended(
    cache: Path, fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the processes that it started, which hold its output open."""
    script = tmp_path / "slow"
    script.write_text("#!/bin/sh\nsleep 600 & sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setattr(library, "COMPILER_SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(ThreeRegimeError, match="it takes longer than 0 s"):
        library.load_library()
    assert time.monotonic() - start < 60
    assert not list(cache.iterdir())


def test_without_a_home_the_cache_is_among_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert _paths.cache_folder().parent == Path(tempfile.gettempdir())
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert _paths.cache_folder().parent == Path(tempfile.gettempdir())


LOAD = """
import sys
from pathlib import Path
from threeregime.kernels import library
library.KERNELS = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(library.load_library().plan_bytes())
"""


@needs_compiler
def test_processes_may_compile_at_once(cache: Path) -> None:
    command = [sys.executable, "-c", LOAD, str(library.KERNELS)]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert int(out) in (32, 64)
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_the_processor_has_a_name() -> None:
    assert processor_field("no such field")  # elsewhere than on Linux too
    assert "\n" not in processor_field("model name", "flags")


@pytest.mark.exhaustive
@needs_compiler
@pytest.mark.slow
def test_kernels_stay_within_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Address and undefined behaviour sanitizers find nothing in passes of small nets."""
    compiler = find_compiler()
    assert compiler
    found = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False
    )
    sanitizer = Path(found.stdout.strip())
    if not sanitizer.is_absolute():
        pytest.skip("no sanitizer: apt-get install g++")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = library.compile_library(
        compiler, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-O1"
    )
    run = subprocess.run(
        [sys.executable, "-m", sanitized_kernels.__name__, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_PRELOAD": str(sanitizer), "ASAN_OPTIONS": "detect_leaks=0"},
    )
    assert run.returncode == 0, run.stderr
    assert "runtime error" not in run.stderr
    assert "AddressSanitizer" not in run.stderr
    assert int(run.stdout) > 50
