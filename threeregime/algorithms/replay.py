"""The rules of `threeregime.algorithms.selection` on finished tables: what they choose, and how
good that is.

Who prunes a net sees a few copies and wants the next one to be good. So a rule here sees a pair of
copies, and its choice is judged by the copies that it did not see: grid search, which takes the
lowest of many noisy numbers, is then not rewarded for the noise.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from threeregime.algorithms.selection import Decision, Measurement, Trials
from threeregime.analysis import interval_half_width
from threeregime.errors import ThreeRegimeError
from threeregime.results import Results

Rule = Callable[[Trials], Decision]


@dataclass(frozen=True)
class Replay:
    """Candidates of one load and dense seed, as a finished table has them; a `Trials`.

    Attributes:
        tables: of one variant.
        load: where to prune to.
        dense_seed: whose checkpoints are the candidates.
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
        nets = self._here(self.tables.nets)
        keys = zip(nets[self.tables.temperature], nets["retrain_seed"], strict=True)
        return dict(zip(keys, nets["test_error"].astype(float), strict=True))

    @cached_property
    def _measured(self) -> dict[tuple[float, int], Measurement]:
        """What the pair showed, by candidate and epoch of retraining."""
        end = self._of_pair(self.tables.pairs)
        seen = [np.mean([self._errors[t, s] for s in self.pair]) for t in end[self._axis]]
        tables = [end.assign(epoch=self.retraining_epochs, test_error=seen)]
        if len(self.tables.early):
            # Where the last early epoch is the last of all, the two rows agree.
            tables = [self._of_pair(self.tables.early), *tables]
        columns = [self._axis, "epoch", "test_error", "lmc", "cka_softmax"]
        return {
            (candidate, epoch): Measurement(error, lmc, cka)
            for table in tables
            for candidate, epoch, error, lmc, cka in table[columns].itertuples(index=False)
        }

    @property
    def _axis(self) -> str:
        return self.tables.temperature

    def _here(self, table: pd.DataFrame) -> pd.DataFrame:
        place = (table[self.tables.load] == self.load) & (table["dense_seed"] == self.dense_seed)
        return table[place]

    def _of_pair(self, table: pd.DataFrame) -> pd.DataFrame:
        first, second = np.sort(table[["seed_a", "seed_b"]].to_numpy(), axis=1).T
        return self._here(table[(first == self.pair[0]) & (second == self.pair[1])])

    def dense_error(self, candidate: float) -> float:
        """Test error of the dense net."""
        dense = self.tables.dense
        here = dense["dense_seed"] == self.dense_seed
        for axis, value in ((self.tables.temperature, candidate), (self.tables.load, self.load)):
            if axis in dense:
                here &= dense[axis] == value
        return float(dense.loc[here, "test_error"].mean())

    def retrain(self, candidate: float, epochs: int) -> Measurement:
        """What the pair showed after so many epochs.

        Raises:
            ThreeRegimeError: it was not measured then.
        """
        if (candidate, epochs) not in self._measured:
            raise ThreeRegimeError(
                f"nothing was measured after {epochs} epochs of retraining: give that epoch in "
                "metrics.early"
            )
        return self._measured[candidate, epochs]

    def judged(self, candidate: float) -> float:
        """Test error of the copies that the rule did not see; of the pair where there is no other.

        NaN where one of these diverged.
        """
        errors = {s: e for (c, s), e in self._errors.items() if c == candidate}
        others = [e for s, e in errors.items() if s not in self.pair]
        return float(np.mean(others or list(errors.values())))


def replays(tables: Results, retraining_epochs: int) -> list[Replay]:
    """Every load, dense seed and pair of copies of a table of one variant."""
    nets = tables.nets
    pairs = list(itertools.combinations(sorted(nets["retrain_seed"].unique()), 2))
    places = itertools.product(
        sorted(nets[tables.load].unique()), sorted(nets["dense_seed"].unique())
    )
    return [
        Replay(tables, load, seed, pair, retraining_epochs)
        for load, seed in places
        for pair in pairs
    ]


def replay_rules(trials: list[Replay], rules: Mapping[str, Rule]) -> pd.DataFrame:
    """What each rule chooses in each trial, and how good that is.

    Args:
        trials: as `replays` makes them.
        rules: by name.

    Returns:
        One row a trial and rule: ``rule``, the load, ``dense_seed``, ``pair``, ``chosen``,
        ``test_error`` (a fraction, of copies that the rule did not see), ``lmc`` (of the chosen
        net's copies, wholly retrained), ``epochs`` spent on retraining and ``grid_epochs``.
    """
    rows = []
    for trial in trials:
        for name, rule in rules.items():
            decision = rule(trial)
            rows.append(
                {
                    "rule": name,
                    trial.tables.load: trial.load,
                    "dense_seed": trial.dense_seed,
                    "pair": trial.pair,
                    "chosen": decision.chosen,
                    "test_error": trial.judged(decision.chosen),
                    "lmc": trial.retrain(decision.chosen, trial.retraining_epochs).lmc,
                    "epochs": decision.epochs,
                    "grid_epochs": decision.grid_epochs,
                }
            )
    return pd.DataFrame(rows)


def summarize_rules(played: pd.DataFrame, rules: Sequence[str]) -> pd.DataFrame:
    """What some rules come to, over all loads: test error and cost.

    Args:
        played: as `play` returns it.
        rules: which, in the order of the rows.

    Returns:
        One row a rule, ready to be shown: its name, the test error in percent with its 95 %
        interval over dense seeds (Student's t; none for a single one), the mean number of epochs
        it spends on retraining for one load and dense seed, and that as a share of grid search's.
    """
    rows = []
    for rule in rules:
        own = played[played["rule"] == rule]
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


def regret_table(played: pd.DataFrame, load: str, rule: str) -> pd.DataFrame:
    """Where a rule's choice was worse than grid search's, the worst first.

    Args:
        played: as `play` returns it, with the rule "grid search".
        load: name of the load.
        rule: which rule.

    Returns:
        One row a load and dense seed: what both chose, with the commonest choice over pairs, the
        LMC of the rule's net, and ``points lost`` (test error of the rule's minus grid search's,
        mean over pairs, in points of percent; positive ones alone).
    """
    keys = [load, "dense_seed"]
    chosen = played.groupby(["rule", *keys]).agg(
        test_error=("test_error", "mean"),
        chosen=("chosen", lambda x: x.mode().iloc[0]),
        lmc=("lmc", "mean"),
    )
    own, best = chosen.loc[rule], chosen.loc["grid search"]
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
