"""Prompting baselines: what they show step by step; and planners that read no language model."""

import numpy as np
import pytest

from decoupled_esc.corpus import Message, Turn
from decoupled_esc.generate import baselines
from decoupled_esc.taxonomy import STRATEGIES


def turn(number, last="I can't sleep.", strategy="Question", before=None, reply="What keeps you awake?"):
    context = (Message("seeker", "Hello."), Message("supporter", "Hi.", before or "Others"), Message("seeker", last))
    return Turn(f"d/{number}", f"d/{number}", context, strategy, reply)


class Asked:
    """Answers every question with its step's name and the turn, and keeps what was shown."""

    def __init__(self, turns):
        self.turns, self.shown = turns, {}

    def __call__(self, step, layout):
        self.shown[step] = {t.id: layout(t).messages for t in self.turns}
        return {t.id: f"{step} of {t.id}" for t in self.turns}


@pytest.mark.parametrize(("baseline", "steps"), [
    (baselines.direct_refine, ["draft", "refined"]),
    (baselines.self_refine, ["draft", "feedback", "refined"]),
    (baselines.emotion_cot, ["feeling", "refined"]),
    (lambda ask: baselines.with_example(ask, lambda _: turn(9, "My dog died.", reply="I am sorry.")), ["refined"]),
])  # fmt: skip
def test_every_step_sees_the_talk_and_what_the_model_said_of_this_turn(baseline, steps):
    ask = Asked([turn(1), turn(2)])
    assert baseline(ask) == {"d/1": "refined of d/1", "d/2": "refined of d/2"}
    assert list(ask.shown) == steps
    for n, step in enumerate(steps):
        messages = ask.shown[step]["d/2"]
        text = "\n".join(content for _, content in messages)
        assert "I can't sleep." in text and messages[0][0] == "system"
        roles = [role for role, _ in messages[1:]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"], "a chat template wants them to take turns"
        assert all(f"{earlier} of d/2" in text for earlier in steps[:n] if earlier != "refined") and "of d/1" not in text
        assert "What keeps you awake?" not in text, "the gold reply is not shown"


def test_the_example_stands_in_the_instruction():
    ask = Asked([turn(1), turn(2)])
    baselines.with_example(ask, lambda asked: turn(9, "My dog died." if asked.id == "d/1" else "I was fired."))
    assert "I was fired." in ask.shown["refined"]["d/2"][0][1], "each turn its own"
    (role, instruction), *rest = ask.shown["refined"]["d/1"]
    assert role == "system" and "seeker: My dog died." in instruction and "[Question] What keeps you awake?" in instruction
    assert [content for _, content in rest] == ["Hello.", "[Others] Hi.", "I can't sleep."]


def test_a_shortened_context_shortens_the_talk_and_keeps_the_draft():
    from dataclasses import replace

    ask = Asked([turn(1)])
    shown = {}

    def cut(step, layout):
        shown[step] = layout(replace(turn(1), context=turn(1).context[2:])).messages
        return ask(step, layout)

    baselines.self_refine(cut)
    assert "Hello." not in str(shown["refined"]) and "draft of d/1" in str(shown["refined"])


def test_the_word_planner_learns_words_and_the_strategy_before():
    train = [turn(n, "why would you ask" if n % 2 else "what should i do", "Question" if n % 2 else "Providing Suggestions") for n in range(40)]
    scores = baselines.word_planner(train, [turn(90, "why ask"), turn(91, "what should i do now")])
    assert scores.shape == (2, 8) and np.exp(scores).sum(axis=1) == pytest.approx(1)
    assert [STRATEGIES[k] for k in scores.argmax(axis=1)] == ["Question", "Providing Suggestions"]
    assert np.isneginf(scores[0, STRATEGIES.index("Others")]), "never seen, never chosen"
    after = [turn(n, "ok", STRATEGIES[n % 2], before=STRATEGIES[2 + n % 2]) for n in range(40)]
    found = baselines.word_planner(after, [turn(90, "ok", before=STRATEGIES[2]), turn(91, "ok", before=STRATEGIES[3])])
    assert found.argmax(axis=1).tolist() == [0, 1]


def test_the_frequency_planner_knows_shares_alone():
    train = [turn(n, strategy=STRATEGIES[0 if n % 4 else 3]) for n in range(40)]
    scores = np.exp(baselines.frequency_planner(train, [turn(1), turn(2, "anything else")]))
    assert scores[0].tolist() == scores[1].tolist() and scores[0, [0, 3, 5]] == pytest.approx([0.75, 0.25, 0])
