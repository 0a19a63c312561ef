"""Checking that a Dask worker can do its part: it sees the folder, has this code and the device."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from threeregime.errors import ThreeRegimeError
from threeregime.fleet.device import device_here
from threeregime.results import commit
from threeregime.sweep.plan import Place, state_folder

CLOCK_SECONDS = 5.0
"""How far a worker's clock may be off where there is a deadline."""


@dataclass(frozen=True)
class Site:
    """What a worker must have in common with the client: a file it must see, code, a device."""

    token: Path
    code: str
    device: str

    @property
    def topic(self) -> str:
        """Name of this run among those on the same cluster."""
        return self.token.name


def code_here() -> str:
    """The version and the commit of this process's code."""
    return f"{metadata.version('threeregime')} ({commit()})"


@contextmanager
def checked(client: Any, place: Place) -> Iterator[Site]:
    """Check every worker; yield what those that come later are checked against.

    Raises:
        ThreeRegimeError: a worker cannot do its part; says which one and what to do.
    """
    token = state_folder(place.at) / f".run-{uuid4().hex}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        site = Site(token, code_here(), _device_of(client, place.device))
        begin = time.time()
        for worker, clock in _everywhere(client, check, site).items():
            if place.deadline is not None:
                _check_clock(worker, clock, begin, time.time())
        yield site
    finally:
        token.unlink(missing_ok=True)


def _device_of(client: Any, name: str) -> str:
    """Turn auto into what all workers have."""
    if name != "auto":
        return name
    devices = set(_everywhere(client, device_here, name).values())
    if len(devices) > 1:
        raise ThreeRegimeError("some workers have a GPU and some have none: say --device cpu")
    return str(devices.pop())


def check(site: Site, dask_worker: Any) -> float:
    """On a worker: see whether it can do its part; return what its clock says.

    Raises:
        ThreeRegimeError: it cannot; says what to do.
    """
    who = f"the worker {dask_worker.address} on {socket.gethostname()}"
    if not site.token.exists():
        raise ThreeRegimeError(
            f"{who} does not see {site.token.parent}: "
            "give an --out on storage that all machines share"
        )
    if code_here() != site.code:
        raise ThreeRegimeError(
            f"{who} runs threeregime {code_here()}, not {site.code} as here: "
            "install the same there and start it again"
        )
    if dask_worker.state.nthreads != 1:
        raise ThreeRegimeError(f"{who} does several jobs at once: start it with --nthreads 1")
    try:
        device_here(site.device)
    except ThreeRegimeError:
        raise ThreeRegimeError(
            f"device = {site.device!r} is not at {who}: use --device cpu, or workers that have it"
        ) from None
    return time.time()


def _check_clock(worker: str, clock: float, begin: float, end: float) -> None:
    if not begin - CLOCK_SECONDS < clock < end + CLOCK_SECONDS:
        raise ThreeRegimeError(
            f"the clock of the worker {worker} is {abs(clock - end):.0f} s off: "
            "set the clocks, or go without --time-budget"
        )


def _everywhere(client: Any, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function on every worker there is now; the first failure becomes one line."""
    answers = client.run(function, *arguments, on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, ThreeRegimeError):
            raise answer
        if isinstance(answer, ImportError | AttributeError):
            raise ThreeRegimeError(
                f"the worker {worker} has no threeregime, or another one ({in_words(answer)}): "
                "install the same there and start it again"
            )
        if isinstance(answer, Exception):
            raise ThreeRegimeError(f"the worker {worker} does not answer ({in_words(answer)})")
    return answers


def in_words(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
