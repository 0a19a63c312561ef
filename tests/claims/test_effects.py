"""Effects by dense seed on tables whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.helpers.synthetic import RETRAINING_EPOCHS, make_tables
from threeregime.analysis import PhaseDiagram
from threeregime.claims import effects
from threeregime.claims.estimands import part_effects
from threeregime.claims.evidence import Evidence
from threeregime.claims.registration import load_registration

EPOCHS, DENSITIES = (12, 30, 42, 96), (0.06, 0.1, 0.4)
# Regime I is cold and heavily pruned, II-A hot and heavily pruned, II-B lightly pruned.
ERROR = np.array([[0.2, 0.1, 0.08], [0.1, 0.06, 0.05], [0.12, 0.05, 0.04], [0.4, 0.05, 0.02]])
LMC = np.array([[0.0, 0.0, 0.0], [-0.02, 0.0, 0.0], [-0.2, 0.0, 0.0], [-0.4, 0.0, 0.0]])
CKA = np.array([[0.9, 0.9, 0.99], [0.9, 0.99, 0.99], [0.6, 0.99, 0.99], [0.5, 0.99, 0.99]])


def evidence(seeds: int = 6, noise: float = 0.0, train: Any = None) -> Evidence:
    def values(epochs: float, density: float) -> tuple[float, float, float]:
        cell = EPOCHS.index(int(epochs)), DENSITIES.index(density)
        return ERROR[cell], LMC[cell], CKA[cell]

    tables = make_tables(EPOCHS, DENSITIES, seeds, noise, values=values)
    trained = [
        (ERROR if train is None else train)[EPOCHS.index(t), DENSITIES.index(x)]
        for t, x in zip(tables.nets["epochs"], tables.nets["density"], strict=True)
    ]
    tables = replace(tables, nets=tables.nets.assign(train_error=trained))
    diagram = PhaseDiagram.from_results(tables, bootstrap=0)
    return Evidence(tables, diagram, load_registration().rules, 0.9, 10_000, RETRAINING_EPOCHS)


def test_regimes_are_compared_at_equal_load() -> None:
    gained = effects.regime_contrast(evidence(), ["I"], ["II-A"])
    expected = np.mean(np.log([0.12, 0.4])) - np.mean(np.log([0.2, 0.1]))
    np.testing.assert_allclose(gained, expected)
    gained = effects.regime_contrast(evidence(), ["II-A"], ["II-B"])
    np.testing.assert_allclose(gained, np.log(0.1) - np.mean(np.log([0.06, 0.05, 0.05])))


def test_heating_is_judged_in_the_window_by_the_other_seeds() -> None:
    # 30 and 42 of 96 epochs are in the window; 12, which is hotter, is not.
    np.testing.assert_allclose(effects.heating_gain(evidence(), ["I"]), np.log(0.4 / 0.1))
    gain = effects.heating_gain(evidence(), ["II-A", "II-B"])
    np.testing.assert_allclose(gain, np.mean(np.log([0.05 / 0.05, 0.02 / 0.04])))


def test_without_an_effect_choices_find_none() -> None:
    """The best of noisy temperatures, were it chosen on the same seed, would seem a gain."""
    rng_gains = []
    for start in range(40):
        e = evidence()
        noisy = np.random.default_rng(start).standard_normal(e.log_error.shape) * 0.3
        e.__dict__["log_error"] = noisy
        rng_gains.append(effects.heating_gain(e, ["I"]).mean())
    gains = np.array(rng_gains)
    assert abs(gains.mean()) < 3 * gains.std() / len(gains) ** 0.5


def test_lmc_falls_with_the_load_and_cooling_helps_light_ones() -> None:
    assert (effects.lmc_by_load(evidence()) > 0.5).all()
    np.testing.assert_allclose(effects.lmc_at_high_load(evidence()), 0.05)
    np.testing.assert_allclose(effects.cooling_gain(evidence()), np.log(0.08 / 0.02))
    different = effects.dissimilarity_contrast(evidence(), ["I"], ["II-A", "II-B"])
    np.testing.assert_allclose(different, np.mean(np.log([0.4, 0.5])) - np.log(0.1))


def test_cells_that_learned_nothing_are_left_out() -> None:
    train = np.where(ERROR > 0.3, 0.6, 0.01)
    left = evidence(train=train)
    assert left.no_nets.sum() == 1
    gained = effects.regime_contrast(left, ["I"], ["II-A"])
    np.testing.assert_allclose(gained, np.log(0.12) - np.mean(np.log([0.2, 0.1])))


def test_no_error_is_below_half_an_image() -> None:
    e = evidence()
    e.diagram.by_seed["test_error"][:] = 0.0
    np.testing.assert_allclose(e.log_error, np.log(0.5 / 10_000))


def test_a_variant_gains_where_the_first_one_is_in_regime_one() -> None:
    base, other = evidence(), evidence()
    for metric, change in (("test_error", 0.5), ("lmc", 0.25)):
        other.diagram.by_seed[metric][:] *= change
    gain = effects.variant_gain(base, other, ["I"], "log_error")
    np.testing.assert_allclose(gain, np.log(2))
    gain = effects.variant_gain(base, other, ["I"], "lmc")
    np.testing.assert_allclose(gain, 0.75 * np.mean([0.2, 0.4]))
    np.testing.assert_allclose(effects.variant_gain(base, other, ["I"], "dissimilarity"), 0)
    contrast = effects.variant_gain_contrast(base, other, ["I"], ["II-A", "II-B"])
    np.testing.assert_allclose(contrast, 0, atol=1e-12)
    both = replace(base, variants={"base": base, "other": other})
    contrast = effects.variant_contrast(both, ["base"], ["other"])
    np.testing.assert_allclose(contrast, np.log(2))


def test_extremes_of_the_temperature_and_of_lmc() -> None:
    np.testing.assert_allclose(effects.hottest_gain(evidence()), np.log(0.4 / 0.2))
    np.testing.assert_allclose(effects.all_in_one(evidence()), -0.05)
    everywhere = evidence()
    everywhere.diagram.by_seed["lmc"][:, -1] = -0.25
    np.testing.assert_allclose(effects.all_in_one(everywhere), 0.2)


def test_heating_gains_where_lmc_is_low() -> None:
    assert (effects.heating_by_lmc(evidence()) > 0.4).all()
    mirrored = evidence()
    mirrored.diagram.by_seed["test_error"][:] = 0.01 / mirrored.diagram.by_seed["test_error"]
    assert (effects.heating_by_lmc(mirrored) < -0.4).all()


def test_metrics_are_ranked_by_how_well_they_tell_where_hotter_is_better() -> None:
    made = evidence(noise=1e-4)
    area = effects.early_area(made, "lmc", 2)
    np.testing.assert_allclose(area, 0.5)
    known = replace(made, tables=with_hessian(made))
    assert (effects.area_contrast(known, "lmc", "hessian_top") > 0).all()


def with_hessian(made: Evidence) -> Any:
    """Tables whose Hessian ranks the cells the wrong way round."""
    assert made.tables is not None
    nets = made.tables.nets
    wrong = dict.fromkeys(("hessian_trace", "hessian_top"), -nets["test_error"])
    return replace(made.tables, nets=nets.assign(**wrong))


@pytest.mark.parametrize(
    "part", load_registration().parts, ids=lambda p: f"{p.study}-{p.claim}-{p.name}"
)
def test_every_registered_part_has_its_effect(part: Any) -> None:
    made = evidence(noise=0.002)
    made = replace(made, tables=with_hessian(made))
    names = {option for _, value in part.options for option in np.atleast_1d(value)}
    values = part_effects(part, replace(made, variants=dict.fromkeys(names, made)))
    assert values.shape == (6,)
