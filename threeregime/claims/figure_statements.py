"""What the paper says of its Figures 3 to 6 and 13 to 16 and of single nets, checked in numbers.

Each check returns `threeregime.claims.statement.Statement`. Where an effect is one number a dense
seed, its
interval is Student's t over the dense seeds. Gains are in fractions of test error; details in
points of percent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.algorithms import (
    EARLY_EPOCHS,
    grid_search,
    replay_rules,
    replays,
    select_best_dense,
    select_by_error,
    select_by_similarity,
    select_rho,
)
from threeregime.analysis import Array, PhaseDiagram, areas_by_metric, format_value, mean
from threeregime.claims.diagram_statements import heating, heating_helps, third
from threeregime.claims.statement import Statement, judge_effect, judge_seed_effects
from threeregime.results import Results

RECOVERED = 0.5  # of what grid search gains over the usual choice: what counts as close to it


def figure_3(diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """Algorithm 1 points the right way (Section 4.1), on one pair of temperature and load."""
    return (heating_helps(diagram), heating_elsewhere(diagram))


def heating_elsewhere(diagram: PhaseDiagram) -> Statement:
    """Where the coldest cell is not in Regime I, no hotter one is better (Section 4.1)."""
    regime = diagram.grid("regime")
    at = np.flatnonzero(np.isin(regime[-1], ("II-A", "II-B")))
    gain, half, detail = heating(diagram, at)
    return judge_effect(
        diagram,
        "heating_elsewhere",
        "Where the coldest cell is in Regime II, raising the temperature does not lower the test "
        "error.",
        -gain,
        half,
        f"Effect: minus the {detail or 'gain, and no load is in Regime II at the coldest'}.",
    )


def figure_15(diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """At a density of 5 % nets of all depths are in Regime I (Appendix C.2)."""
    worst = diagram.by_seed["lmc"][:, -1]
    depths = "; ".join(
        f"{format_value(diagram.load, x)}: {m:+.3f}"
        for x, m in zip(diagram.loads, mean(worst, 0), strict=True)
    )
    poor = judge_seed_effects(
        "all_in_one",
        f"At the coldest temperature every {diagram.load} is in Regime I.",
        diagram.lmc_threshold - np.nanmax(worst, axis=1),
        f"Effect: the threshold minus the highest LMC of any {diagram.load}. LMC there: {depths}.",
    )
    return (poor, heating_helps(diagram))


def figure_5(sgd: PhaseDiagram, sam: PhaseDiagram) -> tuple[Statement, ...]:
    """In Regime I SAM is better than SGD, in Regime II they differ little (Section 4.3)."""
    one = sgd.grid("regime") == "I"
    two = np.isin(sgd.grid("regime"), ("II-A", "II-B"))
    change = {m: sam.by_seed[m] - sgd.by_seed[m] for m in ("test_error", "lmc", "cka_softmax")}

    def over(cells: NDArray[np.bool_], values: Array) -> Array:
        return mean(values[:, cells], 1)

    gain = -change["test_error"]
    inside, outside = over(one, gain), over(two, gain)
    cells = f"{one.sum()} of {one.size} cells of SGD are in Regime I"
    return (
        judge_seed_effects(
            "sam_lowers_error",
            "Where SGD is in Regime I, SAM lowers the test error.",
            inside,
            f"Effect: test error of SGD minus SAM's, {_points(inside)} points; {cells}.",
        ),
        judge_seed_effects(
            "sam_connects",
            "Where SGD is in Regime I, SAM raises LMC.",
            over(one, change["lmc"]),
            "Effect: LMC of SAM minus SGD's.",
        ),
        judge_seed_effects(
            "sam_aligns",
            "Where SGD is in Regime I, SAM raises CKA.",
            over(one, change["cka_softmax"]),
            "Effect: CKA of SAM minus SGD's.",
        ),
        judge_seed_effects(
            "sam_gains_in_one",
            "SAM gains more in Regime I than in Regime II.",
            inside - outside,
            f"Effect: difference of the gains; that in Regime II is {_points(outside)} points.",
        ),
    )


def figure_6(
    diagram: PhaseDiagram, tables: Results, retraining_epochs: int
) -> tuple[Statement, ...]:
    """A large radius helps at low density and hurts at high; CKA finds it (Section 4.3)."""
    # Hot to cold is from the largest radius to none.
    gain = diagram.by_seed["test_error"][:, -1] - diagram.by_seed["test_error"][:, 0]
    k = max(1, third(diagram))
    low, high = mean(gain[:, :k], 1), mean(gain[:, -k:], 1)
    played = radii(tables, retraining_epochs)
    error = _by_seed(played)
    fixed = diagram.by_seed["test_error"][:, [0, -1]].mean(axis=(1, 2))
    return (
        judge_seed_effects(
            "rho_helps_low",
            "At low densities the largest radius gives a lower test error than none.",
            low,
            f"Effect: test error without SAM minus that at the largest, {_points(low)} points.",
        ),
        judge_seed_effects(
            "rho_hurts_high",
            "At high densities the largest radius gives a higher test error than none.",
            -high,
            f"Effect: test error at the largest minus that without, {_points(-high)} points.",
        ),
        judge_seed_effects(
            "cka_beats_fixed",
            "The radius of highest CKA is better than always the largest or always none.",
            fixed - error["CKA"].to_numpy(),
            f"Effect: their mean test error minus the rule's, {_points(fixed - error['CKA'])}.",
        ),
        judge_seed_effects(
            "cka_matches_grid",
            "The radius of highest CKA is at least as good as the one grid search finds.",
            (error["grid search"] - error["CKA"]).to_numpy(),
            "Effect: grid search's test error minus the rule's, on copies that neither saw, "
            f"{_points(error['grid search'] - error['CKA'])} points.",
        ),
    )


def radii(tables: Results, retraining_epochs: int) -> pd.DataFrame:
    """The rule on SAM and grid search on every load, as `threeregime.algorithms.replay.play`
    returns it.
    """
    rules = {"CKA": select_rho, "grid search": grid_search}
    return replay_rules(replays(tables, retraining_epochs), rules)


def figure_13(diagrams: Mapping[str, PhaseDiagram]) -> tuple[Statement, ...]:
    """With Adam as with SGD, fewer epochs are better in heavily pruned nets (Appendix B.2).

    Args:
        diagrams: by "optimizer of the dense run, optimizer of retraining".
    """
    found = []
    for name, diagram in diagrams.items():
        gain, half, detail = heating(diagram, np.arange(len(diagram.loads)))
        found.append(
            judge_effect(
                diagram,
                f"heating {name}",
                f"{name}: raising the temperature lowers the test error.",
                gain,
                half,
                f"Effect: {detail}.",
            )
        )
    error = {name: mean(d.by_seed["test_error"], (1, 2)) for name, d in diagrams.items()}
    dense = mean(np.stack([error[f"Adam, {r}"] - error[f"SGD, {r}"] for r in ("SGD", "Adam")]), 0)
    again = mean(np.stack([error[f"{d}, SGD"] - error[f"{d}, Adam"] for d in ("SGD", "Adam")]), 0)
    found += [
        judge_seed_effects(
            "adam_dense",
            "A dense run with Adam is worse than one with SGD.",
            dense,
            f"Effect: test error with Adam minus SGD's, over all cells, {_points(dense)} points.",
        ),
        judge_seed_effects(
            "adam_retraining",
            "Retraining with Adam is better than with SGD.",
            again,
            f"Effect: test error with SGD minus Adam's, over all cells, {_points(again)} points.",
        ),
    ]
    return tuple(found)


def figure_14(diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """In translation fewer epochs help at low density, more at high (Appendix B.2)."""
    k = max(1, third(diagram))
    gain, half, detail = heating(diagram, np.arange(k))
    cooling = mean(
        diagram.by_seed["test_error"][:, 0, -k:] - diagram.by_seed["test_error"][:, -1, -k:], 1
    )
    return (
        judge_effect(
            diagram,
            "heating_low",
            "At low densities raising the temperature raises BLEU.",
            gain,
            half,
            f"Effect: {detail}.",
        ),
        judge_seed_effects(
            "cooling_high",
            "At high densities lowering the temperature raises BLEU.",
            cooling,
            f"Effect: BLEU at the coldest minus that at the hottest, {_points(cooling)} points.",
        ),
    )


def selections(
    tables: Results, retraining_epochs: int, alpha: int, threshold: float
) -> pd.DataFrame:
    """Algorithms 2 and 2.1, the usual choice and grid search on every load (Figures 4 and 16).

    Args:
        tables: of one variant, with what was measured after ``alpha`` epochs of retraining.
        retraining_epochs: of a whole retraining.
        alpha: epochs of retraining before the rules choose.
        threshold: of LMC.

    Returns:
        As `threeregime.algorithms.replay.play`.
    """
    rules: dict[str, Callable[..., object]] = {
        "best dense net": select_best_dense,
        "Algorithm 2": lambda t: select_by_error(t, threshold, alpha),
        "Algorithm 2.1": lambda t: select_by_similarity(t, threshold, alpha),
        "grid search": grid_search,
    }
    return replay_rules(replays(tables, retraining_epochs), rules)  # type: ignore[arg-type]


def figure_4(played: pd.DataFrame, rule: str, diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """A rule beats the usual choice and comes close to grid search, for less (Section 4.2).

    Args:
        played: as `selections` returns it.
        rule: "Algorithm 2", or "Algorithm 2.1" (Figure 16).
        diagram: of the same tables; its loads and its threshold.
    """
    k = max(1, third(diagram))
    load = diagram.load
    low = played[played[load].isin(diagram.loads[:k])]
    high = played[played[load].isin(diagram.loads[-k:])]
    at_low, at_high, everywhere = (_by_seed(part) for part in (low, high, played))
    better = at_low["best dense net"] - at_low[rule]
    same = at_high["best dense net"] - at_high[rule]
    close = (everywhere["best dense net"] - everywhere[rule]) - RECOVERED * (
        everywhere["best dense net"] - everywhere["grid search"]
    )
    spent = played[played["rule"] == rule].groupby("dense_seed")[["epochs", "grid_epochs"]].sum()
    share = spent["epochs"] / spent["grid_epochs"]
    return (
        judge_seed_effects(
            "better_than_usual",
            f"At low densities {rule} chooses a better net than the dense test error does.",
            better,
            f"Effect: test error of the usual choice minus the rule's, {_points(better)} points.",
        ),
        judge_seed_effects(
            "close_to_grid",
            f"{rule} gains more than half of what grid search gains over the usual choice.",
            close,
            f"Effect: its gain minus half of grid search's, over all loads, {_points(close)} "
            f"points. At high densities the rule gains {_points(same)} points.",
        ),
        judge_seed_effects(
            "cheaper_than_grid",
            f"{rule} needs less than a tenth of the training epochs of grid search.",
            0.1 - share,
            f"Effect: a tenth minus the share, which is {100 * share.mean():.1f} %.",
        ),
    )


def local_metrics(tables: Results) -> tuple[Statement, ...]:
    """The Hessian does not tell the regimes as LMC and CKA do (Appendix A.2)."""
    found = []
    seeds = sorted(tables.nets["dense_seed"].unique())
    areas = pd.DataFrame([areas_by_metric(tables.with_dense_seeds([seed])) for seed in seeds])
    whole = areas_by_metric(tables)
    for local, name in (("hessian_trace", "trace"), ("hessian_top", "leading eigenvalue")):
        if local not in areas:
            continue
        for metric, printed in (("lmc", "LMC"), ("cka_softmax", "CKA")):
            found.append(
                judge_seed_effects(
                    f"{metric}_beats_{local}",
                    f"{printed} tells where hotter is better, the Hessian's {name} less well.",
                    (areas[metric] - areas[local]).to_numpy(),
                    "Effect: difference of the areas under the ROC curve, by dense seed; on all "
                    f"seeds together {whole[metric]:.2f} and {whole[local]:.2f}.",
                )
            )
    return tuple(found)


def early_metrics(tables: Results, alpha: int = EARLY_EPOCHS) -> tuple[Statement, ...]:
    """LMC and CKA tell early in retraining where hotter is better (Section 4.2).

    Args:
        tables: of one variant, with what was measured after ``alpha`` epochs.
        alpha: epochs of retraining.
    """
    seeds = sorted(tables.nets["dense_seed"].unique())
    early, end = (
        pd.DataFrame([areas_by_metric(tables.with_dense_seeds([seed]), epoch) for seed in seeds])
        for epoch in (alpha, None)
    )
    whole, at_end = areas_by_metric(tables, alpha), areas_by_metric(tables)
    found = []
    for metric, name in (("lmc", "LMC"), ("cka_softmax", "CKA")):
        known = f"on all seeds together {whole[metric]:.2f}, at the end {at_end[metric]:.2f}"
        found += [
            judge_seed_effects(
                f"{metric}_early",
                f"After {alpha} epochs of retraining {name} tells where hotter is better.",
                (early[metric] - 0.5).to_numpy(),
                f"Effect: area under the ROC curve, by dense seed, minus 0.5; {known}.",
            ),
            judge_seed_effects(
                f"{metric}_early_as_at_end",
                f"After {alpha} epochs {name} tells it better than at the end.",
                (early[metric] - end[metric]).to_numpy(),
                f"Effect: area after {alpha} epochs minus that at the end; {known}.",
            ),
        ]
    return tuple(found)


def _by_seed(played: pd.DataFrame) -> pd.DataFrame:
    """Mean test error of each rule (columns) by dense seed: over pairs, then over loads."""
    return played.pivot_table("test_error", "dense_seed", "rule")


def _points(effects: Array | pd.Series) -> str:
    """Mean of fractions in points of percent, with the dense seeds' own."""
    values = 100 * np.asarray(effects, dtype=float)
    if not np.isfinite(values).any():
        return "of no cell,"
    each = ", ".join(f"{v:+.2f}" for v in values)
    return f"{mean(values, 0):+.2f} ({each})"
