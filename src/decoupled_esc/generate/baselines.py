"""What the papers compare with: ways of prompting one model that train nothing, and planners that read no language model.

A prompting baseline is a function of ``ask(step, layout)``, which puts one question about every turn to the model and
returns turn id -> answer.  So each is a few lines, its steps can be read one by one, and a resumed run asks nothing again.
Wording ours; ideas after DecoupledESC, appendix D.2, and CSO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Message, Turn, tagged
from decoupled_esc.prompts import Layout, Prompt, vanilla

Ask = Callable[[str, Layout], Mapping[str, str]]
"""(name of the step, what is shown for a turn) -> turn id -> what the model printed."""

REVISE = (
    "Say that again, better: closer to what the person feels and needs. Keep the form, [strategy] and then the answer."
)
CRITICISE = "What is weak about your last answer? Two sentences: what it misses of the person's feelings, and what it could do instead."
IMPROVE = "Now say it again with this in mind. Keep the form, [strategy] and then the answer."
NAME_FEELING = "Before you answer: in one sentence, what does this person feel at the moment, and why?"
ANSWER = "Let this guide the strategy you choose. Now answer them, [strategy] and then the answer."
LIKE_THIS = "This is how such a talk may go:"
EXAMPLE_MESSAGES = 3


def direct_refine(ask: Ask) -> Mapping[str, str]:
    """Direct-Refine: answer, then revise the answer without being told how."""
    draft = ask("draft", vanilla)
    return ask("refined", lambda turn: _after(turn, draft[turn.id], REVISE))


def self_refine(ask: Ask) -> Mapping[str, str]:
    """Self-Refine (Madaan et al. 2023): answer, criticise the answer, revise it accordingly."""
    draft = ask("draft", vanilla)
    feedback = ask("feedback", lambda turn: _after(turn, draft[turn.id], CRITICISE))
    return ask("refined", lambda turn: _after(turn, draft[turn.id], CRITICISE, feedback[turn.id], IMPROVE))


def emotion_cot(ask: Ask) -> Mapping[str, str]:
    """Emotional chain of thought (after Wei et al. 2022): name the feeling first, and answer from there."""
    feeling = ask("feeling", lambda turn: _before(turn, NAME_FEELING))
    return ask("refined", lambda turn: _before(turn, NAME_FEELING, feeling[turn.id], ANSWER))


def with_example(ask: Ask, example: Callable[[Turn], Turn]) -> Mapping[str, str]:
    """w/ Example: one turn of another dialogue, ``example`` of the turn, with the human reply there stands in the instruction.

    The turn's last messages, as many as ``EXAMPLE_MESSAGES``: a whole dialogue would leave too little room for the one at hand.
    """

    def layout(turn: Turn) -> Prompt:
        shown = example(turn)
        messages = [*shown.context[-EXAMPLE_MESSAGES:], Message("supporter", shown.reply, shown.strategy)]
        talk = "\n".join(f"{m.role}: {tagged(m) if m.strategy else m.text}" for m in messages)
        prompt = vanilla(turn)
        (role, instruction), *rest = prompt.messages
        return replace(prompt, messages=((role, f"{instruction}\n{LIKE_THIS}\n{talk}"), *rest))

    return ask("refined", layout)


def _after(turn: Turn, draft: str, *said: str) -> Prompt:
    """The vanilla prompt, the model's own ``draft``, and what was ``said`` about it, taking turns."""
    roles = ("user", "assistant")
    more = [("assistant", draft), *((roles[n % 2], text) for n, text in enumerate(said))]
    prompt = vanilla(turn)
    return replace(prompt, messages=(*prompt.messages, *more))


def _before(turn: Turn, question: str, *said: str) -> Prompt:
    """The vanilla prompt, with ``question`` put beside the seeker's last words, and what was ``said`` then."""
    prompt = vanilla(turn)
    *earlier, (role, last) = prompt.messages
    roles = ("assistant", "user")
    return replace(
        prompt,
        messages=(*earlier, (role, f"{last}\n({question})"), *((roles[n % 2], text) for n, text in enumerate(said))),
    )


# Planners that read no language model -------------------------------------------------------------------------------


def word_planner(train: Sequence[Turn], turns: Sequence[Turn]) -> np.ndarray:
    """log-probabilities [turns, 8] of strategies: logistic regression on the last three messages, in seconds.

    Besides TF-IDF of the words it sees the supporter's previous strategy and how many turns there were.
    """
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    def words(some: Sequence[Turn]) -> list[str]:
        return [" ".join(m.text for m in turn.context[-3:]) for turn in some]

    def rest(some: Sequence[Turn]) -> csr_matrix:
        rows = np.zeros((len(some), 10))
        for row, turn in zip(rows, some, strict=True):
            before = next((m.strategy for m in reversed(turn.context) if m.strategy), None)
            row[taxonomy.STRATEGIES.index(before) if before else 8] = 1
            row[9] = np.log1p(len(turn.context) // 2)
        return csr_matrix(rows)

    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, ngram_range=(1, 2))
    learned = hstack([vectorizer.fit_transform(words(train)), rest(train)]).tocsr()
    model = LogisticRegression(max_iter=400).fit(learned, [turn.strategy for turn in train])
    found = np.full((len(turns), 8), -np.inf)
    known = [taxonomy.STRATEGIES.index(name) for name in model.classes_]
    found[:, known] = model.predict_log_proba(hstack([vectorizer.transform(words(turns)), rest(turns)]).tocsr())
    return found


def frequency_planner(train: Sequence[Turn], turns: Sequence[Turn]) -> np.ndarray:
    """log-probabilities [turns, 8]: how often people use each strategy, whatever was said."""
    counts = np.array([sum(turn.strategy == name for turn in train) for name in taxonomy.STRATEGIES], dtype=float)
    with np.errstate(divide="ignore"):
        return np.tile(np.log(counts / counts.sum()), (len(turns), 1))
