"""The explorer in a browser: readers can use it with mouse, keys and links."""

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

from tests.helpers.browsing import HEAD, Visit, write_widgets
from tests.helpers.cases import with_examples
from threeregime import cli, sweep
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.study import Study
from threeregime.analysis.thresholds import classify
from threeregime.analysis.transitions import temperature_gains
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.figures import explorer
from threeregime.figures.explorer_data import explorer_data
from threeregime.results import load_results

RNG = np.random.default_rng(0)
EXACT = ("lmc", "cka_softmax")


@pytest.fixture(scope="module")
def page(box: explorer.Explorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that holds nothing but the explorer."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(HEAD + explorer.embed_html(state(box)), encoding="utf-8")
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


def test_text_is_the_results_table(visit: Visit, studies: list[Study]) -> None:
    """The numbers of 60 cells by click, against the diagram traits from the tables."""
    tab, seen = visit.page, 0
    for study in studies[:3]:
        d = study.diagram
        tab.locator("select").select_option(index=studies.index(study))
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
                expected = [factor * cell[f"{name}{end}"] for end in ("", "_low", "_high")]
                assert numbers(row)[-3:] == pytest.approx(expected, abs=1.001 * half)
            advice = tab.locator(".advice").inner_text()
            if cell["no_nets"]:
                assert advice.startswith("No regime: these nets learned too little.")
                assert tab.locator(".chances > div").count() == 0
                continue
            assert re.match(rf"Regime {cell['regime']}(:|, but)", advice)
            bars = [numbers(t)[-1] for t in tab.locator(".chances > div").all_inner_texts()]
            chances = [100 * cell[name] for name in ("p_I", "p_IIA", "p_IIB")]
            assert bars == pytest.approx(chances, abs=0.501)
            check_advice(advice, d, i, j)
            curve = tab.locator(".wall .unseen").inner_text()
            pairs = study.tables.pairs[
                (study.tables.pairs[d.temperature] == d.temperatures[i])
                & (study.tables.pairs[d.load] == d.loads[j])
            ]
            top = 100 * np.mean([np.asarray(c) for c in pairs["curve"]], axis=0).max()
            assert numbers(curve)[-1] == pytest.approx(top, abs=0.06)
            seen += 1
    assert seen >= 40


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
    # With one dense seed there is no fair gain, and none is named.
    expected = [100 * x[i, j] for x in (gain, low, high) if np.isfinite(x[i, j])]
    assert values == pytest.approx(expected, abs=0.051)
    assert ("leave open" in text) == (low[i, j] <= 0)
    pointed = {"I": best < i, "II-A": best > i, "II-B": False}[d.grid("regime")[i, j]]
    assert pointed == ("rule" not in text)


def regimes(visit: Visit) -> list[str]:
    found = visit.page.eval_on_selector_all("[data-row]", "all => all.map(c => c.dataset.regime)")
    return [str(regime) for regime in found]


def test_thresholds_redraw_the_regimes(visit: Visit, studies: list[Study]) -> None:
    d = studies[0].diagram
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
        expected = classify(d.grid("lmc"), d.grid("cka_softmax"), values[0], values[1])
        assert regimes(visit) == expected.ravel().tolist()
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
    assert tab.locator("h3").inner_text() == "12 epochs, a density of 8 %"
    slider.press("ArrowRight")
    tab.locator("input.load").press("End")
    frames(visit)
    assert tab.locator("h3").inner_text() == "18 epochs, a density of 40 %"
    assert slider.get_attribute("aria-valuetext") == "18"


def test_arrow_keys_move_the_cell(visit: Visit) -> None:
    tab = visit.page
    tab.locator(".diagram").focus()
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        tab.keyboard.press(key)
    tab.keyboard.press("ArrowLeft")  # at the edge
    frames(visit)
    assert tab.locator("h3").inner_text() == "78 epochs, a density of 6 %"
    label = tab.locator(".diagram").get_attribute("aria-label")
    assert "78 epochs, a density of 6 %. Arrow keys move it." in label
    assert tab.evaluate("document.activeElement.className") == "diagram"
    assert tab.locator(".advice").get_attribute("aria-live") == "polite"


def everything(visit: Visit) -> tuple[str, list[str]]:
    return visit.page.locator(".threeregime-explorer").inner_text(), regimes(visit)


def test_slices_go_through_the_cell(visit: Visit, studies: list[Study]) -> None:
    tab, diagram = visit.page, studies[0].diagram
    counts = {"temperature": len(diagram.temperatures), "load": len(diagram.loads)}
    dense = studies[0].tables.nets["dense_seed"].nunique()
    for along, count in counts.items():
        part = tab.locator(f".slices .{along}")
        assert part.locator("circle.point").count() == count
        assert part.locator("circle.seed").count() == dense
    # Beside each other where there is room.
    boxes = [tab.locator(f".slices .{along}").bounding_box() for along in counts]
    assert boxes[0]["y"] == boxes[1]["y"]
    curve = tab.locator(".slices .load polyline")
    before = curve.get_attribute("points")
    tab.locator(".diagram").press("ArrowUp")
    frames(visit)
    assert curve.get_attribute("points") != before


def test_address_brings_the_state_back(browser: Any, page: Path, visit: Visit) -> None:
    tab = visit.page
    tab.locator("input[type=checkbox]").check()
    tab.locator('[data-row="3"][data-column="3"]').click()
    tab.locator("input.lmc").press("ArrowLeft")
    tab.locator("input.cka").press("ArrowLeft")
    tab.wait_for_function("location.hash.includes('cka=')")
    address = tab.evaluate("location.hash")
    assert address.startswith(
        "#experiment=figure_02/clutter&density=0.14&epochs=42&lmc=-0.055&cka="
    )
    with Visit(browser, page, address) as again:
        assert everything(again) == everything(visit)
        assert again.page.locator("input[type=checkbox]").is_checked()
        assert again.wrong == []


@pytest.mark.parametrize(
    "address",
    [
        "#results",
        "#experiment=gone&density=0.1",
        "#experiment=figure_02/clutter&epochs=x",
        "#experiment=%",
        "#experiment=%E0%A4%A",
    ],
)
def test_other_addresses_do_no_harm(browser: Any, page: Path, address: str) -> None:
    with Visit(browser, page, address) as visit:
        assert visit.page.locator("h3").inner_text().startswith("96 epochs")
        assert visit.wrong == []


def test_papers_regimes_lie_over_ours(visit: Visit, studies: list[Study]) -> None:
    tab, paper = visit.page, PhaseDiagram.from_reference()
    assert tab.locator(".cell .mark").count() == 0
    tab.locator("input[type=checkbox]").check()
    tab.locator('[data-row="7"][data-column="0"]').click()
    frames(visit)
    # All parts of the dense run and all densities are in both diagrams.
    assert tab.locator(".cell .mark").count() == 8 * 6
    row = paper.cells[(paper.cells["epochs"] == 160) & (paper.cells["density"] == 0.06)].iloc[0]
    shown = tab.locator("tbody tr td:last-child").all_inner_texts()
    assert [*map(float, (s.replace("−", "-") for s in shown[:3]))] == pytest.approx(
        [100 * row["test_error"], row["lmc"], row["cka_softmax"]], abs=0.051
    )
    assert shown[3] == row["regime"]
    tab.locator("select").select_option("figure_06/clutter")
    frames(visit)
    assert tab.locator(".cell .mark").count() == 0


def experiment_of(command: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Experiment, Path]:
    """What the command line makes of a command."""
    found: list[tuple[Experiment, Path]] = []

    def remember(experiment: Experiment, out: Path, **_: object) -> bool:
        found.append((experiment, out))
        return True

    monkeypatch.setattr(sweep, "run_sweep", remember)
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
        chosen, out = experiment_of(tab.locator(".command code").inner_text(), monkeypatch)
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
    traits = json.loads(json.dumps(state(box)))
    cells = traits["grid"]["diagrams"][0]["cells"]
    for values in cells.values():
        values[0] = None
    traits["grid"]["diagrams"][0]["curves"][0] = None
    path = tmp_path / "gaps.html"
    path.write_text(HEAD + explorer.embed_html(traits), encoding="utf-8")
    with Visit(browser, path) as visit:
        visit.page.locator('[data-row="0"][data-column="0"]').click()
        frames(visit)
        assert visit.page.locator(".advice").inner_text().startswith("No results at 2 epochs")
        assert visit.wrong == []


@pytest.mark.parametrize(
    "font", with_examples(["serif", "sans-serif", "DejaVu Sans"], ["DejaVu Sans"])
)
@pytest.mark.parametrize("width", [320, 375, 768])
def test_nothing_sticks_out(
    browser: Any, page: Path, box: explorer.Explorer, width: int, font: str
) -> None:
    with Visit(browser, page, viewport={"width": width, "height": 800}) as visit:
        tab = visit.page
        tab.add_style_tag(content=f"body {{ font-family: {font} }}")  # DejaVu is a wide one
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
    slider = ipywidgets.IntSlider(box.row, 0, 7)
    link = ipywidgets.jslink((box, "row"), (slider, "value"))
    shown = ipywidgets.VBox([slider, box])
    with Visit(browser, write_widgets(tmp_path, shown, link)) as visit:
        head = visit.page.locator(".threeregime-explorer h3")
        head.wait_for()
        handle = visit.page.locator(".noUi-handle")
        handle.press("ArrowLeft")
        visit.page.get_by_text("78 epochs, a density of 8 %", exact=True).wait_for()
        visit.page.locator(".diagram").press("ArrowUp")
        visit.page.get_by_text("66 epochs, a density of 8 %", exact=True).wait_for()
        assert handle.get_attribute("aria-valuetext") == "5"
        assert visit.wrong == []
