"""Results on a page: tables as text and as HTML, numbers that stay on the safe side of theirs."""

import decimal
import html
import math
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]


def at_most(value: float, digits: int = 7) -> str:
    """A number as text, rounded up: what is printed for a bound is one, too."""
    return _rounded(value, digits, decimal.ROUND_CEILING)


def at_least(value: float, digits: int = 7) -> str:
    """A number as text, rounded down."""
    return _rounded(value, digits, decimal.ROUND_FLOOR)


def _rounded(value: float, digits: int, rounding: str) -> str:
    if not math.isfinite(value):
        return f"{value:g}"
    context = decimal.Context(prec=digits, rounding=rounding)
    rounded = context.create_decimal_from_float(float(value))
    text = f"{float(rounded):.{digits}g}"
    return text if decimal.Decimal(text) == rounded else str(rounded)  # beyond the range of floats


def text_table(rows: Rows, right: Sequence[int] = ()) -> list[str]:
    """Lines of columns as wide as they need; the last one is as wide as its texts.

    Args:
        rows: of as many texts each.
        right: columns that end together, for numbers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for row in rows:
        cells = zip(row[:-1], widths, strict=True)
        padded = [t.rjust(w) if i in right else t.ljust(w) for i, (t, w) in enumerate(cells)]
        lines.append("  ".join([*padded, row[-1]]))
    return lines


def html_table(
    rows: Rows, right: Sequence[int] = (), caption: str = "", emphasized: Sequence[int] = ()
) -> str:
    """The same for a notebook: the first row is the head.

    Args:
        rows: of as many texts each, none of them HTML.
        right: columns that end together, for numbers.
        caption: what the table is about.
        emphasized: rows, such as the total.
    """
    sides = ["right" if i in right else "left" for i in range(len(rows[0]))]
    lines = ["<table>"]
    if caption:
        lines.append(f'<caption style="text-align: left">{html.escape(caption)}</caption>')
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        weight = "; font-weight: bold" if number in emphasized else ""
        cells = [
            f'<{tag} style="text-align: {side}{weight}">{html.escape(text)}</{tag}>'
            for side, text in zip(sides, row, strict=True)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])
