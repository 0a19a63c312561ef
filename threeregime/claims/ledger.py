"""The ledger: the claims of the paper, and the tables that each rests on.

To add a claim, add a row to the table below; `threeregime.claims.verdicts` judges them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from threeregime.analysis import Study
from threeregime.claims import figure_statements as figures
from threeregime.claims.diagram_statements import figure_2
from threeregime.claims.statement import Statement


@dataclass(frozen=True)
class Evidence:
    """Statements on the tables of some experiments.

    Attributes:
        check: judges the statements on the study of each experiment.
        experiments: names of the experiments.
    """

    check: Callable[[Study], Sequence[Statement]]
    experiments: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        name: short key.
        where: section and figure of the paper.
        evidence: the statements that it rests on.
        names: names of these statements; empty: all of them.
        statement: the claim, in our words.
    """

    name: str
    where: str
    evidence: Evidence
    names: tuple[str, ...]
    statement: str

    @property
    def experiments(self) -> tuple[str, ...]:
        """Names of the experiments whose tables the claim rests on."""
        return self.evidence.experiments

    def judge(self, studies: Iterable[Study]) -> list[Statement]:
        """Judge the parts of the claim on the studies of its experiments."""
        statements = [s for study in studies for s in self.evidence.check(study)]
        return [s for s in statements if not self.names or s.name in self.names]


@functools.lru_cache(maxsize=8)
def _selections(study: Study) -> pd.DataFrame:
    """Choices of all rules on a study; cached, since several claims need them."""
    return figures.study_selections({study.experiment.name: study})


def _selection(rule: str) -> Evidence:
    """Statements on a rule that selects the net to prune."""
    return Evidence(
        lambda study: figures.figure_4(_selections(study), rule, study.diagram),
        ("diagnostics", "figure_07"),
    )


def _figure_6(study: Study) -> Sequence[Statement]:
    epochs = study.experiment.protocol.retraining.epochs
    return figures.figure_6(study.diagram, study.tables, epochs)


def _same_regimes(name: str, where: str, setting: str) -> Claim:
    """The claim that another experiment has the three regimes of Figure 2."""
    statement = f"{setting}: the three regimes are found as in Figure 2, and mean the same."
    return Claim(name, where, Evidence(_three_regimes, (name,)), (), statement)


def _three_regimes(study: Study) -> Sequence[Statement]:
    return figure_2(study.diagram)


_FIGURE_2 = Evidence(_three_regimes, ("figure_02",))
_FIGURE_3 = Evidence(
    lambda study: figures.figure_3(study.diagram),
    ("figure_02", "figure_07", "figure_03_width", "figure_03_batch_width"),
)
_ACCURACY = Evidence(lambda study: figures.algorithm_1_accuracy(study.diagram), ("figure_02",))
_FIGURE_4, _FIGURE_16 = _selection("Algorithm 2"), _selection("Algorithm 2.1")
_FIGURE_5 = Evidence(
    lambda study: figures.figure_5(study.diagrams["SGD"], study.diagrams["SAM"]),
    ("figure_05", "figure_05_batch"),
)
_FIGURE_6 = Evidence(_figure_6, ("figure_06",))
_FIGURE_13 = Evidence(lambda study: figures.figure_13(study.diagrams), ("figure_13",))
_FIGURE_14 = Evidence(lambda study: figures.figure_14(study.diagram), ("figure_14",))
_FIGURE_15 = Evidence(lambda study: figures.figure_15(study.diagram), ("figure_15",))
_HESSIAN = Evidence(lambda study: figures.local_metrics(study.tables), ("diagnostics",))

# fmt: off
_LIST = (
    Claim("two_a_beats_one", "Section 3.2, Figure 2b", _FIGURE_2, ("two_a_beats_one",),
          "At equal load, nets of Regime II-A are better than those of I: the first transition."),
    Claim("two_b_beats_two_a", "Section 3.2, Figure 2b", _FIGURE_2, ("two_b_beats_two_a",),
          "At equal load, nets of Regime II-B are better than those of II-A: the second "
          "transition."),
    Claim("lmc_boundary", "Section 3.2, Figure 2c", _FIGURE_2, ("lmc_boundary",),
          "Poorly connected nets lie at low densities and are absent at high ones."),
    Claim("similarity_lower_in_one", "Section 3.2, Figure 2d", _FIGURE_2,
          ("similarity_lower_in_one",),
          "In Regime I the copies answer less alike than in Regime II."),
    Claim("sharp_and_smooth", "Section 3.2, Figures 2c and 2d", _FIGURE_2, ("lmc_sharper",),
          "Between regimes LMC changes sharply and CKA smoothly."),
    Claim("heating_helps", "Section 3.2, Figure 2b", _FIGURE_2, ("heating_helps",),
          "In Regime I a hotter dense run gives a better pruned net."),
    Claim("cooling_helps", "Section 3.2, Figure 2a", _FIGURE_2, ("cooling_helps",),
          "At high densities a colder dense run gives a better pruned net."),
    Claim("algorithm_1", "Section 4.1, Figure 3", _FIGURE_3, (),
          "Raising the temperature helps where LMC is below the threshold, and not elsewhere."),
    Claim("better_than_blind", "Section 4.1, Figure 3", _ACCURACY, ("better_than_blind",),
          "One look at LMC points the right way more often than not looking."),
    Claim("robust_threshold", "Appendix C.1", _ACCURACY, ("robust_threshold",),
          "The rules do not hang on the exact threshold of LMC."),
    Claim("algorithm_2_better", "Section 4.2, Figure 4", _FIGURE_4, ("better_than_usual",),
          "At low densities Algorithm 2 prunes a better net than the dense test error would."),
    Claim("algorithm_2_close", "Section 4.2, Figure 4", _FIGURE_4, ("close_to_grid",),
          "Algorithm 2 comes close to grid search."),
    Claim("algorithm_2_saves", "Section 4.2, Figure 4", _FIGURE_4, ("cheaper_than_grid",),
          "Algorithm 2 takes a small part of grid search's training."),
    Claim("sam_helps_in_one", "Section 4.3, Figure 5", _FIGURE_5,
          ("sam_lowers_error", "sam_connects", "sam_aligns"),
          "In Regime I SAM lowers the test error and raises LMC and CKA."),
    Claim("sam_idle_in_two", "Section 4.3, Figure 5", _FIGURE_5, ("sam_gains_in_one",),
          "SAM gains more in Regime I than in Regime II."),
    Claim("rho_two_faces", "Section 4.3, Figure 6a", _FIGURE_6,
          ("rho_helps_low", "rho_hurts_high"),
          "A large radius of SAM helps at low densities and harms at high ones."),
    Claim("rho_by_cka", "Section 4.3, Figure 6b", _FIGURE_6,
          ("cka_beats_fixed", "cka_matches_grid"),
          "The radius of highest CKA is a good one."),
    _same_regimes("figure_07", "Appendix B.2, Figure 7", "Batch size as the temperature"),
    _same_regimes("figure_08", "Appendix B.2, Figure 8", "DenseNet"),
    _same_regimes("figure_09", "Appendix B.2, Figure 9", "VGG"),
    _same_regimes("figure_10", "Appendix B.2, Figure 10", "A hundred classes"),
    _same_regimes("figure_11", "Appendix B.2, Figure 11", "Digits in the street"),
    _same_regimes("figure_12", "Appendix B.2, Figure 12", "Global magnitude pruning"),
    Claim("adam_heating", "Appendix B.2, Figure 13", _FIGURE_13,
          tuple(f"heating {a}, {b}" for a in ("SGD", "Adam") for b in ("SGD", "Adam")),
          "With Adam as with SGD, fewer epochs are better in heavily pruned nets."),
    Claim("adam_or_sgd", "Appendix B.2, Figure 13", _FIGURE_13, ("adam_dense", "adam_retraining"),
          "Adam is worse than SGD in the dense run and better in retraining."),
    Claim("translation", "Appendix B.2, Figure 14", _FIGURE_14, (),
          "In translation fewer epochs help at low densities and more at high ones."),
    Claim("depth", "Appendix C.2, Figure 15", _FIGURE_15, (),
          "Nets of all depths, pruned to 5 %, are in Regime I and gain by a hotter dense run."),
    Claim("algorithm_2_1_better", "Appendix C.3, Figure 16", _FIGURE_16, ("better_than_usual",),
          "At low densities Algorithm 2.1, without test data, prunes a better net than usual."),
    Claim("algorithm_2_1_close", "Appendix C.3, Figure 16", _FIGURE_16,
          ("close_to_grid", "cheaper_than_grid"),
          "Algorithm 2.1 comes close to grid search, for a small part of its training."),
    Claim("hessian", "Appendix A.2", _HESSIAN, (),
          "The Hessian of single nets does not tell the regimes as LMC and CKA do."),
    _same_regimes("structured_16", "Section 5 (conjectured)", "N:M sparsity"),
    _same_regimes("quantization", "Section 5 (conjectured)", "Quantised weights"),
)
# fmt: on

CLAIMS: dict[str, Claim] = {claim.name: claim for claim in _LIST}
