"""What reply steps ask an engine for: their purposes, further samples of strategies, and the examples that they show."""

from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from decoupled_esc import prompts
from decoupled_esc.evaluate import strategy
from decoupled_esc.experiments import book as table
from decoupled_esc.experiments import inputs, replies, scores
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.experiments.sampling import TAG_SAMPLES
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

    def score_choices(self, asked, choices):
        for prompt in asked:
            yield [prompt.id], np.random.default_rng(len(prompt.id)).normal(size=(1, 8)).astype(np.float32)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a reply step of profile smoke at a few turns: its result, and what the engine was asked."""

    def go(name, folder="a", stop=None, **changes):
        seen = []

        @contextmanager
        def engine_of(*args):
            yield Engine(seen)

        monkeypatch.setattr(replies, "engine_of", engine_of)
        steps = table.steps(load_profile("smoke"), inputs.on_this_machine(download=False))
        step = replace(steps[f"replies-{name}"], turns=GOLD, **changes)
        (tmp_path / folder).mkdir(exist_ok=True)
        work = Work(step, name, tmp_path / folder, tmp_path, stores=None)
        found = step.run(work)
        assert work.tokens == 3 * len(seen) or not seen, "all that is generated is counted"
        return step, found, seen

    return go


def test_plans_and_replies_have_random_numbers_of_their_own(run):
    step, found, seen = run("decoupled-base")
    asked = Counter(purpose for purpose, _, _ in seen)
    assert asked == dict.fromkeys(("ReplyDecoupled/plans", "ReplyDecoupled/replies"), found.turns)
    again, same, more = run("decoupled-base")
    assert same == found and not more, "what was written is not asked again"


def test_a_coupled_model_is_asked_for_further_tags_where_it_samples(run):
    step, found, seen = run("vanilla-base")
    asked = Counter(purpose for purpose, _, _ in seen)
    assert asked == {"ReplyCoupled/replies": found.turns, "ReplyCoupled/tags": TAG_SAMPLES * found.turns}
    short = next(sampling for purpose, _, sampling in seen if purpose == "ReplyCoupled/tags")
    assert short.max_new_tokens < step.sampling.max_new_tokens and short.temperature == step.sampling.temperature
    assert {len(row.tags) for row in found.rows} == {TAG_SAMPLES}
    assert len({sign for row in found.rows for sign in row.tags}) > 4
    evaluated = scores.evaluated(step, found, {turn.id: turn for turn in GOLD.read()})
    assert [turn.samples for turn in evaluated] == [row.tags for row in found.rows]
    greedy = step.sampling.model_copy(update={"temperature": 0.0})
    _, found, seen = run("vanilla-base", folder="b", sampling=greedy)
    assert {row.tags for row in found.rows} == {""} and len(seen) == found.turns


def test_the_strategy_test_set_is_answered_alike_by_every_system(monkeypatch, tmp_path):
    """Its systems share their random numbers, whatever they are called, and have further tags too."""
    seen = []
    monkeypatch.setattr(scores, "engine_of", lambda *_: nullcontext(Engine(seen)))
    steps = table.steps(load_profile("smoke"), inputs.on_this_machine(download=False))
    tested = replace(steps["strategy-test"], turns=GOLD)
    found = tested.run(Work(tested, "x", tmp_path, tmp_path, SimpleNamespace(result=lambda _: None)))
    asked = Counter(purpose for purpose, _, _ in seen)
    systems = len(found.systems)
    assert systems > 2 and asked == {
        "AnswerStrategyTest/replies": systems * found.windows,
        "AnswerStrategyTest/tags": TAG_SAMPLES * systems * found.windows,
    }
    assert len({(row.strategies, *row.samples) for row in found.rows}) == 1 and len(found.rows[0].samples) == TAG_SAMPLES
    assert {one.tokens for one in found.systems.values()} == {3 * (1 + TAG_SAMPLES) * found.windows}


def test_the_sweep_has_the_top_p_of_plans():
    profile = load_profile("smoke")
    assert table.steps(profile, inputs.as_published())["decoding"].top_p == profile.generation.plan.top_p == 0.95


def test_a_plan_is_sampled_from_the_scores_as_it_is_decoded(run):
    step, found, _ = run("decoupled-base")
    gold = {turn.id: turn for turn in GOLD.read()}
    turns = scores.evaluated(step, found, gold)
    assert turns == scores.evaluated(step, found, gold) and {len(turn.samples) for turn in turns} == {50}
    row = replace(found.rows[0], scores=[0.0, 0.0, *[-50.0] * 6])
    rows = [replace(row, id=f"{row.id}{n}") for n in range(40)]
    signs = "".join(scores.plan_samples(step, replace(found, rows=tuple(rows))))
    assert set(signs) == {"0", "1"} and signs.count("0") / len(signs) == pytest.approx(0.5, abs=0.05)
    invalid = replace(found, rows=(replace(row, strategy=None),))
    assert scores.plan_samples(step, invalid) == [strategy.INVALID * 50], "scores are of the eight alone"
    greedy = replace(step, plan=step.plan.model_copy(update={"temperature": 0.0}))
    assert scores.plan_samples(greedy, found) == [""] * found.turns


def test_every_turn_is_shown_another_example_and_the_same_one_again(run):
    step, found, seen = run("vanilla-with-example")
    shown = [prompt.messages[0][1] for _, prompt, _ in seen]
    assert len(set(shown)) > len(shown) / 2 > 3
    _, _, again = run("vanilla-with-example", folder="b")
    assert [prompt.messages for _, prompt, _ in again] == [prompt.messages for _, prompt, _ in seen]
    _, _, other = run("vanilla-with-example", folder="c", seed=step.seed + 1)
    assert sum(one[1].messages != two[1].messages for one, two in zip(seen, other, strict=True)) > len(shown) / 2
    plain = prompts.vanilla(GOLD.read()[0]).messages[0][1]
    assert all(text.startswith(plain) and len(text) > len(plain) + 40 for text in shown)
