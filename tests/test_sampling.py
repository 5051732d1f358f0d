"""How steps sample: streams by purpose, more samples of strategies, an example for each turn."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from decoupled_esc import corpus, prompts, taxonomy
from decoupled_esc.evaluate import decoding
from decoupled_esc.experiments import replies, sampling
from decoupled_esc.experiments.book import Rows
from decoupled_esc.experiments.inputs import Turns, on_this_machine
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.generate import Completion
from decoupled_esc.pipeline import Work

SCORES = np.log([0.5, 0.3, 0.12, 0.05, 0.02, 0.01, 1e-4, 1e-5]).astype(np.float32)


class Scripted:
    """An engine that prints what ``say(purpose, prompt)`` says, and scores all turns alike."""

    def __init__(self, say):
        self.say, self.asked = say, {}

    def count(self, prompt):
        return sum(len(content.split()) for _, content in prompt.messages)

    def complete(self, prompts, sampling, *, seed, purpose, done=frozenset()):
        self.asked[purpose] = ({prompt.id: prompt for prompt in prompts if prompt.id not in done}, sampling)
        yield [Completion(id, self.say(purpose, one), 3, True) for id, one in self.asked[purpose][0].items()]

    def score_choices(self, prompts, choices):
        yield [prompt.id for prompt in prompts], np.tile(SCORES, (len(prompts), 1))


@pytest.fixture(scope="module")
def rows():
    return Rows(load_profile("smoke"), on_this_machine(download=False), 13)


@pytest.fixture
def run(rows, tmp_path, monkeypatch):
    """(name of a system, what the engine says, changed fields) -> (what the step gives, the engine)."""

    def made(system, say, folder="a", **changes):
        step, engine = rows.steps[f"replies-{system}"], Scripted(say)
        step = replace(step, turns=Turns(rows.test.esconv, "test", 3), **changes)

        @contextmanager
        def opened(*_):
            yield engine

        monkeypatch.setattr(replies, "engine_of", opened)
        return step.run(Work(step, system, tmp_path / folder, tmp_path, None)), engine

    return made


def test_a_plan_and_its_reply_are_sampled_for_two_purposes(run):
    _, engine = run("decoupled-base", lambda purpose, _: "Question" if "plans" in purpose else "Why?")
    assert set(engine.asked) == {"ReplyDecoupled/plans", "ReplyDecoupled/replies"}
    plans, answers = (set(engine.asked[f"ReplyDecoupled/{what}"][0]) for what in ("plans", "replies"))
    assert plans == answers, "the same turns, so that only the purpose tells their random numbers apart"


def test_each_step_of_a_baseline_has_its_purpose(run):
    _, engine = run("vanilla-self-refine", lambda *_: "[Question] Why?")
    assert list(engine.asked) == [f"ReplyPrompted/{step}" for step in ("draft", "feedback", "refined")]


def test_the_tag_alone_is_sampled_several_times(run):
    """Of each turn's copies every second one names no strategy; none is repaired."""
    def say(purpose, prompt):
        odd = purpose.endswith("tags") and int(prompt.id.rpartition("+")[2]) % 2
        return "mumble" if odd else "[Question] Why"

    found, engine = run("vanilla-base", say)
    assert {row.samples for row in found.rows} == {"0-0-0-0-"} and len("0-0-0-0-") == sampling.TAG_SAMPLES
    assert {row.strategy for row in found.rows} == {"Question"}
    (asked, how), (copies, short) = engine.asked["ReplyCoupled/replies"], engine.asked["ReplyCoupled/tags"]
    assert len(copies) == sampling.TAG_SAMPLES * len(asked)
    assert all(copy.messages == asked[id.rpartition("+")[0]].messages for id, copy in copies.items())
    assert short.max_new_tokens < how.max_new_tokens
    assert (short.temperature, short.top_p) == (how.temperature, how.top_p)


def test_greedy_decoding_has_one_sample(run, rows):
    found, engine = run("vanilla-base", lambda *_: "[Question] Why", sampling=sampling.greedy(rows.profile.generation.reply))
    assert {row.samples for row in found.rows} == {""} and list(engine.asked) == ["ReplyCoupled/replies"]


def test_a_planner_s_samples_come_from_its_scores_as_plans_are_decoded(run):
    def say(purpose, prompt):
        return "no idea" if "plans" in purpose and prompt.id.endswith("1") else "Question"

    found, _ = run("decoupled-base", say)
    none = [row for row in found.rows if row.strategy is None]
    assert none and {row.samples for row in none} == {"-" * decoding.SAMPLES}, "scores don't know of such answers"
    signs = Counter("".join(row.samples for row in found.rows if row.strategy))
    (p,) = decoding.probabilities(SCORES[None].astype(float), 0.7, 0.95)
    assert (p > 0).sum() < 8
    for k, share in enumerate(p):
        error = np.sqrt(share * (1 - share) / signs.total())
        assert signs[str(k)] / signs.total() == pytest.approx(share, abs=4 * error)
    assert len({row.samples for row in found.rows if row.strategy}) > 1, "each turn has a stream of its own"
    again, _ = run("decoupled-base", say, folder="b")
    assert again.rows == found.rows
    other, _ = run("decoupled-base", say, folder="c", seed=14)
    assert [row.samples for row in other.rows] != [row.samples for row in found.rows]


def test_an_example_is_sampled_for_each_turn(run, rows):
    answer = partial(run, "vanilla-with-example", lambda *_: "[Question] Why")

    def instructions(engine):
        return {id: prompt.messages[0][1] for id, prompt in engine.asked["ReplyPrompted/refined"][0].items()}

    first = instructions(answer()[1])
    assert len(set(first.values())) > 0.8 * len(first) > 5
    assert instructions(answer(folder="b")[1]) == first
    assert instructions(answer(folder="c", seed=14)[1]) != first
    known = {turn.reply for dialogue in rows.train.esconv.read().split("train") for turn in corpus.turns(dialogue)}
    assert all(text.rpartition("] ")[2] in known for text in first.values()), "of the training split"
    assert all(any(f"[{name}]" in text for name in taxonomy.STRATEGIES) for text in first.values())


def test_what_is_written_down_is_not_asked_again(rows, tmp_path):
    engine, step = Scripted(lambda *_: "[Question] Why"), rows.steps["replies-vanilla-base"]
    work, turns = Work(step, "x", tmp_path, tmp_path, None), rows.test.read()[:4]
    how = rows.profile.generation.reply
    for some, left in ((turns[:2], 2), (turns, 2), (turns, 0)):
        asked = sampling.fitted(engine, some, prompts.vanilla, how, 1024)
        assert len(sampling.complete(work, engine, asked, how, "replies", 13)) == len(some)
        assert len(engine.asked["ReplyCoupled/replies"][0]) == left
