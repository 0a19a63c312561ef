"""Results of Dask workers as they come, and the end of waiting where all workers are gone."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tqdm import tqdm

from threeregime.errors import ThreeRegimeError
from threeregime.results import duration

POLL_SECONDS = 0.1
"""Seconds between two looks at whether a task has finished."""
LOOK_SECONDS = 5.0
"""Seconds between two looks at whether there are workers."""
NOTICE_SECONDS = 10.0
"""Seconds without workers before it is said; a local worker that died is replaced sooner."""
ABSENCE_SECONDS = 600.0
"""Seconds to wait for workers when all of them are gone."""


def finished_futures(client: Any, futures: Any, seconds: float | None = None) -> Iterator[Any]:
    """Yield futures as they finish; end when all have.

    Args:
        client: of the cluster that they run on.
        futures: a ``distributed.as_completed``, to which the caller may add meanwhile.
        seconds: after this time end, whether they have finished or not.

    Raises:
        ThreeRegimeError: all workers are gone, and none came back in `ABSENCE_SECONDS`.
    """
    end = None if seconds is None else time.monotonic() + seconds
    watch = _WorkerWatch(client)
    while not futures.is_empty():
        if futures.has_ready():
            yield next(futures)
            continue
        if end is not None and time.monotonic() > end:
            return
        watch.look()
        time.sleep(POLL_SECONDS)


def task_result(future: Any) -> Any:
    """Return the result of a finished task.

    Raises:
        ThreeRegimeError: the task failed; one line.
    """
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except ThreeRegimeError:
        raise
    except KilledWorker as error:
        deaths = error.allowed_failures + 1
        raise resumable_error(
            f"the worker died {deaths} time(s) running over the same fleet, as a rule for want of "
            "memory: give workers more, or make fleets smaller (--fleet)"
        ) from error
    except CancelledError as error:
        raise resumable_error(
            f"the scheduler is gone, or refused a fleet ({error_line(error)})"
        ) from error
    except Exception as error:
        # What the system refuses says where it did; of others the worker's log has the traceback.
        more = "" if isinstance(error, OSError) else "; its worker's log tells more"
        raise resumable_error(f"a fleet failed ({error_line(error)}){more}") from error


def error_line(error: BaseException) -> str:
    """Return an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def resumable_error(line: str) -> ThreeRegimeError:
    """Return an error after which the same command goes on."""
    return ThreeRegimeError(f"{line}; what is finished is kept, run it again to go on")


class _WorkerWatch:
    """Looks at whether a cluster has workers; says once that it has none, and when it has again.

    Args:
        client: of the cluster.
    """

    def __init__(self, client: Any) -> None:
        self.client = client
        self.last_look = self.last_presence = time.monotonic()
        self.is_noticed = False

    def look(self) -> None:
        """Ask the scheduler for its workers, if it is time to.

        Raises:
            ThreeRegimeError: there has been none for too long.
        """
        if time.monotonic() - self.last_look < LOOK_SECONDS:
            return
        # Where the scheduler does not answer, its futures say whether it is gone.
        with suppress(OSError):
            if self.client.nthreads():
                self._note_presence()
        self.last_look = time.monotonic()
        absence = self.last_look - self.last_presence
        if absence > ABSENCE_SECONDS:
            raise resumable_error(
                f"all workers are gone, and none came back in {duration(absence)}: {self._remedy()}"
            )
        if absence > NOTICE_SECONDS and not self.is_noticed:
            self.is_noticed = True
            rest = duration(ABSENCE_SECONDS - absence)
            _print(f"all workers are gone; waiting {rest} for one: {self._remedy()}")

    def _note_presence(self) -> None:
        self.last_presence = time.monotonic()
        if self.is_noticed:
            self.is_noticed = False
            _print("a worker is there: going on")

    def _remedy(self) -> str:
        if self.client.cluster is not None:
            return "as a rule for want of memory: take fewer --workers, or a smaller --fleet"
        return f"start some with `dask worker {self.client.scheduler.address} --nthreads 1`"


def _print(line: str) -> None:
    """Print a line above the progress bar."""
    tqdm.write(f"threeregime: {line}", file=sys.stderr)
