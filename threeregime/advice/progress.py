"""The forecast of the time and the progress bar of `advise`, in terminals and in notebooks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from threeregime.advice.candidates import LiveTrials


@dataclass
class _NoBar:
    """A progress bar that shows nothing."""

    total: float = 0
    n: float = 0
    disable: bool = True

    def update(self, work: float) -> None:
        """Do nothing."""

    def set_description(self, text: str) -> None:
        """Do nothing."""


@contextmanager
def progress_bar(progress: bool | None) -> Iterator[Any]:
    """Return a bar of the work, in a terminal or a notebook; it is cleared at the end."""
    notebook = _in_notebook()
    shown = notebook or sys.stderr.isatty() if progress is None else progress
    if not shown:
        yield _NoBar()
        return
    from tqdm import tqdm
    from tqdm.auto import tqdm as notebook_tqdm

    form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} < {remaining}"
    options: dict[str, Any] = {"leave": False, "bar_format": form, "mininterval": 0.3}
    if notebook:
        yield from _closed(notebook_tqdm(total=1, **options))
    else:
        yield from _closed(tqdm(total=1, file=sys.stderr, **options))


def _closed(bar: Any) -> Iterator[Any]:
    """Yield a bar, and close it."""
    with bar:
        yield bar


def _in_notebook() -> bool:
    """Return whether the caller is a cell of a notebook, whose output is no terminal."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return type(shell).__name__ == "ZMQInteractiveShell"


def announce(trials: LiveTrials) -> None:
    """Set the total of the bar, and print how long the work will take, if the bar is shown."""
    if trials.bar.disable:
        return
    trials.bar.total = work = trials.expected_work()
    seconds = work * trials.seconds_per_work()
    device = trials.task.train.inputs.device
    whom = "your function, plus " if trials.training else ""
    search = f"{trials.range_steps:,} steps to find the rate, " if trials.rates else ""
    text = f"{search}{trials.copies} copies x {trials.steps_per_copy:,} steps, then LMC and CKA"
    several, more = _several(trials)
    trials.bar.write(
        f"{several}{text}: {whom}about {_duration(seconds)} on {device}{more}", file=sys.stderr
    )
    trials.bar.reset(total=work)


def _several(trials: LiveTrials) -> tuple[str, str]:
    """Return what is said before and after the forecast if there are several candidates."""
    count = len(trials.candidates)
    if count == 1:
        return "", ""
    if trials.retrain_all:
        return f"{count} nets: ", ""
    return "", f", up to {count} times that if copies are poorly connected"


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 120 else f"{seconds / 60:.0f} min"
