"""Text metrics of one reply against the gold reply, in two named variants.

=========  ==========================================  =================================================
metric     ``paper``                                   ``standard``
=========  ==========================================  =================================================
D-1, D-2   unique / all n-grams inside one reply,      unique / all n-grams of the whole test set
           averaged over replies                       (Li et al. 2016)
B-1, B-2   NLTK ``corpus_bleu`` on one pair, smoothing corpus BLEU (Papineni et al. 2002) as sacrebleu
           method 3, averaged                          computes it, exponential smoothing
F1         overlap of the bags of tokens, averaged     the same on SQuAD-normalised words, averaged
R-L        ROUGE-L (Lin 2004) with beta 1.2, averaged  ROUGE-L with beta 1 on ``rouge_score``'s words
=========  ==========================================  =================================================

``paper`` is what the tables of DecoupledESC print: its Distinct-1 is near 90 where the textbook's is near 8, so
the two must never share a column.  Functions of one pair return fractions in 0..1; the callers scale by 100.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from nltk.tokenize import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

METRICS = ("D-1", "D-2", "B-1", "B-2", "F1", "R-L")
"""The six text metrics, in the order of every table."""

PER_REPLY = {"paper": METRICS, "standard": ("F1", "R-L")}
"""The metrics that are plain means over replies; the other standard ones need the whole corpus."""

ROUGE_BETA = 1.2
"""Recall's weight in the papers' ROUGE-L, the default of the caption-evaluation code they reuse."""

# Written as Punkt stores them: lower case, without the final period.
ABBREVIATIONS = (
    "a.m", "apr", "approx", "aug", "ave", "b.s", "dec", "dept", "dr", "e.g", "est", "etc", "feb", "fig", "i.e",
    "inc", "jan", "jr", "ltd", "m.d", "mr", "mrs", "ms", "mt", "nov", "oct", "p.m", "ph.d", "prof", "rev", "sept",
    "sr", "st", "u.k", "u.s", "vs",
)  # fmt: skip


_PUNKT = PunktParameters()
_PUNKT.abbrev_types = set(ABBREVIATIONS)
_SENTENCES, _WORDS = PunktSentenceTokenizer(_PUNKT), NLTKWordTokenizer()
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def tokenize(text: str) -> list[str]:
    """Lower-cased Treebank tokens of ``text``; a text without visible characters has none.

    This is ``nltk.word_tokenize(text.lower())`` with an untrained sentence splitter that knows a few abbreviations, where
    NLTK's must be downloaded.  The two can differ at a period after an abbreviation, a number or an initial, which is
    parted from its word at a sentence's end alone.
    """
    return [token for sentence in _SENTENCES.tokenize(text.lower()) for token in _WORDS.tokenize(sentence)]


def squad_tokens(text: str) -> list[str]:
    """Words after SQuAD normalisation: lower case, no ASCII punctuation, no articles (Rajpurkar et al. 2016)."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_NO_PUNCTUATION)).split()


def rouge_tokens(text: str) -> list[str]:
    """Runs of ASCII letters and digits, lower-cased: the tokenizer of ``rouge_score`` without a stemmer."""
    return re.findall("[a-z0-9]+", text.lower())


class Tokens(NamedTuple):
    """One text cut in the three ways that the metrics need."""

    words: tuple[str, ...]
    squad: tuple[str, ...]
    rouge: tuple[str, ...]


@lru_cache(maxsize=16384)
def tokens_of(text: str) -> Tokens:
    """The three token lists of ``text``, remembered, since every system is compared with the same gold."""
    return Tokens(tuple(tokenize(text)), tuple(squad_tokens(text)), tuple(rouge_tokens(text)))


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """The ``max(0, len(tokens) - n + 1)`` n-grams of ``tokens``, in order."""
    return list(zip(*(tokens[start:] for start in range(n))))


def overlap(reply: Iterable[Hashable], gold: Iterable[Hashable]) -> int:
    """Size of the intersection of two bags: each item counts as often as it occurs in both."""
    return (Counter(reply) & Counter(gold)).total()


def reply_distinct(tokens: Sequence[str], n: int) -> float:
    """Unique n-grams over all n-grams of one reply; 0 when the reply has fewer than ``n`` tokens."""
    grams = ngrams(tokens, n)
    return len(set(grams)) / len(grams) if grams else 0.0


def token_f1(reply: Sequence[str], gold: Sequence[str]) -> float:
    """Harmonic mean of the precision and recall of the reply's bag of tokens; 0 when either bag is empty.

    Two empty bags score 0 too, as in SQuAD 1.1 (version 2 would give 1).
    """
    shared = overlap(reply, gold)
    return 2 * shared / (len(reply) + len(gold)) if shared else 0.0


def lcs_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence.

    Bit-parallel (Hyyrö 2004): one integer holds a row of the dynamic programme, a cleared bit ``i`` meaning
    that the row grows by one at ``a[i]``, so that a row costs three machine operations, not ``len(a)``.
    """
    positions: dict[Hashable, int] = {}
    for index, token in enumerate(a):
        positions[token] = positions.get(token, 0) | 1 << index
    every = (1 << len(a)) - 1
    row = every
    for token in b:
        matched = row & positions.get(token, 0)
        row = ((row + matched) | (row - matched)) & every
    return len(a) - row.bit_count()


def rouge_l(reply: Sequence[str], gold: Sequence[str], beta: float) -> float:
    """ROUGE-L of one pair: (1 + beta^2) R P / (R + beta^2 P) of the longest common subsequence (Lin 2004, eq. 4).

    0 when either side is empty or nothing is shared.
    """
    common = lcs_length(reply, gold)
    if not common:
        return 0.0
    precision, recall = common / len(reply), common / len(gold)
    return (1 + beta**2) * recall * precision / (recall + beta**2 * precision)


def bleu_statistics(reply: Sequence[str], gold: Sequence[str]) -> tuple[int, ...]:
    """What BLEU-1 and BLEU-2 need, as counts that add up over pairs (Papineni et al. 2002).

    Returns (reply length, gold length, matched unigrams, matched bigrams, unigrams, bigrams of the reply).
    """
    matched = [overlap(ngrams(reply, n), ngrams(gold, n)) for n in (1, 2)]
    return len(reply), len(gold), *matched, len(reply), max(0, len(reply) - 1)


def pair_bleu(statistics: Sequence[int], order: int) -> float:
    """BLEU-``order`` (1 or 2) of one pair, equal to NLTK's ``corpus_bleu`` with smoothing method 3.

    No shared unigram, hence also an empty reply, gives 0.  Bigrams without a match count 1/2 match; a reply of
    one token has no bigrams, and NLTK then takes their number to be 1.
    """
    length, gold_length, *rest = statistics
    matched, total = rest[:2], rest[2:]
    if matched[0] == 0:
        return 0.0
    brevity = 1.0 if length > gold_length else math.exp(1 - gold_length / length)
    precisions = [(m or 0.5) / max(1, t) for m, t in zip(matched[:order], total)]
    return brevity * math.prod(precisions) ** (1 / order)


def corpus_bleu(statistics: np.ndarray, order: int) -> np.ndarray:
    """BLEU-``order`` (1 or 2) of whole corpora, equal to sacrebleu with ``smooth_method="exp"``.

    ``statistics`` [..., 6]: sums of `bleu_statistics` over each corpus.  Returns [...] in 0..1.
    A corpus without a shared unigram, or without bigrams when ``order`` is 2, scores 0.
    """
    length, gold_length = statistics[..., 0], statistics[..., 1]
    matched, total = statistics[..., 2 : 2 + order], statistics[..., 4 : 4 + order]
    defined = (matched[..., 0] > 0) & (total > 0).all(-1)
    # Exponential smoothing halves the first missing match; unigrams are never missing where BLEU is not 0.
    precisions = np.where(matched > 0, matched, 0.5) / np.maximum(total, 1)
    brevity = np.exp(np.minimum(0.0, 1 - gold_length / np.maximum(length, 1)))
    return np.where(defined, brevity * precisions.prod(-1) ** (1 / order), 0.0)


def reply_scores(reply: str, gold: str) -> dict[str, list[float]]:
    """The metrics of one pair that are averaged over replies, x100: variant -> values as in `PER_REPLY`."""
    hypothesis, reference = tokens_of(reply), tokens_of(gold)
    statistics = bleu_statistics(hypothesis.words, reference.words)
    paper = [
        reply_distinct(hypothesis.words, 1),
        reply_distinct(hypothesis.words, 2),
        pair_bleu(statistics, 1),
        pair_bleu(statistics, 2),
        token_f1(hypothesis.words, reference.words),
        rouge_l(hypothesis.words, reference.words, ROUGE_BETA),
    ]
    standard = [token_f1(hypothesis.squad, reference.squad), rouge_l(hypothesis.rouge, reference.rouge, 1.0)]
    return {"paper": [100 * score for score in paper], "standard": [100 * score for score in standard]}


class DistinctCounts(NamedTuple):
    """Corpus-level n-gram counts of D groups of replies, enough to leave any one group out."""

    total: np.ndarray  # int [D]: n-grams in each group
    private: np.ndarray  # int [D]: different n-grams that occur in this group and in no other
    unique: int  # Different n-grams overall


def distinct_counts(groups: Sequence[Sequence[Sequence[str]]], n: int) -> DistinctCounts:
    """Counts for corpus-level Distinct-n (Li et al. 2016) of ``groups`` [D][replies][tokens]."""
    owners: dict[tuple[str, ...], int] = {}
    shared = -1
    total = np.zeros(len(groups), dtype=np.int64)
    for index, replies in enumerate(groups):
        for tokens in replies:
            grams = ngrams(tokens, n)
            total[index] += len(grams)
            for gram in grams:
                owners[gram] = index if owners.get(gram, index) == index else shared
    private = np.bincount([owner for owner in owners.values() if owner != shared], minlength=len(groups))
    return DistinctCounts(total, private, len(owners))


def corpus_distinct(counts: DistinctCounts) -> float:
    """Different n-grams over all n-grams of the corpus, in 0..1; 0 without any."""
    total = int(counts.total.sum())
    return counts.unique / total if total else 0.0


def corpus_distinct_without(counts: DistinctCounts) -> np.ndarray:
    """float [D]: corpus-level Distinct with each group left out in turn; 0 where nothing is left."""
    rest = counts.total.sum() - counts.total
    return (counts.unique - counts.private) / np.maximum(rest, 1)
