"""The form in which executed notebooks are stored: equal outputs are equal bytes."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

ADDRESS = re.compile(r"(?<= at )0x[0-9a-f]+(?=>)")
KERNEL = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}


def normalize(text: str) -> str:
    """Return an executed notebook without times, versions, addresses and random names.

    What cells wrote to standard error is left out: it tells of the machine, such as that kernels
    are compiled for it.

    Args:
        text: the notebook as JSON.
    """
    notebook = json.loads(text)
    widgets = notebook["metadata"].get("widgets")
    notebook["metadata"] = {**KERNEL, **({"widgets": widgets} if widgets else {})}
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number}"
        metadata = {
            k: v for k, v in cell["metadata"].items() if k not in ("papermill", "execution")
        }
        cell["metadata"] = {k: v for k, v in metadata.items() if v or k != "tags"}
        if "outputs" in cell:
            kept = [output for output in cell["outputs"] if output.get("name") != "stderr"]
            cell["outputs"] = json.loads(ADDRESS.sub("0x0", json.dumps(kept)))
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    for number, name in enumerate(_widget_names(notebook)):
        text = text.replace(name, f"{number:032x}")
    # The order of the models follows their new names.
    return json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def code_digest(text: str) -> str:
    """Return the SHA-256 of a notebook's code cells with their outputs; its prose may change.

    Args:
        text: the notebook as JSON.
    """
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    content = json.dumps([notebook["metadata"], cells], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _widget_names(notebook: dict[str, Any]) -> list[str]:
    """Return the names of all widget models, in an order that does not depend on the names.

    Models with a view come first, each followed by the models it refers to; then those without a
    view, such as links between widgets.
    """
    parts = notebook["metadata"].get("widgets", {}).values()
    state = {name: json.dumps(m, sort_keys=True) for p in parts for name, m in p["state"].items()}
    order: dict[str, int] = {}

    def visit(name: str) -> None:
        if name in state and name not in order:
            order[name] = len(order)
            for child in re.findall(r"IPY_MODEL_(\w+)", state[name]):
                visit(child)

    for view in re.findall(r'"model_id": "(\w+)"', json.dumps(notebook["cells"])):
        visit(view)

    def nameless(name: str) -> str:
        return re.sub(r"IPY_MODEL_(\w+)", lambda m: str(order.get(m[1], "new")), state[name])

    for name in sorted(state.keys() - order.keys(), key=nameless):
        visit(name)
    return list(order)
