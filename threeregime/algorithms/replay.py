"""Replay of the rules of `threeregime.algorithms.selection` on result tables.

In practice a rule sees a few copies of a net and should choose well for the next one. In a replay
a rule therefore sees a pair of copies, and its choice is evaluated on the others. Otherwise grid
search, which takes the lowest of many noisy numbers, would be rewarded for the noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from threeregime.algorithms.selection import (
    Decision,
    Measurement,
    NoCandidate,
    Trials,
    grid_search,
    select_best_dense,
    select_by_error,
    select_by_similarity,
)
from threeregime.analysis import interval_half_width
from threeregime.errors import ThreeRegimeError
from threeregime.results import Results

Rule = Callable[[Trials], Decision]


@dataclass(frozen=True)
class Replay:
    """Candidates of one load and dense seed in a result table; implements `Trials`.

    Attributes:
        tables: of one variant.
        load: the load to prune to.
        dense_seed: the dense run whose checkpoints are the candidates.
        pair: the two retraining seeds that a rule sees, the smaller first.
        retraining_epochs: of a whole retraining.
    """

    tables: Results
    load: float
    dense_seed: int
    pair: tuple[int, int]
    retraining_epochs: int
    copies: int = 2

    @cached_property
    def candidates(self) -> list[float]:
        """The temperatures of the table."""
        return sorted({candidate for candidate, _ in self._errors})

    @cached_property
    def _errors(self) -> dict[tuple[float, int], float]:
        """Test error by candidate and retraining seed."""
        nets = self._rows(self.tables.nets)
        keys = zip(nets[self.tables.temperature], nets["retrain_seed"], strict=True)
        return dict(zip(keys, nets["test_error"].astype(float), strict=True))

    @cached_property
    def _measurements(self) -> dict[tuple[float, int], Measurement]:
        """Measurements of the pair, by candidate and epoch of retraining."""
        axis = self.tables.temperature
        end = self._rows_of_pair(self.tables.pairs)
        errors = [np.mean([self._errors[t, s] for s in self.pair]) for t in end[axis]]
        tables = [end.assign(epoch=self.retraining_epochs, test_error=errors)]
        if len(self.tables.early):
            # If the last early epoch is the last of all, the two rows agree.
            tables = [self._rows_of_pair(self.tables.early), *tables]
        columns = [axis, "epoch", "test_error", "lmc", "cka_softmax"]
        return {
            (candidate, epoch): Measurement(error, lmc, cka)
            for table in tables
            for candidate, epoch, error, lmc, cka in table[columns].itertuples(index=False)
        }

    def _rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows of the load and the dense seed."""
        return table[
            (table[self.tables.load] == self.load) & (table["dense_seed"] == self.dense_seed)
        ]

    def _rows_of_pair(self, table: pd.DataFrame) -> pd.DataFrame:
        rows = self._rows(table)
        first, second = np.sort(rows[["seed_a", "seed_b"]].to_numpy(), axis=1).T
        return rows[(first == self.pair[0]) & (second == self.pair[1])]

    @cached_property
    def _dense_errors(self) -> dict[float, float]:
        """Mean test error of the dense nets by candidate."""
        dense, axis = self.tables.dense, self.tables.temperature
        rows = dense[dense["dense_seed"] == self.dense_seed]
        if self.tables.load in rows:
            rows = rows[rows[self.tables.load] == self.load]
        if axis not in rows:  # the candidates differ in their retraining alone
            return dict.fromkeys(self.candidates, float(rows["test_error"].mean()))
        return dict(rows.groupby(axis)["test_error"].mean())

    def dense_error(self, candidate: float) -> float:
        """Test error of the dense net; NaN if it diverged."""
        return self._dense_errors.get(candidate, np.nan)

    def retrain(self, candidate: float, epochs: int) -> Measurement:
        """Return the measurement of the pair after some epochs of retraining.

        Raises:
            ThreeRegimeError: If nothing was measured after that epoch.
        """
        if (candidate, epochs) not in self._measurements:
            raise ThreeRegimeError(
                f"nothing was measured after {epochs} epochs of retraining: give that epoch in "
                "metrics.early"
            )
        return self._measurements[candidate, epochs]

    def held_out_error(self, candidate: float) -> float:
        """Test error of the copies outside the pair, or of the pair if there are no others.

        NaN if one of them diverged.
        """
        errors = {s: e for (c, s), e in self._errors.items() if c == candidate}
        others = [e for s, e in errors.items() if s not in self.pair]
        return float(np.mean(others or list(errors.values())))


def replays(tables: Results, retraining_epochs: int) -> list[Replay]:
    """Replays of every load, dense seed and pair of copies in a table of one variant."""
    nets, trials = tables.nets, []
    pairs = list(itertools.combinations(sorted(nets["retrain_seed"].unique()), 2))
    for load in sorted(nets[tables.load].unique()):
        of_load = tables.with_loads([load])
        for seed in sorted(nets["dense_seed"].unique()):
            # Each replay searches its own rows alone.
            own = of_load.with_dense_seeds([seed])
            trials += [Replay(own, load, seed, pair, retraining_epochs) for pair in pairs]
    return trials


def selection_rules(threshold: float, alpha: int) -> dict[str, Rule]:
    """Return the rules that Figures 4 and 16 compare, by name.

    Args:
        threshold: of LMC.
        alpha: epochs of retraining before Algorithms 2 and 2.1 choose.
    """
    return {
        "best dense net": select_best_dense,
        "Algorithm 2": lambda trials: select_by_error(trials, threshold, alpha),
        "Algorithm 2.1": lambda trials: select_by_similarity(trials, threshold, alpha),
        "grid search": grid_search,
    }


def replay_rules(trials: list[Replay], rules: Mapping[str, Rule]) -> pd.DataFrame:
    """Choices of each rule in each trial, with their test errors and costs.

    Args:
        trials: as returned by `replays`.
        rules: by name.

    Returns:
        One row per trial and rule: ``rule``, the load, ``dense_seed``, ``pair``, ``chosen``,
        ``test_error`` (a fraction, of copies that the rule did not see), ``lmc`` (of the pair of
        the chosen net after all of the retraining), ``epochs`` spent on retraining and
        ``grid_epochs``. All but the epochs are NaN where every candidate diverged.
    """
    rows = [
        {
            "rule": name,
            trial.tables.load: trial.load,
            "dense_seed": trial.dense_seed,
            "pair": trial.pair,
            **_choice(trial, rule),
        }
        for trial in trials
        for name, rule in rules.items()
    ]
    return pd.DataFrame(rows)


def _choice(trial: Replay, rule: Rule) -> dict[str, float]:
    """Return the choice of a rule in a trial, with its test error, LMC and cost."""
    try:
        decision = rule(trial)
    except NoCandidate:
        whole = len(trial.candidates) * trial.copies * trial.retraining_epochs
        unknown = dict.fromkeys(("chosen", "test_error", "lmc"), np.nan)
        return {**unknown, "epochs": 0, "grid_epochs": whole}
    return {
        "chosen": decision.chosen,
        "test_error": trial.held_out_error(decision.chosen),
        "lmc": trial.retrain(decision.chosen, trial.retraining_epochs).lmc,
        "epochs": decision.epochs,
        "grid_epochs": decision.grid_epochs,
    }


def summarize_rules(choices: pd.DataFrame, rules: Sequence[str]) -> pd.DataFrame:
    """Test error and cost of some rules, over all loads.

    Args:
        choices: as returned by `replay_rules`.
        rules: names of the rules, in the order of the rows.

    Returns:
        One row per rule, for display: its name, the test error in percent with its 95 % interval
        over dense seeds (Student's t; none for a single seed), the mean number of epochs of
        retraining for one load and dense seed, and that as a share of grid search's.
    """
    rows = []
    for rule in rules:
        own = choices[choices["rule"] == rule]
        by_seed = 100 * own.groupby("dense_seed")["test_error"].mean().to_numpy(dtype=float)
        middle, half = by_seed.mean(), interval_half_width(by_seed)
        ends = f" ({middle - half:.1f} to {middle + half:.1f})" if np.isfinite(half) else ""
        rows.append(
            {
                "rule": rule,
                "test error (%)": f"{middle:.2f}{ends}",
                "epochs of retraining": f"{own['epochs'].mean():.0f}",
                "share of grid search": f"{own['epochs'].sum() / own['grid_epochs'].sum():.1%}",
            }
        )
    return pd.DataFrame(rows)


def regret_table(choices: pd.DataFrame, load: str, rule: str) -> pd.DataFrame:
    """Choices of a rule that were worse than grid search's, the worst first.

    Args:
        choices: as returned by `replay_rules`, with the rule "grid search".
        load: name of the load.
        rule: name of the rule.

    Returns:
        One row per load and dense seed: the choices of both (the most frequent over pairs), the
        LMC of the rule's net, and ``points lost``: test error of the rule's minus grid search's,
        mean over pairs, in percentage points, where positive.
    """
    means = choices.groupby(["rule", load, "dense_seed"]).agg(
        test_error=("test_error", "mean"),
        chosen=("chosen", lambda x: next(iter(x.mode()), np.nan)),
        lmc=("lmc", "mean"),
    )
    own, best = means.loc[rule], means.loc["grid search"]
    table = pd.DataFrame(
        {
            "chosen": own["chosen"],
            "by grid search": best["chosen"],
            "LMC": own["lmc"].round(3),
            "points lost": 100 * (own["test_error"] - best["test_error"]),
        }
    )
    worse = table[table["points lost"] > 0].sort_values("points lost", ascending=False)
    return worse.round({"points lost": 2}).reset_index()
