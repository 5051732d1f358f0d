"""Packed sequences: the tree holds the examples and no more, and a model says of them what it says of each alone."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from decoupled_esc import models, packing, prompts, taxonomy
from decoupled_esc.corpus import BLANK, OPENING, Dialogue, Turn, Utterance, read_raw, turns
from decoupled_esc.corpus.split import MANIFEST
from decoupled_esc.packing import (
    Example,
    Packed,
    answer_logps,
    attention_mask,
    chunks,
    join,
    pack,
    subtree_ends,
)  # fmt: skip
from decoupled_esc.prompts import ids, render

SHAPE = models.Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=2048)
BOUND = 1e-5
"""What float32 may differ by, relative."""

torch.set_num_threads(1)


# Trees from the definition ------------------------------------------------------------------------------------------


def parents(depths: Sequence[int]) -> list[int | None]:
    """The token above each: the last before it that is one less deep."""
    return [
        max(j for j in range(i) if depths[j] == depth - 1) if depth else None for i, depth in enumerate(depths)
    ]  # fmt: skip


def path(depths: Sequence[int], index: int) -> list[int]:
    """A token and all above it, from the root down."""
    above, line = parents(depths), [index]
    while above[line[0]] is not None:
        line.insert(0, above[line[0]])
    return line


def ancestors(depths: Sequence[int]) -> torch.Tensor:
    """Bool [L, L]: which key is the query itself or above it."""
    mask = torch.zeros(len(depths), len(depths), dtype=torch.bool)
    for index in range(len(depths)):
        mask[index, path(depths, index)] = True
    return mask


@st.composite
def shapes(draw) -> list[int]:
    """The depths of a forest written down in preorder."""
    depths: list[int] = []
    for climb in draw(st.lists(st.integers(0, 6), max_size=40)):
        depths.append(max(0, depths[-1] + 1 - climb) if depths else 0)
    return depths


def cut_examples(vocabulary: int = 3, answers: int = 3, least: int = 0) -> st.SearchStrategy[list[Example]]:
    """Prompts and answers cut from a few short texts: much is shared, much is a beginning of something else."""
    some = st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=9)

    @st.composite
    def several(draw) -> list[Example]:
        texts = draw(st.lists(some, min_size=1, max_size=3))
        made = []
        for n in range(draw(st.integers(1, 6))):
            text = draw(st.sampled_from(texts))
            cut = draw(st.integers(1, len(text)))
            goes_on = [st.just(text[cut:])] if text[cut:] else []
            answer = st.one_of(*goes_on, some)
            made.append(Example(f"d/{n}", text[:cut], draw(st.lists(answer, min_size=least, max_size=answers))))
        return made

    return several()


def columns(packed: Packed, owner: int) -> tuple[list[int], list[int]]:
    """(predictors, targets) of one answer."""
    rows = [n for n, o in enumerate(packed.completion_index) if o == owner]
    return [packed.predict_positions[n] for n in rows], [packed.targets[n] for n in rows]


# The tree -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(cut_examples())
def test_every_sequence_can_be_read_back_on_its_own_path(examples):
    packed = pack(examples)
    assert len(packed.prompt_ends) == len(examples)
    owner = 0
    for example, asked in zip(examples, packed.prompt_ends, strict=True):
        line = path(packed.depths, asked)
        assert [packed.tokens[i] for i in line] == example.prompt
        for answer in example.answers:
            predictors, targets = columns(packed, owner)
            assert targets == answer
            assert predictors[0] == asked
            whole = path(packed.depths, predictors[-1])
            assert [packed.tokens[i] for i in whole] == example.prompt + answer[:-1]
            assert whole[-len(answer) :] == predictors
            owner += 1
    assert packed.answers == owner
    assert packed.completion_index == sorted(packed.completion_index)


@settings(deadline=None)
@given(cut_examples())
def test_nothing_shared_is_stored_twice(examples):
    packed = pack(examples)
    assert len(packed) == len(packed.tokens) == len(packed.depths)
    above = list(zip(parents(packed.depths), packed.tokens, strict=True))
    assert len(set(above)) == len(above)  # no two siblings are the same token
    read = [example.prompt for example in examples]
    read += [example.prompt + answer[:-1] for example in examples for answer in example.answers]
    assert len(packed) == len({tuple(sequence[:n]) for sequence in read for n in range(1, len(sequence) + 1)})


@settings(deadline=None)
@given(cut_examples(), st.randoms(use_true_random=False))
def test_the_order_of_the_examples_changes_their_places_in_the_columns_alone(examples, random):
    order = random.sample(range(len(examples)), len(examples))
    packed, other = pack(examples), pack([examples[n] for n in order])
    assert (other.tokens, other.depths) == (packed.tokens, packed.depths)
    assert other.prompt_ends == [packed.prompt_ends[n] for n in order]


def test_pack_by_hand():
    packed = pack(
        [
            Example("d/0", [1, 2], [[5, 6], [5, 7, 8]]),
            Example("d/1", [1, 2, 5, 6, 3], [[4]]),
            Example("d/2", [1, 2], []),
            Example("d/3", [9], [[2]]),
        ]
    )
    #                        1-2-5-+-6-3
    #                              +-7       and 9
    assert packed.tokens == [1, 2, 5, 6, 3, 7, 9]
    assert packed.depths == [0, 1, 2, 3, 4, 3, 0]
    assert packed.prompt_ends == [1, 4, 1, 6]
    assert packed.predict_positions == [1, 2, 1, 2, 5, 4, 6]
    assert packed.targets == [5, 6, 5, 7, 8, 4, 2]
    assert packed.completion_index == [0, 0, 1, 1, 1, 2, 3]
    assert packed.answers == 4


@pytest.mark.parametrize(("prompt", "answers"), [([], [[1]]), ([], []), ([1], [[]]), ([1], [[2], []])])
def test_what_is_empty_is_refused_by_name(prompt, answers):
    with pytest.raises(ValueError, match="^d/7: .*at least one token"):
        pack([Example("d/0", [1], [[2]]), Example("d/7", prompt, answers)])


@settings(deadline=None)
@given(st.lists(cut_examples(), max_size=4))
def test_joined_trees_stay_as_they_are_side_by_side(batch):
    trees = [pack(examples) for examples in batch]
    forest = join(trees)
    assert len(forest) == sum(map(len, trees)) and forest.answers == sum(tree.answers for tree in trees)
    tokens = answers = 0
    asked, predictors, owners, targets, blocks = [], [], [], [], []
    for tree in trees:
        here = slice(tokens, tokens + len(tree))
        assert (forest.tokens[here], forest.depths[here]) == (tree.tokens, tree.depths)
        asked += [tokens + i for i in tree.prompt_ends]
        predictors += [tokens + i for i in tree.predict_positions]
        owners += [answers + i for i in tree.completion_index]
        targets += tree.targets
        blocks.append(ancestors(tree.depths))
        tokens, answers = tokens + len(tree), answers + tree.answers
    assert (forest.prompt_ends, forest.predict_positions, forest.completion_index, forest.targets) == (
        asked,
        predictors,
        owners,
        targets,
    )
    assert torch.equal(attention_mask(forest.depths)[0, 0], torch.block_diag(*blocks).bool()[:tokens, :tokens])


# What attends to what -----------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(shapes())
def test_the_mask_is_a_token_and_its_ancestors(depths):
    mask, expected = attention_mask(depths), ancestors(depths)
    assert mask.shape == (1, 1, len(depths), len(depths)) and mask.dtype == torch.bool
    assert torch.equal(mask[0, 0], expected)
    # A descendant is whatever has the token above it; they stand together, the token itself first.
    assert subtree_ends(depths) == [i + int(expected[:, i].sum()) for i in range(len(depths))]


@settings(deadline=None)
@given(shapes().filter(len), st.integers(1, 12))
def test_chunks_cover_the_mask_and_nothing_that_has_ended(depths, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "CHUNK", size)
        keys, masks = chunks(depths)
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
    return sum(mask.numel() for mask in chunks(packed.depths)[1])


def test_what_is_computed_grows_with_what_is_attended_to():
    """A talk of 100 turns, 10 tokens each, with an answer of 31 tokens below every one."""
    said = list(range(1000))
    talk = pack([Example(f"d/{n}", said[: 10 * n], [[2000 + n] * 31]) for n in range(1, 101)])
    assert len(talk) == 4000
    assert products(talk) < len(talk) ** 2 / 4
    four = join([talk] * 4)
    assert products(four) < 4.5 * products(talk)  # where all with all would be 16 times as many
    assert products(four) <= len(four) * (max(four.depths) + packing.CHUNK)


# Log-probabilities and gradients ------------------------------------------------------------------------------------


def one_by_one(model, examples: Sequence[Example]) -> torch.Tensor:
    """What ``answer_logps`` is to give, from the definition: every answer alone in a plain sequence of its own."""
    logps = []
    for example in examples:
        for answer in example.answers:
            sequence = torch.tensor([example.prompt + answer])
            distribution = torch.log_softmax(model(input_ids=sequence).logits[0].float(), -1)
            at = torch.arange(len(example.prompt) - 1, sequence.shape[1] - 1)
            logps.append(distribution[at, sequence[0, at + 1]].sum())
    return torch.stack(logps)


def off(value: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative difference; below 1, absolute."""
    return ((value - expected).abs() / expected.abs().clamp(min=1)).max().item()


def gradients(model, logps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the answers' log-probabilities, weighted unlike each other, some up and some down."""
    weights = torch.randn(len(logps), generator=torch.Generator().manual_seed(5))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad((weights * logps).sum(), named.values()), strict=True))


def check(model, plain, trees: Sequence[Sequence[Example]], chunk: int | None = None) -> None:
    """``model`` on the forest of ``trees``, one tree each, is ``plain`` on every answer alone: values and gradients."""
    forest = join([pack(tree) for tree in trees])
    with pytest.MonkeyPatch.context() as patch:
        if chunk:
            patch.setattr(packing, "CHUNK", chunk)
        logps = answer_logps(model, forest)
    expected = one_by_one(plain, [example for tree in trees for example in tree])
    assert logps.shape == expected.shape and logps.dtype == torch.float32
    assert off(logps, expected) <= BOUND
    mine, theirs = gradients(model, logps), gradients(plain, expected)
    assert mine.keys() == theirs.keys() and mine
    norm = torch.stack([g.norm() for g in theirs.values()]).norm()
    assert torch.stack([(mine[name] - theirs[name]).norm() for name in theirs]).norm() <= BOUND * norm
    for name, gradient in theirs.items():
        # What hardly matters has but rounding noise for a gradient: where a query has one key, it is all there is.
        assert (mine[name] - gradient).norm() <= BOUND * max(gradient.norm(), norm / 10), name


def shaken(model):
    """``model`` with large random weights: attention that is spread over few tokens, and far from uniform answers."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.25 * noise)
    return model.eval()


def attending(model, implementation: str):
    """A copy of ``model`` with another of transformers' attentions."""
    other = copy.deepcopy(model)
    other.set_attn_implementation(implementation)
    return other


@pytest.fixture(scope="module")
def dialogues() -> list[Dialogue]:
    return read_raw(MANIFEST.parent / "miniature" / "ESConv.json", "miniature")[0]


@pytest.fixture(scope="module")
def model(tokenizer):
    return shaken(models.create(SHAPE, tokenizer, seed=3))


@pytest.fixture(scope="module")
def plain(model):
    """The model as transformers makes it."""
    return attending(model, "sdpa")


def encoded(asked: Sequence[Turn], layout: prompts.Layout, tokenizer, others: Sequence[str] = ()) -> list[Example]:
    """An example a turn: its own target, and ``others``."""
    made = []
    for turn in asked:
        prompt = layout(turn)
        question, answer = render(prompt, tokenizer)
        answers = [answer, *(render(replace(prompt, target=other), tokenizer)[1] for other in others)]
        made.append(Example(turn.id, ids(question, tokenizer), [ids(text, tokenizer) for text in answers]))
    return made


# Blank seeker messages, one after the other; the supporter speaks first; the seeker last.
ODD = Dialogue("odd/0", tuple(
    Utterance(f"odd/0/{n:02}", "supporter" if strategy else "seeker", text, strategy)
    for n, (text, strategy) in enumerate([
        ("Hi", "Others"), ("How are you?", "Question"), ("I am here.", "Affirmation and Reassurance"), ("Hi", None),
        ("Hi", None), ("How are you?", "Question"), ("How are you?", "Question"), ("Bye", None),
    ])
))  # fmt: skip


@pytest.mark.parametrize("chunk", [None, 37])
@pytest.mark.parametrize("others", [[], ["Question", "I see."]], ids=["own", "three answers"])
@pytest.mark.parametrize("layout", prompts.LAYOUTS)
def test_a_packed_dialogue_is_its_turns_one_by_one(model, plain, tokenizer, dialogues, layout, others, chunk):
    examples = encoded(turns(dialogues[0])[:4], prompts.LAYOUTS[layout], tokenizer, others)
    packed = pack(examples)
    assert len(packed) > packing.CHUNK  # the default takes several chunks, too
    assert len(packed) < sum(len(e.prompt) + len(a) - 1 for e in examples for a in e.answers)
    check(model, plain, [examples], chunk)


@pytest.mark.parametrize("layout", prompts.LAYOUTS)
def test_several_dialogues_side_by_side_are_each_alone(model, plain, tokenizer, dialogues, layout):
    batch = [encoded(turns(d)[:2], prompts.LAYOUTS[layout], tokenizer, ["Hi"]) for d in (*dialogues[:2], ODD)]
    check(model, plain, [*batch, batch[0]], 100)
    trees = [pack(examples) for examples in batch]
    with torch.no_grad():
        apart = torch.cat([answer_logps(model, tree) for tree in trees])
        assert off(answer_logps(model, join(trees)), apart) <= BOUND


@pytest.mark.parametrize("layout", prompts.LAYOUTS)
def test_blank_seekers_and_supporters_who_speak_first(model, plain, tokenizer, layout):
    asked = turns(ODD)
    assert [turn.context[-1].text for turn in asked] == [OPENING, BLANK, BLANK, "Hi Hi", BLANK]
    check(model, plain, [encoded(asked, prompts.LAYOUTS[layout], tokenizer, ["Hi"])], 64)


def test_eight_strategies_are_scored_together(model, plain, tokenizer, dialogues):
    examples = encoded(turns(dialogues[1])[:3], prompts.planner, tokenizer)
    names = [ids(name + models.END, tokenizer) for name in taxonomy.STRATEGIES]
    examples = [replace(example, answers=names) for example in examples]
    check(model, plain, [examples])
    with torch.no_grad():
        scores = answer_logps(model, pack(examples)).view(3, 8)
    assert (scores.std(1) > 0.1).all() and (scores.std(0) > 0.01).all()  # they depend on name and dialogue


@settings(deadline=None, max_examples=25)
@given(
    batch=st.lists(cut_examples(vocabulary=4, least=1), min_size=1, max_size=3),
    chunk=st.sampled_from([None, 1, 2, 3, 5, 16]),
)
def test_random_trees_are_their_sequences_one_by_one(model, plain, batch, chunk):
    check(model, plain, batch, chunk)


def test_a_wrong_mask_or_position_would_be_seen(model, plain, tokenizer, dialogues):
    """These comparisons are worth something: neighbours and order do change what the model says."""
    examples = encoded(turns(dialogues[0])[:3], prompts.generator_trunk, tokenizer)
    packed = pack(examples)
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        expected = one_by_one(plain, examples)

        def in_a_row(module, args, kwargs):
            return args, kwargs | {"position_ids": torch.arange(len(packed))[None]}

        hook = model.register_forward_pre_hook(in_a_row, with_kwargs=True)
        elsewhere = answer_logps(model, packed)
        hook.remove()
        patch.setattr(packing, "subtree_ends", lambda depths: [len(depths)] * len(depths))
        everything = answer_logps(model, packed)
    assert off(elsewhere, expected) > 1000 * BOUND and off(everything, expected) > 1000 * BOUND


# Other models and other attention -----------------------------------------------------------------------------------


def adapted(tokenizer):
    """LoRA on every layer of the embedded model."""
    lora = LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(models.create(SHAPE, tokenizer, seed=3), lora)


@pytest.fixture(scope="module")
def few(tokenizer, dialogues) -> list[Example]:
    return encoded(turns(dialogues[2])[:3], prompts.generator_trunk, tokenizer, ["Hi"])


@pytest.mark.parametrize("chunk", [None, 50])
def test_an_adapter_packed_is_one_alone(tokenizer, few, chunk):
    """Of the gradients, too.  Other architectures: test_backbones."""
    model = shaken(adapted(tokenizer))
    assert all("lora_" in name for name, p in model.named_parameters() if p.requires_grad)
    check(model, attending(model, "sdpa"), [few], chunk)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_whatever_the_attention(model, plain, few, implementation):
    check(attending(model, implementation), plain, [few, few[:1]])


def test_flex_attention_is_the_same(model, plain, few):
    try:
        torch.compile(torch.sin)(torch.ones(3))
    except Exception as error:
        pytest.skip(f"nothing can be compiled here: {error}")
    with torch.no_grad():  # there is no backward pass on a CPU
        logps = answer_logps(attending(model, "flex_attention"), pack(few))
        assert off(logps, one_by_one(plain, few)) <= BOUND


# On anything but a packed sequence ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def padded(tokenizer) -> dict[str, torch.Tensor]:
    texts = ["Hi", "How are you?", "I lost my job and I do not know what to do."]
    return tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")


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
