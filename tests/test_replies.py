"""What reply steps ask an engine for: their purposes, further samples of strategies, and the examples that they show."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from decoupled_esc import prompts
from decoupled_esc.experiments import book as table
from decoupled_esc.experiments import inputs, replies, sampling, scores
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.generate.engine import Completion, stream
from decoupled_esc.pipeline import Work
from decoupled_esc.taxonomy import STRATEGIES

GOLD = inputs.Turns(inputs.on_this_machine(download=False).corpora["esconv"], "test", 2)


class Engine:
    """Answers from the stream of the prompt alone, and keeps what was asked for which purpose."""

    def __init__(self, seen):
        self.seen = seen

    def count(self, prompt):
        return sum(len(content.split()) for _, content in prompt.messages)

    def complete(self, asked, sampling, *, seed, purpose, done=frozenset()):
        for prompt in asked:
            if prompt.id not in done:
                self.seen.append((purpose, prompt, sampling))
                chance = np.random.default_rng(stream(seed, purpose, prompt.id, 8))
                name = STRATEGIES[chance.integers(8)] if sampling.temperature else STRATEGIES[0]
                text = f"[{name}] {chance.integers(10**6)}" if "plans" not in purpose else name
                yield [Completion(prompt.id, text, 3, True)]

    def score_choices(self, asked, choices, *, whole=True):
        for prompt in asked:
            self.seen.append(("whole" if whole else "begun", choices[0], None))
            yield [prompt.id], np.random.default_rng(len(prompt.id)).normal(size=(1, 8)).astype(np.float32)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a reply step of profile smoke at a few turns: its result, and what the engine was asked."""

    def go(name, folder="a", stop=None, **changes):
        seen = []

        @contextmanager
        def engine_of(*args):
            yield Engine(seen)

        for module in (replies, sampling):
            monkeypatch.setattr(module, "engine_of", engine_of)
        steps = table.steps(load_profile("smoke"), inputs.on_this_machine(download=False))
        step = replace(steps[f"replies-{name}"], turns=GOLD, **changes)
        (tmp_path / folder).mkdir(exist_ok=True)
        return step, step.run(Work(step, name, tmp_path / folder, tmp_path, stores=None)), seen

    return go


def test_plans_and_replies_have_random_numbers_of_their_own(run):
    _, found, seen = run("decoupled-base")
    asked = Counter(purpose for purpose, _, _ in seen)
    assert asked == dict.fromkeys(("ReplyDecoupled/plans", "ReplyDecoupled/replies", "whole"), found.turns)
    _, same, more = run("decoupled-base")
    assert same == found and not more, "what was written is not asked again"


def test_a_coupled_models_tags_are_scored_where_it_samples(run):
    step, found, seen = run("vanilla-base")
    assert Counter(purpose for purpose, _, _ in seen) == {"ReplyCoupled/replies": found.turns, "begun": found.turns}
    assert {first for purpose, first, _ in seen if purpose == "begun"} == {f"[{STRATEGIES[0]}]"}
    assert all(len(row.scores) == 8 for row in found.rows)
    greedy = step.sampling.model_copy(update={"temperature": 0.0})
    _, found, seen = run("vanilla-base", folder="b", sampling=greedy)
    assert {row.scores for row in found.rows} == {None} and len(seen) == found.turns


def test_strategies_are_sampled_again_as_they_are_decoded(run):
    step, found, _ = run("decoupled-base")
    gold, how = {turn.id: turn for turn in GOLD.read()}, (step.strategy_sampling, step.seed)
    turns = scores.evaluated(found, gold, *how)
    assert turns == scores.evaluated(found, gold, *how) and {sum(turn.sampled) for turn in turns} == {scores.SAMPLES}
    assert turns != scores.evaluated(found, gold, how[0], step.seed + 1)
    rows = [replace(row, scores=[0.0, 0.0, *[-50.0] * 6]) for row in found.rows]
    two = [turn.sampled for turn in scores.evaluated(replace(found, rows=tuple(rows)), gold, *how)]
    assert sum(one[0] for one in two) / sum(map(sum, two)) == pytest.approx(0.5, abs=0.1) and all(one[0] + one[1] == 50 for one in two)
    invalid = replace(found, rows=tuple(replace(row, strategy=None) for row in found.rows))
    assert {turn.sampled for turn in scores.evaluated(invalid, gold, *how)} == {(0,) * 8}, "scores are of the eight alone"
    greedy = how[0].model_copy(update={"temperature": 0.0})
    assert {turn.sampled for turn in scores.evaluated(found, gold, greedy, step.seed)} == {None}


def test_every_turn_is_shown_another_example_and_the_same_one_again(run):
    step, found, seen = run("vanilla-with-example")
    shown = [prompt.messages[0][1] for purpose, prompt, _ in seen if purpose.startswith("Reply")]
    assert len(set(shown)) > len(shown) / 2 > 3
    _, _, again = run("vanilla-with-example", folder="b")
    assert [prompt.messages for _, prompt, _ in again] == [prompt.messages for _, prompt, _ in seen]
    _, _, other = run("vanilla-with-example", folder="c", seed=step.seed + 1)
    assert sum(one[1].messages != two[1].messages for one, two in zip(seen, other, strict=True)) > len(shown) / 2
    plain = prompts.vanilla(GOLD.read()[0]).messages[0][1]
    assert all(text.startswith(plain) and len(text) > len(plain) + 40 for text in shown)


def test_words_under_anothers_strategies_go_on_from_the_tag_or_read_it_in_the_prompt(run, monkeypatch):
    steps = table.steps(load_profile("smoke"), inputs.on_this_machine(download=False))
    names = {turn.id: STRATEGIES[place % 8] for place, turn in enumerate(GOLD.read())}
    rows = tuple(replies.SystemReply(id, name, "x", 1, True) for id, name in names.items())
    planned, writers = replies.Replies(len(rows), 0, 0, 0, rows), ("sft-vanilla", "sft-generator")
    known = {steps[name].key: None for name in writers}
    monkeypatch.setattr(Work, "__getitem__", lambda work, step: known.get(step.key, planned))
    _, coupled, seen = run("decoupled-plans-vanilla-words")
    assert {row.id: row.strategy for row in coupled.rows} == names
    assert {prompt.id: prompt.begun for _, prompt, _ in seen} == {id: f"[{name}]" for id, name in names.items()}
    _, _, asked = run("vanilla-plans-generator-words", folder="b")
    assert {purpose for purpose, _, _ in seen + asked} == {"ReplyUnder/replies"} and len(asked) == len(names)
    for _, prompt, _ in asked:
        assert prompt.begun == "" and any(names[prompt.id] in text for _, text in prompt.messages)
