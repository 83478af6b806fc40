"""Several findings of one cause become one leading finding and its consequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from .findings import Finding, Severity, by_onset

# A cause may be seen later than what it does: some measurements are rare, some verdicts take looks.
_LATER = 50  # steps
_LATER_SHARE = 0.1  # of the steps so far

Place = tuple[str, str]


def by_cause(findings: Iterable[Finding], suspects: Mapping[str, Sequence[str]]) -> list[Finding]:
    """Returns the findings, each cause before what follows from it, what began first leading.

    A finding follows from another one if its rule names the other's code among its causes, and the
    other one did not begin much later. Of several such causes the one at the same place counts,
    then the one that began first. Advice comes last: it is no alarm.

    Args:
        findings: Findings in any order.
        suspects: By code, the codes or prefixes of what may cause it.
    """
    ordered = by_onset(findings)
    causes: dict[Place, Place] = {}
    for slack in (0.0, 1.0):  # what was there before is believed before what was seen later
        for one in ordered:
            able = [
                other
                for other in ordered
                if other.code.startswith(tuple(suspects.get(one.code, ())))
                and other.step <= one.step + slack * max(_LATER, _LATER_SHARE * one.step)
                and one.place not in _chain(other.place, causes)
            ]
            if able and one.place not in causes:
                causes[one.place] = min(able, key=lambda other: other.where != one.where).place
    began = {one.place: number for number, one in enumerate(ordered)}

    def order(one: Finding) -> tuple[bool, list[int]]:
        chain = reversed(_chain(one.place, causes))
        return one.level == Severity.INFO, [began[place] for place in chain]

    return [
        replace(
            one,
            caused_by=" ".join(causes.get(one.place, ())) or None,
            leads_to=[" ".join(place) for place, cause in causes.items() if cause == one.place],
        )
        for one in sorted(ordered, key=order)
    ]


def _chain(place: Place, causes: Mapping[Place, Place]) -> list[Place]:
    """Returns a place, that of its cause, that of the cause's cause, and so on."""
    chain = [place]
    while chain[-1] in causes:
        chain.append(causes[chain[-1]])
    return chain
