"""Psychological errors (DecoupledESC, section 3.1): how often each occurs, and how far their labels can be trusted."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.corpus import fold
from decoupled_esc.corpus.released import LabelledReply
from decoupled_esc.evaluate.agreement import Undefined, weighted_kappa
from decoupled_esc.evaluate.bootstrap import Estimate, bootstrap, cluster_weights, ratio_of_sums

LABELS = (*taxonomy.ERRORS, taxonomy.NO_ERROR)
"""What an error judge may answer, in the order of every table."""


@dataclass(frozen=True)
class ErrorShares:
    """How often each label occurs in the replies of one source (Figure 2 of DecoupledESC)."""

    replies: int
    unplaced: int  # Replies whose label is none of ``LABELS``
    dialogues: int
    shares: dict[str, Estimate]  # Label -> its share of the other replies, in per cent


@dataclass(frozen=True)
class RepeatedLabels:
    """How often a judge agrees with itself: the same reply and strategy after the same words, labelled twice."""

    pairs: int  # The first two labels of each such case
    openings: int  # Pairs that answer the first message of a dialogue
    after_blank: int
    """Pairs that answer the blank message between two utterances of a supporter: their conversations may differ."""
    equal: Estimate | None  # Share of equal labels, in per cent
    kappa: Estimate | None
    """Cohen's, unweighted, each pair read both ways, since neither stands first; None where it is 0/0."""


def shares(rows: Sequence[LabelledReply], **resampling: int) -> dict[str, ErrorShares]:
    """Source -> its shares of errors, with 95% intervals from a bootstrap clustered by dialogue."""
    found = {}
    for source in dict.fromkeys(row.source for row in rows):
        own = [row for row in rows if row.source == source]
        dialogues = sorted({row.turn.dialogue for row in own})
        counts = np.zeros((len(dialogues), len(LABELS)), dtype=int)
        for row in own:
            if row.error is not None:
                counts[dialogues.index(row.turn.dialogue), LABELS.index(row.error)] += 1
        weights, placed = cluster_weights(len(dialogues), **resampling), counts.sum(axis=1)

        def share(label: int) -> Estimate:
            return bootstrap(weights, lambda w: 100 * ratio_of_sums(w, counts[:, label], placed)).estimate()

        estimates = {label: share(index) for index, label in enumerate(LABELS)}
        found[source] = ErrorShares(len(own), len(own) - int(counts.sum()), len(dialogues), estimates)
    return found


def repeats(rows: Sequence[LabelledReply], **resampling: int) -> RepeatedLabels:
    """The judge's agreement with itself on ``rows``, with 95% intervals over cases; None where no case occurs twice."""
    cases: dict[tuple, list[LabelledReply]] = {}
    for row in rows:
        if row.error is not None:
            case = fold(row.turn.context[-1].text).lower(), row.strategy, row.reply.lower()
            cases.setdefault(case, []).append(row)
    twice = [case[:2] for case in cases.values() if len(case) > 1]
    equal = kappa = None
    if twice:
        same = np.array([100 * (one.error == other.error) for one, other in twice])
        weights = cluster_weights(len(twice), **resampling)
        equal = bootstrap(weights, lambda w: ratio_of_sums(w, same, np.ones(len(twice)))).estimate()
        first, second = zip(*[(one.error, other.error) for one, other in twice], strict=True)
        both = ([*first, *second], [*second, *first], [*range(len(twice))] * 2)
        with suppress(Undefined):  # one label throughout
            kappa = weighted_kappa(*both, labels=LABELS, weights=None, **resampling)
    return RepeatedLabels(
        pairs=len(twice),
        openings=sum(len(one.turn.context) == 1 for one, _ in twice),
        after_blank=sum(not one.turn.context[-1].text.strip() for one, _ in twice),
        equal=equal,
        kappa=kappa,
    )
