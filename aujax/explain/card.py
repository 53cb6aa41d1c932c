"""One face on the page: pictures, words, warnings, probabilities and the table of action units, as HTML."""

import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from aujax.codebook import ACTION_UNITS
from aujax.explain import words
from aujax.explain.background import Record
from aujax.explain.explanation import Explanation, Pixels, Region
from aujax.report import markup, overlays

_MOST = 3  # places that matter most, and that are looked at most, in the short table


def card(one: Explanation, name: str, *, number: int, record: Record | None, listed: Sequence[int]) -> str:
    """Returns the article about a face; `name` is what to call its photograph, `record` how reliable the answer is."""
    place = f"face-{number}"
    _, _, rest = one.text.partition(": ")
    parts = [
        f'<article id="{place}" aria-labelledby="{place}-name">',
        f'<h3 id="{place}-name"><span class="place">{number}</span> {html.escape(name)}</h3>',
        f'<p class="answer"><strong>{html.escape(one.expression)} {one.probability:.2f}</strong>: '
        f"{html.escape(rest)}</p>",
        _warnings(one),
        f'<div class="views">{"".join(_pictures(one, listed))}</div>',
        f'<div class="findings"><div>{_probabilities(one)}{_record(one, record)}</div><div>{_regions(one)}</div></div>',
        "</article>",
    ]
    return "\n".join(parts)


def signed(value: float) -> str:
    """Returns a change of a probability, such as "−0.35".

    >>> signed(-0.351), signed(0.0)
    ('−0.35', '0.00')
    """
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def change(region: Region) -> str:
    """Returns what hiding the region does to the probability of the predicted expression."""
    return signed(-region.effect)


def _warnings(one: Explanation) -> str:
    if not one.warnings:
        return ""
    lines = "".join(f"<li>{html.escape(warning[0].upper() + warning[1:])}.</li>" for warning in one.warnings)
    return f'<div class="caution"><strong>Read with care.</strong><ul>{lines}</ul></div>'


def _pictures(one: Explanation, listed: Sequence[int]) -> list[str]:
    expected = f"AU map of {one.expression}: where the codebook places {words.units(listed)}"
    if not listed:
        expected = f"AU map: the codebook lists no action unit for {one.expression}"
    return [
        _figure(one.crop, "The photograph", f"The face in {one.photo}"),
        _heat(one.picture, one.attention, "Attention: where the model looks", "attention" in one.flat),
        _heat(one.picture, one.cam, f"CAM: what speaks for {one.expression}", "cam" in one.flat),
        _heat(one.picture, one.au_map, expected, False),
    ]


def _heat(picture: Pixels, map_: Float[np.ndarray, "h w"] | None, caption: str, flat: bool) -> str:
    if map_ is None or flat or overlays.is_flat(map_):
        lack = "none" if map_ is None else "no pattern"
        return f'<figure><div class="none">{lack}</div><figcaption>{html.escape(caption)}</figcaption></figure>'
    return _figure(overlays.overlay(picture, map_), caption, f"{caption}, laid over the face")


def _figure(pixels: Pixels, caption: str, alternative: str) -> str:
    return f"<figure>{markup.picture(pixels, alternative)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _probabilities(one: Explanation) -> str:
    ordered = sorted(one.probabilities.items(), key=lambda item: -item[1])
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td class="number">{_bar(value)}{value:.2f}</td></tr>'
        for name, value in ordered
    )
    header = '<th scope="col">Expression</th><th scope="col" class="number">Probability</th>'
    return _table("What the model sees", header, rows)


def _record(one: Explanation, record: Record | None) -> str:
    words = record.sentence(one.expression) if record else ""
    return f'<p class="note">{html.escape(words)}</p>' if words else ""


def _regions(one: Explanation) -> str:
    if not one.regions:
        return ""
    longest = max(0.05, *(abs(region.effect) for region in one.regions))
    cam = one.cam is not None
    names = ["Place and action units", "Change when hidden", "Attention there"]
    names += ["CAM there"] * cam
    sides = ["", *[' class="number"'] * (len(names) - 1)]
    header = "".join(f'<th scope="col"{side}>{html.escape(name)}</th>' for name, side in zip(names, sides, strict=True))
    shown, rest = _by_interest(one.regions)
    rows, others = ("".join(_region(region, longest, cam) for region in part) for part in (shown, rest))
    control = "" if one.control is None else f" Hiding as much elsewhere: {signed(-one.control)}."
    table = _table(f"What it rests on, and where it looks (average of the picture: 1.0×).{control}", header, rows)
    if not rest:
        return table
    return table + markup.details(f"{len(rest)} other places", _table("All other action units", header, others))


def _by_interest(regions: Sequence[Region]) -> tuple[list[Region], list[Region]]:
    """Returns the regions that are listed, matter most or are looked at most, and the others, by what hiding does."""
    ordered = sorted(regions, key=lambda region: -region.effect)
    looked = sorted(regions, key=lambda region: -region.density)
    shown = {region.aus for region in (*ordered[:_MOST], *looked[:_MOST])} | {one.aus for one in regions if one.listed}
    return [one for one in ordered if one.aus in shown], [one for one in ordered if one.aus not in shown]


def _region(region: Region, longest: float, cam: bool) -> str:
    place = region.place.removeprefix("the ").capitalize()
    names = "".join(_unit(number, number in region.listed) for number in region.aus)
    kind = "lowers" if region.effect > 0 else "raises"
    cells = [
        f'<th scope="row">{html.escape(place)}{names}</th>',
        f'<td class="number">{_bar(abs(region.effect) / longest, kind)}{change(region)}</td>',
        f'<td class="number">{region.density:.1f}×</td>',
    ]
    if cam:
        cells.append(f'<td class="number">{region.cam_density or 0.0:.1f}×</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _unit(number: int, listed: bool) -> str:
    words = f"AU{number} {ACTION_UNITS.get(number, '')}"
    return f"<small><b>{words}, listed</b></small>" if listed else f"<small>{words}</small>"


def _bar(share: float, kind: str = "plain") -> str:
    """Returns a bar beside a number, which needs no words of its own."""
    width = round(100 * min(max(share, 0.0), 1.0))
    return f'<span class="bar {kind}" style="--share:{width}%" aria-hidden="true"></span>'


def _table(caption: str, header: str, rows: str) -> str:
    # Above the table and not in it: there it would scroll away with it.
    table = f"<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<p class="note">{html.escape(caption)}</p>{markup.scrolling(table, label=caption)}'
