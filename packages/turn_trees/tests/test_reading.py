"""Reading a tree: a model says of each answer what it says of it alone, whatever the architecture and the attention."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from tree_cases import (
    BOUND,
    CONFIGS,
    ancestors,
    attending,
    check,
    conversation,
    cut_examples,
    off,
    one_by_one,
    plain_attention,
    shaken,
    small,
    tokenizer,
)
from turn_trees import (
    Example,
    Loss,
    Packed,
    PackingError,
    answer_logps,
    attention,
    attention_kwargs,
    attention_mask,
    frozen_logps,
    join,
    logps_in_passes,
    pack,
    split,
    subtree_ends,
    use_tree_attention,
)


@st.composite
def shapes(draw) -> list[int]:
    """The depths of a forest written down in preorder."""
    depths: list[int] = []
    for climb in draw(st.lists(st.integers(0, 6), max_size=40)):
        depths.append(max(0, depths[-1] + 1 - climb) if depths else 0)
    return depths


# What attends to what -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(shapes())
def test_the_mask_is_a_token_and_its_ancestors(depths):
    mask, expected = attention_mask(depths), ancestors(depths)
    assert mask.shape == (1, 1, len(depths), len(depths)) and mask.dtype == torch.bool
    assert torch.equal(mask[0, 0], expected)
    # A descendant is whatever has the token above it; they stand together, the token itself first.
    assert subtree_ends(depths) == [i + int(expected[:, i].sum()) for i in range(len(depths))]


def test_trees_of_a_forest_do_not_see_each_other():
    trees = [pack(conversation()), pack(conversation(3, first=40))]
    blocks = torch.block_diag(*(ancestors(tree.depths) for tree in trees)).bool()
    assert torch.equal(attention_mask(join(trees).depths)[0, 0], blocks)


@settings(deadline=None)
@given(shapes().filter(len), st.integers(1, 12))
def test_chunks_cover_the_mask_and_nothing_that_has_ended(depths, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "CHUNK", size)
        keys, masks = attention.chunks(depths)
    dense = torch.zeros(len(depths), len(depths), dtype=torch.bool)
    start = used = 0
    for mask in masks:
        queries, seen = mask.shape[2:]
        assert queries == min(size, len(depths) - start)
        assert seen == depths[start] + queries  # the ancestors of its first query, and its own
        mine = keys[used : used + seen]
        dense[start : start + queries].scatter_(1, mine.expand(queries, -1), mask[0, 0])
        assert mine.tolist() == sorted(set(mine.tolist()))
        start, used = start + queries, used + seen
    assert (start, used) == (len(depths), len(keys))
    assert torch.equal(dense, ancestors(depths))


def products(packed: Packed) -> int:
    """How many scores, of a query with a key, are computed."""
    return sum(mask.numel() for mask in attention.chunks(packed.depths)[1])


def test_what_is_computed_grows_with_what_is_attended_to():
    """A talk of 100 turns, 10 tokens each, with an answer of 31 tokens below every one."""
    said = list(range(1000))
    talk = pack([Example(f"d/{n}", said[: 10 * n], [[2000 + n] * 31]) for n in range(1, 101)])
    assert len(talk) == 4000
    assert products(talk) < len(talk) ** 2 / 4
    four = join([talk] * 4)
    assert products(four) < 4.5 * products(talk)  # where all with all would be 16 times as many
    assert products(four) <= len(four) * (max(four.depths) + attention.CHUNK)


# Log-probabilities and gradients ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return small("qwen2")


@pytest.fixture(scope="module")
def plain(model):
    """The model as transformers makes it."""
    return attending(model, "sdpa")


BATCH = [conversation(5, 2), conversation(3, 3, first=60), conversation(1, 1, first=90)]
"""Several conversations, more turns and answers in one than in the other."""


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("chunk", [None, 7])
def test_a_forest_is_its_answers_one_by_one(kind, chunk):
    """On each architecture, its own attention the other side: rotations, caps, windows, tied and fused layers."""
    check(small(kind), small(kind, plain_attention(kind)), BATCH, chunk)


@pytest.mark.parametrize("kind", [kind for kind in CONFIGS if kind != "gemma2"])
def test_so_it_is_with_a_dense_mask(kind):
    plain = small(kind, "sdpa")
    check(plain, plain, BATCH)


@settings(deadline=None, max_examples=25)
@given(
    batch=st.lists(cut_examples(vocabulary=4, least=1), min_size=1, max_size=3),
    chunk=st.sampled_from([None, 1, 2, 3, 5, 16]),
)
def test_random_trees_are_their_sequences_one_by_one(model, plain, batch, chunk):
    check(model, plain, batch, chunk)


def test_a_wrong_mask_or_position_would_be_seen(model, plain):
    """These comparisons are worth something: neighbours and order do change what the model says."""
    examples = conversation(5)
    packed = pack(examples)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = one_by_one(plain, examples)

        def in_a_row(module, args, kwargs):
            return args, kwargs | {"position_ids": torch.arange(len(packed))[None]}

        hook = model.register_forward_pre_hook(in_a_row, with_kwargs=True)
        elsewhere = answer_logps(model, packed)
        hook.remove()
        patch.setattr(attention, "subtree_ends", lambda depths: [len(depths)] * len(depths))
        everything = answer_logps(model, packed)
    assert off(elsewhere, expected) > 1000 * BOUND and off(everything, expected) > 1000 * BOUND


# Other attention ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 5])
def test_an_adapter_packed_is_one_alone(chunk):
    """Of the gradients, too."""
    lora = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    model = shaken(get_peft_model(small("qwen2"), lora))
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    plain = attending(model, "sdpa")
    use_tree_attention(model)
    check(model, plain, BATCH, chunk)


def test_eager_attention_is_the_same(model, plain):
    check(attending(model, "eager"), plain, BATCH)


@pytest.mark.parametrize("kind", ["qwen2", "gemma2", "mistral"])  # plain, with a cap, with a window
def test_flex_attention_is_the_same(kind):
    try:
        torch.compile(torch.sin)(torch.ones(3))
    except Exception as error:
        pytest.skip(f"nothing can be compiled here: {error}")
    with torch.no_grad():  # there is no backward pass on a CPU
        logps = answer_logps(small(kind, "flex_attention"), pack(BATCH[0]))
        assert off(logps, one_by_one(small(kind, plain_attention(kind)), BATCH[0])) <= BOUND


def test_a_prompt_beyond_the_models_window_is_refused(model):
    tree = pack(conversation(5))
    model = attending(model, "prefix_tree")
    for window, fits in ((max(tree.depths) + 1, True), (max(tree.depths), False)):
        model.config.sliding_window = window
        if fits:
            assert attention_kwargs(tree.depths, model)
        else:
            said = f"a prompt of {window + 1} tokens, and this model attends to {window}"
            with pytest.raises(PackingError, match=said):
                attention_kwargs(tree.depths, model)
        assert attention_kwargs(range(100), model) == {}  # a plain sequence is the model's own affair


# On anything but a packed sequence ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def padded() -> dict[str, torch.Tensor]:
    texts = ["Hi", "How are you?", "I lost my keys and I do not know what to do."]
    found = tokenizer()(texts, return_tensors="pt", padding=True, padding_side="left")
    return {name: found[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_are_as_with_sdpa(model, plain, padded, side):
    tokens, mask = padded["input_ids"], padded["attention_mask"]
    assert not mask.all()
    if side == "right":
        tokens, mask = tokens.flip(1), mask.flip(1)
    with torch.no_grad():
        mine, theirs = (m(input_ids=tokens, attention_mask=mask).logits for m in (model, plain))
    assert torch.equal(mine, theirs)


def test_generation_is_as_with_sdpa(model, plain, padded):
    for batch in (padded, {name: column[-1:] for name, column in padded.items()}):
        mine, theirs = (
            m.generate(**batch, do_sample=False, min_new_tokens=12, max_new_tokens=12) for m in (model, plain)
        )
        assert torch.equal(mine, theirs) and mine.shape[1] == batch["input_ids"].shape[1] + 12


# In passes ----------------------------------------------------------------------------------------------------------

LOSSES = {name: Loss(name, beta=0.3, gamma=0.2) for name in ("sft", "dpo", "ipo", "simpo", "kto", "orpo")}
"""KTO's reference point is a mean over all pairs of a step, so they can't be summed pass by pass."""


@contextmanager
def exact():
    """float64 all the way, where the library and the model round to float32."""
    to = torch.Tensor.to

    def never_32(tensor, *what, **options):
        return to(tensor, *(torch.float64 if one is torch.float32 else one for one in what), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch.Tensor, "to", never_32)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def double():
    return small("qwen2").double()


@st.composite
def long_conversations(draw, answers: int) -> list[Example]:
    """Turns that see a window of the messages before them, cut at a message: the early ones share, the late do not."""
    token, window = st.integers(0, 319), draw(st.integers(12, 40))
    instruction = draw(st.lists(token, min_size=1, max_size=4))
    said, made = [], []
    for turn in range(draw(st.integers(2, 14))):
        said.append(draw(st.lists(token, min_size=1, max_size=8)))
        first = 0
        while first < turn and sum(map(len, said[first:])) > window:
            first += 1
        asked = st.lists(st.lists(token, min_size=1, max_size=4), min_size=answers, max_size=answers)
        made.append(Example(f"d/{turn}", instruction + sum(said[first:], []), draw(asked)))
    return made


def learned(model, loss: Loss, logps: torch.Tensor, forest, reference) -> tuple[torch.Tensor, dict, torch.Tensor]:
    """(loss, metrics, gradient of all weights)."""
    total, metrics = loss(logps, forest, reference)
    gradient = torch.autograd.grad(total, list(model.parameters()))
    return total.detach(), metrics, torch.cat([part.flatten() for part in gradient])


@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), budget=st.integers(1, 120), random=st.randoms(use_true_random=False))
def test_losses_and_gradients_are_those_of_one_turn_at_a_time(double, name, data, budget, random):
    loss = LOSSES[name]
    answers, model = loss.answers_each, double
    examples = data.draw(long_conversations(answers))
    order = random.sample(range(len(examples)), len(examples))
    shuffled, plain = [examples[n] for n in order], attending(model, "sdpa")
    forest, other = pack(examples), pack(shuffled)
    with exact():
        reference = torch.tensor([[random.uniform(-20, -5) for _ in range(answers)] for _ in examples])
        passes = split(forest, budget)
        total, metrics, gradient = learned(model, loss, logps_in_passes(model, passes), forest, reference)
        # From the definition, and in another order: each answer in a plain sequence of its own.
        expected = learned(plain, loss, one_by_one(plain, shuffled), other, reference[order])
        assert total.item() == pytest.approx(expected[0].item(), rel=1e-9, abs=1e-9)
        assert (gradient - expected[2]).norm() <= 1e-9 * max(1, expected[2].norm())
        for key, values in metrics.items():
            torch.testing.assert_close(values[order], expected[1][key])
        with torch.no_grad():
            assert off(logps_in_passes(model, passes), answer_logps(model, forest)) < 1e-9


def test_one_pass_at_a_time_is_held_for_the_gradient():
    """What a forward pass leaves for the backward one is dropped and made again, with the same dropout."""
    model = small("qwen2")
    said = list(range(3, 303))
    passes = split(pack([Example(f"d/{n}", said[10 * n : 10 * n + 100], [[n + 5, 2]]) for n in range(20)]), 210)
    assert len(passes) == 10
    model.train()
    for layer in model.model.layers:  # a layer that drops out, as an adapter's
        layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.Dropout(0.3))

    def outcome(logps) -> tuple[torch.Tensor, int]:
        held = 0

        def keep(tensor):
            nonlocal held
            held += tensor.numel()
            return tensor

        torch.manual_seed(4)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made = logps()
        return torch.cat([g.flatten() for g in torch.autograd.grad(made.sum(), list(model.parameters()))]), held

    whole, all_of_them = outcome(lambda: torch.cat([answer_logps(model, packed) for packed in passes]))
    found, few = outcome(lambda: logps_in_passes(model, passes))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    assert few < all_of_them / 100


@pytest.mark.parametrize("training", [True, False])
def test_frozen_logps_know_no_dropout_and_leave_the_model_as_it_was(training):
    model = small("qwen2").train(training)
    for layer in model.model.layers:
        layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.Dropout(0.3))
        layer.train(training)
    tree = pack(BATCH[0])
    found = frozen_logps(model, [tree])
    assert model.training is training and not found.requires_grad
    assert torch.equal(found, frozen_logps(model, [tree]))
    rounded = frozen_logps(model, [tree], "bfloat16")
    assert not torch.equal(rounded, found) and off(rounded, found) < 0.1
    if training:
        with torch.no_grad():
            assert off(answer_logps(model, tree), found) > 1e-3  # the dropout was there
