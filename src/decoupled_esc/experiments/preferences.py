"""DecoupledESC's preference pairs and what is trained on them: mining (IPM), SP-DPO, RG-DPO, Vanilla-DPO and other losses."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from decoupled_esc import mining, prompts, taxonomy, train
from decoupled_esc.corpus.empathy import MECHANISMS
from decoupled_esc.evaluate import offline
from decoupled_esc.evaluate.judged import Means, ScoreTable
from decoupled_esc.experiments.inputs import Decoding, Policy, Turns, weights_of
from decoupled_esc.experiments.labels import EmpathyRatings, ErrorLabels, LLMJudges, error_judge
from decoupled_esc.experiments.sampling import complete, engine_of, fitted
from decoupled_esc.experiments.sft import FineTune, unit_of
from decoupled_esc.files import file_digest, read_rows, write_atomically
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.pipeline import Missing, Step, Work

KINDS = {"planner": "strategy", "generator": "response", "vanilla": "vanilla"}
"""Role -> kind of its pairs."""


@dataclass(frozen=True)
class Candidates:
    """How many completions were sampled, and their digest."""

    turns: int
    samples: int
    digest: str


@dataclass(frozen=True, eq=False)
class SampleCandidates(Step):
    """What a fine-tuned model would do at every training turn (IPM, section 4.1): by id in ``samples/<role>-0.jsonl`` etc.

    The planner is sampled once, as in decoding; the generator, under the gold strategy, and the coupled model several times.
    """

    leaves = ("samples",)
    uses_model = True
    version = 2

    policy: FineTune
    turns: Turns
    sampling: Sampling
    samples: int
    decoding: Decoding
    seed: int

    def run(self, work: Work) -> Candidates:
        work[self.policy]
        turns = self.turns.read()
        with engine_of(work, self.policy.base, self.policy, self.decoding, self.seed) as engine:
            asked = fitted(engine, turns, prompts.LAYOUTS[self.policy.layout], self.sampling, self.decoding.max_length)
            found = [
                complete(work, engine, asked, self.sampling, f"samples/{self.policy.role}-{n}", self.seed)
                for n in range(self.samples)
            ]
        sha = hashlib.sha256()
        for rows in found:
            for turn in turns:
                sha.update(f"{turn.id}\t{rows[turn.id]['text']}\n".encode())
        return Candidates(len(turns), self.samples, sha.hexdigest()[:16])

    def texts(self, work: Work) -> list[dict[str, str]]:
        """Sample by sample: turn id -> what was printed."""
        folder = work.path(self, "samples")
        return [
            {
                row["id"]: row["text"]
                for row in read_rows(folder / f"{self.policy.role}-{n}.jsonl", "sampled candidates")
            }
            for n in range(self.samples)
        ]


@dataclass(frozen=True)
class Lengths:
    """Mean characters of the response pairs' sides."""

    chosen: float
    rejected: float


@dataclass(frozen=True)
class Sides:
    """Counts of the eight strategies on each side of pairs."""

    chosen: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class MinedPairs:
    """Preference pairs, and what they are made of."""

    judge: str
    turns: int
    samples: dict[str, int]
    pairs: dict[str, int]
    """By kind: strategy, response, vanilla."""
    digests: dict[str, str]
    left: dict[str, dict[str, int]]
    """Kind -> why a sample became no pair -> how many."""
    errors: dict[str, dict[str, int]]
    quadrants: dict[str, int]
    characters: Lengths
    strategies: dict[str, Sides]
    candidates: dict[str, dict[str, int]]
    """Labels of errors of what was sampled, and of the human references."""
    agree: dict[str, float]
    """Per cent of sampled strategies that are the gold one."""
    empathy: ScoreTable | None
    examples: tuple[mining.Example, ...]


@dataclass(frozen=True, eq=False)
class MinePairs(Step):
    """Preference pairs from the candidates (IPM-PrefDial), written by id."""

    leaves = ("strategy.jsonl", "response.jsonl", "vanilla.jsonl")

    planner: SampleCandidates
    generator: SampleCandidates
    vanilla: SampleCandidates
    turns: Turns
    labels: ErrorLabels
    ratings: EmpathyRatings
    judge: LLMJudges | None
    profile: str
    """For the data card."""
    replicates: int
    seed: int

    def run(self, work: Work) -> MinedPairs | Missing:
        turns = self.turns.read()
        judged = error_judge(work, self.judge, self.labels)
        if isinstance(judged, Missing):
            return judged
        judge, label = judged
        plans = [{id: prompts.parse_strategy(text) for id, text in one.items()} for one in self.planner.texts(work)]
        replies = [{id: " ".join(text.split()) for id, text in one.items()} for one in self.generator.texts(work)]
        coupled = [{id: prompts.parse_tagged(text) for id, text in one.items()} for one in self.vanilla.texts(work)]
        by_id = {turn.id: turn for turn in turns}
        under_gold = [{id: (by_id[id].strategy, reply) for id, reply in one.items()} for one in replies]
        seen = {
            "generator": [label(turns, one) for one in under_gold],
            "vanilla": [label(turns, one) for one in coupled],
        }
        found, left = {}, {}
        found["strategy"], left["strategy"] = mining.strategy_pairs(turns, plans)
        found["response"], left["response"] = mining.response_pairs(turns, replies, seen["generator"])
        found["vanilla"], left["vanilla"] = mining.vanilla_pairs(turns, coupled, seen["vanilla"])
        self._write(work, found, judge)
        labels = {role: [Counter(rejected for _, rejected in one.values()) for one in seen[role]] for role in seen}
        return MinedPairs(
            judge=judge,
            turns=len(turns),
            samples={"planner": len(plans), "generator": len(replies), "vanilla": len(coupled)},
            pairs={kind: len(mined) for kind, mined in found.items()},
            digests={kind: file_digest(work.folder / f"{kind}.jsonl")[:16] for kind in found},
            left={kind: dict(counts.most_common()) for kind, counts in left.items()},
            errors={kind: dict(Counter(pair.error for pair in found[kind])) for kind in ("response", "vanilla")},
            quadrants=dict(Counter(pair.quadrant for pair in found["vanilla"])),
            characters=Lengths(
                _mean([len(by_id[pair.turn].reply) for pair in found["response"]]),
                _mean([len(pair.reply) for pair in found["response"]]),
            ),
            strategies={
                kind: Sides(
                    [sum(by_id[pair.turn].strategy == name for pair in mined) for name in taxonomy.STRATEGIES],
                    [sum(pair.strategy == name for pair in mined) for name in taxonomy.STRATEGIES],
                )
                for kind, mined in found.items()
            },
            candidates={
                "gold": dict(Counter(gold for gold, _ in seen["generator"][0].values())),
                **{role: dict(sum(counts, Counter())) for role, counts in labels.items()},
            },
            agree={
                "planner": 100 * _mean([plans[0][turn.id] == turn.strategy for turn in turns]),
                "vanilla": 100 * _mean([coupled[0][turn.id][0] == turn.strategy for turn in turns]),
            },
            empathy=self._empathy(found["response"], by_id),
            examples=mining.examples(found, by_id),
        )

    def _write(self, work: Work, found: dict, judge: str) -> None:
        reply = self.generator.sampling
        said = {"judge": judge, "temperature": reply.temperature, "top_p": reply.top_p}
        for kind, mined in found.items():
            mining.write(
                work.folder / f"{kind}.jsonl", mined, **(said if kind != "strategy" else {**said, "judge": None})
            )
        card = mining.data_card(
            profile=self.profile,
            backbone=self.planner.policy.base.backbone.name,
            plan=self.planner.sampling,
            reply=reply,
            seed=self.seed,
            judge=judge,
            counts={kind: len(mined) for kind, mined in found.items()},
        )
        write_atomically(work.folder / "README.md", card)

    def _empathy(self, pairs: list, by_id: dict) -> ScoreTable | None:
        """Levels of empathy of both sides of the response pairs, by the offline scale."""
        rated = self.ratings.read()
        if isinstance(rated, Missing) or not pairs:
            return None
        scale = offline.EmpathyScale().fit(rated)
        texts = {"chosen": [by_id[pair.turn].reply for pair in pairs], "rejected": [pair.reply for pair in pairs]}
        levels = {side: scale.levels(some) for side, some in texts.items()}
        values = {side: np.hstack([one, one.sum(axis=1, keepdims=True)]) for side, one in levels.items()}
        means = Means([by_id[pair.turn].dialogue for pair in pairs], replicates=self.replicates, seed=self.seed)
        return means.table(values, [*MECHANISMS, "all three"], [("chosen", "rejected")])


def _mean(values: list) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True, eq=False)
class TrainPreference(Policy):
    """A fine-tuned model taught to prefer what a person did to its own error: SP-DPO (Eq. 5), RG-DPO (Eq. 6), Vanilla-DPO,
    or another loss in their place."""

    start: FineTune
    pairs: MinePairs
    quadrant: str | None
    """Leaves the coupled model the pairs of one kind alone (Observation 2)."""
    turns: Turns
    held_out: Turns
    preference: train.Preference
    training: train.Training

    def run(self, work: Work) -> train.Preferred | Missing:
        work[self.start], work[self.pairs]
        by_id = {turn.id: turn for turn in self.turns.read()}
        kind = KINDS[self.start.role]
        mined = mining.read(work.path(self.pairs, f"{kind}.jsonl"))
        if self.quadrant is not None:
            mined = mining.of_quadrant(mined, self.quadrant, self.seed)
        found = train.train_preference(
            weights_of(work, self.base, self.start),
            [train.Pair(pair.id, by_id[pair.turn], pair.rejected) for pair in mined],
            prompts.LAYOUTS[self.start.layout],
            self.preference,
            self.training,
            folder=work.folder,
            seed=self.seed,
            max_length=self.max_length,
            held_out=self.held_out.read(),
            unit=unit_of(self.start.layout),
            launch=self.launch,
        )
        work.tokens = found.tokens
        return found
