"""The tree search against hand-computed trees, a plain sequential version, and its properties."""

import hashlib
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from decoupled_esc.corpus import Message
from decoupled_esc.search.tree import Constants, Failed, Quality, SearchError, SeekerTurn, Task, Tree, pucb, reward

STRATEGIES = ("ask", "feel", "tell")
CSO = {
    "exploration": 1.0, "prior_temperature": 5.0, "strategy_weight": 7.0, "bias": -3.0, "rollout": 4, "own_turn": False, "gold_value": 1.0,
    "gold_visits": 100, "min_iterations": 100, "max_iterations": 200, "max_terminal_nodes": 25, "max_depth": 40,
    "parallel_simulations": 1,
}  # fmt: skip
GOLD = (
    Message("seeker", "I am sad"), Message("supporter", "why?", "ask"), Message("seeker", "my dog died"),
    Message("supporter", "that hurts", "feel"),
)  # fmt: skip


def constants(**changes) -> Constants:
    return Constants(**(CSO | changes))


def chance(*what) -> float:
    """A number in [0, 1) that depends on what was said alone."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:6], "big") / 2**48


def answer(task, seed=0, ends=0.2, fails=0.0):
    """What a made-up world answers: the same to the same task."""
    draw = chance(seed, task.id, task.kind, task.history, task.strategy)
    if chance("fails", draw) < fails:
        return Failed(f"no {task.kind}")
    if task.kind == "supporter":
        return f"{task.strategy} {draw:.6f}"
    if task.kind == "seeker":
        return SeekerTurn(None, True) if draw < ends else SeekerTurn(f"well {draw:.6f}", False)
    if task.kind == "strategies":
        return [10 * chance(draw, k) for k in range(len(STRATEGIES))]
    return Quality(*(4 * chance(draw, k) for k in range(4)))


def grown(tree, seed=0, shuffle=None, **world):
    """``tree`` told until it is finished, in order or shuffled; and what was told."""
    told, order = [], random.Random(shuffle)
    while not tree.finished:
        tasks = list(tree.ask())
        assert tasks, "a tree that is not finished asks for something"
        if shuffle is not None:
            order.shuffle(tasks)
        for task in tasks[: 1 + (order.randrange(len(tasks)) if shuffle is not None else len(tasks))]:
            told.append((task.id, answer(task, seed, **world)))
            tree.tell(*told[-1])
    return tree, told


def plain(seed):
    """The released algorithm, one call after the other, on dictionaries: node path -> its fields."""
    c, gold = constants(), GOLD
    nodes = {"r": {"N": 0, "Q": 0.0, "P": 1.0, "said": [gold[0]], "ends": False, "children": [], "spoken": True}}
    count = 0

    def call(name, kind, history, strategy=None):
        nonlocal count
        count += 1
        return answer(Task(f"{name}/{count - 1:02d}", kind, tuple(history), strategy), seed)

    def line(path):
        parts = path.split(".")
        return [message for k in range(len(parts)) for message in nodes[".".join(parts[: k + 1])]["said"]]

    def children(path, scores):
        total = sum(math.exp(score / c.prior_temperature) for score in scores)
        for k, score in enumerate(scores):
            prior = math.exp(score / c.prior_temperature) / total
            new = {"N": 0, "Q": 0.0, "P": prior, "said": [], "ends": False, "children": [], "spoken": False}
            nodes[f"{path}.{k}"] = new
        nodes[path]["children"] = [f"{path}.{k}" for k in range(len(scores))]

    def speak(name, path):
        before, strategy = line(path.rpartition(".")[0]), STRATEGIES[int(path.rpartition(".")[2])]
        reply = Message("supporter", call(name, "supporter", before, strategy), strategy)
        said = call(name, "seeker", [*before, reply])
        nodes[path] |= {
            "said": [reply] + ([] if said.is_terminal else [Message("seeker", said.text)]),
            "ends": said.is_terminal,
            "spoken": True,
        }

    scores, path = [call("gold", "strategies", gold[:k]) for k in range(1, len(gold), 2)], "r"
    nodes["r"] |= {"N": c.gold_visits, "Q": c.gold_value}
    for k, layer in zip(range(1, len(gold), 2), scores, strict=True):
        children(path, layer)
        path = f"{path}.{STRATEGIES.index(gold[k].strategy)}"
        nodes[path] |= {"N": c.gold_visits, "Q": c.gold_value, "said": list(gold[k : k + 2]), "spoken": True}
    nodes[path]["ends"] = True
    iterations = 0
    while iterations < c.max_iterations:
        ended = sum(node["ends"] for node in nodes.values())
        if ended >= c.max_terminal_nodes or iterations >= c.min_iterations:
            break
        iterations, count = iterations + 1, 0
        name, path = f"{iterations:04d}", "r"
        while nodes[path]["children"]:
            above = nodes[path]["N"]
            path = max(
                nodes[path]["children"],
                key=lambda k: nodes[k]["Q"] + c.exploration * nodes[k]["P"] * above**0.5 / (1 + nodes[k]["N"]),
            )
        if not nodes[path]["spoken"]:
            speak(name, path)
        rewards = []
        if nodes[path]["ends"]:
            history = line(path)
            rewards.append(call(name, "reward", history))
        else:
            children(path, call(name, "strategies", line(path)))
            path = max(nodes[path]["children"], key=lambda k: nodes[k]["P"])
            speak(name, path)
            history = line(path)
            rewards.append(call(name, "reward", history[: None if nodes[path]["ends"] else -1]))
            rounds = 0 if nodes[path]["ends"] else c.rollout
            for k in range(rounds):
                layer = call(name, "strategies", history)
                strategy = STRATEGIES[layer.index(max(layer))]
                history = [*history, Message("supporter", call(name, "supporter", history, strategy), strategy)]
                rewards.append(call(name, "reward", history))
                if k == rounds - 1:
                    break
                said = call(name, "seeker", history)
                if said.is_terminal:
                    break
                history = [*history, Message("seeker", said.text)]
        values = [(e + i + h + c.strategy_weight * s) / 10 + c.bias for e, i, h, s in rewards]
        value = sum(values) / len(values)
        while path:
            nodes[path]["Q"] = (nodes[path]["Q"] * nodes[path]["N"] + value) / (nodes[path]["N"] + 1)
            nodes[path]["N"] += 1
            path = path.rpartition(".")[0]
    return nodes, iterations


def test_eq_1_by_hand():
    tree, _ = grown(Tree(GOLD, STRATEGIES, constants(max_iterations=1)))
    first = tree.root.children[1]
    first.value, first.visits, first.prior, tree.root.visits = 0.25, 3, 0.4, 101
    assert pucb(first, tree.constants) == pytest.approx(0.25 + 0.4 * math.sqrt(101) / 4)
    first.passing, tree.root.passing = 1, 2
    assert pucb(first, tree.constants) == pytest.approx(0.25 + 0.4 * math.sqrt(103) / 5)


def test_eq_2_by_hand_and_with_scores_missing():
    assert reward(Quality(4, 3, 2, 1), constants()) == pytest.approx((4 + 3 + 2 + 7) / 10 - 3)
    assert reward(Quality(4, 4, 4, 4), constants()) == pytest.approx(1)
    assert reward(Quality(2, None, None, 3), constants()) == pytest.approx((2 + 7 * 3) / 8 - 3)
    assert reward(Quality(None, None, None, None), constants()) is None


def test_the_gold_dialogue_is_a_path_from_the_start():
    tree = Tree(GOLD, STRATEGIES, constants())
    assert [task.kind for task in tree.ask()] == ["strategies"] * 2
    for task in tree.ask():
        tree.tell(task.id, [1, 2, 3])
    (end,) = tree.terminal_nodes()
    assert end.id == "r.0.1" and end.history() == GOLD and end.kind == "terminal"
    assert {(node.value, node.visits) for node in end.path()} == {(1.0, 100)}
    assert [node.kind for node in tree.root.children] == ["expanded", "unexpanded", "unexpanded"]


@pytest.mark.parametrize("seed", range(6))
def test_the_tree_is_that_of_the_plain_version(seed):
    tree, _ = grown(Tree(GOLD, STRATEGIES, constants()), seed)
    nodes, iterations = plain(seed)
    assert tree.iterations == iterations
    found = {node.id: node for node in tree.nodes()}
    assert set(found) == set(nodes)
    for id, node in nodes.items():
        assert (found[id].visits, found[id].is_terminal, found[id].said()) == (node["N"], node["ends"], node["said"])
        assert found[id].value == pytest.approx(node["Q"]) and found[id].prior == pytest.approx(node["P"])


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 4), st.floats(0, 0.3), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_order_of_answers_is_irrelevant(seed, shuffle, parallel_simulations, fails, own_turn):
    numbers = constants(
        min_iterations=12, max_iterations=20, parallel_simulations=parallel_simulations, own_turn=own_turn,
        gold_value=None if own_turn else 1.0,
    )  # fmt: skip
    one, _ = grown(Tree(GOLD, STRATEGIES, numbers), seed, fails=fails)
    other, told = grown(Tree(GOLD, STRATEGIES, numbers), seed, shuffle=shuffle, fails=fails)
    assert list(one.nodes()) == list(other.nodes()) and one.finished == other.finished
    again = Tree(GOLD, STRATEGIES, numbers)
    for id, said in told:
        again.tell(id, said)
    assert list(again.nodes()) == list(one.nodes()) and again.finished == one.finished and not again.ask()


@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_counts_and_bounds(seed, parallel_simulations, ends, fails):
    small = {"min_iterations": 15, "max_iterations": 25, "max_terminal_nodes": 6, "max_depth": 6}
    numbers = constants(**small, parallel_simulations=parallel_simulations)
    tree, _ = grown(Tree(GOLD, STRATEGIES, numbers), seed, ends=ends, fails=fails)
    assert tree.finished and tree.iterations <= 25
    for node in tree.nodes():
        assert -3 <= node.value <= 1 and node.passing == 0
        if node.children:
            assert sum(child.prior for child in node.children) == pytest.approx(1)
            assert [child.strategy for child in node.children] == list(STRATEGIES)
            # Every visit went on to a child, except those that began here: as child of its first expansion.
            began = 1 if node.parent is not None and not node.gold and node.visits else 0
            below = sum(child.visits for child in node.children)
            assert node.visits - (0 if node.gold else began) <= below <= node.visits or node.gold
        if node.is_terminal:
            assert not node.children
        if node.kind == "unexpanded" and not node.closed:
            assert node.visits == 0 and not node.children
        assert len(node.path()) - 1 <= 6
    assert not tree.root.closed or "nothing is left" in tree.finished
    if fails == 0:
        assert tree.root.visits == 100 + tree.iterations and not tree.failures


@pytest.mark.parametrize("kind", ["supporter", "seeker", "strategies", "reward"])
def test_a_role_that_never_works_ends_the_search(kind):
    tree = Tree(GOLD, STRATEGIES, constants())
    for _ in range(5000):
        if tree.finished:
            break
        task = tree.ask()[0]
        tree.tell(task.id, Failed("refused") if task.kind == kind else answer(task, ends=0))
    assert tree.finished and tree.failures[0][1] == "refused"
    if kind == "strategies":
        assert tree.finished == "nothing is left to try (the gold dialogue: strategies: refused)"


def test_a_talk_that_never_ends_is_closed_when_it_is_too_long():
    numbers = constants(max_depth=3, max_iterations=150, min_iterations=150, exploration=3)
    tree, _ = grown(Tree(GOLD, STRATEGIES, numbers), 1, ends=0)
    assert any(node.closed == "too long" for node in tree.nodes())
    assert max(len(node.path()) - 1 for node in tree.nodes()) == 3


def test_the_gold_dialogue_is_one_candidate_among_others():
    """Judged as any other is, visited once, and each turn knows what it earned itself."""
    tree = Tree(GOLD, STRATEGIES, constants(own_turn=True, gold_value=None, gold_visits=1))
    kinds = {task.id: task.kind for task in tree.ask()}
    assert sorted(kinds.values()) == ["reward"] * 2 + ["strategies"] * 2
    judged = [task for task in tree.ask() if task.kind == "reward"]
    assert [task.history for task in judged] == [GOLD[:2], GOLD]
    for task in tree.ask():
        score = 4.0 if task.history == GOLD else 3.0
        tree.tell(task.id, [1, 2, 3] if task.kind == "strategies" else Quality(score, score, score, score))
    (end,) = tree.terminal_nodes()
    assert [node.own for node in end.path()] == [None, 0.0, 1.0]
    assert {(node.value, node.visits) for node in end.path()} == {(0.5, 1)}, "the mean of its turns, as of one simulation"


def test_every_turn_that_is_said_is_judged_under_own_turn():
    numbers = constants(own_turn=True, gold_value=None, gold_visits=1, min_iterations=20, rollout=1)
    tree, told = grown(Tree(GOLD, STRATEGIES, numbers), 3)
    expanded = [node for node in tree.nodes() if node.reply is not None]
    assert len(expanded) > 20 and all(-3 <= node.own <= 1 for node in expanded)
    plain, _ = grown(Tree(GOLD, STRATEGIES, constants(min_iterations=20)), 3)
    assert any(node.own is None for node in plain.nodes() if node.kind == "expanded" and not node.gold), "CSO: not the leaf"
    again = Tree(GOLD, STRATEGIES, numbers)
    for id, said in told:
        again.tell(id, said)
    assert list(again.nodes()) == list(tree.nodes())


def test_a_gold_dialogue_that_nobody_judges_is_no_tree():
    tree = Tree(GOLD, STRATEGIES, constants(own_turn=True, gold_value=None))
    for task in tree.ask():
        tree.tell(task.id, [1, 2, 3] if task.kind == "strategies" else Failed("refused"))
    assert tree.finished == "nothing is left to try (the gold dialogue: no reward)" and not tree.ask()
    with pytest.raises(ValidationError, match="own_turn"):
        constants(gold_value=None)


def test_simulations_side_by_side_take_different_leaves():
    tree = Tree(GOLD, STRATEGIES, constants(parallel_simulations=3))
    for task in tree.ask():
        tree.tell(task.id, [5, 5, 5])
    tasks = tree.ask()
    assert len({(task.history, task.strategy) for task in tasks}) == len(tasks) > 1


@pytest.mark.parametrize(
    ("gold", "problem"),
    [((), "alternates"), (GOLD[:1], "alternates"), (GOLD[1:], "alternates"), (GOLD[:3], "alternates"),
     ((*GOLD[:3], Message("supporter", "so", "sing")), "'sing'")],
)  # fmt: skip
def test_a_gold_dialogue_of_another_form(gold, problem):
    with pytest.raises(SearchError, match=problem):
        Tree(gold, STRATEGIES, constants())


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        *(("supporter", given) for given in ("", None)),
        *(("seeker", given) for given in ("words", SeekerTurn("", False), SeekerTurn(None, False))),
        *(("seeker", given) for given in (SeekerTurn(5, True), SeekerTurn("so", "yes"))),
        *(("strategies", given) for given in ([1, 2], [1, 2, math.nan], "high")),
        *(("reward", given) for given in ([1, 2, 3, 4], Quality(1, 2, 3, 5), Quality(1, 2, 3, -1), None)),
    ],
)
def test_an_answer_of_another_form(kind, given):
    tree = Tree(GOLD, STRATEGIES, constants())
    while True:
        task = tree.ask()[0]
        if task.kind == kind:
            break
        tree.tell(task.id, answer(task, ends=0))
    with pytest.raises(SearchError, match=f"task {task.id}: "):
        tree.tell(task.id, given)
    assert tree.ask()[0] is task
