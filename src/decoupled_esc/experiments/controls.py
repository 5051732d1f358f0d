"""Controls (chapter 19): the systems of the questions with one thing changed at a time, and what these changes make."""

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from decoupled_esc import mining, prompts, train
from decoupled_esc.evaluate import bias_sources, crossed, decoding, strategy, text
from decoupled_esc.evaluate.bootstrap import cluster_weights, numbered
from decoupled_esc.experiments.inputs import Measured, Policy, Turns, weights_of
from decoupled_esc.experiments.preferences import KINDS, MinePairs
from decoupled_esc.experiments.replies import Reply, ReplyDecoupled
from decoupled_esc.experiments.scores import Evaluate
from decoupled_esc.experiments.sft import FineTune, unit_of
from decoupled_esc.experiments.why import Table, overlaps_and_words, replies_of, strategy_scores
from decoupled_esc.pipeline import Step, Work

if TYPE_CHECKING:
    from decoupled_esc.experiments.book import Rows

WORDS = 3
"""Replies are of one length whose numbers of words, divided by this, round down to the same."""

INFORMATION = (
    ("decoupled-sft", "vanilla-sft"),
    ("vanilla-no-tags", "vanilla-sft"),
    ("decoupled-sft", "decoupled-tags"),
    ("decoupled-tags", "vanilla-sft"),
    ("decoupled-sft", "vanilla-no-tags"),
    ("vanilla-long", "vanilla-sft"),
    ("decoupled-sft", "vanilla-long"),
)
"""The whole difference; tags of earlier strategies taken away, twice; the planner separated, twice; the coupled model trained longer."""
PLANNED = (
    ("decoupled-dpo", "decoupled-sft"),
    *((f"planner-{kind}", "decoupled-sft") for kind in ("matched", "fewer", "chosen")),
    ("planner-matched", "planner-fewer"),
    ("decoupled-dpo", "planner-chosen"),
)
WORDED = (
    ("gold-dpo", "gold-sft"),
    *((f"gold-{kind}", "gold-sft") for kind in ("matched", "fewer", "chosen")),
    ("gold-matched", "gold-fewer"),
    ("gold-dpo", "gold-chosen"),
    ("decoupled-dpo", "decoupled-sft"),
)


@dataclass(frozen=True)
class MatchedPairs:
    """By kind: how many pairs are kept, and of how many; and mean words of both sides of the response pairs kept."""

    pairs: dict[str, int]
    of: dict[str, int]
    words: tuple[float, float]
    """Chosen, rejected."""


@dataclass(frozen=True, eq=False)
class MatchPairs(Step):
    """Mined pairs of which each strategy, or each length of a reply, is chosen as often as it is rejected."""

    leaves = ("strategy.jsonl", "response.jsonl")

    mined: MinePairs
    matched: bool
    """False: as many at random instead, so that only their kind differs."""
    seed: int

    def run(self, work: Work) -> MatchedPairs:
        work[self.mined]
        gold = {turn.id: turn for turn in self.mined.turns.read()}
        pairs, of, kept = {}, {}, []
        for kind in ("strategy", "response"):
            mined = mining.read(work.path(self.mined, f"{kind}.jsonl"))
            if kind == "strategy":
                sides = [(gold[pair.turn].strategy, pair.strategy) for pair in mined]
            else:
                sides = [tuple(len(said.split()) // WORDS for said in (gold[p.turn].reply, p.reply)) for p in mined]
            places = mining.balanced(sides, self.seed)
            if not self.matched:
                places = sorted(random.Random(self.seed).sample(range(len(mined)), len(places)))
            kept = [mined[place] for place in places]
            mining.write(work.folder / f"{kind}.jsonl", kept)
            pairs[kind], of[kind] = len(kept), len(mined)
        words = [[len(said.split()) for said in (gold[pair.turn].reply, pair.reply)] for pair in kept] or [[0, 0]]
        return MatchedPairs(pairs, of, tuple(np.mean(words, axis=0).tolist()))


@dataclass(frozen=True, eq=False)
class TrainChosen(Policy):
    """A fine-tuned model fine-tuned on: on the chosen sides of pairs alone, in as many steps as a preference loss takes."""

    start: FineTune
    pairs: MinePairs
    turns: Turns
    held_out: Turns
    training: train.Training

    def run(self, work: Work) -> train.FineTuned:
        work[self.start], work[self.pairs]
        chosen = {pair.turn for pair in mining.read(work.path(self.pairs, f"{KINDS[self.start.role]}.jsonl"))}
        found = train.train_sft(
            weights_of(work, self.base, self.start), [turn for turn in self.turns.read() if turn.id in chosen],
            prompts.LAYOUTS[self.start.layout], self.training, folder=work.folder, seed=self.seed,
            max_length=self.max_length, held_out=self.held_out.read(), unit=unit_of(self.start.layout),
            launch=self.launch, compare=True,
        )  # fmt: skip
        work.tokens = found.tokens
        return found


@dataclass(frozen=True)
class MatchedBias:
    """Strategy scores of planners, in expectation over samples, whose bias was matched on validation turns."""

    turns: int
    settings: dict[str, float]
    """Way of `bias_sources.RETUNED` -> the setting chosen."""
    scores: Table
    differences: Table
    """Each minus the planner after SFT, and SP-DPO minus that planner retuned."""


@dataclass(frozen=True, eq=False)
class MatchBias(Measured):
    """The planner after SFT, given the bias that it has after SP-DPO by what needs no training (`bias_sources.retuned_to`)."""

    known: tuple[ReplyDecoupled, ReplyDecoupled]
    """After SFT and after SP-DPO, at validation turns."""
    asked: tuple[ReplyDecoupled, ReplyDecoupled]
    """The same at test turns."""
    validation: Turns
    turns: Turns

    def run(self, work: Work) -> MatchedBias:
        seen, turns, plan = self.validation.read(), self.turns.read(), self.asked[0].plan
        how = plan.temperature, plan.top_p
        known = [strategy_scores(work, step, seen) for step in self.known]
        chosen = bias_sources.retuned_to(*known, [turn.strategy for turn in seen], *how)
        sft, dpo = (strategy_scores(work, step, turns) for step in self.asked)
        p = {"SP-DPO": decoding.probabilities(dpo, *how), "SFT": decoding.probabilities(sft, *how)}
        p |= {f"SFT, {way}": one.probabilities(sft, plan.top_p) for way, one in chosen.items()}
        (group, groups), gold = numbered([turn.dialogue for turn in turns]), [turn.strategy for turn in turns]
        weights, truth = cluster_weights(groups, **self.resampling), strategy.strategy_indices(gold)
        counts = {name: bias_sources.expected_counts(one, truth, group, groups) for name, one in p.items()}
        scores = {name: bias_sources.scores_of(one, weights) for name, one in counts.items()}
        pairs = [(name, "SFT") for name in scores if name != "SFT"]
        pairs += [("SP-DPO", f"SFT, {way}") for way in chosen]
        changes = {f"{a} - {b}": {key: scores[a][key] - scores[b][key] for key in scores[a]} for a, b in pairs}
        settings = {way: float(one.setting) for way, one in chosen.items()}
        return MatchedBias(len(turns), settings, crossed.over_seeds([scores]), crossed.over_seeds([changes]))


@dataclass(frozen=True)
class CutReplies:
    """Differences between systems in text metrics, whole, and cut to one length turn by turn."""

    turns: int
    whole: Table
    cut: Table


@dataclass(frozen=True, eq=False)
class CompareCutReplies(Measured):
    """What is left of differences between replies once the longer one of each turn is cut to the shorter one's words."""

    systems: dict[str, Reply]
    contrasts: tuple[tuple[str, str], ...]
    turns: Turns

    def run(self, work: Work) -> CutReplies:
        turns, columns = self.turns.read(), (*text.METRICS, "words")
        group, groups = numbered([turn.dialogue for turn in turns])
        said = {name: replies_of(work, step, turns) for name, step in self.systems.items()}
        changes: dict[str, dict[str, np.ndarray]] = {"whole": {}, "cut": {}}
        for a, b in self.contrasts:
            pairs = {"whole": (said[a], said[b]), "cut": crossed.cut_alike(said[a], said[b])}
            for form, pair in pairs.items():
                first, second = (overlaps_and_words(replies, turns) for replies in pair)
                changes[form][f"{a} - {b}"] = first - second
        weights = cluster_weights(groups, **self.resampling)
        found = [crossed.over_seeds([crossed.means(own, columns, group, weights)]) for own in changes.values()]
        return CutReplies(len(turns), *found)


def controls(own: "Rows") -> dict[str, Step]:
    """The controls under one seed, whose steps are ``own``; each training is one of those with one field changed."""
    tuned = _policies(own)
    unseen = replace(own.validation, limit=own.test.limit)  # of as many dialogues as are tested on
    written = _replies(own.steps, tuned, unseen)
    steps = own.steps | written

    def systems(contrasts) -> dict[str, Reply]:
        return {name: steps[f"replies-{name}"] for pair in contrasts for name in pair}

    known, asked = (
        tuple(steps[f"replies-decoupled-{kind}{where}"] for kind in ("sft", "dpo")) for where in ("-validation", "")
    )
    options = {"turns": own.test, **own.resampling}
    return {
        **tuned,
        **written,
        "metrics-information": Evaluate(systems(INFORMATION), INFORMATION, **options),
        "metrics-planner-pairs": Evaluate(systems(PLANNED), PLANNED, **options),
        "matched-bias": MatchBias(known, asked, unseen, **options),
        "cut-replies": CompareCutReplies(systems(WORDED), WORDED, **options),
    }


def _policies(own: "Rows") -> dict[str, Step]:
    """The trainings, and the pairs that they read."""
    steps, coupled = own.steps, own.steps["sft-vanilla"]
    longer = coupled.training.model_copy(update={"epochs": 2 * coupled.training.epochs})
    found: dict[str, Step] = {
        "sft-planner-tags": replace(steps["sft-planner"], layout="planner-tags"),
        "sft-vanilla-no-tags": replace(coupled, layout="vanilla-no-tags"),
        "sft-vanilla-long": replace(coupled, training=longer),
        "pairs-matched": MatchPairs(steps["pairs"], True, own.seed),
        "pairs-fewer": MatchPairs(steps["pairs"], False, own.seed),
    }
    for role in ("planner", "generator"):
        dpo = steps[f"dpo-{role}"]
        found |= {f"dpo-{role}-{kind}": replace(dpo, pairs=found[f"pairs-{kind}"]) for kind in ("matched", "fewer")}
        found[f"sft-{role}-chosen"] = TrainChosen(
            dpo.base, dpo.max_length, dpo.seed, dpo.start, dpo.pairs, dpo.turns, dpo.held_out, dpo.training,
            launch=dpo.launch,
        )  # fmt: skip
    return found


def _replies(steps: dict[str, Step], tuned: dict[str, Step], unseen: Turns) -> dict[str, Step]:
    """What the policies of ``tuned`` answer, and the planners of the questions at the turns ``unseen``."""
    coupled, planned, under_gold = (steps[f"replies-{name}"] for name in ("vanilla-sft", "decoupled-sft", "gold-sft"))
    found: dict[str, Step] = {
        "replies-vanilla-no-tags": replace(coupled, policy=tuned["sft-vanilla-no-tags"]),
        "replies-vanilla-long": replace(coupled, policy=tuned["sft-vanilla-long"]),
        "replies-decoupled-tags": replace(planned, planner=tuned["sft-planner-tags"]),
    }
    for kind, method in {"matched": "dpo", "fewer": "dpo", "chosen": "sft"}.items():
        found[f"replies-planner-{kind}"] = replace(planned, planner=tuned[f"{method}-planner-{kind}"])
        found[f"replies-gold-{kind}"] = replace(under_gold, generator=tuned[f"{method}-generator-{kind}"])
    for kind in ("sft", "dpo"):
        found[f"replies-decoupled-{kind}-validation"] = replace(steps[f"replies-decoupled-{kind}"], turns=unseen)
    return found
