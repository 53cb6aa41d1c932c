"""What preparing a data set found and wrote, as plain text."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from aujax.data.splits import SPLITS

_NAMES_SHOWN = 20


@dataclass(frozen=True)
class Row:
    """One stored face."""

    id: str
    expression: int
    split: str
    group: str
    content: str
    has_landmarks: bool


@dataclass
class Findings:
    """What is reported.

    Attributes:
      headings: (name, text) lines for the top.
      expressions: names by index.
      notes: sentences to read before using the data.
      problems: (id, reason) of images that were left out.
      rows: the stored faces.
    """

    headings: list[tuple[str, str]]
    expressions: Sequence[str]
    notes: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def render(findings: Findings) -> str:
    """The report: headings, the table of classes, splits and landmarks, then what is wrong, each by name."""
    width = max(len(name) for name, _ in findings.headings)
    parts = [f"{name:<{width}}  {text}" for name, text in findings.headings]
    parts += ["", *_table(findings), ""]
    parts += _named("unreadable images, left out", [f"{name}: {why}" for name, why in findings.problems])
    parts += _named("copies of one image in two splits", _copies_across(findings.rows))
    parts += _named("people in two splits", _groups_across(findings.rows))
    parts += _named("copies of one image with two expressions", _contradictions(findings))
    parts += _named("note", findings.notes)
    return "\n".join(parts) + "\n"


def warnings(rows: Sequence[Row], expressions: Sequence[str]) -> list[str]:
    """Which classes each split lacks."""
    present = {(row.split, row.expression) for row in rows}
    found = []
    for split in SPLITS:
        lacking = [name for index, name in enumerate(expressions) if (split, index) not in present]
        if lacking and any(row.split == split for row in rows):
            found.append(f"{split} has no {', '.join(lacking)}: nothing can be said about these classes there")
    return found


def _table(findings: Findings) -> list[str]:
    rows, splits = findings.rows, [split for split in SPLITS if any(row.split == split for row in findings.rows)]
    cells = [["expression", *splits, "all", "landmarks", "no landmarks"]]
    for index, name in enumerate([*findings.expressions, "all"]):
        mine = [row for row in rows if name == "all" or row.expression == index]
        found = sum(row.has_landmarks for row in mine)
        counts = [sum(row.split == split for row in mine) for split in splits]
        cells.append([name, *map(str, counts), str(len(mine)), str(found), str(len(mine) - found)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]


def _named(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return [] if title == "note" else [f"{title}: none"]
    if title == "note":
        return [f"note: {line}" for line in lines]
    more = [f"  and {len(lines) - _NAMES_SHOWN} more"] if len(lines) > _NAMES_SHOWN else []
    return [f"{title}: {len(lines)}", *(f"  {line}" for line in lines[:_NAMES_SHOWN]), *more]


def _copies_across(rows: Sequence[Row]) -> list[str]:
    return [
        " = ".join(f"{row.id} ({row.split})" for row in copies)
        for copies in _copies(rows)
        if len({row.split for row in copies}) > 1
    ]


def _contradictions(findings: Findings) -> list[str]:
    return [
        " = ".join(f"{row.id} ({findings.expressions[row.expression]})" for row in copies)
        for copies in _copies(findings.rows)
        if len({row.expression for row in copies}) > 1
    ]


def _copies(rows: Sequence[Row]) -> list[list[Row]]:
    same: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        same[row.content].append(row)
    return [copies for copies in same.values() if len(copies) > 1]


def _groups_across(rows: Sequence[Row]) -> list[str]:
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        if row.group:
            splits[row.group][row.split] += 1
    return [
        f"{group}: " + ", ".join(f"{count} in {split}" for split, count in counts.items())
        for group, counts in splits.items()
        if len(counts) > 1
    ]
