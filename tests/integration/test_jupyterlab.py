"""The explorer and the live nets in JupyterLab itself, with a kernel behind it and no network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from threeregime.book.kernel_server import environment

STARTS = 120  # seconds that a busy machine may take
CELLS = (
    "import ipywidgets\nfrom threeregime import Study\nfrom threeregime.figures import explorer",
    'study = Study.obtain("figure_07", "clutter")\nbox = explorer.make_explorer([study])\n'
    "slider, label = ipywidgets.IntSlider(max=99), ipywidgets.Label()\n"
    'ipywidgets.jslink((box, "row"), (slider, "value"))\n'
    'box.observe(lambda at: setattr(label, "value", f"row {at.new} in Python"), "row")\n'
    "ipywidgets.VBox([box, slider, label])",
    "from threeregime.figures.live_nets import LiveNets\n"
    "walk = LiveNets.load().line_walk()\n"
    "position, at = ipywidgets.FloatSlider(0.5, max=1, step=0.1), ipywidgets.Label()\n"
    'ipywidgets.jslink((position, "value"), (walk, "t"))\n'
    'walk.observe(lambda new: setattr(at, "value", f"t = {new.new:.1f} in Python"), "t")\n'
    "ipywidgets.VBox([walk, position, at])",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running JupyterLab whose folder holds one notebook with the widgets."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "walk.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"IPYTHONDIR": "ipython", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data"}
    words = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token="),
        f"--ServerApp.root_dir={folder}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    log = folder / "log"
    own = {**environment(), **{name: str(folder / at) for name, at in settings.items()}}
    with log.open("w") as lines:
        server = subprocess.Popen(words, env=own, stdout=lines, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/api", server, log)
        yield f"http://127.0.0.1:{port}/lab/tree/walk.ipynb?reset"
    finally:
        server.terminate()
        server.wait(30)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTS
    while time.monotonic() < end and server.poll() is None:
        try:
            urllib.request.urlopen(address).close()
            return
        except OSError:
            time.sleep(0.3)
    pytest.fail(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@pytest.mark.exhaustive
def test_widgets_live_in_jupyterlab(lab: str, browser: Any) -> None:
    """They move by the keyboard; joined sliders and the kernel follow."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(1000 * STARTS)
    page.goto(lab)
    page.get_by_text("| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    explorer = page.locator(".threeregime-explorer")
    explorer.wait_for()
    before = explorer.locator("h3").first.inner_text()
    slider = page.locator(".widget-readout").first
    row = int(slider.inner_text())
    diagram = explorer.locator(".diagram")
    diagram.focus()
    page.keyboard.press("ArrowUp")
    page.get_by_text(f"row {row - 1} in Python").wait_for()
    assert explorer.locator("h3").first.inner_text() != before
    assert int(slider.inner_text()) == row - 1
    page.locator(".noUi-handle").last.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("t = 0.6 in Python").wait_for()
    page.get_by_text("the net at 0.60").wait_for()
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / "jupyterlab.png")
    own = lab.split("/lab/")[0]
    assert not [url for url in asked if not url.startswith((own, "data:", "blob:"))]
    page.close()
