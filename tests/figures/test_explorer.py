"""The explorer: its numbers are the tables', and readers can use it with hand, keys and links."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from ipywidgets.embed import dependency_state

from tests.helpers.browsing import Visit
from tests.helpers.made import diagram, tables
from threeregime import cli
from threeregime._paths import ROOT
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.study import Study
from threeregime.analysis.thresholds import classify
from threeregime.analysis.transitions import temperature_gains
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.figures import explorer
from threeregime.figures.explorer_data import explorer_data
from threeregime.results import load_results
from threeregime.sweep import compute

RNG = np.random.default_rng(0)
PAGE = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
EXACT = ("lmc", "cka_softmax")


@pytest.fixture(scope="module")
def reports() -> list[Study]:
    """Figure 2 and whatever else is shipped on the digits and at the scale ``mini``."""
    found = explorer.shipped_studies(scales=("digits", "mini"))
    found.sort(key=lambda r: (r.experiment.name, r.experiment.scale) != ("figure_02", "digits"))
    return found


@pytest.fixture(scope="module")
def box(reports: list[Study]) -> explorer.Explorer:
    return explorer.make_explorer(reports, load=0.05)


@pytest.fixture(scope="module")
def page(box: explorer.Explorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that holds nothing but the explorer."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(PAGE + explorer.embed_html(state(box)), encoding="utf-8")
    return path


@pytest.fixture
def visit(browser: Any, page: Path) -> Iterator[Visit]:
    with Visit(browser, page) as opened:
        yield opened
        assert opened.wrong == []


def state(box: explorer.Explorer) -> dict[str, Any]:
    return {name: getattr(box, name) for name in ("grid", *explorer.STATE)}


def at(shown: dict[str, Any], name: str, row: int, column: int) -> Any:
    return shown["cells"][name][row * len(shown["load"]["values"]) + column]


# --- the numbers ----------------------------------------------------------------------------------


def test_grid_holds_the_diagrams_numbers(reports: list[Study], box: explorer.Explorer) -> None:
    assert len(box.grid["diagrams"]) == len(reports)
    for shown, made in zip(box.grid["diagrams"], reports, strict=True):
        best, *gained = temperature_gains(made.diagram)
        known = dict(zip(("gain", "gain_low", "gain_high"), gained, strict=True))
        for name, values in shown["cells"].items():
            wanted = known[name] if name in known else made.diagram.grid(name)
            found = np.array(values, dtype=float).reshape(wanted.shape)
            np.testing.assert_allclose(found, wanted.astype(float), rtol=1e-5)
            if name in EXACT:
                np.testing.assert_array_equal(found, wanted)
        assert shown["best"] == [i if i >= 0 else None for i in best.tolist()]
        regime = classify(
            np.array(shown["cells"]["lmc"], float),
            np.array(shown["cells"]["cka_softmax"], float),
            shown["lmc_threshold"],
            shown["cka_threshold"],
        )
        assert regime.tolist() == made.diagram.grid("regime").ravel().tolist()


def test_curves_are_the_means_over_pairs(reports: list[Study], box: explorer.Explorer) -> None:
    for shown, made in zip(box.grid["diagrams"], reports, strict=True):
        d, pairs = made.diagram, made.tables.pairs
        for _ in range(10):
            i, j = RNG.integers(len(d.temperatures)), RNG.integers(len(d.loads))
            here = pairs[
                (pairs[d.temperature] == d.temperatures[i]) & (pairs[d.load] == d.loads[j])
            ]
            wanted = np.mean([np.asarray(c) for c in here["curve"]], axis=0)
            found = shown["curves"][i * len(d.loads) + j]
            np.testing.assert_allclose(found, wanted, rtol=1e-3)


def test_grid_is_small(box: explorer.Explorer) -> None:
    assert len(json.dumps(box.grid)) < 1.5e6
    assert len(explorer.widget_script()) < 60_000


def test_gain_is_measured_on_other_seeds_than_the_best_is_chosen_on() -> None:
    made = diagram(tables(noise=0.05, dense_seeds=4))
    _, gain, low, high = temperature_gains(made)
    each = made.by_seed["test_error"]
    for i in range(len(made.temperatures)):
        for j in range(len(made.loads)):
            fair = []
            for d in range(4):
                others = [np.mean([each[e, t, j] for e in range(4) if e != d]) for t in range(3)]
                fair.append(each[d, i, j] - each[d, int(np.argmin(others)), j])
            half = 3.182446 * np.std(fair, ddof=1) / 2  # Student's t at 3 degrees of freedom
            assert gain[i, j] == pytest.approx(np.mean(fair))
            assert [low[i, j], high[i, j]] == pytest.approx(
                [np.mean(fair) - half, np.mean(fair) + half], abs=1e-7
            )


def test_gain_needs_two_seeds() -> None:
    best, *gained = temperature_gains(PhaseDiagram.from_reference())
    assert (best >= 0).all()
    assert all(np.isnan(values).all() for values in gained)


def test_several_variants_are_refused() -> None:
    experiment = catalogue.load_experiment("weight_decay", "digits")
    found = load_results(experiment)
    several = Study.from_results(experiment, found)
    with pytest.raises(ThreeRegimeError, match=r"weight_decay has several diagrams, 1e-4, "):
        explorer_data([several])
    with pytest.raises(ThreeRegimeError, match="nothing to explore"):
        explorer_data([])


def test_stored_notebook_gives_its_explorer() -> None:
    found = explorer.stored_traits(ROOT / "notebooks" / "explorer.ipynb")
    assert found["grid"]["diagrams"][0]["key"] == found["experiment"] == "figure_02/digits"
    # The first thing shown makes the point: Regime I, and a gain of heating beyond the seeds.
    first = found["grid"]["diagrams"][0]
    assert at(first, "p_I", found["row"], found["column"]) > 0.95
    assert at(first, "gain_low", found["row"], found["column"]) > 0
    assert first["best"][found["column"]] < found["row"] == len(first["temperature"]["values"]) - 1
    with pytest.raises(ThreeRegimeError, match="holds no explorer"):
        explorer.stored_traits(ROOT / "notebooks" / "figure_02.ipynb")


# --- in the browser -------------------------------------------------------------------------------


def test_browser_classifies_as_python_does(browser: Any, box: explorer.Explorer) -> None:
    shown = box.grid["diagrams"][0]
    lmc, cka = (shown["cells"][name] for name in EXACT)
    # Thresholds at the cells' own values are the ones that rounding would get wrong.
    pairs = [(RNG.choice(lmc), RNG.choice(cka)) for _ in range(40)]
    tab = browser.new_page()
    tab.add_script_tag(path=explorer.WEB / "grid.js")
    found = tab.evaluate(
        "([lmc, cka, all]) => all.map(([l, c]) => lmc.map((x, i) => classify(x, cka[i], l, c)))",
        [lmc, cka, pairs],
    )
    tab.close()
    for (one, two), regimes in zip(pairs, found, strict=True):
        assert regimes == classify(np.array(lmc), np.array(cka), one, two).tolist()


def frames(visit: Visit) -> None:
    """Wait until what was changed is drawn."""
    visit.page.evaluate("() => new Promise(r => requestAnimationFrame(() => setTimeout(r, 30)))")


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def test_text_is_the_results_table(visit: Visit, reports: list[Study]) -> None:
    """The numbers of 60 cells by click, against the diagram made from the tables."""
    tab, seen = visit.page, 0
    for made in reports[:3]:
        d = made.diagram
        tab.locator("select").select_option(index=reports.index(made))
        frames(visit)
        for _ in range(20):
            i, j = int(RNG.integers(len(d.temperatures))), int(RNG.integers(len(d.loads)))
            tab.locator(f'[data-row="{i}"][data-column="{j}"]').click()
            frames(visit)
            places = (d.cells[d.temperature] == d.temperatures[i]) & (d.cells[d.load] == d.loads[j])
            cell = d.cells[places].iloc[0]
            rows = tab.locator("tbody tr").all_inner_texts()
            for row, (name, factor, half) in zip(
                rows,
                (("test_error", 100, 0.05), ("lmc", 1, 5e-4), ("cka_softmax", 1, 5e-4)),
                strict=True,
            ):
                wanted = [factor * cell[f"{name}{end}"] for end in ("", "_low", "_high")]
                assert numbers(row)[-3:] == pytest.approx(wanted, abs=1.001 * half)
            advice = tab.locator(".advice").inner_text()
            assert re.match(rf"Regime {cell['regime']}(:|, but)", advice)
            bars = [numbers(t)[-1] for t in tab.locator(".chances > div").all_inner_texts()]
            chances = [100 * cell[name] for name in ("p_I", "p_IIA", "p_IIB")]
            assert bars == pytest.approx(chances, abs=0.501)
            check_advice(advice, d, i, j)
            curve = tab.locator(".wall .unseen").inner_text()
            here = made.tables.pairs[
                (made.tables.pairs[d.temperature] == d.temperatures[i])
                & (made.tables.pairs[d.load] == d.loads[j])
            ]
            top = 100 * np.mean([np.asarray(c) for c in here["curve"]], axis=0).max()
            assert numbers(curve)[-1] == pytest.approx(top, abs=0.06)
            seen += 1
    assert seen >= 50


def check_advice(text: str, d: PhaseDiagram, i: int, j: int) -> None:
    """The advice names the best temperature and its gain, and claims it only beyond the seeds."""
    error = d.grid("test_error")
    _, gain, low, high = temperature_gains(d)
    best = int(np.argmin(error[:, j]))
    if best == i:
        assert "this one has the lowest mean error" in text
        return
    naive, fair = text.split("points less.")
    assert f"{d.temperatures[best]:g}" in naive
    assert numbers(naive)[-1] == pytest.approx(100 * (error[i, j] - error[best, j]), abs=0.051)
    values = numbers(fair.replace("95 %", ""))
    wanted = [100 * x[i, j] for x in (gain, low, high)]
    assert values == pytest.approx(wanted, abs=0.051)
    assert ("leave open" in text) == (low[i, j] <= 0)
    pointed = {"I": best < i, "II-A": best > i, "II-B": False}[d.grid("regime")[i, j]]
    assert pointed == ("rule" not in text)


def regimes(visit: Visit) -> list[str]:
    found = visit.page.eval_on_selector_all("[data-row]", "all => all.map(c => c.dataset.regime)")
    return [str(regime) for regime in found]


def test_thresholds_redraw_the_regimes(visit: Visit, reports: list[Study]) -> None:
    d = reports[0].diagram
    lmc, cka = visit.page.locator("input.lmc"), visit.page.locator("input.cka")
    assert regimes(visit) == d.grid("regime").ravel().tolist()
    for slider, key in ((lmc, "ArrowLeft"), (cka, "ArrowLeft"), (lmc, "PageDown")):
        slider.focus()
        for _ in range(4):
            slider.press(key)
        frames(visit)
        values = [float(s.input_value()) for s in (lmc, cka)]
        # a slider that nobody moved stands for the diagram's own value
        values[1] = d.cka_threshold if slider is lmc and key == "ArrowLeft" else values[1]
        wanted = classify(d.grid("lmc"), d.grid("cka_softmax"), values[0], values[1])
        assert regimes(visit) == wanted.ravel().tolist()
        assert "default thresholds alone" in visit.page.locator(".chances").inner_text()
    assert regimes(visit) != d.grid("regime").ravel().tolist()
    visit.page.locator("button.reset").click()
    frames(visit)
    assert regimes(visit) == d.grid("regime").ravel().tolist()
    assert visit.page.locator(".chances .bar").count() == 3


def test_sliders_move_by_mouse_and_keys(visit: Visit) -> None:
    tab = visit.page
    slider = tab.locator("input.temperature")
    place = slider.bounding_box()
    tab.mouse.click(place["x"] + 3, place["y"] + place["height"] / 2)
    frames(visit)
    assert tab.locator("h3").inner_text() == "8 epochs, a density of 5 %"
    slider.press("ArrowRight")
    tab.locator("input.load").press("End")
    frames(visit)
    assert tab.locator("h3").inner_text() == "16 epochs, a density of 40 %"
    assert slider.get_attribute("aria-valuetext") == "16"


def test_arrow_keys_move_the_cell(visit: Visit) -> None:
    tab = visit.page
    tab.locator(".diagram").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        tab.keyboard.press(key)
    tab.keyboard.press("ArrowLeft")  # at the edge
    frames(visit)
    assert tab.locator("h3").inner_text() == "120 epochs, a density of 4 %"
    label = tab.locator(".diagram").get_attribute("aria-label")
    assert "120 epochs, a density of 4 %. Arrow keys move it." in label
    assert tab.evaluate("document.activeElement.className") == "diagram"
    assert tab.locator(".advice").get_attribute("aria-live") == "polite"


def everything(visit: Visit) -> tuple[str, list[str]]:
    return visit.page.locator(".threeregime-explorer").inner_text(), regimes(visit)


def test_address_brings_the_state_back(browser: Any, page: Path, visit: Visit) -> None:
    tab = visit.page
    tab.locator("input[type=checkbox]").check()
    tab.locator('[data-row="3"][data-column="6"]').click()
    tab.locator("input.lmc").press("ArrowLeft")
    tab.locator("input.cka").press("ArrowLeft")
    tab.wait_for_function("location.hash.includes('cka=')")
    address = tab.evaluate("location.hash")
    assert address.startswith("#experiment=figure_02/digits&density=0.14&epochs=32&lmc=-0.055&cka=")
    with Visit(browser, page, address) as again:
        assert everything(again) == everything(visit)
        assert again.page.locator("input[type=checkbox]").is_checked()
        assert again.wrong == []


@pytest.mark.parametrize(
    "address", ["#results", "#experiment=gone&density=0.1", "#experiment=figure_02/digits&epochs=x"]
)
def test_other_addresses_do_no_harm(browser: Any, page: Path, address: str) -> None:
    with Visit(browser, page, address) as visit:
        assert visit.page.locator("h3").inner_text().startswith("128 epochs")
        assert visit.wrong == []


def test_papers_regimes_lie_over_ours(visit: Visit, reports: list[Study]) -> None:
    tab, paper = visit.page, PhaseDiagram.from_reference()
    assert tab.locator(".cell .mark").count() == 0
    tab.locator("input[type=checkbox]").check()
    tab.locator('[data-row="15"][data-column="1"]').click()
    frames(visit)
    # All 16 parts of the dense run and the 8 densities that both diagrams have.
    assert tab.locator(".cell .mark").count() == 16 * 8
    row = paper.cells[(paper.cells["epochs"] == 160) & (paper.cells["density"] == 0.05)].iloc[0]
    shown = tab.locator("tbody tr td:last-child").all_inner_texts()
    assert [*map(float, (s.replace("−", "-") for s in shown[:3]))] == pytest.approx(
        [100 * row["test_error"], row["lmc"], row["cka_softmax"]], abs=0.051
    )
    assert shown[3] == row["regime"]
    tab.locator("select").select_option("figure_06/digits")
    frames(visit)
    assert tab.locator(".cell .mark").count() == 0


def asked(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Experiment, Path]:
    """What the command line makes of a command."""
    found: list[tuple[Experiment, Path]] = []

    def remember(experiment: Experiment, out: Path, **_: object) -> bool:
        found.append((experiment, out))
        return True

    monkeypatch.setattr(compute, "run_sweep", remember)
    program, *words = shlex.split(command)
    assert program == "threeregime"
    cli.app(words, standalone_mode=False)
    return found[0]


def test_copied_command_asks_for_the_cell(
    visit: Visit, box: explorer.Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tab = visit.page
    for shown in box.grid["diagrams"]:
        tab.locator("select").select_option(shown["key"])
        frames(visit)
        i = int(RNG.integers(len(shown["temperature"]["values"])))
        j = int(RNG.integers(len(shown["load"]["values"])))
        tab.locator(f'[data-row="{i}"][data-column="{j}"]').click()
        frames(visit)
        chosen, out = asked(tab.locator(".command code").inner_text(), monkeypatch)
        name, scale, *data = shown["key"].split("/")
        assert (chosen.name, chosen.scale, out) == (name, scale, Path("mine"))
        usual = catalogue.load_experiment(name, scale).protocol.data.name
        assert [chosen.protocol.data.name] == (data or [usual])
        assert chosen.temperatures == (shown["temperature"]["values"][i],)
        assert chosen.loads == (shown["load"]["values"][j],)
    visit.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.locator("button.copy").click()
    tab.get_by_text("Copied").wait_for()
    text = tab.evaluate("navigator.clipboard.readText()")
    assert text == tab.locator(".command code").inner_text()


def test_command_computes_the_cell_shown(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = explorer_data(explorer.shipped_studies(root=smoke, scales=("smoke",)))["diagrams"][0]
    command = f"{shown['command']} --only density=0.2,epochs=4 --out {tmp_path / 'mine'}"
    # As the smoke run: on one processor, in this process.
    cli.app([*shlex.split(command)[1:], "--device", "cpu", "--workers", "1"], standalone_mode=False)
    experiment = catalogue.load_experiment("figure_02", "smoke")
    one, all_ = (load_results(experiment, root).nets for root in (tmp_path / "mine", smoke))
    same = all_[(all_["density"] == 0.2) & (all_["epochs"] == 4)].reset_index(drop=True)
    columns = ["dense_seed", "retrain_seed", "cell"]
    pd.testing.assert_frame_equal(one[columns], same[columns])
    # Fleets of other sizes round differently, which a few images of the test set show.
    np.testing.assert_allclose(one["test_error"], same["test_error"], atol=0.02)
    i, j = shown["temperature"]["values"].index(4), shown["load"]["values"].index(0.2)
    assert one["test_error"].mean() == pytest.approx(at(shown, "test_error", i, j), abs=0.01)


def test_a_part_of_a_diagram_is_shown_with_gaps(browser: Any, smoke: Path, tmp_path: Path) -> None:
    """Cells without results say so, and nothing breaks."""
    found = explorer.shipped_studies(root=smoke, scales=("smoke",))[0]
    box = explorer.make_explorer([found])
    made = json.loads(json.dumps(state(box)))
    cells = made["grid"]["diagrams"][0]["cells"]
    for values in cells.values():
        values[0] = None
    made["grid"]["diagrams"][0]["curves"][0] = None
    path = tmp_path / "gaps.html"
    path.write_text(PAGE + explorer.embed_html(made), encoding="utf-8")
    with Visit(browser, path) as visit:
        visit.page.locator('[data-row="0"][data-column="0"]').click()
        frames(visit)
        assert visit.page.locator(".advice").inner_text().startswith("No results at 2 epochs")
        assert visit.wrong == []


@pytest.mark.parametrize("width", [320, 375, 768])
def test_nothing_sticks_out(browser: Any, page: Path, box: explorer.Explorer, width: int) -> None:
    with Visit(browser, page, viewport={"width": width, "height": 800}) as visit:
        tab = visit.page
        for shown in box.grid["diagrams"]:
            tab.locator("select").select_option(shown["key"])
            frames(visit)
            assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
            beyond = (
                "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
            )
            assert tab.eval_on_selector_all(".threeregime-explorer *", beyond) == 0
        sizes = tab.eval_on_selector_all(
            "svg text", "all => all.map(t => parseFloat(getComputedStyle(t).fontSize))"
        )
        assert min(sizes) >= 11


def test_colours_are_the_themes(visit: Visit) -> None:
    for theme in ("rgb(206, 214, 221)", "rgb(10, 20, 30)"):
        visit.page.evaluate(
            "c => document.documentElement.style.setProperty('--pst-color-text-base', c)", theme
        )
        for part in (".advice", "td", "select", "output"):
            colour = "e => getComputedStyle(e).color"
            assert visit.page.locator(part).first.evaluate(colour) == theme
        ticks = "e => getComputedStyle(e).fill"
        assert visit.page.locator(".axes .tick").first.evaluate(ticks) == theme


def test_other_widgets_can_be_joined_without_a_kernel(
    browser: Any, box: explorer.Explorer, tmp_path: Path
) -> None:
    """As a stored notebook shows it: html-manager, anywidget and a slider joined by jslink."""
    slider = ipywidgets.IntSlider(box.row, 0, 15)
    link = ipywidgets.jslink((box, "row"), (slider, "value"))
    shown = ipywidgets.VBox([slider, box])
    models = dependency_state([shown, link], drop_defaults=False)
    vendor = (ROOT / "book" / "_vendor").as_uri()
    (tmp_path / "widgets.js").write_text(
        (ROOT / "book" / "_assets" / "widgets.js")
        .read_text(encoding="utf-8")
        .replace('new URL(".", document.currentScript.src).href', f'"{vendor}/"')
    )
    wrapped = json.dumps({"version_major": 2, "version_minor": 0, "state": models})
    view = {"version_major": 2, "version_minor": 0, "model_id": shown.model_id}
    kind = "application/vnd.jupyter.widget"
    (tmp_path / "page.html").write_text(
        f'{PAGE}<body><script src="{vendor}/requirejs/require.js"></script>'
        '<script src="widgets.js"></script>'
        f'<script src="{vendor}/html-manager/embed-amd.js" '
        'data-jupyter-widgets-cdn="no-network/"></script>'
        f'<script type="{kind}-state+json">{wrapped}</script>'
        f'<script type="{kind}-view+json">{json.dumps(view)}</script>',
        encoding="utf-8",
    )
    with Visit(browser, tmp_path / "page.html") as visit:
        head = visit.page.locator(".threeregime-explorer h3")
        head.wait_for()
        handle = visit.page.locator(".noUi-handle")
        handle.press("ArrowLeft")
        visit.page.get_by_text("120 epochs, a density of 5 %", exact=True).wait_for()
        visit.page.locator(".diagram").press("ArrowUp")
        visit.page.get_by_text("112 epochs, a density of 5 %", exact=True).wait_for()
        assert handle.get_attribute("aria-valuetext") == "13"
        assert visit.wrong == []
