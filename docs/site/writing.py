"""How tables and numbers of the documentation are written."""

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines)


def percent(share: float) -> str:
    return f"{share:.3g} %" if (share := 100 * share) < 99.5 else f"{share:.0f} %"
