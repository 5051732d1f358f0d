"""Psychological errors (DecoupledESC, section 3.1): how often each occurs, and how far their labels can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.corpus.released import LabelledReply
from decoupled_esc.evaluate.bootstrap import bootstrap, cluster_weights, ratio_of_sums

LABELS = (*taxonomy.ERRORS, taxonomy.NO_ERROR)
"""What an error judge may answer, in the order of every table."""


def shares(rows: Sequence[LabelledReply], *, replicates: int, seed: int) -> dict[str, dict]:
    """Per source: replies, replies whose label is none of ``LABELS``, and each label's share of the others, in per cent.

    Shares are estimates with 95% intervals from a bootstrap clustered by dialogue (Figure 2 of DecoupledESC).
    """
    found = {}
    for source in dict.fromkeys(row.source for row in rows):
        mine = [row for row in rows if row.source == source]
        dialogues = sorted({row.turn.dialogue for row in mine})
        number = {name: index for index, name in enumerate(dialogues)}
        counts = np.zeros((len(dialogues), len(LABELS)), dtype=int)
        for row in mine:
            if row.error is not None:
                counts[number[row.turn.dialogue], LABELS.index(row.error)] += 1
        weights, placed = cluster_weights(len(dialogues), replicates, seed), counts.sum(axis=1)
        found[source] = {
            "replies": len(mine),
            "unplaced": len(mine) - int(counts.sum()),
            "dialogues": len(dialogues),
            "shares": {
                label: asdict(
                    bootstrap(weights, lambda draws, own=counts[:, index]: 100 * ratio_of_sums(draws, own, placed)).estimate()
                )
                for index, label in enumerate(LABELS)
            },
        }
    return found


def repeats(rows: Sequence[LabelledReply]) -> dict[str, float | int | None]:
    """How often the judge agrees with itself: the same words after the same words, under the same strategy, labelled twice.

    ``pairs`` takes two labels of each such case; ``agreement`` is the share of equal ones and ``kappa`` Cohen's, unweighted,
    both None without pairs.  No classifier can be expected to agree better with such labels than they do with each other.
    """
    from sklearn.metrics import cohen_kappa_score

    cases: dict[tuple, list[str]] = {}
    for row in rows:
        if row.error is not None:
            cases.setdefault((row.turn.context[-1].text.lower(), row.strategy, row.reply.lower()), []).append(row.error)
    pairs = [labels[:2] for labels in cases.values() if len(labels) > 1]
    if not pairs:
        return {"pairs": 0, "agreement": None, "kappa": None}
    first, second = zip(*pairs, strict=True)
    # Which of the two stands first means nothing, so each pair is counted both ways.
    # One label throughout leaves nothing to agree on beyond chance.
    kappa = cohen_kappa_score([*first, *second], [*second, *first]) if len({*first, *second}) > 1 else None
    return {
        "pairs": len(pairs),
        "agreement": float(np.mean([a == b for a, b in pairs])),
        "kappa": None if kappa is None else float(kappa),
        "labels": dict(Counter([*first, *second])),
    }
