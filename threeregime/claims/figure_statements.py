"""The paper's statements on its Figures 3 to 6 and 13 to 16 and on single nets, checked in numbers.

Each check returns `threeregime.claims.statement.Statement`. An effect that is one number per dense
seed has its interval by Student's t over the dense seeds. Gains are fractions of test error;
details are in percentage points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.algorithms import (
    EARLY_EPOCHS,
    accuracy_by_seed,
    accuracy_table,
    grid_search,
    replay_rules,
    replays,
    select_best_dense,
    select_by_error,
    select_by_similarity,
    select_rho,
)
from threeregime.analysis import Array, PhaseDiagram, Study, areas_by_metric, format_value, mean
from threeregime.claims.diagram_statements import heating_gain, heating_helps, third_of_loads
from threeregime.claims.statement import Statement, judge_effect, judge_seed_effects
from threeregime.results import Results

CLOSE_SHARE = 0.5  # share of grid search's gain over the usual choice that counts as close to it
THRESHOLD_RANGE = (-0.1, -0.025)  # thresholds of LMC around the paper's, twice and half as large
STEADY_RANGE = 0.1  # how far the accuracy of Algorithm 1 may change in that range
METRIC_NAMES = {"lmc": "LMC", "cka_softmax": "CKA"}

# Statements whose effect is measured on each dense seed, by name: the words of the statement and of
# the effect. The words in braces are given to `_judge`; {points} is the effect by dense seed.
# fmt: off
_WORDS = {
    "better_than_blind": (
        "Algorithm 1 points the right way more often than the better of two blind rules.",
        "its accuracy, {accuracy:.2f}, minus {blind:.2f}."),
    "robust_threshold": (
        f"From {THRESHOLD_RANGE[0]:g} to {THRESHOLD_RANGE[1]:g} the threshold moves Algorithm 1's "
        f"accuracy by less than {100 * STEADY_RANGE:.0f} points.",
        f"{STEADY_RANGE:g} minus the range of the accuracies, {{change:.3f}} on average."),
    "all_in_one": (
        "At the coldest temperature every {load} is in Regime I.",
        "the threshold minus the highest LMC of any {load}. LMC there: {values}."),
    "sam_lowers_error": (
        "Where SGD is in Regime I, SAM lowers the test error.",
        "test error of SGD minus SAM's, {points} points; {one} of {cells} cells of SGD are in "
        "Regime I."),
    "sam_connects": (
        "Where SGD is in Regime I, SAM raises LMC.", "LMC of SAM minus SGD's."),
    "sam_aligns": (
        "Where SGD is in Regime I, SAM raises CKA.", "CKA of SAM minus SGD's."),
    "sam_gains_in_one": (
        "SAM gains more in Regime I than in Regime II.",
        "difference of the gains; that in Regime II is {outside} points."),
    "rho_helps_low": (
        "At low densities the largest radius gives a lower test error than none.",
        "test error without SAM minus that at the largest, {points} points."),
    "rho_hurts_high": (
        "At high densities the largest radius gives a higher test error than none.",
        "test error at the largest minus that without, {points} points."),
    "cka_beats_fixed": (
        "The radius of highest CKA is better than always the largest or always none.",
        "their mean test error minus the rule's, {points}."),
    "cka_matches_grid": (
        "The radius of highest CKA is at least as good as the one grid search finds.",
        "grid search's test error minus the rule's, on copies that neither saw, {points} points."),
    "adam_dense": (
        "A dense run with Adam is worse than one with SGD.",
        "test error with Adam minus SGD's, over all cells, {points} points."),
    "adam_retraining": (
        "Retraining with Adam is better than with SGD.",
        "test error with SGD minus Adam's, over all cells, {points} points."),
    "cooling_high": (
        "At high densities lowering the temperature raises BLEU.",
        "BLEU at the coldest minus that at the hottest, {points} points."),
    "better_than_usual": (
        "At low densities {rule} chooses a better net than the dense test error does.",
        "test error of the usual choice minus the rule's, {points} points."),
    "close_to_grid": (
        "{rule} gains more than half of what grid search gains over the usual choice.",
        "its gain minus half of grid search's, over all loads, {points} points. At high densities "
        "the rule gains {high} points."),
    "cheaper_than_grid": (
        "{rule} needs less than a tenth of the training epochs of grid search.",
        "a tenth minus the share, which is {share:.1f} %."),
}
# fmt: on


def _judge(name: str, effects: Array | pd.Series, **words: object) -> Statement:
    """Judge a statement of `_WORDS` on its effects by dense seed."""
    statement, effect = (text.format(points=_points(effects), **words) for text in _WORDS[name])
    return judge_seed_effects(name, statement, effects, f"Effect: {effect}")


def figure_3(diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """Algorithm 1 is right (Section 4.1), on one pair of temperature and load."""
    return (heating_helps(diagram), heating_elsewhere(diagram))


def heating_elsewhere(diagram: PhaseDiagram) -> Statement:
    """Where the coldest cell is not in Regime I, no hotter one is better (Section 4.1)."""
    loads = np.flatnonzero(np.isin(diagram.grid("regime")[-1], ("II-A", "II-B")))
    gain, half, detail = heating_gain(diagram, loads)
    return judge_effect(
        diagram,
        "heating_elsewhere",
        "Where the coldest cell is in Regime II, raising the temperature does not lower the test "
        "error.",
        -gain,
        half,
        f"Effect: minus the {detail or 'gain, and no load is in Regime II at the coldest'}.",
    )


def algorithm_1_accuracy(diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """Algorithm 1 beats constant rules (Section 4.1), at any near threshold (Appendix C.1)."""
    accuracy = accuracy_by_seed(diagram, diagram.lmc_threshold)
    table = accuracy_table(diagram, [diagram.lmc_threshold]).iloc[0]
    blind = max(table["always hotter"], table["never hotter"])
    change = accuracy_change(diagram)
    return (
        _judge("better_than_blind", accuracy - blind, accuracy=accuracy.mean(), blind=blind),
        _judge("robust_threshold", STEADY_RANGE - change, change=change.mean()),
    )


def accuracy_change(diagram: PhaseDiagram) -> Array:
    """Range of Algorithm 1's accuracy over thresholds of LMC near the diagram's [D]."""
    thresholds = (*THRESHOLD_RANGE, diagram.lmc_threshold)
    return np.ptp(np.stack([accuracy_by_seed(diagram, t) for t in thresholds]), axis=0)


def figure_15(diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """At a density of 5 % nets of all depths are in Regime I (Appendix C.2)."""
    coldest = diagram.by_seed["lmc"][:, -1]
    values = "; ".join(
        f"{format_value(diagram.load, x)}: {m:+.3f}"
        for x, m in zip(diagram.loads, mean(coldest, 0), strict=True)
    )
    effects = diagram.lmc_threshold - np.nanmax(coldest, axis=1)
    return (_judge("all_in_one", effects, load=diagram.load, values=values), heating_helps(diagram))


def figure_5(sgd: PhaseDiagram, sam: PhaseDiagram) -> tuple[Statement, ...]:
    """In Regime I SAM is better than SGD, in Regime II they differ little (Section 4.3)."""
    regime = sgd.grid("regime")
    one, two = regime == "I", np.isin(regime, ("II-A", "II-B"))

    def change(metric: str, cells: NDArray[np.bool_]) -> Array:
        """SAM's value minus SGD's by dense seed, mean over cells."""
        return mean((sam.by_seed[metric] - sgd.by_seed[metric])[:, cells], 1)

    inside, outside = -change("test_error", one), -change("test_error", two)
    return (
        _judge("sam_lowers_error", inside, one=one.sum(), cells=one.size),
        _judge("sam_connects", change("lmc", one)),
        _judge("sam_aligns", change("cka_softmax", one)),
        _judge("sam_gains_in_one", inside - outside, outside=_points(outside)),
    )


def figure_6(
    diagram: PhaseDiagram, tables: Results, retraining_epochs: int
) -> tuple[Statement, ...]:
    """A large radius helps at low density and hurts at high; CKA selects it (Section 4.3)."""
    seeds = diagram.by_seed["test_error"]
    gain = seeds[:, -1] - seeds[:, 0]  # hot to cold is from the largest radius to none
    k = max(1, third_of_loads(diagram))
    error = _error_by_seed(radii(tables, retraining_epochs))
    fixed = seeds[:, [0, -1]].mean(axis=(1, 2))
    return (
        _judge("rho_helps_low", mean(gain[:, :k], 1)),
        _judge("rho_hurts_high", -mean(gain[:, -k:], 1)),
        _judge("cka_beats_fixed", fixed - error["CKA"].to_numpy()),
        _judge("cka_matches_grid", error["grid search"] - error["CKA"]),
    )


def radii(tables: Results, retraining_epochs: int) -> pd.DataFrame:
    """Choices of the rule for SAM and of grid search, as `threeregime.algorithms.replay_rules`."""
    rules = {"CKA": select_rho, "grid search": grid_search}
    return replay_rules(replays(tables, retraining_epochs), rules)


def figure_13(diagrams: Mapping[str, PhaseDiagram]) -> tuple[Statement, ...]:
    """With Adam as with SGD, fewer epochs are better in heavily pruned nets (Appendix B.2).

    Args:
        diagrams: by "optimizer of the dense run, optimizer of retraining".
    """
    statements = []
    for name, diagram in diagrams.items():
        gain, half, detail = heating_gain(diagram, np.arange(len(diagram.loads)))
        text = f"{name}: raising the temperature lowers the test error."
        statements.append(
            judge_effect(diagram, f"heating {name}", text, gain, half, f"Effect: {detail}.")
        )
    error = {name: mean(d.by_seed["test_error"], (1, 2)) for name, d in diagrams.items()}
    dense = mean(np.stack([error[f"Adam, {r}"] - error[f"SGD, {r}"] for r in ("SGD", "Adam")]), 0)
    again = mean(np.stack([error[f"{d}, SGD"] - error[f"{d}, Adam"] for d in ("SGD", "Adam")]), 0)
    return (*statements, _judge("adam_dense", dense), _judge("adam_retraining", again))


def figure_14(diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """In translation fewer epochs help at low density, more at high (Appendix B.2)."""
    k = max(1, third_of_loads(diagram))
    gain, half, detail = heating_gain(diagram, np.arange(k))
    seeds = diagram.by_seed["test_error"][..., -k:]
    text = "At low densities raising the temperature raises BLEU."
    return (
        judge_effect(diagram, "heating_low", text, gain, half, f"Effect: {detail}."),
        _judge("cooling_high", mean(seeds[:, 0] - seeds[:, -1], 1)),
    )


def selections(
    tables: Results, retraining_epochs: int, alpha: int, threshold: float
) -> pd.DataFrame:
    """Choices of Algorithms 2 and 2.1, the usual rule and grid search (Figures 4 and 16).

    Args:
        tables: of one variant, with measurements after ``alpha`` epochs of retraining.
        retraining_epochs: of a whole retraining.
        alpha: epochs of retraining before the rules choose.
        threshold: of LMC.

    Returns:
        As `threeregime.algorithms.replay_rules`.
    """
    rules: dict[str, Callable[..., object]] = {
        "best dense net": select_best_dense,
        "Algorithm 2": lambda t: select_by_error(t, threshold, alpha),
        "Algorithm 2.1": lambda t: select_by_similarity(t, threshold, alpha),
        "grid search": grid_search,
    }
    return replay_rules(replays(tables, retraining_epochs), rules)  # type: ignore[arg-type]


def study_selections(studies: Mapping[str, Study], alpha: int = EARLY_EPOCHS) -> pd.DataFrame:
    """Choices of the rules of `selections` on several studies, named in the column ``study``."""
    parts = []
    for name, study in studies.items():
        epochs = study.experiment.protocol.retraining.epochs
        choices = selections(study.tables, epochs, alpha, study.diagram.lmc_threshold)
        parts.append(choices.assign(study=name))
    return pd.concat(parts, ignore_index=True)


def figure_4(choices: pd.DataFrame, rule: str, diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """A rule beats the usual choice and comes close to grid search, at less cost (Section 4.2).

    Args:
        choices: as returned by `selections`.
        rule: "Algorithm 2", or "Algorithm 2.1" (Figure 16).
        diagram: of the same tables; defines the low and high loads.
    """
    k, load = max(1, third_of_loads(diagram)), choices[diagram.load]
    low, high, whole = (
        _error_by_seed(part)
        for part in (
            choices[load.isin(diagram.loads[:k])],
            choices[load.isin(diagram.loads[-k:])],
            choices,
        )
    )
    low_gain, high_gain = (error["best dense net"] - error[rule] for error in (low, high))
    close = (whole["best dense net"] - whole[rule]) - CLOSE_SHARE * (
        whole["best dense net"] - whole["grid search"]
    )
    cost = choices[choices["rule"] == rule].groupby("dense_seed")[["epochs", "grid_epochs"]].sum()
    share = cost["epochs"] / cost["grid_epochs"]
    return (
        _judge("better_than_usual", low_gain, rule=rule),
        _judge("close_to_grid", close, rule=rule, high=_points(high_gain)),
        _judge("cheaper_than_grid", 0.1 - share, rule=rule, share=100 * share.mean()),
    )


def local_metrics(tables: Results) -> tuple[Statement, ...]:
    """The Hessian does not separate the regimes as LMC and CKA do (Appendix A.2)."""
    areas, whole = _areas_by_seed(tables), areas_by_metric(tables)
    names = {"hessian_trace": "trace", "hessian_top": "leading eigenvalue"}
    return tuple(
        judge_seed_effects(
            f"{metric}_beats_{local}",
            f"{METRIC_NAMES[metric]} tells where hotter is better, the Hessian's {name} less well.",
            areas[metric] - areas[local],
            "Effect: difference of the areas under the ROC curve, by dense seed; on all "
            f"seeds together {whole[metric]:.2f} and {whole[local]:.2f}.",
        )
        for local, name in names.items()
        if local in areas
        for metric in METRIC_NAMES
    )


def early_metrics(tables: Results, alpha: int = EARLY_EPOCHS) -> tuple[Statement, ...]:
    """LMC and CKA predict after ``alpha`` epochs where hotter is better (Section 4.2)."""
    early, end = _areas_by_seed(tables, alpha), _areas_by_seed(tables)
    early_whole, end_whole = areas_by_metric(tables, alpha), areas_by_metric(tables)
    statements = []
    for metric, name in METRIC_NAMES.items():
        values = (
            f"on all seeds together {early_whole[metric]:.2f}, at the end {end_whole[metric]:.2f}"
        )
        statements += [
            judge_seed_effects(
                f"{metric}_early",
                f"After {alpha} epochs of retraining {name} tells where hotter is better.",
                early[metric] - 0.5,
                f"Effect: area under the ROC curve, by dense seed, minus 0.5; {values}.",
            ),
            judge_seed_effects(
                f"{metric}_early_as_at_end",
                f"After {alpha} epochs {name} tells it better than at the end.",
                early[metric] - end[metric],
                f"Effect: area after {alpha} epochs minus that at the end; {values}.",
            ),
        ]
    return tuple(statements)


def _areas_by_seed(tables: Results, epoch: int | None = None) -> pd.DataFrame:
    """Area under the ROC curve of each metric (columns), one row per dense seed."""
    seeds = sorted(tables.nets["dense_seed"].unique())
    return pd.DataFrame([areas_by_metric(tables.with_dense_seeds([s]), epoch) for s in seeds])


def _error_by_seed(choices: pd.DataFrame) -> pd.DataFrame:
    """Mean test error of each rule (columns) by dense seed: over pairs, then over loads."""
    return choices.pivot_table("test_error", "dense_seed", "rule")


def _points(effects: Array | pd.Series) -> str:
    """Mean of fractions in percentage points, with the value of each dense seed."""
    values = 100 * np.asarray(effects, dtype=float)
    if not np.isfinite(values).any():
        return "of no cell,"
    return f"{mean(values, 0):+.2f} ({', '.join(f'{v:+.2f}' for v in values)})"
