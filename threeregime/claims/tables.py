"""Statements as tables: verdicts, effects with their intervals, the numbers behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from IPython.display import Markdown

from threeregime.claims.statement import Statement

VERDICTS = {True: "holds", False: "does not hold", None: "open"}


def statement_table(*groups: Iterable[Statement], heads: Sequence[str] = ("here",)) -> Markdown:
    """Statements with their verdicts, effects and 95 % intervals, a line each.

    Args:
        groups: the same statements, judged on one diagram each.
        heads: what these diagrams are called.
    """
    columns = [column for head in heads for column in (head, "effect (95 % interval)")]
    lines = [f"| statement | {' | '.join(columns)} |", "|:--|" + ":--|" * len(columns)]
    for same in zip(*groups, strict=True):
        parts = [f"**{VERDICTS[s.holds]}** | {format_effect(s)}" for s in same]
        lines.append(f"| {same[0].statement} | {' | '.join(parts)} |")
    return Markdown("\n".join(lines))


def format_effect(statement: Statement) -> str:
    """A statement's effect with its 95 % interval, as far as there are these."""
    if statement.effect != statement.effect:
        return "no such cells"
    if statement.low != statement.low:
        return f"{statement.effect:+.3f}"
    return f"{statement.effect:+.3f} ({statement.low:+.3f} to {statement.high:+.3f})"


def statement_details(statements: Iterable[Statement]) -> Markdown:
    """The numbers behind each statement's effect."""
    return Markdown("\n".join(f"* *{s.statement}* {s.detail}" for s in statements))
