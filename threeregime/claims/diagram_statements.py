"""The paper's statements on its Figure 2, checked on any phase diagram.

Each check returns a `Statement`, judged by the rule of `threeregime.claims.statement`. *High* and
*low* density are the upper and the lower third of the loads in the diagram; errors in details are
in percent, differences of errors in percentage points.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis import (
    Array,
    PhaseDiagram,
    contrast,
    format_value,
    held_out_gain,
    interval_half_width,
    mean,
    spearman,
)
from threeregime.claims.statement import Statement, judge_effect, judge_grid_effect


def figure_2(diagram: PhaseDiagram) -> tuple[Statement, ...]:
    """Judge all statements on the paper's Figure 2, in the paper's order."""
    checks = (
        two_a_beats_one,
        two_b_beats_two_a,
        lmc_boundary,
        similarity_lower_in_one,
        lmc_sharper,
        heating_helps,
        cooling_helps,
    )
    return tuple(check(diagram) for check in checks)


def lmc_boundary(diagram: PhaseDiagram) -> Statement:
    """LMC splits the diagram: Regime I at low densities, none at high ones (Section 3.2)."""
    k = third_of_loads(diagram)

    def effect(values: Mapping[str, Array]) -> Array:
        lmc = values["lmc"]
        poor = np.where(np.isfinite(lmc), lmc < diagram.lmc_threshold, np.nan)
        return mean(poor[..., :k], (-2, -1)) - mean(poor[..., -k:], (-2, -1))

    regime = diagram.grid("regime")
    poor, known = (regime == "I").sum(axis=0), pd.notna(regime).sum(axis=0)
    # A cell at high density that is in Regime I by its mean contradicts the statement if 95 % of
    # the replicates agree, and leaves it open if they do not.
    certain = np.where(diagram.has_seeds, diagram.grid("p_I") >= 0.95, regime == "I")
    condition: bool | None = None if k and poor[-k:].any() else True
    if k and (not poor[:k].any() or certain[:, -k:].any()):
        condition = False
    counts = ", ".join(
        f"{format_value(diagram.load, x)}: {n} of {m}"
        for x, n, m in zip(diagram.loads, poor, known, strict=True)
    )
    return judge_grid_effect(
        diagram,
        "lmc_boundary",
        "Regime I (poor LMC) lies at low densities and is absent at high densities.",
        effect if k and poor.any() else None,  # without Regime I the effect is undefined
        f"Effect: share of Regime I cells, low minus high. Regime I by {diagram.load}: {counts}.",
        condition,
    )


def similarity_lower_in_one(diagram: PhaseDiagram) -> Statement:
    """CKA is lower in Regime I than in Regime II (Section 3.2)."""
    regime, cka = diagram.grid("regime"), diagram.grid("cka_softmax")
    one, two = regime == "I", np.isin(regime, ("II-A", "II-B"))
    detail = "One of the two regimes is absent."
    if one.any() and two.any():
        ones, twos = (cka[mask][np.isfinite(cka[mask])] for mask in (one, two))
        below = mean((ones[:, None] < twos).astype(float), (0, 1))
        within = contrast(two, one)(cka)
        detail = (
            f"Effect: mean CKA of II minus I, {mean(twos, 0):.3f} - {mean(ones, 0):.3f}. Of "
            f"all pairs of a cell in I and one in II, {100 * below:.0f} % have the lower CKA in I. "
            f"At equal {diagram.load} the difference is {within:.3f}."
        )
    return judge_grid_effect(
        diagram,
        "similarity_lower_in_one",
        "CKA similarity is lower in Regime I than in Regime II.",
        lambda v: mean(v["cka_softmax"][..., two], -1) - mean(v["cka_softmax"][..., one], -1),
        detail,
    )


def lmc_sharper(diagram: PhaseDiagram) -> Statement:
    """LMC changes more sharply between regimes than CKA does (Section 3.2, Figure 2c and 2d).

    The sharpness of a line through the diagram is its largest single step as a share of its range.
    It is averaged over all lines that cross from Regime I to II, within each direction (load and
    temperature) and then over the two. Noise makes a line look sharper, so a noisy diagram can
    favour the noisier of the two metrics.
    """
    lines = crossing_lines(diagram.grid("regime"))

    def sharpness(values: Array, axis: int) -> Array:
        steps = np.abs(np.diff(values, axis=axis - 2)).max(axis=axis - 2, initial=0)
        whole = np.ptp(values, axis=axis - 2)
        share = np.divide(steps, whole, out=np.full(whole.shape, np.nan), where=whole > 0)
        return mean(share[..., lines[axis]], -1)

    def mean_sharpness(values: Array) -> Array:
        return mean(np.stack([sharpness(values, 0), sharpness(values, 1)]), 0)

    lmc, cka = diagram.grid("lmc"), diagram.grid("cka_softmax")
    parts = [
        f"over the {name} LMC {sharpness(lmc, axis):.2f}, "
        f"CKA {sharpness(cka, axis):.2f} ({len(lines[axis])} lines)"
        for name, axis in ((diagram.load, 1), (diagram.temperature, 0))
    ]
    detail = "No line crosses from Regime I to II."
    if any(len(crossing) for crossing in lines.values()):
        detail = (
            "Effect: largest single step as a share of the range, LMC minus CKA; "
            f"{'; '.join(parts)}."
        )
    return judge_grid_effect(
        diagram,
        "lmc_sharper",
        "Between regimes LMC changes sharply, CKA smoothly.",
        lambda v: mean_sharpness(v["lmc"]) - mean_sharpness(v["cka_softmax"]),
        detail,
    )


def two_a_beats_one(diagram: PhaseDiagram) -> Statement:
    """At equal load, Regime II-A has a lower normalised test error than I (Figure 2b)."""
    return _beats(diagram, "two_a_beats_one", "I", "II-A")


def two_b_beats_two_a(diagram: PhaseDiagram) -> Statement:
    """At equal load, Regime II-B has a lower normalised test error than II-A (Figure 2b)."""
    return _beats(diagram, "two_b_beats_two_a", "II-A", "II-B")


def _beats(diagram: PhaseDiagram, name: str, worse: str, better: str) -> Statement:
    regime, error = diagram.grid("regime"), diagram.grid("normalized_test_error")
    worse_cells, better_cells = regime == worse, regime == better
    parts = [
        f"{format_value(diagram.load, x)}: {100 * float(mean(error[a, j], 0)):.2f} against "
        f"{100 * float(mean(error[b, j], 0)):.2f} %"
        for j, (x, a, b) in enumerate(
            zip(diagram.loads, worse_cells.T, better_cells.T, strict=True)
        )
        if a.any() and b.any()
    ]
    return judge_grid_effect(
        diagram,
        name,
        f"Regime {better} has a lower normalized test error than Regime {worse}.",
        lambda v: contrast(worse_cells, better_cells)(v["normalized_test_error"]),
        f"Effect: mean over loads with both of {worse} minus {better}; "
        f"{'; '.join(parts) or 'no load has both'}.",
    )


def heating_helps(diagram: PhaseDiagram) -> Statement:
    """In Regime I, a hotter dense run lowers the test error (the main claim, Section 3.2).

    At the loads whose coldest cell is in Regime I, the gain is the test error there minus that at
    the best hotter temperature. The lowest of many noisy errors underestimates the true one. For
    each dense seed the temperature is therefore chosen on the other dense seeds and the gain is
    measured on this one (leave one out); the interval is Student's t over the dense seeds' gains.
    On noise alone with 3 dense seeds such gains average 0, and the statement holds by mistake in 3
    to 5 % of diagrams. Without seeds the temperature of a load is chosen on the other loads.
    """
    regime = diagram.grid("regime")
    loads = np.flatnonzero(regime[-1] == "I") if len(regime) > 1 else np.empty(0, int)
    gain, half, detail = heating_gain(diagram, loads)
    return judge_effect(
        diagram,
        "heating_helps",
        "Where the coldest cell is in Regime I, raising the temperature lowers the test error.",
        gain,
        half,
        f"Effect: {detail or 'no load is in Regime I at the coldest'}.",
    )


def heating_gain(diagram: PhaseDiagram, loads: NDArray[np.intp]) -> tuple[float, float, str]:
    """Gain of the best hotter temperature at loads, by index, without the bias of choosing it.

    Returns:
        Mean gain over loads and dense seeds (fraction of test error, positive where hotter is
        better), half its 95 % interval (NaN without seeds), and the numbers in words, if any.
    """
    error, seeds = diagram.grid("test_error"), diagram.by_seed.get("test_error")
    if seeds is not None:
        gains = held_out_gain(seeds[:, :, loads])
        choice = "chosen on the other dense seeds"
    else:
        # Loads replace the seeds: [L, T, 1], normalised since loads differ in level.
        gains = held_out_gain(diagram.grid("normalized_test_error")[:, loads].T[..., None]).T
        choice = "chosen on the other loads"
    by_load, by_seed = mean(gains, 0), mean(gains, 1)
    naive = error[-1, loads] - np.min(error[:-1, loads], axis=0, initial=np.inf)
    parts = "; ".join(
        f"{format_value(diagram.load, diagram.loads[j])}: {g:+.2f} ({n:+.2f} if chosen on all)"
        for j, g, n in zip(loads, 100 * by_load, 100 * naive, strict=True)
    )
    half = np.nan if seeds is None else interval_half_width(by_seed)
    words = (
        f"test error at the coldest minus that at the best hotter temperature, {choice}, mean over "
        f"loads; in points of percent, {parts}"
    )
    return float(mean(by_load, 0)), half, words if parts else ""


def cooling_helps(diagram: PhaseDiagram) -> Statement:
    """At high density, a colder dense run lowers the test error (the main claim, Section 3.2)."""
    k, error = third_of_loads(diagram), diagram.grid("test_error")
    high = range(len(diagram.loads) - k, len(diagram.loads))
    parts = [
        f"{format_value(diagram.load, diagram.loads[j])}: "
        f"{100 * (error[0, j] - error[-1, j]):+.2f} "
        f"(Spearman {spearman(error[:, j]):+.2f})"
        for j in high
    ]

    def effect(values: Mapping[str, Array]) -> Array:
        columns = values["test_error"][..., -k:]
        return mean(columns[..., 0, :] - columns[..., -1, :], -1)

    return judge_grid_effect(
        diagram,
        "cooling_helps",
        "At high densities, lowering the temperature lowers the test error.",
        effect if k and len(error) > 1 else None,
        "Effect: test error at the hottest minus that at the coldest temperature, mean over high "
        "densities; in points of percent, with the rank correlation of error and coldness, "
        f"{'; '.join(parts) or 'there is but one load'}.",
    )


def third_of_loads(diagram: PhaseDiagram) -> int:
    """Number of loads in the upper, and in the lower, third: 0 if there is only one load."""
    return max(1, len(diagram.loads) // 3) if len(diagram.loads) > 1 else 0


def crossing_lines(regime: NDArray[np.object_]) -> dict[int, NDArray[np.intp]]:
    """Lines along each axis of the grid that have cells in Regime I and others in II."""
    one, two = regime == "I", np.isin(regime, ("II-A", "II-B"))
    return {axis: np.flatnonzero(one.any(axis) & two.any(axis)) for axis in (0, 1)}
