"""The figures: they draw, headless, what the diagram says, at a column's width."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from tests.helpers.synthetic import make_diagram, make_tables, noisy_paper_diagram, paper_diagram
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.errors import ThreeRegimeError
from threeregime.figures import diagrams


@pytest.fixture
def paper() -> PhaseDiagram:
    return paper_diagram()


@pytest.fixture(scope="module")
def seeded() -> PhaseDiagram:
    return noisy_paper_diagram(noise=0.03)


def drawn(fig: Figure) -> list[str]:
    """All words in a figure, after drawing it; checks its size and that it is closed."""
    fig.draw_without_rendering()
    assert fig.get_figwidth() == pytest.approx(7.4)
    assert not plt.get_fignums()
    return [t.get_text() for t in fig.findobj(plt.Text) if t.get_text()]


def test_phase_diagram_has_the_papers_panels_axes_thresholds_and_regimes(
    paper: PhaseDiagram,
) -> None:
    fig = diagrams.phase_diagram(paper)
    words = drawn(fig)
    for panel in ("(a) Test error (%)", "(b) Normalized test error (%)", "(c) LMC", "(d) CKA"):
        assert panel in words
    assert [words.count(name) for name in ("I", "II-A", "II-B")] == [4, 4, 4]
    assert words.count("Training epochs, cold ← → hot") == 2
    assert words.count("Model density (%), high load ← → low load") == 2
    assert "I | II: LMC = −0.05" in words
    assert "II-A | II-B: CKA = 0.968 (Otsu)" in words
    assert "favourable transition" in words


def test_regime_one_lies_lower_left_and_values_are_in_their_cells(paper: PhaseDiagram) -> None:
    panel = diagrams.phase_diagram(paper).axes[0]
    (mesh,) = (c for c in panel.collections if isinstance(c, QuadMesh))
    values = np.asarray(mesh.get_array())
    assert values[-1, 0] == pytest.approx(17.42)  # 160 epochs at 5 %
    low, high = panel.get_ylim()
    assert low > high  # so the last row, the coldest, is at the bottom
    labels = [t.get_text() for t in panel.get_yticklabels()]
    assert (labels[0], labels[-1]) == ("10", "160")


def test_two_diagrams_share_their_colour_scales(paper: PhaseDiagram, seeded: PhaseDiagram) -> None:
    fig = diagrams.phase_diagram(seeded, paper)
    words = drawn(fig)
    assert any(w.startswith("the paper's Figure 2") for w in words)
    meshes = [c for ax in fig.axes for c in ax.collections if isinstance(c, QuadMesh)]
    panels = [m for m in meshes if np.asarray(m.get_array()).shape[:2] == (16, 9)]
    assert len(panels) == 8
    for left, right in zip(panels[::2], panels[1::2], strict=True):
        assert left.norm is right.norm


def test_regime_map_shows_errors_and_pales_with_doubt(
    paper: PhaseDiagram, seeded: PhaseDiagram
) -> None:
    words = drawn(diagrams.regime_map(paper))
    assert "17.4" in words
    assert {"Regime I", "Regime II-A", "Regime II-B"} <= set(words)
    assert not any("paler" in w for w in words)
    fig = diagrams.regime_map(seeded)
    assert any("paler" in w for w in drawn(fig))
    (mesh,) = (c for c in fig.axes[0].collections if isinstance(c, QuadMesh))
    image = np.asarray(mesh.get_array()).reshape(16, 9, 3)
    doubt = 1 - np.fmax.reduce([seeded.grid(p) for p in ("p_I", "p_IIA", "p_IIB")])
    assert image[doubt > 0.2].min(axis=-1).mean() > image[doubt == 0].min(axis=-1).mean()


def test_difference_shows_both_and_their_difference_at_common_cells(
    paper: PhaseDiagram, seeded: PhaseDiagram
) -> None:
    words = drawn(diagrams.difference(seeded, paper))
    assert any(w.startswith("difference") for w in words)
    assert any(w.startswith("the paper's Figure 2") for w in words)
    assert "Training epochs (% of the whole dense run), cold ← → hot" in words
    with pytest.raises(ThreeRegimeError, match="share no cell"):
        diagrams.difference(make_diagram(make_tables(densities=(0.03,))), paper)


def test_barrier_draws_means_and_pairs() -> None:
    t = np.linspace(0, 1, 11)
    curves = {"5 %": np.outer([1.0, 2.0], t * (1 - t)), "40 %": 0 * t}
    fig = diagrams.barrier(curves)
    words = drawn(fig)
    assert "5 % (2 pairs)" in words
    assert "40 % (1 pair)" in words
    assert "Training error (%)" in words
    thick = [line for line in fig.axes[0].lines if line.get_linewidth() == 2]
    assert np.asarray(thick[0].get_ydata()) == pytest.approx(150 * t * (1 - t))


def test_barrier_refuses_nothing_and_single_points() -> None:
    with pytest.raises(ThreeRegimeError, match="at least one set"):
        diagrams.barrier({})
    with pytest.raises(ThreeRegimeError, match="at least two points"):
        diagrams.barrier({"x": [0.1]})


def test_error_curves_run_from_hot_to_cold_with_bands(
    paper: PhaseDiagram, seeded: PhaseDiagram
) -> None:
    words = drawn(diagrams.error_curves(seeded, [0.05, 0.8]))
    assert {"5 %", "80 %", "Test error (%)", "Training epochs, hot ← → cold"} <= set(words)
    assert any("95 % interval" in w for w in words)
    assert not any("95 % interval" in w for w in drawn(diagrams.error_curves(paper)))
    with pytest.raises(ThreeRegimeError, match=r"density = 0.5 is not in the diagram"):
        diagrams.error_curves(paper, [0.5])


@pytest.mark.parametrize("size", [((10,), (0.05,)), ((10, 20), (0.05,))])
def test_small_and_broken_diagrams_draw_too(
    size: tuple[tuple[int, ...], tuple[float, ...]],
) -> None:
    tables = make_tables(*size, noise=0.01)
    tables.nets.loc[:8, "diverged"] = True
    tables.pairs.loc[:8, ["lmc", "cka_softmax", "cka_logits"]] = np.nan
    d = make_diagram(tables)
    for figure in (diagrams.phase_diagram, diagrams.regime_map, diagrams.error_curves):
        drawn(figure(d))
    drawn(diagrams.difference(d, d))
