"""The search with its four roles behind a server: one budget, one record, and the same trees from the record."""

import asyncio
import hashlib
import json

import pytest

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Message
from decoupled_esc.generate import client
from decoupled_esc.generate.client import BudgetExceeded, Client, Endpoint, Request
from decoupled_esc.generate.record import Record
from decoupled_esc.search.export import ExpandedNode, exported
from decoupled_esc.search.grow import ATTEMPTS
from decoupled_esc.search.roles import Reply, grow_served, readable_answers
from decoupled_esc.search.tree import Tree
from tests.misbehaving_server import OF_THE_WAY, serving
from tests.test_grow import ROLES, memory
from tests.test_tree import constants

CONSTANTS = constants(rollout=2, gold_visits=10, min_iterations=6, max_iterations=6, max_depth=6)
GOLD = (
    Message("seeker", "hello"),
    Message("supporter", "hi", "Others"),
    Message("seeker", "bad day"),
    Message("supporter", "oh", "Question"),
)
SCORES = ("empathy", "information", "humanoid", "strategy")


def answered(body) -> str:
    """What an LLM might say to each role's instruction, always the same to the same request."""
    instruction, talk = (message["content"] for message in body["messages"])
    chance = int(hashlib.sha256((instruction + talk).encode()).hexdigest()[:8], 16)
    if instruction.startswith("You play"):
        return json.dumps({"says": f"words {chance % 1000}", "ends": chance % 4 == 0})
    if instruction.startswith("You are a peer supporter"):
        return json.dumps({"reply": f"reply {chance % 1000}"})
    if instruction.startswith("You advise"):
        return json.dumps({name: (chance >> k) % 11 for k, name in enumerate(taxonomy.STRATEGIES)})
    return json.dumps({key: (chance >> k) % 5 for k, key in enumerate(SCORES)})


def grown(server, tmp_path, logs=None, counts=None, **endpoint):
    """The trees as rows; ``counts`` is filled with what could be read."""
    roles = dict.fromkeys(ROLES, Endpoint(model="model", base_url=server.url, timeout_seconds=5.0, **endpoint))
    trees, new = ({f"t/{k}": Tree(GOLD, taxonomy.STRATEGIES, CONSTANTS) for k in range(3)} for _ in range(2))
    situations = {name: f"a bad day, number {name}" for name in trees}
    meanings = {s.name: s.meaning for s in taxonomy.ESCONV}
    logs, served = logs or {name: memory() for name in trees}, (roles, tmp_path / "answers.sqlite", situations, meanings)
    asyncio.run(grow_served(trees, logs, *served))
    if counts is not None:
        counts |= asyncio.run(readable_answers(new, logs, *served))
    return [exported(tree, name) for name, tree in trees.items()]


def test_trees_grow_by_a_server_that_misbehaves_and_again_from_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.01)
    with serving(say=answered) as server:
        found = grown(server, tmp_path / "a")
        asked = sum(server.asked.values())
        assert asked > 50 and all(tree.finished for tree in found)
        assert any(isinstance(node, ExpandedNode) for tree in found for node in tree.nodes)
        assert grown(server, tmp_path / "a") == found and sum(server.asked.values()) == asked, "the record answers"
    with serving(say=answered, faults=dict.fromkeys(OF_THE_WAY, 0.03), seed=1, hang=0.2) as server:
        assert grown(server, tmp_path / "b") == found
        assert sum(server.met.values()) > 0


def test_what_can_be_read_is_counted_by_role_over_a_search_that_was_stopped(tmp_path):
    """The adviser is never understood, and every other supporter at the third try alone: no tree ends, and all is counted."""
    tries = {}

    def say(body):
        instruction, talk = (message["content"] for message in body["messages"])
        number = tries[instruction + talk] = tries.get(instruction + talk, 0) + 1
        late = int(hashlib.sha256((instruction + talk).encode()).hexdigest()[:8], 16) % 2 == 0 and number < 3
        mumbles = instruction.startswith("You advise") or (instruction.startswith("You are a peer supporter") and late)
        return '{"mood": "fine"}' if mumbles else answered(body)

    with serving(say=say) as server:
        logs, counts = {f"t/{k}": memory() for k in range(3)}, {}
        found = grown(server, tmp_path, logs, counts)
        asked = sum(server.asked.values())
        assert all(tree.finished == "max_iterations" for tree in found), "a question without an answer ends no tree"
        adviser, supporter = counts["strategies"], counts["supporter"]
        assert (adviser.first, adviser.read) == (0, 0) and adviser.calls == 3 * adviser.questions
        assert adviser.replaced == adviser.questions / ATTEMPTS > 0 and supporter.replaced == 0
        assert 0 < supporter.first < supporter.read == supporter.questions and supporter.calls > supporter.questions
        assert counts["reward"].first == counts["reward"].questions
        cut = {name: memory() for name in logs}
        for name, log in logs.items():
            cut[name].append(list(log.by_id.values())[: len(log.by_id) // 2])
        again = {}
        assert grown(server, tmp_path, cut, again) == found and again == counts, "what was asked before the stop, too"
        assert sum(server.asked.values()) == asked
        lost = {}
        grown(server, tmp_path / "elsewhere", logs, lost)
        assert lost == {} and sum(server.asked.values()) == asked, "without the record nothing is asked to count it"


def test_roles_at_one_endpoint_share_its_budget(tmp_path):
    with serving(say=answered) as server, pytest.raises(BudgetExceeded, match="max_tokens"):
        grown(server, tmp_path, max_tokens=6_000)
    assert 0 < sum(Record(tmp_path / "answers.sqlite").spent("model")) <= 6_000


def test_a_session_keeps_to_its_bound_of_concurrent_requests(tmp_path):
    async def ask(of, requests):
        async with of.session() as one:
            return await asyncio.gather(*map(one, requests))

    system = ("system", "You are a peer supporter")
    requests = [Request(f"r{k}", (system, ("user", f"talk {k}")), Reply, 20, 1.0) for k in range(30)]
    with serving(say=answered, latency=0.02) as server:
        endpoint = Endpoint(model="model", base_url=server.url, max_concurrency=4)
        answers = asyncio.run(ask(Client(endpoint, Record(tmp_path / "answers.sqlite")), requests))
        assert [one.id for one in answers] == [request.id for request in requests]
        assert all(one.parsed for one in answers) and server.most_open <= 4
