"""What ranks tell each other: each finding once, in full, by the first rank that saw it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import torch
import torch.distributed as dist

from .findings import Finding

# Findings that one meeting hands over, whoever has them; the others wait for the next one. It keeps
# a meeting of thousands of ranks that all have something to say within a second and a megabyte.
AT_ONCE = 256


def share(findings: Sequence[Finding], most: int, device: Any) -> list[Finding]:
    """Returns the findings of all ranks, the same ones in the same order on each of them.

    First all ranks show what they have as one number each, then the first rank that has it tells
    it. Sending the findings themselves from all to all would be gigabytes at 16,384 ranks.

    Args:
        findings: What this rank has to tell.
        most: What the rank with most findings has to tell; no more than ``AT_ONCE`` count.
        device: Where collectives take their tensors.
    """
    width = min(most, AT_ONCE)
    marks = [mark(one) for one in findings[:width]]
    row = torch.tensor(marks + [0] * (width - len(marks)), dtype=torch.int64, device=device)
    rows = [torch.empty_like(row) for _ in range(dist.get_world_size())]
    dist.all_gather(rows, row)
    told: list[Finding] = []
    speakers = plan([one.tolist() for one in rows])
    for speaker in dict.fromkeys(first for first, _ in speakers.values()):
        mine = {mark(one): one for one in findings}
        words = [
            replace(mine[key], ranks=ranks) if speaker == dist.get_rank() else None
            for key, (first, ranks) in speakers.items()
            if first == speaker
        ]
        dist.broadcast_object_list(words, src=speaker, device=torch.device(device))
        told += [one for one in words if one is not None]
    return told


def plan(rows: Sequence[Sequence[int]]) -> dict[int, tuple[int, int]]:
    """Returns who speaks for which finding, and how many ranks have seen it.

    Args:
        rows: The marks of each rank's findings; 0 is none.
    """
    seen: dict[int, tuple[int, int]] = {}
    for rank, row in enumerate(rows):
        for one in row:
            if one:
                first, ranks = seen.get(one, (rank, 0))
                seen[one] = first, ranks + 1
    return dict(list(seen.items())[:AT_ONCE])


def mark(finding: Finding) -> int:
    """Returns a number that stands for the rule and the place; never 0."""
    text = "\0".join(finding.place).encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True) or 1
