"""The accuracy of `advise` on nets whose truth is known: its directions and its choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from threeregime.advice.judgement import TURNS, known_by_heart, regime_of
from threeregime.algorithms import (
    Measurement,
    grid_search,
    select_best_dense,
    select_by_error,
    select_by_similarity,
)
from threeregime.analysis import interval_half_width
from threeregime.calibration import (
    CANNOT_TELL,
    DIRECTIONS,
    Calibration,
    Measures,
    direction,
    load_calibration,
    load_known_nets,
)

FOLDS = 11
"""Number of times that directions are learned without some of the kinds that are learned from."""


def answer_known_nets(
    held_out: bool = False, similarity: bool = False, copies: int = 2, longer: bool = False
) -> pd.DataFrame:
    """Return the answers about all known nets, a row each.

    Nets of the role "test" are of kinds that nothing was learned from. Those of the role "train"
    are answered by what is learned without their own kind, and without the others of its fold.

    Args:
        held_out: whether errors are of held-out training examples instead of test examples.
        similarity: whether LMC and CKA are used, too.
        copies: number of retrained copies whose errors are averaged, 1 or 2.
        longer: whether they were retrained for three times as many steps.

    Returns:
        Columns of :func:`load_known_nets`, with the probabilities ``hotter``, ``stay`` and
        ``colder`` (NaN where no known net is similar) and the ``answer``, "cannot tell" included.
    """
    nets = load_known_nets().dropna(subset=["truth"])
    parts = []
    for kinds in _folds(nets):
        part = nets[nets["kind"].isin(kinds)]
        own = kinds if part["role"].iloc[0] == "train" else ()
        calibration = load_calibration(held_out, own, similarity, copies, longer)
        assert calibration is not None
        measures = Measures.of_table(part, held_out, copies, longer)
        parts.append(part.assign(**_predictions(calibration, measures)))
    return pd.concat(parts).sort_index()


def _folds(nets: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the kinds that are answered together: those to test on, and folds of the others."""
    test, train = (list(nets.loc[nets["role"] == r, "kind"].unique()) for r in ("test", "train"))
    return [tuple(test), *(tuple(train[first::FOLDS]) for first in range(FOLDS))]


def _predictions(calibration: Calibration, measures: Measures) -> dict[str, Any]:
    """Return probabilities and answers about some nets, as columns."""
    shares = calibration.shares(measures)
    rows = (dict(zip(DIRECTIONS, row, strict=True)) for row in shares.tolist())
    answers = [CANNOT_TELL if np.isnan(row["stay"]) else direction(row) for row in rows]
    return {**dict(zip(DIRECTIONS, shares.T, strict=True)), "answer": answers}


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of answers.

    Attributes:
        right: share of right answers among those given where the truth is known, the mean over
            dense nets.
        half_width: half of its 95 % interval (Student's t over dense nets).
        unanswered: share of "cannot tell", wherever the truth is known or not.
        nets: number of dense nets.
        answers: number of answers given where the truth is known.
    """

    right: float
    half_width: float
    unanswered: float
    nets: int
    answers: int


def accuracy_of(answers: pd.DataFrame, column: str = "answer") -> Accuracy:
    """Return the accuracy of the answers in a column of :func:`answer_known_nets`."""
    said = answers[column] != CANNOT_TELL
    given = answers[said & answers["known"]]
    right = (given[column] == given["truth"]).astype(float)
    by_net = right.groupby([given["kind"], given["seed"]]).mean()
    return Accuracy(
        right=float(by_net.mean()),
        half_width=interval_half_width(np.asarray(by_net, dtype=np.float64)),
        unanswered=float(1 - said.mean()),
        nets=len(answers[["kind", "seed"]].drop_duplicates()),
        answers=len(given),
    )


def direction_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Return truth and answers by kind of net, and how often the paper's rule is right.

    Args:
        answers: as returned by :func:`answer_known_nets`.

    Returns:
        A row per kind: its role, how many of its nets are known to be better hotter, colder or as
        they are and of how many it is not known, the share of right answers among those given, the
        share of "cannot tell", and the share of known nets where the paper's rule is right.
    """
    rows = []
    for (role, kind), nets in answers.groupby(["role", "kind"], sort=False):
        truth = nets.loc[nets["known"], "truth"].value_counts()
        own = accuracy_of(nets)
        rows.append(
            {
                "role": role,
                "kind": kind,
                **{f"truly {name}": int(truth.get(name, 0)) for name in DIRECTIONS},
                "not known": int((~nets["known"]).sum()),
                "right": own.right,
                "cannot tell": own.unanswered,
                "paper's rule": paper_accuracy(nets),
            }
        )
    return pd.DataFrame(rows)


def paper_accuracy(answers: pd.DataFrame) -> float:
    """Return the share of nets of known truth whose direction is the one of their regime.

    Args:
        answers: as returned by :func:`answer_known_nets`.
    """
    known = answers[answers["known"]]
    regimes = [regime_of(*pair) for pair in known[["lmc", "cka"]].to_numpy()]
    return float((known["truth"] == [TURNS[regime] for regime in regimes]).mean())


def blind_accuracy(answers: pd.DataFrame) -> dict[str, float]:
    """Return how often always the same direction is right, of the nets of known truth.

    Args:
        answers: as returned by :func:`answer_known_nets`.
    """
    truth = answers.loc[answers["known"], "truth"]
    return {name: float((truth == name).mean()) for name in DIRECTIONS}


@dataclass
class KnownTrials:
    """The stops of one dense run at one density, as trials that are looked up.

    Attributes:
        nets: rows of :func:`load_known_nets`, one per stop.
        held_out: whether errors are of held-out training examples instead of test examples.
        retraining: what the candidates are compared after: "" is the short retraining of `advise`,
            "longer" one of three times as many steps, "own" a complete one by the recipe of the
            dense run (of one copy, whose error alone is known).
    """

    nets: pd.DataFrame
    held_out: bool
    retraining: str = ""
    retraining_epochs: int = 20
    copies: int = 2

    def __post_init__(self) -> None:
        measures = Measures.of_table(self.nets, self.held_out, longer=self.retraining == "longer")
        error = self.nets["error_0"] if self.retraining == "own" else measures.test
        columns = (measures.dense_test, error, measures.lmc, measures.cka)
        rows = zip(self.nets["epochs"], *map(np.asarray, columns), strict=True)
        self._rows = {int(stop): tuple(map(float, values)) for stop, *values in rows}

    @property
    def candidates(self) -> Sequence[int]:
        """The stops."""
        return list(self._rows)

    def dense_error(self, candidate: int) -> float:
        """Return the error of the dense net."""
        return self._rows[candidate][0]

    def retrain(self, candidate: int, epochs: int) -> Measurement:
        """Return what was measured of its copies."""
        return Measurement(*self._rows[candidate][1:])


def _grid_search(retraining: str = "") -> Choice:
    """Return the choice of the lowest test error after some retraining of every stop."""
    return lambda run: grid_search(KnownTrials(run, False, retraining)).chosen


def _algorithm_2(run: pd.DataFrame) -> int:
    trials = KnownTrials(run, False)
    return select_by_error(trials, epochs=trials.retraining_epochs).chosen


def _algorithm_2_1(run: pd.DataFrame) -> int:
    trials = KnownTrials(run, True)
    return select_by_similarity(trials, epochs=trials.retraining_epochs).chosen


def _unless_known_by_heart(run: pd.DataFrame) -> int | None:
    """Return the choice of Algorithm 2.1; None if it cannot be trusted without test data."""
    trials, chosen = KnownTrials(run, True), _algorithm_2_1(run)
    stops = trials.candidates
    copies = {stop: trials.retrain(stop, trials.retraining_epochs).test_error for stop in stops}
    known = known_by_heart({stop: trials.dense_error(stop) for stop in stops}, copies)
    return None if chosen in known else chosen


def _last(run: pd.DataFrame) -> int:
    return int(run["epochs"].iloc[-1])


Choice = Callable[[pd.DataFrame], int | None]
"""A choice among the stops of a dense run at one density, rows of :func:`load_known_nets`."""
CHOICES: dict[str, Choice] = {
    "Algorithm 2": _algorithm_2,
    "grid search": _grid_search(),
    "grid search, three times as long": _grid_search("longer"),
    "grid search by your own recipe": _grid_search("own"),
    "best dense net": lambda run: select_best_dense(KnownTrials(run, False)).chosen,
    "last checkpoint": _last,
}
"""Ways to choose a checkpoint with test data."""
CHOICES_HELD_OUT: dict[str, Choice] = {
    "Algorithm 2.1, if it can be trusted": _unless_known_by_heart,
    "Algorithm 2.1": _algorithm_2_1,
    "last checkpoint": _last,
}
"""Ways to choose a checkpoint without test data."""


def choose_known_nets(held_out: bool = False) -> pd.DataFrame:
    """Return which stop each rule chooses of every dense run at every density, and what it loses.

    Returns:
        A row per kind, density, seed and rule: ``chosen`` (NaN for no choice), and ``lost``, the
        true error of that stop minus that of the best one, both means over the dense seeds without
        the copy that grid search by the own recipe chooses by.
    """
    rows = []
    groups = load_known_nets().groupby(["role", "kind", "density"], sort=False)
    for (role, kind, density), nets in groups:
        copies = nets[["epochs", "error_0", "error_1"]].melt("epochs").groupby("epochs")["value"]
        total, others = copies.sum(), copies.size() - 1
        for seed, run in nets.groupby("seed"):
            errors = (total - run.set_index("epochs")["error_0"]) / others
            for rule, choose in (CHOICES_HELD_OUT if held_out else CHOICES).items():
                chosen = choose(run)
                lost = np.nan if chosen is None else float(errors[chosen] - errors.min())
                rows.append((role, kind, density, seed, rule, chosen, lost))
    columns = ["role", "kind", "density", "seed", "rule", "chosen", "lost"]
    return pd.DataFrame(rows, columns=columns)


def choice_table(choices: pd.DataFrame) -> pd.DataFrame:
    """Return by role and rule how much the choices lose, in points, and how often at most one.

    Args:
        choices: as returned by :func:`choose_known_nets`.
    """
    rows = []
    for (role, rule), part in choices.groupby(["role", "rule"], sort=False):
        lost = part["lost"].dropna()
        rows.append(
            {
                "role": role,
                "rule": rule,
                "no choice": 1 - len(lost) / len(part),
                "mean loss": 100 * float(lost.mean()),
                "largest loss": 100 * float(lost.max()),
                "at most a point": float((lost <= 0.01).mean()),
            }
        )
    return pd.DataFrame(rows)
