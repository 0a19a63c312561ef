"""Writes copies of the notebooks that run on Colab; the workflow that publishes the book calls it.

Colab opens a notebook alone: without the package, the tables and some libraries. The copies begin
with one cell more, which fetches them. Usage: python tools/colab.py OWNER/NAME FOLDER
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# What the notebooks need and Colab lacks; the rest stays as Colab has it, since its own program
# runs on the same libraries.
LACKING = ("anywidget", "myst-nb", "num2words", "sacrebleu")


def pins() -> list[str]:
    """The lines of requirements.txt for what Colab lacks."""
    text = (ROOT / "requirements.txt").read_text()
    return re.findall(rf"^(?:{'|'.join(LACKING)})==\S+$", text, re.MULTILINE)


def first_cell(repository: str) -> dict[str, Any]:
    """The cell that makes a notebook of ``owner/name`` run on Colab."""
    folder = f"/content/{repository.partition('/')[2]}"
    lines = [
        "# Colab has opened this notebook alone: fetch the project, and the libraries it lacks.",
        "# Its own versions of the others may change last digits.",
        f"!git clone --quiet --depth 1 https://github.com/{repository} {folder}",
        f"%pip install --quiet {' '.join(pins())}",
        f"%pip install --quiet --no-deps --editable {folder}",
        f"%cd -q {folder}/notebooks",
        "import sys",
        "",
        "from google.colab import output",
        "",
        f'sys.path.insert(0, "{folder}")',
        "output.enable_custom_widget_manager()",
    ]
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "colab",
        "metadata": {},
        "outputs": [],
        "source": "\n".join(lines).splitlines(keepends=True),
    }


def copy(repository: str, out: Path) -> list[Path]:
    """Write a copy of every notebook into ``out/notebooks``, where the book's buttons look."""
    written = []
    for source in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(source.read_text(encoding="utf-8"))
        notebook["cells"].insert(0, first_cell(repository))
        path = out / "notebooks" / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    copy(sys.argv[1], Path(sys.argv[2]))
