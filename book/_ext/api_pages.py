"""The pages of the public interface: one for the whole package and one for each room.

``{public-names} PACKAGE`` documents the names in ``PACKAGE.__all__``. A name that comes from a room
with a page of its own is documented there alone, and the directive links to it.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

PACKAGE = "threeregime"
PAGES = "book/api"  # a page for each room
LONGEST = 60  # characters of the value of a constant
LOGGER = logging.getLogger(__name__)


def home(package: str, name: str, pages: Collection[str]) -> str:
    """Return the package whose page documents a public name.

    Args:
        package: it exports the name.
        name: of a class, function or constant.
        pages: names of all pages.
    """
    thing = getattr(importlib.import_module(package), name)
    room = ".".join(str(getattr(thing, "__module__", "")).split(".")[:2])
    if f"{PAGES}/{room.partition('.')[2]}" not in pages:
        return package
    module = importlib.import_module(room)
    return room if name in getattr(module, "__all__", vars(module)) else package


def reference(package: str, name: str) -> list[str]:
    """Return the lines of reStructuredText that document a public name."""
    thing = getattr(importlib.import_module(package), name)
    full = f"{package}.{name}"
    if inspect.isclass(thing):
        return [f".. autoclass:: {full}", "   :members:", ""]
    if inspect.isroutine(thing):
        return [f".. autofunction:: {full}", ""]
    value = repr(thing)
    lines = [f".. py:data:: {name}"]
    # Addresses and paths differ from machine to machine.
    same = " at 0x" not in value and not isinstance(thing, Path)
    if len(value) <= LONGEST and same:
        lines.append(f"   :value: {value}")
    return [*lines, "", *(f"   {line}" for line in _comment(package, name)), ""]


def _comment(package: str, name: str) -> list[str]:
    """Return the text after the definition of a constant in one of the package's modules."""
    path = importlib.import_module(package).__path__
    for module in sorted(each.name for each in pkgutil.iter_modules(path, f"{package}.")):
        comments = ModuleAnalyzer.for_module(module).find_attr_docs()
        if ("", name) in comments:
            return list(comments["", name])
    return []


class PublicNames(SphinxDirective):
    """Documentation of the names in a package's ``__all__``."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return a table of the names that are documented elsewhere, then the others."""
        package = self.arguments[0]
        self._note_dependencies(package)
        names = getattr(importlib.import_module(package), "__all__", [])
        pages = self.env.found_docs
        homes = {n: home(package, n, pages) for n in names if not n.startswith("__")}
        elsewhere = [name for name in homes if homes[name] != package]
        here = [name for name in homes if homes[name] == package]
        lines = [f".. py:module:: {package}", ""]
        lines += [line for name in here for line in reference(package, name)]
        text = [*self._table(elsewhere, homes), "```{eval-rst}", *lines, "```"]
        node = nodes.Element()
        self.state.nested_parse(StringList(text, package), self.content_offset, node)
        return node.children

    def _table(self, names: list[str], homes: dict[str, str]) -> list[str]:
        if not names:
            return []
        rows = [f"| {_link(homes[name], name)} | {_summary(homes[name], name)} |" for name in names]
        return ["| Name | What it is |", "| --- | --- |", *rows, ""]

    def _note_dependencies(self, package: str) -> None:
        for path in importlib.import_module(package).__path__:
            for module in pkgutil.iter_modules([path]):
                self.env.note_dependency(f"{path}/{module.name}.py")


def _link(room: str, name: str) -> str:
    thing = getattr(importlib.import_module(room), name)
    role = "class" if inspect.isclass(thing) else "func" if inspect.isroutine(thing) else "data"
    return f"{{py:{role}}}`~{room}.{name}`"


def _summary(room: str, name: str) -> str:
    """Return the first sentence of a docstring as Markdown."""
    text = inspect.getdoc(getattr(importlib.import_module(room), name)) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("|", "\\|").replace("``", "`")


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve references by the name of a module inside a room, which the pages do not show.

    Warns about other references to this package that lead nowhere. Types of arguments are not links
    where they are not public.
    """
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith(f"{PACKAGE}."):
        return None
    _, room, *rest = target.split(".")
    for name in (f"{PACKAGE}.{room}.{'.'.join(rest[1:])}", f"{PACKAGE}.{'.'.join(rest)}"):
        found = env.get_domain("py").resolve_xref(
            env, node["refdoc"], app.builder, node["reftype"], name.rstrip("."), node, content
        )
        if found is not None:
            return found
    if isinstance(content, nodes.literal):
        LOGGER.warning("%s is not on the pages of the public interface", target, location=node)
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("public-names", PublicNames)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
