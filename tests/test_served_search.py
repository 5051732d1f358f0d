"""The search with its four roles behind a server: one budget, one record, and the same trees from the record."""

import asyncio
import hashlib
import json
from types import SimpleNamespace

import pytest

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Message
from decoupled_esc.generate.client import BudgetExceeded, Client, Endpoint
from decoupled_esc.generate.record import Record
from decoupled_esc.search.export import exported
from decoupled_esc.search.tree import Constants, Tree
from decoupled_esc.workflow import stages
from tests.misbehaving_server import OF_THE_WAY, serving

CONSTANTS = Constants(
    exploration=1, prior_temperature=5, strategy_weight=7, bias=-3, rollout=2, gold_value=1, gold_visits=10, least_iterations=6, most_iterations=6,
    enough_ends=25, most_rounds=6, at_once=1,
)  # fmt: skip
GOLD = (Message("seeker", "hello"), Message("supporter", "hi", "Others"), Message("seeker", "bad day"), Message("supporter", "oh", "Question"))


def played(body) -> str:
    """What an LLM might say to each role's instruction, always the same to the same request."""
    instruction, talk = (message["content"] for message in body["messages"])
    chance = int(hashlib.sha256((instruction + talk).encode()).hexdigest()[:8], 16)
    if instruction.startswith("You play"):
        return json.dumps({"says": f"words {chance % 1000}", "ends": chance % 4 == 0})
    if instruction.startswith("You are a peer supporter"):
        return json.dumps({"reply": f"reply {chance % 1000}"})
    if instruction.startswith("You advise"):
        return json.dumps({name: (chance >> k) % 11 for k, name in enumerate(taxonomy.STRATEGIES)})
    return json.dumps({key: (chance >> k) % 5 for k, key in enumerate(("empathy", "information", "humanoid", "strategy"))})


class Memory:
    def __init__(self):
        self.by_id = {}

    def append(self, rows):
        self.by_id |= {row["id"]: row for row in rows}


def grown(server, tmp_path, **endpoint):
    roles = dict.fromkeys(("supporter", "seeker", "strategies", "reward"), Endpoint(model="player", base_url=server.url, timeout_seconds=5.0, **endpoint))
    trees = {f"t/{k}": Tree(GOLD, taxonomy.STRATEGIES, CONSTANTS) for k in range(3)}
    context = SimpleNamespace(profile=SimpleNamespace(search=SimpleNamespace(roles=roles)), answers=tmp_path / "answers.sqlite")
    asyncio.run(stages._served(context, {name: f"a bad day, number {name}" for name in trees}, trees, {name: Memory() for name in trees}))
    return [exported(tree, name) for name, tree in trees.items()]


def test_trees_grow_by_a_server_that_misbehaves_and_again_from_the_record(tmp_path):
    with serving(say=played) as server:
        found = grown(server, tmp_path / "a")
        asked = sum(server.asked.values())
        assert asked > 50 and all(row["finished"] for row in found) and any("reply" in node for row in found for node in row["nodes"])
        assert grown(server, tmp_path / "a") == found and sum(server.asked.values()) == asked, "the record answers"
    with serving(say=played, faults=dict.fromkeys(OF_THE_WAY, 0.03), seed=1, hang=0.2) as server:
        assert grown(server, tmp_path / "b") == found
        assert sum(server.met.values()) > 0


def test_roles_at_one_endpoint_share_its_budget(tmp_path):
    with serving(say=played) as server, pytest.raises(BudgetExceeded, match="max_tokens"):
        grown(server, tmp_path, max_tokens=6_000)
    spent = sum(Record(tmp_path / "answers.sqlite").spent("player"))
    assert 0 < spent <= 6_000


def test_a_session_keeps_to_its_bound_of_requests_in_flight(tmp_path):
    async def ask(client, requests):
        async with client.session() as one:
            return await asyncio.gather(*map(one, requests))

    from decoupled_esc.generate.client import Request
    from decoupled_esc.search.roles import Reply

    requests = [Request(f"r{k}", (("system", "You are a peer supporter"), ("user", f"talk {k}")), Reply, 20, 1.0) for k in range(30)]
    with serving(say=played, latency=0.02) as server:
        client = Client(Endpoint(model="player", base_url=server.url, in_flight=4), Record(tmp_path / "answers.sqlite"))
        answers = asyncio.run(ask(client, requests))
        assert [answer.id for answer in answers] == [request.id for request in requests] and all(answer.parsed for answer in answers)
        assert server.most_open <= 4
