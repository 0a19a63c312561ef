"""Figures lead to their tables and to what made them, and to the ledger's verdicts on them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.helpers import spoiling, synthetic
from threeregime._paths import ROOT
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.book import build, downloads
from threeregime.experiments import catalogue
from threeregime.figures import diagrams
from threeregime.results import TablesId, load_results, output_facts, read_outputs
from threeregime.results import tables as results

PAGES = [page for page in build.page_names() if re.search(r"/figure_\d+$", page)]
LEDGER = "notebooks/claims"
BLOCKS = re.compile(r'<div class="trace".*?</div>|<aside class="ledger".*?</aside>', re.DOTALL)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[downloads.Export]]:
    """The tables of Figure 7 alone, as files."""
    root, folder = (tmp_path_factory.mktemp(name) for name in ("results", "tables"))
    shutil.copytree(results.ROOT / "figure_07", root / "figure_07")
    return folder, downloads.write_tables(folder, root)


def test_checksums_are_those_of_the_files(written: tuple[Path, list[downloads.Export]]) -> None:
    folder, (export,) = written
    sums = dict(
        line.split("  ")[::-1] for line in (folder / downloads.SUMS).read_text().splitlines()
    )
    assert sums == {file.name: file.sha256 for file in export.files}
    assert set(sums) == {path.name for path in folder.glob("*.csv.gz")}
    for name, said in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == said


def test_csv_holds_the_table_to_the_last_bit(written: tuple[Path, list[downloads.Export]]) -> None:
    folder, (export,) = written
    tables = load_results(catalogue.load_experiment("figure_07", "clutter"))
    assert [file.kind for file in export.files] == ["dense", "nets", "pairs", "early"]
    for file in export.files:
        table = getattr(tables, file.kind)
        read = pd.read_csv(folder / file.name, dtype={"variant": str})
        read["variant"] = read["variant"].fillna("")
        assert file.rows == len(read)
        if "curve" in table:
            curves = [json.loads(text) for text in read["curve"]]
            assert np.array_equal(np.stack(table["curve"]), np.array(curves))
            table, read = table.drop(columns="curve"), read.drop(columns="curve")
        pd.testing.assert_frame_equal(read, table, check_exact=True, check_dtype=False)


def test_provenance_names_what_there_is(written: tuple[Path, list[downloads.Export]]) -> None:
    _, (export,) = written
    tables = load_results(catalogue.load_experiment("figure_07", "clutter"))
    assert export.tables == tables.id
    assert export.facts["seeds"] == "dense 700 to 705; retraining 0 to 2"
    assert all(commit in export.facts["code"] for commit in tables.origins["commit"])
    assert set(tables.dense["fleet"]) | set(tables.nets["fleet"]) == set(tables.origins["fleet"])
    minutes = tables.origins["seconds"].sum() / 60
    assert export.line.endswith(f", {minutes:.0f} min")


def test_mark_changes_with_what_is_in_the_tables(tmp_path: Path) -> None:
    shutil.copytree(results.ROOT / "figure_07", tmp_path / "figure_07")
    experiment = catalogue.load_experiment("figure_07", "clutter")
    before = load_results(experiment, tmp_path).id
    assert before == load_results(experiment).id
    spoiling.drop_fleet(tmp_path / "figure_07" / "clutter", "nets")
    assert load_results(experiment, tmp_path).id != before


def _said(shown: Any) -> Any:
    shell = InteractiveShell.instance()
    _, metadata = shell.display_formatter.format(shown)  # type: ignore[union-attr]
    return metadata[output_facts.KEY]


def test_figure_says_which_tables_it_was_made_from() -> None:
    name = TablesId("some", "digits", "digits", "0" * 12)
    ours = synthetic.make_diagram(replace(synthetic.make_tables(), id=name))
    paper = PhaseDiagram.from_reference()
    assert _said(diagrams.regime_map(ours)) == {"tables": [vars(name)], "paper": False}
    assert _said(diagrams.phase_diagram(ours, paper)) == {"tables": [vars(name)], "paper": True}
    assert _said(diagrams.regime_map(paper)) == {"tables": [], "paper": True}


def _text(html: Path, page: str) -> str:
    return (html / f"{page}.html").read_text(encoding="utf-8")


def _blocks(text: str, kind: str) -> list[str]:
    return [block for block in BLOCKS.findall(text) if f'class="{kind}"' in block]


@pytest.mark.parametrize("page", PAGES)
def test_page_of_a_figure_has_captions_and_the_ledger(html: Path, page: str) -> None:
    text = _text(html, page)
    outputs = list(read_outputs(ROOT / f"{page}.ipynb"))
    captions = _blocks(text, "trace")
    assert len(captions) == sum(one.picture for one in outputs)
    assert all(f"{page.rpartition('/')[2]}.ipynb" in caption for caption in captions)
    assert any(".csv.gz" in caption and "experiment " in caption for caption in captions)
    assert len(_blocks(text, "ledger")) == 1


def test_links_of_captions_and_boxes_lead_somewhere(html: Path) -> None:
    checked = 0
    for path in [*html.glob("notebooks/*.html"), html / "book" / "tables.html"]:
        for block in BLOCKS.findall(path.read_text(encoding="utf-8")):
            for address in re.findall(r'href="([^"]+)"', block):
                file, _, place = address.partition("#")
                target = path.parent / file
                assert target.exists(), f"{path.name}: {address}"
                if place:
                    assert f'id="{place}"' in target.read_text(encoding="utf-8"), address
                checked += 1
    assert checked > 100


def test_built_checksums_are_those_on_the_pages(html: Path) -> None:
    sums = (html / "tables" / downloads.SUMS).read_text().splitlines()
    page = _text(html, "book/tables")
    for line in sums:
        checksum, name = line.split("  ")
        assert hashlib.sha256((html / "tables" / name).read_bytes()).hexdigest() == checksum
        assert checksum in page


def test_figure_of_two_studies_names_both(html: Path) -> None:
    (caption, *_) = _blocks(_text(html, "notebooks/figure_04"), "trace")
    assert ">figure_02, clutter</a>" in caption
    assert ">figure_07, clutter</a>" in caption


def test_figure_of_the_papers_values_names_no_tables_of_ours(html: Path) -> None:
    captions = _blocks(_text(html, "notebooks/figure_02"), "trace")
    (alone,) = [c for c in captions if "paper's own values" in c and ".csv.gz" not in c]
    assert "experiment " not in alone
    assert any("paper's own values" in c and ".csv.gz" in c for c in captions)


def test_boxes_say_what_the_ledger_says(html: Path) -> None:
    row = r'<details id="(claim-\w+)"[^>]* data-verdict="([^"]+)"'
    rows = dict(re.findall(row, _text(html, LEDGER)))
    assert len(rows) > 20
    quoted = set()
    for page in build.page_names():
        for box in _blocks(_text(html, page), "ledger"):
            for item in re.findall(r"<li .*?</li>", box):
                verdict, claim = re.findall(r"</span> ([^<]+)</strong> .*?#(claim-\w+)", item)[0]
                assert verdict == rows[claim]
                quoted.add(claim)
    assert len(quoted) > 15


@pytest.mark.parametrize("name", ["cifar10", "hessian", "figure_11"])
def test_a_page_named_after_a_claim_says_its_verdict_first(html: Path, name: str) -> None:
    (box,) = _blocks(_text(html, f"notebooks/{name}"), "ledger")
    assert re.findall(r"#(claim-\w+)", box)[0] == f"claim-{name}"
