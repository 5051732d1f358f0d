"""Many trees at once: the same trees as one by one, whatever stops them, however slow or hostile the roles."""

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from decoupled_esc.corpus import Message
from decoupled_esc.errors import KnownError
from decoupled_esc.files import Rows, read_rows
from decoupled_esc.search import grow as growing
from decoupled_esc.search.grow import ATTEMPTS, RoleError, from_row, grow, replay, to_row
from decoupled_esc.search.roles import LocalRoles, Reply, SeekerAnswer, ServedRoles
from decoupled_esc.search.tree import Failed, Quality, SearchError, SeekerTurn, Task, Tree
from tests.test_tree import GOLD, STRATEGIES, answer, chance, constants, grown

ROOT = Path(__file__).parents[1]
ROLES = ("supporter", "seeker", "strategies", "reward")
SHORT = {"min_iterations": 15, "max_iterations": 20}


def memory():
    """A log in memory."""
    log = SimpleNamespace(by_id={}, path="memory")
    log.append = lambda rows: log.by_id.update({row["id"]: json.loads(json.dumps(row)) for row in rows})
    return log


def forest(count=4, **changes):
    return {f"d/{k}": Tree(GOLD, STRATEGIES, constants(**SHORT | changes)) for k in range(count)}


def together(trees, role):
    grow(trees, role, {name: memory() for name in trees})


def world(seconds=0.0, log=None, fails=0.0):
    """A role that answers as the made-up world does, after a while of its own choosing."""

    async def role(name, task, attempt):
        await asyncio.sleep(seconds * chance("slow", name, task.id))
        if log is not None:
            log.append((name, task.id))
        found = answer(task, seed=name, fails=fails)
        if isinstance(found, Failed):
            raise RoleError(found.why)
        return found

    return role


def alone(name, fails=0.0, **changes):
    return list(grown(Tree(GOLD, STRATEGIES, constants(**SHORT | changes)), name, fails=fails)[0].nodes())


@pytest.mark.parametrize("parallel_simulations", [1, 3])
def test_trees_side_by_side_are_those_grown_one_by_one(parallel_simulations):
    trees = forest(parallel_simulations=parallel_simulations)
    grow(trees, world(0.002, fails=0.05), {name: memory() for name in trees})
    for name, tree in trees.items():
        assert list(tree.nodes()) == alone(name, fails=0.05, parallel_simulations=parallel_simulations)


def test_what_is_in_the_log_is_not_asked_again():
    trees, logs, asked = forest(2), {f"d/{k}": memory() for k in range(2)}, []

    def stopping(after):
        inner = world(log=asked)

        async def role(name, task, attempt):
            if len(asked) >= after:
                raise ConnectionError("the server is gone")
            return await inner(name, task, attempt)

        return role

    with pytest.raises(ConnectionError, match="the server is gone"):
        grow(trees, stopping(90), logs)
    told = sum(len(log.by_id) for log in logs.values())
    assert 80 <= told <= 90
    again = forest(2)
    asked.clear()
    grow(again, world(log=asked), logs)
    assert all(list(tree.nodes()) == alone(name) for name, tree in again.items())
    assert len(asked) == len(set(asked)) == sum(len(log.by_id) for log in logs.values()) - told


SCRIPT = """
import sys, asyncio
from pathlib import Path
from tests.test_grow import Rows, forest, world
from decoupled_esc.search.grow import grow
trees = forest(3)
grow(trees, world(0.004), {name: Rows(Path(sys.argv[1]) / f"{name[-1]}.jsonl") for name in trees})
print("through")
"""


def test_killed_at_any_moment_and_cut_anywhere_it_goes_on_to_the_same_trees(tmp_path):
    draw, kills = random.Random(0), 0
    for _ in range(20):
        run = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if kills == 3:
            assert run.communicate(timeout=120)[0] == b"through\n"
            break
        while not any(path.stat().st_size > 2000 * (kills + 1) for path in tmp_path.iterdir()) and run.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.random() / 10)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        kills += 1
        for path in tmp_path.iterdir():  # and the machine went down before the last line was whole
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) - draw.randrange(1, 20)])
    again = forest(3)
    for name, tree in again.items():
        for row in Rows(tmp_path / f"{name[-1]}.jsonl").by_id.values():
            tree.tell(row["id"], from_row(row))
    assert all(list(tree.nodes()) == alone(name) for name, tree in again.items())


def broken_log(tmp_path, break_):
    """A finished log with its lines changed, and a tree that was not told anything."""
    path = tmp_path / "d-0.jsonl"
    trees = forest(1, max_iterations=3, min_iterations=3)
    grow(trees, world(), {"d/0": Rows(path)})
    path.write_bytes(b"".join(break_(path.read_bytes().splitlines(keepends=True))))
    return path, forest(1, max_iterations=3, min_iterations=3)["d/0"]


def swapped(line, old, new):
    assert old in line
    return line.replace(old, new)


DAMAGED = {
    "half of it is missing": (lambda lines: lines[: len(lines) // 2], "lines are missing at its end"),
    "a line is missing": (lambda lines: [*lines[:4], *lines[5:]], "line "),
    "a line without an answer": (lambda lines: [b'{"id": "gold/00"}\n', *lines[1:]], "line 1: not of the tree"),
    "a reason of another form": (lambda lines: [b'{"id": "gold/00", "failed": {}}\n', *lines[1:]], "line 1: not of"),
    "scores of another form": (lambda lines: [swapped(lines[0], b"[", b'["high", '), *lines[1:]], "finite numbers"),
    "lines of another tree": (lambda lines: [*lines, b'{"id": "0009/02", "reply": "hi"}\n'], "'0009/02' is not open"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_log_is_named_and_not_used(tmp_path, name):
    break_, says = DAMAGED[name]
    path, tree = broken_log(tmp_path, break_)
    with pytest.raises(KnownError, match=says) as found:
        replay("d/0", tree, path, read_rows(path, "a search log"), whole=True)
    assert str(path) in str(found.value) and "\n" not in str(found.value)


def test_an_append_log_goes_on_before_its_torn_or_damaged_line(tmp_path):
    for break_ in (lambda lines: [*lines[:-1], lines[-1][:9]], lambda lines: [*lines[:3], b"{\n", *lines[4:]]):
        path, tree = broken_log(tmp_path, break_)
        grow({"d/0": tree}, world(), {"d/0": Rows(path)})
        assert list(tree.nodes()) == alone("d/0", max_iterations=3, min_iterations=3)
        path.unlink()


def test_a_log_of_another_tree_stops_the_search():
    log = memory()
    log.append([{"id": "0004/02", "reply": "hello"}])
    with pytest.raises(SearchError, match="memory, line 1: not of the tree of d/0 .task '0004/02' is not open"):
        grow(forest(1), world(), {"d/0": log})


def test_rows_give_back_what_was_told():
    turns = (SeekerTurn("so", False), SeekerTurn(None, True))
    for told in ("so", *turns, [1.0, 2.5, 0.0], Quality(1.0, None, 2.0, 4.0), Failed("no")):
        assert from_row(json.loads(json.dumps(to_row("a", told)))) == told


def hostile(name, task, attempt):
    """Refuses, repeats, says nothing, fails, and never ends."""
    draw = chance(name, task.id, attempt)
    if draw < 0.3:
        raise RoleError("I can't help with that")
    if draw < 0.5 and task.kind in ("supporter", "seeker"):
        said = next((m.text for m in reversed(task.history) if m.role == task.kind), "hm")
        return said if task.kind == "supporter" else SeekerTurn(said.upper(), False)
    return answer(task, seed=name, ends=0)


def test_hostile_roles_close_branches_and_stop_no_tree():
    calls = 0

    async def role(name, task, attempt):
        nonlocal calls
        calls += 1
        assert attempt < ATTEMPTS
        return hostile(name, task, attempt)

    trees = forest(6, max_depth=5)
    asyncio.run(asyncio.wait_for(growing.growing(trees, role, {name: memory() for name in trees}), 60))
    assert all(tree.finished for tree in trees.values())
    reasons = {why for tree in trees.values() for _, why in tree.failures}
    assert reasons == {"I can't help with that", "says again what was said before"}
    assert any(node.closed and "I can't help" in node.closed for tree in trees.values() for node in tree.nodes())
    most = 6 * (2 + 20 * (5 + 4 * 4)) * ATTEMPTS
    assert calls < most


def test_what_only_failed_once_is_asked_again():
    seen = []

    async def role(name, task, attempt):
        seen.append((task.id, attempt))
        if attempt == 0:
            raise RoleError("not JSON")
        return answer(task, seed=name)

    trees = forest(1)
    grow(trees, role, {"d/0": memory()})
    assert list(trees["d/0"].nodes()) == alone("d/0") and not trees["d/0"].failures
    assert sorted(seen) == sorted((id, attempt) for id, attempt in {(id, k) for id, _ in seen for k in (0, 1)})


# --- The roles ---


def test_local_roles_answer_all_that_waits_together():
    sizes = []

    def batch(kind):
        def all_of(asked):
            sizes.append((kind, len(asked)))
            return [answer(task, seed=name) for name, task, _ in asked]

        return all_of

    trees = forest(8)
    together(trees, LocalRoles({kind: batch(kind) for kind in ROLES}))
    assert all(list(tree.nodes()) == alone(name) for name, tree in trees.items())
    assert sum(size for _, size in sizes) / len(sizes) > 4


def test_a_local_role_may_fail_for_one_alone_and_an_error_in_it_is_seen():
    def some(asked):
        return [RoleError("no") if name == "d/1" else answer(task, seed=name) for name, task, _ in asked]

    trees = forest(2)
    together(trees, LocalRoles(dict.fromkeys(ROLES, some)))
    assert list(trees["d/0"].nodes()) == alone("d/0") and trees["d/1"].finished.startswith("nothing is left to try")

    def broken(asked):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        together(forest(1), LocalRoles(dict.fromkeys(ROLES, broken)))
    with pytest.raises(ValueError, match="0 answers to 2 tasks of the strategies role"):
        together(forest(1), LocalRoles(dict.fromkeys(ROLES, lambda asked: [])))


def test_what_came_beside_an_error_is_in_the_log():
    async def role(name, task, attempt):
        if task.id == "gold/01":
            raise ConnectionError
        return answer(task, seed=name)

    log = memory()
    with pytest.raises(ConnectionError):
        grow(forest(1), role, {"d/0": log})
    assert set(log.by_id) == {"gold/00"}


def served(parsed, **to):
    """Roles behind a server that gives ``parsed``, and what was asked of it."""
    asked = []

    async def ask(request):
        asked.append(request)
        return SimpleNamespace(parsed=parsed, why="refused: no", tries=1)

    meanings = {"ask": "asks", "feel": "names the feeling", "tell": "gives facts"}
    roles = ServedRoles(dict.fromkeys(ROLES, ask), {"d/0": "my dog died"}, meanings)
    return roles, asked


def put(roles, kind, history=GOLD[:1], strategy=None, attempt=0):
    return asyncio.run(roles("d/0", Task("0001/00", kind, tuple(history), strategy), attempt))


def test_a_served_supporter_is_told_its_strategy_and_shown_no_tags():
    roles, asked = served(Reply(reply="Supporter:  tell me \n more"))
    assert put(roles, "supporter", GOLD[:3], "feel") == "tell me more"
    (request,) = asked
    system, shown = (content for _, content in request.messages)
    assert "feel: it names the feeling" in system and shown == "seeker: I am sad\nsupporter: why?\nseeker: my dog died"
    assert (request.temperature, request.sample) == (1.0, 0)


def test_a_served_seeker_knows_its_situation_and_ends_by_a_field():
    roles, asked = served(SeekerAnswer(says="bye", ends=True))
    assert put(roles, "seeker", GOLD[:2]) == SeekerTurn("bye", True)
    assert "my dog died" in asked[0].messages[0][1]
    assert put(served(SeekerAnswer(says=" ", ends=True))[0], "seeker", GOLD[:2]) == SeekerTurn(None, True)
    with pytest.raises(RoleError, match="says nothing"):
        put(served(SeekerAnswer(says=" ", ends=False))[0], "seeker", GOLD[:2])


def test_served_scores_come_in_the_order_of_strategies():
    roles, _ = served(None)
    form = roles.request("d/0", Task("a", "strategies", GOLD[:3]), 0).answer
    with pytest.raises(ValidationError):
        form(ask=11, feel=0, tell=0)
    roles, asked = served(form(tell=3, ask=1, feel=2))
    assert put(roles, "strategies", GOLD[:3]) == [1.0, 2.0, 3.0]
    assert "supporter: [ask] why?" in asked[0].messages[1][1]


def test_a_served_reward_is_asked_coldly_first():
    roles, asked = served(None)
    form = roles.request("d/0", Task("a", "reward", GOLD[:2]), 0).answer
    roles, asked = served(form(empathy=4, information=3, humanoid=2, strategy=1))
    assert put(roles, "reward", GOLD[:2]) == Quality(4, 3, 2, 1)
    put(roles, "reward", GOLD[:2], attempt=2)
    assert [(request.temperature, request.sample) for request in asked] == [(0.0, 0), (1.0, 2)]


def test_what_can_not_be_read_is_a_role_error():
    with pytest.raises(RoleError, match="refused: no"):
        put(served(None)[0], "supporter", strategy="ask")


def test_the_same_words_of_the_other_speaker_are_no_repetition():
    task = Task("a", "supporter", (Message("seeker", "I am sad"),), "feel")

    async def echo(name, task, attempt):
        return "I am sad"

    assert asyncio.run(growing.answered("d", task, echo)) == "I am sad"
