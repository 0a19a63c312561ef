"""The ledger: what the paper says, claim by claim, and the tables that each rests on.

To add a claim, add an entry to :data:`CLAIMS`; `threeregime.claims.verdicts` judges them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from threeregime.algorithms import EARLY_EPOCHS, accuracy_by_seed, accuracy_table
from threeregime.analysis import Study
from threeregime.claims import diagram_statements, figure_statements
from threeregime.claims.statement import Statement, judge_seed_effects

Studies = Mapping[str, Study]
Parts = Callable[[Studies], Sequence[Statement]]


@dataclass(frozen=True)
class Claim:
    """One statement of the paper.

    Attributes:
        name: short key.
        where: section and figure of the paper.
        statement: what it says, in our words.
        experiments: whose tables it rests on.
        parts: judges their studies.
    """

    name: str
    where: str
    statement: str
    experiments: tuple[str, ...]
    parts: Parts


def _of_figure_2(name: str) -> Parts:
    """One of the statements on a phase diagram, on Figure 2."""

    def parts(studies_: Studies) -> Sequence[Statement]:
        found = diagram_statements.figure_2(studies_["figure_02"].diagram)
        return [s for s in found if s.name == name]

    return parts


def _three_regimes(name: str) -> Parts:
    """All statements on Figure 2, on another diagram."""
    return lambda studies_: diagram_statements.figure_2(studies_[name].diagram)


def _part(make: Parts, *names: str) -> Parts:
    """Some of the parts that a function gives."""
    return lambda studies_: [s for s in make(studies_) if s.name in names]


def _figure_3(studies_: Studies) -> Sequence[Statement]:
    return [s for study in studies_.values() for s in figure_statements.figure_3(study.diagram)]


def _figure_5(studies_: Studies) -> Sequence[Statement]:
    return [
        s
        for study in studies_.values()
        for s in figure_statements.figure_5(study.diagrams["SGD"], study.diagrams["SAM"])
    ]


def _figure_6(studies_: Studies) -> Sequence[Statement]:
    study = studies_["figure_06"]
    epochs = study.experiment.protocol.retraining.epochs
    return figure_statements.figure_6(study.diagram, study.tables, epochs)


@functools.lru_cache(maxsize=8)
def _played(study: Study) -> pd.DataFrame:
    """What all rules choose on a study: several claims ask for it."""
    epochs, threshold = study.experiment.protocol.retraining.epochs, study.diagram.lmc_threshold
    return figure_statements.selections(study.tables, epochs, EARLY_EPOCHS, threshold)


def _selection(rule: str) -> Parts:
    def parts(studies_: Studies) -> Sequence[Statement]:
        found: list[Statement] = []
        for study in studies_.values():
            found += figure_statements.figure_4(_played(study), rule, study.diagram)
        return found

    return parts


NEAR = (-0.1, -0.025)  # thresholds of LMC around the paper's, half and twice as large
STEADY = 0.1  # how far accuracy may move between them


def _robust_threshold(studies_: Studies) -> Sequence[Statement]:
    """Between half and twice the threshold Algorithm 1 is right about as often (Appendix C.1)."""
    by_seed = []
    for threshold in (*NEAR, studies_["figure_02"].diagram.lmc_threshold):
        by_seed.append(accuracy_by_seed(studies_["figure_02"].diagram, threshold))
    moved = np.ptp(np.stack(by_seed), axis=0)
    return [
        judge_seed_effects(
            "robust_threshold",
            f"From {NEAR[0]:g} to {NEAR[1]:g} the threshold moves Algorithm 1's accuracy by less "
            f"than {100 * STEADY:.0f} points.",
            STEADY - moved,
            f"Effect: {STEADY:g} minus the range of the accuracies, {moved.mean():.3f} on average.",
        )
    ]


def _better_than_blind(studies_: Studies) -> Sequence[Statement]:
    """Algorithm 1 is right more often than a rule that does not look at the net (Section 4.1)."""
    diagram = studies_["figure_02"].diagram
    right = accuracy_by_seed(diagram, diagram.lmc_threshold)
    table = accuracy_table(diagram, [diagram.lmc_threshold]).iloc[0]
    blind = max(table["always hotter"], table["never hotter"])
    return [
        judge_seed_effects(
            "better_than_blind",
            "Algorithm 1 points the right way more often than the better of two blind rules.",
            right - blind,
            f"Effect: its accuracy, {right.mean():.2f}, minus {blind:.2f}.",
        )
    ]


def _regimes_of(name: str, where: str, what: str) -> Claim:
    return Claim(
        name,
        where,
        f"{what}: the three regimes are found as in Figure 2, and mean the same.",
        (name,),
        _three_regimes(name),
    )


_LIST = [
    Claim(
        "two_a_beats_one",
        "Section 3.2, Figure 2b",
        "At equal load, nets of Regime II-A are better than those of I: the first transition.",
        ("figure_02",),
        _of_figure_2("two_a_beats_one"),
    ),
    Claim(
        "two_b_beats_two_a",
        "Section 3.2, Figure 2b",
        "At equal load, nets of Regime II-B are better than those of II-A: the second transition.",
        ("figure_02",),
        _of_figure_2("two_b_beats_two_a"),
    ),
    Claim(
        "lmc_boundary",
        "Section 3.2, Figure 2c",
        "Poorly connected nets lie at low densities and are absent at high ones.",
        ("figure_02",),
        _of_figure_2("lmc_boundary"),
    ),
    Claim(
        "similarity_lower_in_one",
        "Section 3.2, Figure 2d",
        "In Regime I the copies answer less alike than in Regime II.",
        ("figure_02",),
        _of_figure_2("similarity_lower_in_one"),
    ),
    Claim(
        "sharp_and_smooth",
        "Section 3.2, Figures 2c and 2d",
        "Between regimes LMC changes sharply and CKA smoothly.",
        ("figure_02",),
        _of_figure_2("lmc_sharper"),
    ),
    Claim(
        "heating_helps",
        "Section 3.2, Figure 2b",
        "In Regime I a hotter dense run gives a better pruned net.",
        ("figure_02",),
        _of_figure_2("heating_helps"),
    ),
    Claim(
        "cooling_helps",
        "Section 3.2, Figure 2a",
        "At high densities a colder dense run gives a better pruned net.",
        ("figure_02",),
        _of_figure_2("cooling_helps"),
    ),
    Claim(
        "algorithm_1",
        "Section 4.1, Figure 3",
        "Raising the temperature helps where LMC is below the threshold, and not elsewhere.",
        ("figure_02", "figure_07", "figure_03_width", "figure_03_batch_width"),
        _figure_3,
    ),
    Claim(
        "better_than_blind",
        "Section 4.1, Figure 3",
        "One look at LMC points the right way more often than not looking.",
        ("figure_02",),
        _better_than_blind,
    ),
    Claim(
        "robust_threshold",
        "Appendix C.1",
        "The rules do not hang on the exact threshold of LMC.",
        ("figure_02",),
        _robust_threshold,
    ),
    Claim(
        "algorithm_2_better",
        "Section 4.2, Figure 4",
        "At low densities Algorithm 2 prunes a better net than the dense test error would.",
        ("diagnostics", "figure_07"),
        _part(_selection("Algorithm 2"), "better_than_usual"),
    ),
    Claim(
        "algorithm_2_close",
        "Section 4.2, Figure 4",
        "Algorithm 2 comes close to grid search.",
        ("diagnostics", "figure_07"),
        _part(_selection("Algorithm 2"), "close_to_grid"),
    ),
    Claim(
        "algorithm_2_saves",
        "Section 4.2, Figure 4",
        "Algorithm 2 takes a small part of grid search's training.",
        ("diagnostics", "figure_07"),
        _part(_selection("Algorithm 2"), "cheaper_than_grid"),
    ),
    Claim(
        "sam_helps_in_one",
        "Section 4.3, Figure 5",
        "In Regime I SAM lowers the test error and raises LMC and CKA.",
        ("figure_05", "figure_05_batch"),
        _part(_figure_5, "sam_lowers_error", "sam_connects", "sam_aligns"),
    ),
    Claim(
        "sam_idle_in_two",
        "Section 4.3, Figure 5",
        "SAM gains more in Regime I than in Regime II.",
        ("figure_05", "figure_05_batch"),
        _part(_figure_5, "sam_gains_in_one"),
    ),
    Claim(
        "rho_two_faces",
        "Section 4.3, Figure 6a",
        "A large radius of SAM helps at low densities and harms at high ones.",
        ("figure_06",),
        _part(_figure_6, "rho_helps_low", "rho_hurts_high"),
    ),
    Claim(
        "rho_by_cka",
        "Section 4.3, Figure 6b",
        "The radius of highest CKA is a good one.",
        ("figure_06",),
        _part(_figure_6, "cka_beats_fixed", "cka_matches_grid"),
    ),
    _regimes_of("figure_07", "Appendix B.2, Figure 7", "Batch size as the temperature"),
    _regimes_of("figure_08", "Appendix B.2, Figure 8", "DenseNet"),
    _regimes_of("figure_09", "Appendix B.2, Figure 9", "VGG"),
    _regimes_of("figure_10", "Appendix B.2, Figure 10", "A hundred classes"),
    _regimes_of("figure_11", "Appendix B.2, Figure 11", "Digits in the street"),
    _regimes_of("figure_12", "Appendix B.2, Figure 12", "Global magnitude pruning"),
    Claim(
        "adam_heating",
        "Appendix B.2, Figure 13",
        "With Adam as with SGD, fewer epochs are better in heavily pruned nets.",
        ("figure_13",),
        lambda s: figure_statements.figure_13(s["figure_13"].diagrams)[:4],
    ),
    Claim(
        "adam_or_sgd",
        "Appendix B.2, Figure 13",
        "Adam is worse than SGD in the dense run and better in retraining.",
        ("figure_13",),
        lambda s: figure_statements.figure_13(s["figure_13"].diagrams)[4:],
    ),
    Claim(
        "translation",
        "Appendix B.2, Figure 14",
        "In translation fewer epochs help at low densities and more at high ones.",
        ("figure_14",),
        lambda s: figure_statements.figure_14(s["figure_14"].diagram),
    ),
    Claim(
        "depth",
        "Appendix C.2, Figure 15",
        "Nets of all depths, pruned to 5 %, are in Regime I and gain by a hotter dense run.",
        ("figure_15",),
        lambda s: figure_statements.figure_15(s["figure_15"].diagram),
    ),
    Claim(
        "algorithm_2_1_better",
        "Appendix C.3, Figure 16",
        "At low densities Algorithm 2.1, without test data, prunes a better net than usual.",
        ("diagnostics", "figure_07"),
        _part(_selection("Algorithm 2.1"), "better_than_usual"),
    ),
    Claim(
        "algorithm_2_1_close",
        "Appendix C.3, Figure 16",
        "Algorithm 2.1 comes close to grid search, for a small part of its training.",
        ("diagnostics", "figure_07"),
        _part(_selection("Algorithm 2.1"), "close_to_grid", "cheaper_than_grid"),
    ),
    Claim(
        "hessian",
        "Appendix A.2",
        "The Hessian of single nets does not tell the regimes as LMC and CKA do.",
        ("diagnostics",),
        lambda s: figure_statements.local_metrics(s["diagnostics"].tables),
    ),
    _regimes_of("structured_16", "Section 5 (conjectured)", "N:M sparsity"),
    _regimes_of("quantization", "Section 5 (conjectured)", "Quantised weights"),
]

CLAIMS: dict[str, Claim] = {claim.name: claim for claim in _LIST}
