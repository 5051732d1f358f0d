"""Monte Carlo Tree Search over one dialogue (CSO, section 3.1), which asks for what it needs and is told.

    tree = Tree(gold, strategies, constants)
    while not tree.finished:
        for task in tree.ask():          # all of them may be answered at once, and in any order
            tree.tell(task.id, answer(task))

There is no model, network, clock or chance in here.  What was told, in the order of telling, is the whole state:
telling it again to a new tree gives the same tree.

One iteration selects a leaf by PUCB, expands it with a child per strategy, and follows the most promising child for
a few rounds; the mean reward of these rounds goes up to the root.  A node is known by its path: ``r`` is the root, and
``r.3.0`` what follows under strategy 0 after strategy 3.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from decoupled_esc.corpus import Message
from decoupled_esc.errors import KnownError
from decoupled_esc.search.node import Constants, Failed, Kind, Node, Quality, SeekerTurn, Task, priors, pucb, reward


class SearchError(KnownError, ValueError):
    """A tree was told something that it did not ask for, or a log is not its tree's."""


class Tree:
    """A search around one gold dialogue.

    ``gold``: its chat form, seeker first and supporter last; a path of the tree from the start, its end terminal.
    Raises SearchError for a gold dialogue of another form.
    """

    def __init__(self, gold: Sequence[Message], strategies: Sequence[str], constants: Constants):
        roles = ["seeker", "supporter"] * (len(gold) // 2)
        if not gold or [message.role for message in gold] != roles:
            raise SearchError("a gold dialogue alternates seeker and supporter, and ends on the supporter")
        if unknown := [m.strategy for m in gold if m.role == "supporter" and m.strategy not in strategies]:
            raise SearchError(f"the gold dialogue uses {unknown[0]!r}, which is none of the strategies")
        self.strategies, self.constants = tuple(strategies), constants
        self.root = Node("r", None, 1.0, seeker=gold[0].text, gold=True)
        self.iterations = 0
        self.failures: list[tuple[str, str]] = []  # (task, why) of everything that failed
        self.finished: str | None = None  # why the search is over; None while it goes on
        self._gold = tuple(gold)
        self._max_depth = max(constants.max_depth, len(gold) // 2)
        self._open: dict[str, Task] = {}
        self._told: dict[str, object] = {}
        seeding = _Simulation("gold")
        seeding.steps = self._seed(seeding)
        self._under_way = [seeding]
        self._advance()

    def ask(self) -> tuple[Task, ...]:
        """All that can be answered now; the same again until it is told."""
        return tuple(self._open.values())

    def tell(self, id: str, answer: str | SeekerTurn | Sequence[float] | Quality | Failed) -> None:
        """The answer to a task.  Raises SearchError for a task that is not open, and for an answer of another form."""
        if id not in self._open:
            raise SearchError(f"task {id!r} is not open")
        task = self._open[id]
        if isinstance(answer, Failed):
            self.failures.append((id, answer.why))
        elif problem := self._problem(task, answer):
            raise SearchError(f"task {id}: {problem}")
        del self._open[id]
        self._told[id] = answer
        self._advance()

    def nodes(self) -> Iterator[Node]:
        """All nodes, parents before children, in the order of strategies."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += reversed(node.children)

    def terminal_nodes(self) -> list[Node]:
        """The nodes at which the conversation ended."""
        return [node for node in self.nodes() if node.is_terminal]

    def _advance(self) -> None:
        """Take every simulation as far as it gets with what was told; begin the next ones when all are through."""
        while not self.finished:
            for simulation in self._under_way:
                while simulation.needs is not None and simulation.needs <= self._told.keys():
                    simulation.needs = next(simulation.steps, None)
            if any(simulation.needs is not None for simulation in self._under_way):
                return
            # Rewards go up in the order of selection, not of arrival.
            for simulation in self._under_way:
                self._back_up(simulation)
            self._told.clear()
            self.finished = self._enough()
            if not self.finished:
                self._begin()

    def _begin(self) -> None:
        """Select the next leaves, one for each simulation that may be under way; at least one."""
        self._under_way = []
        for _ in range(min(self.constants.parallel_simulations, self.constants.max_iterations - self.iterations)):
            leaf = self._select()
            if any(leaf is simulation.leaf for simulation in self._under_way):
                break  # what the search wants most is being looked at already
            for node in leaf.path():
                node.passing += 1
            simulation = _Simulation(f"{self.iterations + 1:04d}", leaf)
            simulation.steps = self._simulate(simulation)
            self._under_way.append(simulation)
            self.iterations += 1

    def _select(self) -> Node:
        """Down from the root, by maximal PUCB, to a node without children (CSO, section 3.1.2)."""
        node = self.root
        while node.children:
            open_ones = (child for child in node.children if child.closed is None)
            node = max(open_ones, key=lambda child: pucb(child, self.constants))
        return node

    def _simulate(self, simulation: _Simulation) -> Iterator[set[str]]:
        """One iteration from its leaf on (CSO, sections 3.1.3 and 3.1.4); yields the tasks that it waits for."""
        judged: dict[str, Node] = {}
        rewards: list[str] = []
        child = yield from self._explore(simulation, judged, rewards)
        mean = yield from self._earned(judged, rewards)
        if child is not None and mean is not None:
            simulation.start, simulation.reward = child, mean
        elif child is not None:
            self._close(child, "no reward")

    def _explore(self, simulation: _Simulation, judged: dict[str, Node], rewards: list[str]) -> Iterator[set[str]]:
        """Expand the leaf and follow its best child; returns where the reward starts, or None where a role failed.

        Opens the tasks of the rewards: into ``judged`` those of nodes, into ``rewards`` those of the greedy simulation.
        """
        leaf = simulation.leaf
        if leaf.kind == "unexpanded" and not (yield from self._speak(simulation, leaf)):
            return None
        if leaf.is_terminal or self.constants.own_turn and leaf.own is None:
            judged[self._judge(simulation, leaf)] = leaf
        if leaf.is_terminal:
            return leaf
        if len(leaf.path()) > self._max_depth:
            self._close(leaf, "too long")
            return None
        scores = yield from self._answer(simulation, "strategies", leaf.history())
        if isinstance(scores, Failed):
            self._close(leaf, f"strategies: {scores.why}")
            return None
        self._grow(leaf, scores)
        child = max(leaf.children, key=lambda child: child.prior)
        if not (yield from self._speak(simulation, child)):
            return None
        judged[self._judge(simulation, child)] = child
        if not child.is_terminal:
            rewards += yield from self._roll_out(simulation, child.history())
        return child

    def _earned(self, judged: Mapping[str, Node], others: Sequence[str] = ()) -> Iterator[set[str]]:
        """Wait for rewards; the mean of those that came, None where none did (Eq. 3).  ``judged``: task -> whose turn."""
        yield {*judged, *others}
        told = [(id, self._told[id]) for id in (*judged, *others)]
        found = {id: reward(one, self.constants) for id, one in told if isinstance(one, Quality)}
        for id, node in judged.items():
            node.own = found.get(id)
        values = [value for value in found.values() if value is not None]
        return sum(values) / len(values) if values else None

    def _answer(self, *asked) -> Iterator[set[str]]:
        """Open a task (see `_task`) and wait for it; returns its answer."""
        id = self._task(*asked)
        yield {id}
        return self._told[id]

    def _speak(self, simulation: _Simulation, node: Node) -> Iterator[set[str]]:
        """Let supporter and seeker expand ``node``, and return whether they did; closes it where they don't."""
        history = node.parent.history()
        reply = yield from self._answer(simulation, "supporter", history, node.strategy)
        if isinstance(reply, Failed):
            self._close(node, f"supporter: {reply.why}")
            return False
        said = yield from self._answer(simulation, "seeker", (*history, Message("supporter", reply, node.strategy)))
        if isinstance(said, Failed):
            self._close(node, f"seeker: {said.why}")
            return False
        node.reply, node.seeker, node.is_terminal = reply, said.text, said.is_terminal
        return True

    def _roll_out(self, simulation: _Simulation, history: tuple[Message, ...]) -> Iterator[set[str]]:
        """Go on greedily from ``history``, which ends on the seeker; returns the tasks of the rewards.

        Where a role fails, the conversation is judged as far as it got.
        """
        rewards: list[str] = []
        for left in reversed(range(self.constants.rollout)):
            scores = yield from self._answer(simulation, "strategies", history)
            if isinstance(scores, Failed):
                break
            best = self.strategies[max(range(len(scores)), key=scores.__getitem__)]
            reply = yield from self._answer(simulation, "supporter", history, best)
            if isinstance(reply, Failed):
                break
            history += (Message("supporter", reply, best),)
            rewards.append(self._task(simulation, "reward", history))
            if not left:
                break  # nobody would hear what the seeker says
            said = yield from self._answer(simulation, "seeker", history)
            if isinstance(said, Failed) or said.is_terminal:
                break
            history += (Message("seeker", said.text),)
        return rewards

    def _seed(self, simulation: _Simulation) -> Iterator[set[str]]:
        """Make the gold dialogue a path of the tree, each of its nodes among a sibling for each other strategy."""
        supporters = range(1, len(self._gold), 2)
        asked = [self._task(simulation, "strategies", self._gold[:k]) for k in supporters]
        own = self.constants.own_turn
        judges = [self._task(simulation, "reward", self._gold[: k + 1]) for k in supporters] if own else []
        yield {*asked, *judges}
        node = self.root
        for k, id in zip(supporters, asked, strict=True):
            scores = self._told[id]
            if isinstance(scores, Failed):
                self.root.closed = f"the gold dialogue: strategies: {scores.why}"
                return
            self._grow(node, scores)
            node = next(child for child in node.children if child.strategy == self._gold[k].strategy)
            node.gold, node.reply = True, self._gold[k].text
            node.seeker = self._gold[k + 1].text if k + 1 < len(self._gold) else None
        node.is_terminal = True
        value = self.constants.gold_value
        if own:
            mean = yield from self._earned(dict(zip(judges, node.path()[1:], strict=True)))
            value = mean if value is None else value
        if value is None:
            self.root.closed = "the gold dialogue: no reward"
            return
        for gold in node.path():
            gold.value, gold.visits = value, self.constants.gold_visits

    def _grow(self, node: Node, scores: Sequence[float]) -> None:
        """Give ``node`` an unexpanded child for each strategy (CSO, section 3.1.3)."""
        found = zip(self.strategies, scores, priors(scores, self.constants), strict=True)
        node.children = [
            Node(f"{node.id}.{k}", strategy, prior, float(score), parent=node)
            for k, (strategy, score, prior) in enumerate(found)
        ]

    def _back_up(self, simulation: _Simulation) -> None:
        """Q <- (Q N + r) / (N + 1) and N <- N + 1, up to the root (CSO, Eq. 4)."""
        if simulation.leaf is not None:
            for node in simulation.leaf.path():
                node.passing -= 1
        if simulation.reward is None:
            return
        for node in simulation.start.path():
            node.value = (node.value * node.visits + simulation.reward) / (node.visits + 1)
            node.visits += 1

    def _close(self, node: Node, why: str) -> None:
        """Try nothing more at ``node``, nor where all below is closed."""
        node.closed = why
        above = node.parent
        if above is not None and above.closed is None and all(child.closed for child in above.children):
            self._close(above, "all below is closed")

    def _enough(self) -> str | None:
        """Why to stop, if at all (CSO, section 3.2; the numbers from the released code)."""
        if self.root.closed:
            return f"nothing is left to try ({self.root.closed})"
        if self.iterations >= self.constants.max_iterations:
            return "max_iterations"
        terminal = len(self.terminal_nodes())
        if terminal >= self.constants.max_terminal_nodes:
            return "max_terminal_nodes"
        if self.iterations >= self.constants.min_iterations and terminal:
            return "min_iterations and a terminal node"
        return None

    def _task(self, by: _Simulation, kind: Kind, history: Sequence[Message], strategy: str | None = None) -> str:
        """Open a task; its id."""
        task = Task(f"{by.name}/{next(by.numbers):02d}", kind, tuple(history), strategy)
        self._open[task.id] = task
        return task.id

    def _judge(self, simulation: _Simulation, node: Node) -> str:
        """Ask how good the supporter's turn of ``node`` is; the task's id."""
        said = Message("supporter", node.reply, node.strategy)
        return self._task(simulation, "reward", (*node.parent.history(), said))

    def _problem(self, task: Task, answer) -> str | None:
        """What is wrong with an answer's form, or None."""
        match task.kind, answer:
            case ("supporter", str(text)) if text.strip():
                return None
            case ("supporter", _):
                return "a supporter says something"
            case ("seeker", SeekerTurn(text=None | str(), is_terminal=True)):
                return None
            case ("seeker", SeekerTurn(text=str(text), is_terminal=False)) if text:
                return None
            case ("seeker", _):
                return "a seeker says something, or ends the conversation"
        numbers = [value for value in answer if value is not None] if isinstance(answer, tuple | list) else [math.nan]
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in numbers):
            return "scores are finite numbers"
        if task.kind == "strategies":
            return None if len(numbers) == len(self.strategies) else f"{len(self.strategies)} scores, one per strategy"
        fits = isinstance(answer, Quality) and all(0 <= value <= 4 for value in numbers)
        return None if fits else "four scores from 0 to 4"


@dataclass
class _Simulation:
    """One iteration under way."""

    name: str
    leaf: Node | None = None
    steps: Iterator[set[str]] = field(default_factory=lambda: iter(()))
    needs: set[str] | None = field(default_factory=set)  # tasks without which it can't go on; None: it is through
    start: Node | None = None  # where its reward starts upwards
    reward: float | None = None
    numbers: Iterator[int] = field(default_factory=itertools.count)  # of its tasks
