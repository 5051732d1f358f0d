"""Pairs that CSO trains on, from the searches and from elsewhere, and what is trained on them."""

import random
from dataclasses import dataclass, replace

from decoupled_esc import mining, prompts, taxonomy, train
from decoupled_esc.experiments.inputs import Decoding, Files, Policy, Turns, weights_of
from decoupled_esc.experiments.preferences import MinePairs
from decoupled_esc.experiments.sampling import replies_under
from decoupled_esc.experiments.searches import ExtractPairs, ProPairs, written_pairs
from decoupled_esc.experiments.sft import FineTune
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.pipeline import Missing, Step, Work
from decoupled_esc.search import escpro, pairs


@dataclass(frozen=True, eq=False)
class ReadPublishedPairs(Step):
    """A user's copy of the ESC-Pro that CSO's authors published, in the form that training reads."""

    leaves = ("pairs.jsonl", "sft.jsonl")

    files: Files

    def run(self, work: Work) -> ProPairs:
        own, preferred = escpro.read_published(self.files.paths()[0])
        escpro.write_turns(work.folder / "sft.jsonl", preferred)
        return written_pairs(work, own)


@dataclass(frozen=True, eq=False)
class SampleRandomPairs(Step):
    """ESC-Pro-Random: each pair with a reply under another strategy, sampled at random, as what is rejected (CSO, section 5.3)."""

    leaves = ("pairs.jsonl",)
    uses_model = True
    version = 2

    pairs: Step
    generator: FineTune
    sampling: Sampling
    decoding: Decoding
    seed: int

    def run(self, work: Work) -> ProPairs:
        work[self.pairs]
        searched = escpro.read(work.path(self.pairs, "pairs.jsonl"))
        strategies = pairs.other_strategies([pair.turn for pair in searched], taxonomy.STRATEGIES, self.seed)
        others = [
            replace(pair.turn, id=f"{pair.id}/random", strategy=strategy)
            for pair, strategy in zip(searched, strategies, strict=True)
        ]
        written: dict[str, dict] = {}
        if others:
            work[self.generator]
            planned = {turn.id: turn.strategy for turn in others}
            asked = (others, planned, self.generator.layout, self.sampling, self.decoding, self.seed)
            written = replies_under(work, self.generator.base, self.generator, *asked)
        found = [
            escpro.ProPair(other.id, pair.turn, other.strategy, written[other.id]["reply"])
            for pair, other in zip(searched, others, strict=True)
        ]
        return written_pairs(work, [pair for pair in found if pair.reply])


@dataclass(frozen=True, eq=False)
class SampleMinedPairs(Step):
    """As many of DecoupledESC's pairs for the coupled model as a search gave, of whole dialogues in random order."""

    leaves = ("pairs.jsonl",)

    mined: MinePairs
    like: Step
    """Whose number of pairs is asked for."""
    seed: int

    def run(self, work: Work) -> ProPairs:
        wanted, by_id = work[self.like].pairs, {turn.id: turn for turn in self.mined.turns.read()}
        work[self.mined]
        mined = mining.read(work.path(self.mined, "vanilla.jsonl"))
        by_dialogue: dict[str, list[escpro.ProPair]] = {}
        for pair in mined:
            turn = by_id[pair.turn]
            by_dialogue.setdefault(turn.dialogue, []).append(escpro.ProPair(pair.id, turn, pair.strategy, pair.reply))
        order = random.Random(self.seed).sample(list(by_dialogue), len(by_dialogue))
        return written_pairs(work, [pair for dialogue in order for pair in by_dialogue[dialogue]][:wanted])


@dataclass(frozen=True, kw_only=True)
class CSOTrained(train.Log):
    """What a training on ESC-Pro leaves.  ``loss`` None: fine-tuning on the preferred turns."""

    weights: str
    held_out_loss: float
    loss: train.Preference | None
    learning_rate: float
    pairs: int
    turns: int
    trees: int
    held_out_loss_before: float
    divergence: float


@dataclass(frozen=True, eq=False)
class TrainCSO(Policy):
    """The coupled model taught to prefer the turns that the search preferred (CSO, Eq. 7 to 9), or fine-tuned on them."""

    version = 2

    start: FineTune | None
    """None: the base model."""
    pairs: Step
    gold: bool
    """Learn from its pairs in ``gold.jsonl`` instead."""
    share: float
    """Of the trees (Figure 4)."""
    held_out: Turns
    preference: train.Preference | None
    """None: ESC-Pro-SFT."""
    training: train.Training | None
    """None where the profile has one tuning alone."""

    def run(self, work: Work) -> CSOTrained | Missing:
        if self.training is None:
            return Missing("the profile has one tuning for CSO, and no section cso.lora")
        if self.gold and not isinstance(self.pairs, ExtractPairs):
            return Missing("published pairs come without the trees that say which turns are people's")
        work[self.pairs]
        if self.start is not None:
            work[self.start]
        found = escpro.read(work.path(self.pairs, "gold.jsonl" if self.gold else "pairs.jsonl"))
        found = escpro.some(found, self.share)
        options = {
            "folder": work.folder, "seed": self.seed, "max_length": self.max_length, "held_out": self.held_out.read(),
            "launch": self.launch, "min_turns": 2,
        }  # fmt: skip
        policy = weights_of(work, self.base, self.start)
        if self.preference is None:
            turns = escpro.read_turns(work.path(self.pairs, "sft.jsonl"))
            trained = train.train_sft(policy, turns, prompts.vanilla, self.training, compare=True, **options)
        else:
            turns = escpro.turns_of(found)
            chosen = [train.Pair(pair.id, pair.turn, pair.rejected) for pair in found]
            trained = train.train_preference(policy, chosen, prompts.vanilla, self.preference, self.training, **options)
        work.tokens = trained.tokens
        kept = {name: value for name, value in vars(trained).items() if name in CSOTrained.__dataclass_fields__}
        counts = {
            "pairs": len(found) if self.preference else 0,
            "turns": len(turns),
            "trees": len({turn.dialogue for turn in turns}),
        }
        return CSOTrained(**kept | counts | {"loss": self.preference, "learning_rate": self.training.learning_rate})
