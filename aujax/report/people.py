"""Who is on the faces of an evaluation, in words: people who repeat make intervals and tests draw people, not faces."""

from aujax.bootstrap import People, of_whom
from aujax.report.examples import Examples


def count(people: People) -> int:
    """Returns how many people there are, each face of nobody known being another's.

    >>> import numpy as np
    >>> count(np.array(["ann", "ann", "", ""]))
    3
    """
    return int(of_whom(people, len(people)).max(initial=-1)) + 1


def repeat(people: People) -> bool:
    """Returns whether two faces are known to be of one person.

    >>> import numpy as np
    >>> repeat(np.array(["ann", "", ""])), repeat(np.array(["ann", "ann"]))
    (False, True)
    """
    return count(people) < len(people)


def faces(people: People) -> str:
    """Returns how many faces there are, and of how many people where these repeat.

    >>> import numpy as np
    >>> faces(np.array(["ann", "ann", "bob"])), faces(np.array(["", ""]))
    ('3 faces of 2 people', '2 faces')
    """
    return f"{len(people):,} faces" + (f" of {count(people):,} people" if repeat(people) else "")


def consequence(rows: Examples) -> str:
    """Returns what intervals and tests take as independent, in a sentence."""
    unknown = int((rows.people == "").sum())
    if unknown == len(rows):
        return (
            "The data do not say who is on which face, so intervals and tests draw faces: "
            "where people repeat, intervals are too narrow and p-values too small."
        )
    if not repeat(rows.people):
        return "No two faces are known to be of one person, so intervals and tests draw faces."
    words = "Faces of one person are not independent, so intervals and tests draw people, with all their faces"
    return f"{words}; those of nobody known ({unknown:,}) count as a person each." if unknown else f"{words}."
