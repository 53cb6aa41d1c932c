"""The report on a prepared data set, as plain text."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from aujax.data.splits import SPLITS

_MAX_LISTED = 20


@dataclass(frozen=True)
class ReportedFace:
    """A stored face; `content` is the hash of its image."""

    id: str
    expression: int
    split: str
    subject_id: str
    content: str
    has_landmarks: bool


@dataclass
class Report:
    """The contents of the report.

    Attributes:
      headings: (name, text) of the first lines.
      expressions: names by index.
      notes: sentences to read before using the data.
      problems: (id, reason) of images that were left out.
      faces: the stored faces.
    """

    headings: list[tuple[str, str]]
    expressions: Sequence[str]
    notes: list[str]
    problems: list[tuple[str, str]] = field(default_factory=list)
    faces: list[ReportedFace] = field(default_factory=list)


def render(report: Report) -> str:
    """Returns the headings, the table of classes and splits, then problems, leaks between splits and notes."""
    width = max(len(name) for name, _ in report.headings)
    lines = [f"{name:<{width}}  {text}" for name, text in report.headings]
    lines += ["", *_counts(report), ""]
    lines += _listed("unreadable images, left out", [f"{name}: {reason}" for name, reason in report.problems])

    same_content = defaultdict(list)
    for face in report.faces:
        same_content[face.content].append(face)
    leaks, contradictions = [], []
    for copies in same_content.values():
        if len({face.split for face in copies}) > 1:
            leaks.append(" = ".join(f"{face.id} ({face.split})" for face in copies))
        if len({face.expression for face in copies}) > 1:
            contradictions.append(" = ".join(f"{face.id} ({report.expressions[face.expression]})" for face in copies))
    lines += _listed("copies of one image in two splits", leaks)

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for face in report.faces:
        counts[face.subject_id][face.split] += 1
    subjects = []
    for subject, by_split in counts.items():
        if subject and len(by_split) > 1:
            places = ", ".join(f"{count} in {split}" for split, count in by_split.items())
            subjects.append(f"{subject}: {places}")
    lines += _listed("subjects in two splits", subjects)
    lines += _listed("copies of one image with two expressions", contradictions)

    notes = list(report.notes)
    for split in SPLITS:
        present = {face.expression for face in report.faces if face.split == split}
        missing = [name for index, name in enumerate(report.expressions) if index not in present]
        if present and missing:
            notes.append(f"{split} has no {', '.join(missing)}: results there do not cover these classes")
    lines += [f"note: {note}" for note in notes]
    return "\n".join(lines) + "\n"


def _counts(report: Report) -> list[str]:
    """Returns the lines of the table of how many faces of each expression are in each split and have landmarks."""
    splits = [split for split in SPLITS if any(face.split == split for face in report.faces)]
    rows = [["expression", *splits, "all", "landmarks", "no landmarks"]]
    for index, name in enumerate([*report.expressions, "all"]):
        faces = report.faces
        if index < len(report.expressions):
            faces = [face for face in faces if face.expression == index]
        marked = sum(face.has_landmarks for face in faces)
        counts = [sum(face.split == split for face in faces) for split in splits]
        rows.append([name, *map(str, [*counts, len(faces), marked, len(faces) - marked])])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *counts in rows:
        aligned = [count.rjust(width) for count, width in zip(counts, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *aligned]))
    return lines


def _listed(title: str, lines: Sequence[str]) -> list[str]:
    if not lines:
        return [f"{title}: none"]
    listed = [f"{title}: {len(lines)}", *(f"  {line}" for line in lines[:_MAX_LISTED])]
    if len(lines) > _MAX_LISTED:
        listed.append(f"  and {len(lines) - _MAX_LISTED} more")
    return listed
