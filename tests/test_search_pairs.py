"""Preference data from trees built by hand."""

import pytest

from decoupled_esc.corpus import Dialogue, Message, Utterance
from decoupled_esc.corpus.statistics import strategy_by_stage
from decoupled_esc.search import pairs
from decoupled_esc.search.tree import Tree
from tests.test_tree import GOLD, STRATEGIES, constants, grown


@pytest.fixture
def tree():
    """The gold path (Q 1), another through a node at 0.3, siblings at 0.2, at the threshold, above, and unvisited."""
    tree = Tree(GOLD, STRATEGIES, constants())
    for task in tree.ask():
        tree.tell(task.id, [1, 2, 3])
    first, second, third = tree.root.children

    def spoken(node, text, value, visits, ends=False):
        node.reply, node.seeker, node.value = text, None if ends else "and?", value
        node.visits, node.is_terminal = visits, ends

    spoken(second, "I feel for you", 0.3, 4)
    tree._grow(second, [1, 1, 1])
    spoken(second.children[0], "shall we stop?", 0.6, 2, ends=True)
    spoken(second.children[1], "poor you", 0.5, 1)
    spoken(second.children[2], "cheer up", 0.2, 0)
    spoken(third, "get a cat", 0.7, 1)
    under = first.children
    spoken(under[0], "how old was it?", 0.2, 3)
    spoken(under[2], "dogs live 13 years", 0.5, 1)
    return tree


def ids(found):
    return [[(turn.turn.id, [other.id for other in turn.rejected]) for turn in path] for path in found]


def test_the_papers_condition(tree):
    assert ids(pairs.dialogues(tree, "d", "paper", 0.5)) == [[("d/r.0", ["d/r.1"]), ("d/r.0.1", ["d/r.0.0"])]]


def test_the_released_condition(tree):
    found = ids(pairs.dialogues(tree, "d", "released", 0.5))
    assert found == [
        [("d/r.0", []), ("d/r.0.1", ["d/r.0.0", "d/r.0.2"])],
        [("d/r.1", []), ("d/r.1.0", ["d/r.1.1"])],
    ]


def test_a_preferred_turn_knows_what_was_said_before(tree):
    turn = pairs.dialogues(tree, "d", "released", 0.5)[1][1].turn
    assert turn.context == (GOLD[0], Message("supporter", "I feel for you", "feel"), Message("seeker", "and?"))
    assert (turn.dialogue, turn.strategy, turn.reply) == ("d", "ask", "shall we stop?")


def test_statistics_by_hand(tree):
    found = pairs.statistics(pairs.dialogues(tree, "d", "released", 0.5))
    assert (found.dialogues, found.length, found.pairs, found.turns) == (2, 4.0, 3, 4)
    assert found.utterances == {"seeker": 4, "preferred": 4, "rejected": 3}
    assert found.words["rejected"] == pytest.approx((4 + 4 + 2) / 3)
    assert (found.gold_turns, found.pairs_of_gold, found.inverted) == (2, 2, 0)
    tree.root.children[1].children[1].value = 0.5
    tree.root.children[1].children[0].value = 0.5
    assert pairs.statistics(pairs.dialogues(tree, "d", "released", 0.5)).inverted == 1
    assert pairs.statistics([]).length is None


def test_seeds_and_parts_by_hand(tree):
    seed = Dialogue("d", (Utterance("d/0", "seeker", "so sad"), Utterance("d/1", "supporter", "oh", "Question")))
    found = pairs.seed_statistics([seed, seed])
    assert (found.dialogues, found.utterances, found.length, found.words) == (2, 4, 2.0, 1.5)
    assert pairs.seed_statistics([]).length is None
    counts = strategy_by_stage([["Question", "Others"], ["Others"]])
    assert [sum(row) for row in counts] == [2, 0, 0, 0, 0, 1] and counts[0][0] == counts[5][7] == 1
    parts = pairs.toxicity_by_part([seed], pairs.dialogues(tree, "d", "released", 0.5))
    assert {part: len(values) for part, (_, values) in parts.items()} == {
        "seeds/seeker": 1, "seeds/supporter": 1, "seeds": 2,
        "esc-pro/seeker": 4, "esc-pro/preferred": 4, "esc-pro/rejected": 3, "esc-pro": 11,
    }  # fmt: skip
    assert all(set(names) == {"d"} and len(names) == len(values) for names, values in parts.values())
    assert set(pairs.toxicity_by_part([seed], [])) == {"seeds/seeker", "seeds/supporter", "seeds"}


@pytest.mark.parametrize("condition", ["paper", "released"])
@pytest.mark.parametrize("seed", range(4))
def test_no_pair_contradicts_the_search(condition, seed):
    tree, _ = grown(Tree(GOLD, STRATEGIES, constants(min_iterations=30, exploration=2)), seed)
    paths = pairs.dialogues(tree, "d", condition, 0.5)
    once = pairs.distinct(paths)
    assert any(turn.rejected for turn in once)
    assert len({turn.turn.id for turn in once}) == len(once)
    chosen = {turn.turn.id for turn in once}
    for turn in once:
        assert all(
            other.value <= 0.5 and other.id not in chosen and other.strategy != turn.turn.strategy
            for other in turn.rejected
        )
        assert condition == "released" or turn.value > 0.5
    assert sum(len(path) for path in paths) >= len(once)


def own_turns(tree, worth):
    """``tree`` as if every turn had been judged: node -> what its own turn earned."""
    tree.constants = tree.constants.model_copy(update={"own_turn": True})
    for node in tree.nodes():
        node.own = worth.get(node.id)
    return tree


def test_a_pair_is_told_apart_by_its_own_turns(tree):
    """Q says which paths are valid; a turn that earned little itself is preferred to nothing."""
    tree = own_turns(tree, {"r.0": 0.2, "r.0.0": 0.4, "r.0.1": 0.9, "r.0.2": 0.6, "r.1": 0.9, "r.1.0": 0.8, "r.1.1": 0.1, "r.2": 0.0})
    found = pairs.dialogues(tree, "d", "released", 0.5)
    assert ids(found) == [
        [("d/r.0", []), ("d/r.0.1", ["d/r.0.0"])],
        [("d/r.1", ["d/r.0", "d/r.2"]), ("d/r.1.0", ["d/r.1.1"])],
    ], "r.0 is on a valid path, and yet worth less than its sibling"
    kept = pairs.distinct(found)
    assert [turn.value for turn in kept] == [0.2, 0.9, 0.9, 0.8]
    tree.root.children[2].visits = 2
    assert ids(pairs.dialogues(tree, "d", "released", 0.5))[2:] == [[("d/r.2", [])]], "a conversation need not be over"
    assert all(other.value <= 0.5 < turn.value for turn in kept for other in turn.rejected)
    counted = pairs.statistics(found)
    assert (counted.pairs, counted.pairs_of_gold, counted.searched, counted.inverted) == (4, 1, 0.75, 0)
    assert pairs.statistics([]).searched is None


def test_gold_pairs_prefer_people_whatever_they_are_worth(tree):
    tree = own_turns(tree, {"r.0": 0.2, "r.0.0": 0.4, "r.0.1": 0.3, "r.0.2": 0.6, "r.1": 0.1, "r.2": 0.0})
    found = pairs.gold_pairs(tree, "d")
    assert ids([found]) == [[("d/r.0", ["d/r.1", "d/r.2"]), ("d/r.0.1", ["d/r.0.0", "d/r.0.2"])]] and all(turn.gold for turn in found)


@pytest.mark.parametrize("seed", range(3))
def test_own_turns_never_contradict_a_pair(seed):
    numbers = constants(min_iterations=60, exploration=6, own_turn=True, gold_value=None, gold_visits=1, bias=-1.5, rollout=1)
    tree, _ = grown(Tree(GOLD, STRATEGIES, numbers), seed)
    found = pairs.dialogues(tree, "d", "released", 0.5)
    counted = pairs.statistics(found)
    assert counted.pairs > 0 and counted.inverted == 0 and counted.searched > 0.5
    nodes = {f"d/{node.id}": node for node in tree.nodes()}
    for turn in pairs.distinct(found):
        assert all(nodes[other.id].own <= 0.5 < nodes[turn.turn.id].own for other in turn.rejected)


def test_random_negatives_use_other_strategies_pair_by_pair():
    """As many as pairs; those of one turn under different strategies; the same seed samples the same."""
    tree, _ = grown(Tree(GOLD, STRATEGIES, constants(min_iterations=30, exploration=2)), 1)
    once = pairs.distinct(pairs.dialogues(tree, "d", "released", 0.5))
    turns = [one.turn for one in once for _ in one.rejected]
    others = pairs.other_strategies(turns, STRATEGIES, 7)
    assert len(others) == len(turns) > len({turn.id for turn in turns}) and others == pairs.other_strategies(turns, STRATEGIES, 7)
    assert all(name in STRATEGIES and name != turn.strategy for name, turn in zip(others, turns, strict=True))
    asked = [(turn.id, name) for turn, name in zip(turns, others, strict=True)]
    assert len(set(asked)) == len(asked)
