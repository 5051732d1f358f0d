"""Psychological errors (DecoupledESC, section 3.1): how often each occurs, and how far their labels can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.corpus import fold
from decoupled_esc.corpus.released import LabelledReply
from decoupled_esc.evaluate.agreement import Undefined, weighted_kappa
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


def repeats(rows: Sequence[LabelledReply], *, replicates: int, seed: int) -> dict:
    """How often the judge agrees with itself: the same reply after the same words, under the same strategy, labelled twice.

    ``pairs`` takes the first two labels of each such case; ``openings`` of them answer the first message of a dialogue and
    ``after_blank`` the blank one between two utterances of a supporter, which may follow different conversations.
    ``equal`` is the share of equal labels in per cent and ``kappa`` Cohen's, unweighted, each pair read both ways, since
    neither stands first; estimates with 95% intervals over cases, None where there is nothing to estimate.
    """
    cases: dict[tuple, list[LabelledReply]] = {}
    for row in rows:
        if row.error is not None:
            cases.setdefault((fold(row.turn.context[-1].text).lower(), row.strategy, row.reply.lower()), []).append(row)
    twice = [case[:2] for case in cases.values() if len(case) > 1]
    found = {
        "pairs": len(twice),
        "openings": sum(len(one.turn.context) == 1 for one, _ in twice),
        "after_blank": sum(not one.turn.context[-1].text.strip() for one, _ in twice),
        "equal": None,
        "kappa": None,
    }
    if twice:
        equal = np.array([100 * (one.error == other.error) for one, other in twice])
        weights = cluster_weights(len(twice), replicates, seed)
        found["equal"] = asdict(bootstrap(weights, lambda draws: ratio_of_sums(draws, equal, np.ones(len(twice)))).estimate())
        first, second = zip(*[(one.error, other.error) for one, other in twice], strict=True)
        both = ([*first, *second], [*second, *first], [*range(len(twice))] * 2)
        with suppress(Undefined):  # one label throughout
            found["kappa"] = asdict(weighted_kappa(*both, labels=LABELS, weights=None, replicates=replicates, seed=seed))
    return found
