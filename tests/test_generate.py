"""Replies and scores from a policy, against the model called the plain way: one prompt at a time, no cache."""

import hashlib
import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from turn_trees import Example, pack

from decoupled_esc import models
from decoupled_esc.generate import Sampling, open_engine
from decoupled_esc.generate.engine import stream
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.prompts import Prompt, ids, render
from decoupled_esc.taxonomy import STRATEGIES

SHAPE = models.Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=512)
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=8)
SAMPLED = Sampling(temperature=0.7, top_p=0.95, max_new_tokens=8)


@pytest.fixture(scope="module")
def model(tokenizer):
    model = models.create(SHAPE, tokenizer, seed=5).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8)  # fresh weights say nearly the same after every prompt
    return model


@pytest.fixture(scope="module")
def engine(model, tokenizer):
    return TransformersEngine(model, tokenizer, batch_tokens=600)


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    """Twelve prompts of about 30 to 200 tokens, shuffled."""
    words = "I am here to listen . what has been on your mind most today ?".split()
    draw = np.random.default_rng(2)
    made = []
    for i, length in enumerate([1, 2, 3, 4, 5, 6, 9, 14, 20, 40, 60, 90]):
        said = " ".join(draw.choice(words, length))
        made.append(Prompt(f"d/{i:04d}/00", (("system", "Be kind."), ("user", said)), "unused"))
    return [made[i] for i in draw.permutation(len(made))]


@pytest.fixture(scope="module")
def talks() -> list[Prompt]:
    """The turns of four dialogues: each prompt is a beginning of the next, up to its last message's end."""
    words = "I am here to listen . what has been on your mind most today ?".split()
    draw = np.random.default_rng(3)
    made = []
    for d in range(4):
        said: list[tuple[str, str]] = []
        for turn in range(2 + d):
            said.append(("user", " ".join(draw.choice(words, 3 + 4 * d))))
            made.append(Prompt(f"d/{d:04d}/{turn:02d}", (("system", "Be kind."), *said), "unused"))
            said.append(("assistant", " ".join(draw.choice(words, 5))))
    return made


def encoded(prompt: Prompt, tokenizer) -> list[int]:
    return ids(render(prompt, tokenizer)[0], tokenizer)


def everything(engine, prompts, sampling, **kwargs) -> dict:
    return {c.id: c for batch in engine.complete(prompts, sampling, purpose="t", **kwargs) for c in batch}


# Batches --------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    dialogues=st.lists(st.lists(st.integers(1, 20), min_size=1, max_size=5), max_size=8),
    budget=st.integers(1, 900),
    new=st.integers(0, 30),
)
def test_batches_are_within_the_budget_and_whole_dialogues_where_these_are(model, tokenizer, dialogues, budget, new):
    asked = [
        Prompt(f"d/{d:04d}/{i:02d}", (("user", f"{d} " + "a" * n),), "")
        for d, lengths in enumerate(dialogues)
        for i, n in enumerate(lengths)
    ]
    engine = TransformersEngine(model, tokenizer, batch_tokens=budget)
    batches = list(engine.batches(asked, new))
    assert [p for batch in batches for p in batch] == asked

    def names(batch) -> set[str]:
        return {p.id[:6] for p in batch}

    def size(batch) -> int:
        """An upper bound: dialogues of one batch may share a beginning, which the engine does not count on."""
        return sum(
            len(pack([Example(p.id, encoded(p, tokenizer), []) for p in batch if p.id[:6] == d])) for d in names(batch)
        ) + new * len(batch)

    for name in names(asked):
        dialogue = [p for p in asked if p.id[:6] == name]
        assert sum(name in names(batch) for batch in batches) == 1 or size(dialogue) > budget  # none else is torn apart
    for batch in batches:
        assert len(batch) == 1 or size(batch) <= budget
    for batch, following in zip(batches, batches[1:], strict=False):
        first = [p for p in following if p.id[:6] == following[0].id[:6]]
        torn = batch[-1].id[:6] == first[0].id[:6]
        assert size(batch + first[:1] if torn else batch) + size([] if torn else first) > budget  # no room was left


# Completions ----------------------------------------------------------------------------------------------------


def greedy_by_hand(model, tokenizer, prompt, steps: int) -> str:
    tokens = ids(render(prompt, tokenizer)[0], tokenizer)
    printed = []
    for _ in range(steps):
        with torch.no_grad():
            best = model(torch.tensor([tokens + printed], device=model.device)).logits[0, -1].argmax().item()
        if best == tokenizer.eos_token_id:
            break
        printed.append(best)
    return tokenizer.decode(printed, skip_special_tokens=True)


def test_greedy_in_batches_is_greedy_one_at_a_time_and_by_hand(engine, model, tokenizer, prompts, talks):
    prompts = [*prompts, *talks]
    prompts = [replace(p, id=f"{'short' if n < 12 else 'talk'}/{p.id}") for n, p in enumerate(prompts)]
    together = everything(engine, prompts, GREEDY, seed=0)
    assert max(len(batch) for batch in engine.batches(prompts, GREEDY.max_new_tokens)) > 3
    assert sorted(together) == sorted(p.id for p in prompts)
    assert len({c.text for c in together.values()}) > 4  # the model does say different things
    for prompt in prompts:
        alone = everything(engine, [prompt], GREEDY, seed=1)  # without a draw, a seed is of no influence
        assert alone[prompt.id] == together[prompt.id]
        assert together[prompt.id].text == greedy_by_hand(model, tokenizer, prompt, GREEDY.max_new_tokens)


def test_a_seed_decides_the_text(engine, prompts):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = everything(engine, prompts, SAMPLED, seed=7)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    torch.manual_seed(2)
    assert everything(engine, prompts[::-1], SAMPLED, seed=7) == first
    other = everything(engine, prompts, SAMPLED, seed=8)
    assert sum(other[id].text != first[id].text for id in first) > len(first) / 2


def test_company_changes_nothing(engine, model, tokenizer, talks):
    """All turns of a dialogue in one go draw what each draws alone, from the same tokens: packing is exact."""
    together = everything(engine, talks, SAMPLED, seed=7)
    one_each = TransformersEngine(model, tokenizer, batch_tokens=1)
    for prompt in talks:
        assert everything(one_each, [prompt], SAMPLED, seed=7)[prompt.id] == together[prompt.id]


def test_sampling_draws_from_the_models_own_probabilities(model, tokenizer):
    """2,000 draws of one token at temperature 0.7 and top-p 0.5, against the distribution worked out here."""
    prompt = (("user", "Hi"),)
    tokens = torch.tensor([ids(render(Prompt("d", prompt, ""), tokenizer)[0], tokenizer)], device=model.device)
    with torch.no_grad():
        p = torch.softmax(model(tokens).logits[0, -1].double() / 0.7, 0).cpu().numpy()
    order = np.argsort(-p)
    nucleus = order[: np.searchsorted(np.cumsum(p[order]), 0.5) + 1]
    expected: dict[str, float] = {}  # by text: pieces of characters all read as the same sign
    for token, share in zip(nucleus, p[nucleus] / p[nucleus].sum(), strict=True):
        text = tokenizer.decode([token], skip_special_tokens=True)
        expected[text] = expected.get(text, 0) + share
    draws = [Prompt(f"d/{i:04d}/00", prompt, "") for i in range(2000)]
    sampling = Sampling(temperature=0.7, top_p=0.5, max_new_tokens=1)
    engine = TransformersEngine(model, tokenizer, batch_tokens=100_000)
    texts = [c.text for c in everything(engine, draws, sampling, seed=3).values()]
    assert set(texts) <= set(expected) and len(expected) > 5
    for text, share in expected.items():
        error = math.sqrt(share * (1 - share) / len(texts))
        assert texts.count(text) / len(texts) == pytest.approx(share, abs=5 * error)


def test_done_skips_whole_batches_and_the_rest_is_as_before(model, tokenizer, prompts):
    engine = TransformersEngine(model, tokenizer, batch_tokens=300)
    whole = list(engine.complete(prompts, SAMPLED, seed=7, purpose="t"))
    assert len(whole) >= 3
    for stopped in range(len(whole) + 1):
        done = frozenset(c.id for batch in whole[:stopped] for c in batch)
        assert list(engine.complete(prompts, SAMPLED, seed=7, purpose="t", done=done)) == whole[stopped:]
    big = max(range(len(whole)), key=lambda i: len(whole[i]))
    half = frozenset({whole[big][0].id})  # a batch that is done in part is made again, and comes out the same
    assert list(engine.complete(prompts, SAMPLED, seed=7, purpose="t", done=half)) == whole


@pytest.fixture
def hasty(model, tokenizer):
    """An engine whose model has many ends of turn: every third token, as a list in its generation settings."""
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(3, len(tokenizer), 3)]
    yield TransformersEngine(model, tokenizer, batch_tokens=600)
    model.generation_config.eos_token_id = before


def test_a_plan_and_its_reply_share_no_random_numbers(engine, prompts):
    """With one stream for both, the uniform that picks the strategy picks the reply's first token, too."""
    uniforms = {
        purpose: np.array([np.random.default_rng(stream(7, purpose, f"d/{n}", 8)).random() for n in range(2000)])
        for purpose in ("ReplyDecoupled/plans", "ReplyDecoupled/replies", "ReplyCoupled/replies")
    }
    for one, other in itertools.combinations(uniforms.values(), 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.08
    plans = everything(engine, prompts, SAMPLED, seed=7)
    replies = {c.id: c for batch in engine.complete(prompts, SAMPLED, seed=7, purpose="other") for c in batch}
    assert any(plans[id].text != replies[id].text for id in plans)


def drawn_by_hand(model, tokens: list[int], sampling: Sampling, seed: int, id: str) -> list[int]:
    """Token after token from the whole sequence, without a cache; it goes on beyond an end of turn."""
    chance = np.random.default_rng(int.from_bytes(hashlib.sha256(json.dumps([seed, "t", id]).encode()).digest()[:8], "big"))
    row: list[int] = []
    for u in chance.random(sampling.max_new_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([tokens + row], device=model.device)).logits[0, -1].double().cpu().numpy()
        p = np.exp((logits - logits.max()) / sampling.temperature)
        p /= p.sum()
        order = np.argsort(-p)
        nucleus = order[: np.searchsorted(np.cumsum(p[order]), sampling.top_p) + 1]
        line = np.cumsum(p[nucleus])
        row.append(int(nucleus[np.searchsorted(line, u * line[-1], side="right")]))
    return row


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_replies_end_at_the_end_of_turn_or_at_the_limit(hasty, model, tokenizer, prompts, limit):
    ends = set(model.generation_config.eos_token_id)
    sampling = SAMPLED.model_copy(update={"max_new_tokens": limit})
    completions = everything(hasty, prompts, sampling, seed=4)
    assert len(completions) == len(prompts)
    for prompt in prompts:
        completion = completions[prompt.id]
        row = drawn_by_hand(model, encoded(prompt, tokenizer), sampling, 4, prompt.id)
        end = next((i for i, token in enumerate(row) if token in ends), None)
        assert completion.finished == (end is not None)
        assert completion.tokens == (limit if end is None else end + 1) <= limit
        assert completion.text == tokenizer.decode(row[:end], skip_special_tokens=True)
        assert models.END not in completion.text and models.PAD not in completion.text
    if limit == 3:
        assert {c.finished for c in completions.values()} == {True, False}


def test_no_prompts_no_batches(engine):
    assert list(engine.complete([], SAMPLED, seed=1, purpose="t")) == []
    assert list(engine.score_choices([], STRATEGIES)) == []


def test_an_engine_is_opened_from_weights(tmp_path):
    weights = models.Weights(models.EMBEDDED / "esc-nano")
    asked = [Prompt("d/0/0", (("user", "Hi"),), "")]
    more = {"serving": None, "max_length": 512, "seed": 1, "folder": tmp_path}
    with open_engine(weights, batch_tokens=500, **more) as engine:
        assert engine.count(asked[0]) == len(encoded(asked[0], engine.tokenizer))
        assert everything(engine, asked, GREEDY, seed=0)["d/0/0"].text


# Scores ---------------------------------------------------------------------------------------------------------


def log_probability(model, tokenizer, prompt: Prompt, choice: str) -> float:
    """Sum of log P(token | all before it) over the choice and its end of turn, in one plain pass."""
    asked, answer = (ids(part, tokenizer) for part in render(Prompt(prompt.id, prompt.messages, choice), tokenizer))
    assert answer[-1] == tokenizer.eos_token_id
    with torch.no_grad():
        logits = model(torch.tensor([asked + answer], device=model.device)).logits[0].double()
    log_p = torch.log_softmax(logits, dim=-1)
    return sum(log_p[len(asked) + k - 1, token].item() for k, token in enumerate(answer))


@pytest.mark.parametrize("budget", [1, 2_000, 10**6])
def test_scores_are_the_plain_log_probabilities(model, tokenizer, prompts, budget):
    engine = TransformersEngine(model, tokenizer, batch_tokens=budget)
    scored = list(engine.score_choices(prompts, STRATEGIES))
    sizes = [len(batch) for batch, _ in scored]
    if budget == 2_000:
        assert len(sizes) > 1 and max(sizes) > 1
    else:
        assert sizes == ([1] * len(prompts) if budget == 1 else [len(prompts)])
    assert sorted(id for batch, _ in scored for id in batch) == sorted(p.id for p in prompts)
    by_id = {p.id: p for p in prompts}
    for batch, scores in scored:
        assert scores.shape == (len(batch), 8) and scores.dtype == np.float32
        for id, row in zip(batch, scores, strict=True):
            expected = [log_probability(model, tokenizer, by_id[id], choice) for choice in STRATEGIES]
            assert row == pytest.approx(expected, abs=1e-4, rel=1e-6)


def test_an_answer_that_is_begun_goes_on_from_there(engine, prompts):
    """The chain rule: the tag's log-probability and that of the rest after it are that of the whole answer."""
    few, tag, rest = prompts[:4], "[Question]", " what happened?"

    def scores(asked, choice, **more):
        return np.concatenate([found for _, found in engine.score_choices(asked, [choice], **more)])

    begun = [replace(prompt, begun=tag) for prompt in few]
    assert [engine.count(prompt) for prompt in begun] > [engine.count(prompt) for prompt in few]
    apart = scores(few, tag, whole=False) + scores(begun, rest)
    np.testing.assert_allclose(apart, scores(few, tag + rest), atol=1e-3)
    assert np.abs(apart - scores(few, rest)).min() > 0.1


def test_scores_work_with_an_adapter(model, tokenizer, prompts, tmp_path):
    from peft import LoraConfig, get_peft_model

    model.save_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(models.load(tmp_path / "base"), config).save_pretrained(tmp_path / "adapter")
    adapted = models.load(models.Weights(tmp_path / "base", adapter=tmp_path / "adapter"))
    engine = TransformersEngine(adapted, tokenizer, batch_tokens=10**5)
    ((batch, scores),) = engine.score_choices(prompts[:4], STRATEGIES)
    by_id = {p.id: p for p in prompts}
    for id, row in zip(batch, scores, strict=True):
        assert row == pytest.approx([log_probability(adapted, tokenizer, by_id[id], c) for c in STRATEGIES], abs=1e-4)
    greedy = everything(engine, prompts[:4], GREEDY, seed=0)
    for prompt in prompts[:4]:
        assert greedy[prompt.id].text == greedy_by_hand(adapted, tokenizer, prompt, GREEDY.max_new_tokens)
