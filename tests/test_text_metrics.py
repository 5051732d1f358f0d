"""Text metrics against the tools they claim to equal, and their bounds."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction
from nltk.translate.bleu_score import corpus_bleu as nltk_corpus_bleu
from rouge_score.rouge_scorer import RougeScorer

from decoupled_esc.evaluate import text

quick = settings(max_examples=80, deadline=None)
# A small vocabulary, so that replies share words; punctuation, articles and capitals, so that tokenizers differ.
WORDS = "I feel the a you don't sad Sad e.g. 20. okay? well, ... it's (no) ÉTÉ".split()
replies = st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
any_text = st.one_of(replies, st.text(max_size=30))
token_lists = st.lists(st.sampled_from("abcd"), max_size=8)


@pytest.mark.parametrize(
    ("sentence", "tokens"),
    [
        ("", []),
        ("  \n", []),
        ("Hello! I'm here.", ["hello", "!", "i", "'m", "here", "."]),
        ("I see. You don't.", ["i", "see", ".", "you", "do", "n't", "."]),
        ("Dr. Lee sees you at 5 p.m. today.", ["dr.", "lee", "sees", "you", "at", "5", "p.m.", "today", "."]),
        ("Well... okay?", ["well", "...", "okay", "?"]),
    ],
)
def test_tokenize_examples(sentence, tokens):
    assert text.tokenize(sentence) == tokens


@quick
@given(any_text)
def test_tokens_are_visible_and_lower_case_has_no_say(sentence):
    tokens = text.tokenize(sentence)
    assert all(token and token.split() == [token] for token in tokens)
    assert tokens == text.tokenize(sentence.lower())


@quick
@given(token_lists, token_lists, st.sampled_from([1, 2]))
def test_paper_bleu_equals_nltk_on_one_pair(reply, gold, order):
    expected = nltk_corpus_bleu(
        [[gold]], [reply], weights=(1 / order,) * order, smoothing_function=SmoothingFunction().method3
    )
    assert text.pair_bleu(text.bleu_statistics(reply, gold), order) == pytest.approx(expected, abs=1e-12)


@quick
@given(st.lists(st.tuples(token_lists, token_lists), min_size=1, max_size=6), st.sampled_from([1, 2]))
def test_standard_bleu_equals_sacrebleu(pairs, order):
    metric = sacrebleu.BLEU(tokenize="none", smooth_method="exp", max_ngram_order=order, force=True)
    expected = metric.corpus_score([" ".join(reply) for reply, _ in pairs], [[" ".join(gold) for _, gold in pairs]])
    statistics = np.array([text.bleu_statistics(*pair) for pair in pairs]).sum(0)
    assert 100 * text.corpus_bleu(statistics, order) == pytest.approx(expected.score, abs=1e-9)


def test_corpus_bleu_takes_leading_axes():
    a, b = text.bleu_statistics("abc", "abd"), text.bleu_statistics("", "abd")
    both = text.corpus_bleu(np.array([[a], [b]]), 2)
    assert both.shape == (2, 1)
    assert both[0, 0] == pytest.approx((2 / 3 * 1 / 2) ** 0.5)
    assert both[1, 0] == 0


@quick
@given(any_text, any_text)
def test_standard_rouge_equals_rouge_score(reply, gold):
    expected = RougeScorer(["rougeL"], use_stemmer=False).score(gold, reply)["rougeL"].fmeasure
    assert text.rouge_l(text.rouge_tokens(reply), text.rouge_tokens(gold), 1.0) == pytest.approx(expected, abs=1e-12)


def test_paper_rouge_by_hand():
    # LCS "a c d" of 3; P = 3/4, R = 3/5.
    assert text.lcs_length("axcd", "abcde") == 3
    expected = (1 + 1.44) * 0.6 * 0.75 / (0.6 + 1.44 * 0.75)
    assert text.rouge_l("axcd", "abcde", 1.2) == pytest.approx(expected)


@quick
@given(st.text("abc", max_size=9), st.text("abc", max_size=9))
def test_bit_parallel_lcs_equals_the_dynamic_programme(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    assert text.lcs_length(a, b) == table[-1, -1]


def test_lcs_beyond_one_machine_word():
    assert text.lcs_length("ab" * 200, "ba" * 200) == 399


def test_squad_normalisation_and_f1():
    assert text.squad_tokens("The cat's  an 'A'-team, theatre!") == ["cats", "ateam", "theatre"]
    assert text.token_f1(["cat", "cat", "sat"], ["cat", "sat", "down", "now"]) == pytest.approx(4 / 7)
    assert text.token_f1([], []) == text.token_f1(["a"], []) == text.token_f1([], ["a"]) == 0


def test_distinct_within_a_reply():
    assert text.reply_distinct(["so", "so", "good"], 1) == pytest.approx(2 / 3)
    assert text.reply_distinct(["so", "so", "so"], 2) == pytest.approx(1 / 2)
    assert text.reply_distinct(["so"], 2) == text.reply_distinct([], 1) == 0


@quick
@given(st.lists(st.lists(token_lists, max_size=3), min_size=1, max_size=5), st.sampled_from([1, 2]))
def test_corpus_distinct_and_its_leave_one_out(groups, n):
    def directly(kept):
        grams = [gram for group in kept for tokens in group for gram in text.ngrams(tokens, n)]
        return len(set(grams)) / len(grams) if grams else 0.0

    counts = text.distinct_counts(groups, n)
    assert text.corpus_distinct(counts) == directly(groups)
    left_out = [directly(groups[:index] + groups[index + 1 :]) for index in range(len(groups))]
    assert text.corpus_distinct_without(counts).tolist() == left_out


@quick
@given(any_text, any_text)
def test_scores_lie_between_0_and_100(reply, gold):
    for variant, scores in text.reply_scores(reply, gold).items():
        assert len(scores) == len(text.PER_REPLY[variant])
        assert all(0 <= score <= 100 + 1e-9 for score in scores)


@quick
@given(any_text.filter(lambda reply: text.rouge_tokens(reply) and text.squad_tokens(reply)))
def test_repeating_the_gold_reply_scores_100(reply):
    scores = text.reply_scores(reply, reply)
    paper = dict(zip(text.PER_REPLY["paper"], scores["paper"]))
    assert [paper[metric] for metric in ("B-1", "F1", "R-L")] == pytest.approx([100, 100, 100])
    assert scores["standard"] == pytest.approx([100, 100])
    assert text.corpus_bleu(np.array(text.bleu_statistics(*[text.tokenize(reply)] * 2)), 1) == pytest.approx(1)


@quick
@given(any_text)
def test_an_empty_reply_scores_0(gold):
    assert text.reply_scores("", gold) == {"paper": [0] * 6, "standard": [0] * 2}
