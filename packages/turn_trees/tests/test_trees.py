"""Trees: they hold the examples and no more, and split into parts that do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tree_cases import cut_examples, parents, path
from turn_trees import Example, Packed, PackingError, groups, join, pack, split


def columns(packed: Packed, owner: int) -> tuple[list[int], list[int]]:
    """(predictors, targets) of one answer."""
    rows = [n for n, o in enumerate(packed.completion_index) if o == owner]
    return [packed.predict_positions[n] for n in rows], [packed.targets[n] for n in rows]


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
    first = [Example("d/0", [1, 2], [[5, 6], [5, 7, 8]]), Example("d/1", [1, 2, 5, 6, 3], [[4]])]
    packed = pack([*first, Example("d/2", [1, 2], []), Example("d/3", [9], [[2]])])
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
    asked, predictors, owners, targets = [], [], [], []
    for tree in trees:
        here = slice(tokens, tokens + len(tree))
        assert (forest.tokens[here], forest.depths[here]) == (tree.tokens, tree.depths)
        asked += [tokens + i for i in tree.prompt_ends]
        predictors += [tokens + i for i in tree.predict_positions]
        owners += [answers + i for i in tree.completion_index]
        targets += tree.targets
        tokens, answers = tokens + len(tree), answers + tree.answers
    assert (forest.prompt_ends, forest.predict_positions) == (asked, predictors)
    assert (forest.completion_index, forest.targets) == (owners, targets)


# Parts -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(cut_examples(answers=4, least=4), min_size=1, max_size=3), st.integers(0, 4), st.integers(1, 60))
def test_each_part_is_the_tree_of_some_examples_and_fits(batch, each, budget):
    trees = [[replace(example, answers=example.answers[:each]) for example in tree] for tree in batch]
    forest = join(map(pack, trees))
    numbered = [(number, example) for number, tree in enumerate(trees) for example in tree]

    def packed(part: Sequence[tuple[int, Example]]):
        return join(pack([example for tree, example in part if tree == number]) for number in range(len(trees)))

    parts, at = split(forest, budget), 0
    for part in parts:
        count = len(part.prompt_ends)
        assert part == packed(numbered[at : at + count])
        assert len(part) <= budget or count == 1
        at += count
        if at < len(numbered):  # no room was left
            assert len(packed(numbered[at - count : at + 1])) > budget
    assert at == len(numbered)
    assert split(forest, len(forest)) == [forest]


@settings(deadline=None)
@given(cut_examples(answers=0), st.integers(1, 60), st.integers(0, 9))
def test_groups_leave_room_for_each_example(examples, budget, each):
    found, at = list(groups(pack(examples), budget, each)), 0
    for members, tree in found:
        assert members.start == at and len(tree) == len(pack([examples[n] for n in members]))
        assert len(tree) + each * len(members) <= budget or len(members) == 1
        at = members.stop
    assert at == len(examples)
    assert sum(len(tree) for _, tree in found) >= len(pack(examples))


def test_prompts_with_unlike_numbers_of_answers_are_refused():
    with pytest.raises(PackingError, match="3 answers to 2 prompts"):
        split(pack([Example("a", [1], [[2]]), Example("b", [1, 3], [[2], [4]])]), 1)
