"""The base model, and supervised fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from decoupled_esc import corpus, models, prompts, train
from decoupled_esc.corpus import Dialogue, Turn
from decoupled_esc.experiments.inputs import Base, Policy, Turns
from decoupled_esc.pipeline import Missing, Step, Work
from decoupled_esc.search import embedded
from decoupled_esc.train.held_out import perplexity

Role = Literal["vanilla", "planner", "generator"]
"""Vanilla: one model for strategy and reply (the coupled baseline); planner (DecoupledESC, Eq. 3); generator, under the gold
strategy (Eq. 4)."""


@dataclass(frozen=True)
class BaseModel:
    """The model that training starts from; of a shipped one also how well it predicts dialogues."""

    kind: str
    name: str
    revision: str | None = None
    weights: str | None = None
    tokenizer: str | None = None
    parameters: int | None = None
    vocabulary: int | None = None
    held_out_dialogues: int | None = None
    held_out: dict[str, int | float] | None = None


@dataclass(frozen=True, eq=False)
class DescribeBase(Step):
    """The model that every fine-tuning starts from, shipped or published."""

    uses_model = True

    base: Base
    held_out: Turns

    def run(self, work: Work) -> BaseModel:
        backbone = self.base.backbone
        if backbone.kind == "hub":
            return BaseModel("hub", backbone.name, backbone.revision)
        models.be_repeatable()
        weights = self.base.weights()
        model, tokenizer = models.load(weights), models.load_tokenizer(weights)
        conversations = [corpus.chat_form(dialogue) for dialogue in self.held_out.dialogues()]
        return BaseModel(
            backbone.kind,
            backbone.name,
            **self.base.shipped,
            parameters=model.num_parameters(),
            vocabulary=len(tokenizer),
            held_out_dialogues=len(conversations),
            held_out=perplexity(model, tokenizer, conversations, model.config.max_position_embeddings),
        )


@dataclass(frozen=True)
class HeldOutAnswers:
    """How well a base model predicts held-out answers, which fine-tuning learns to (``train.FineTuned.held_out_loss``)."""

    turns: int
    tokens: int
    """End of turn included."""
    bytes: int
    """Of the answers' text: bits per byte can be compared between tokenizers."""
    nats_per_token: float


@dataclass(frozen=True, eq=False)
class ReadAnswers(Step):
    """The base model before fine-tuning, at the answers of one layout (chapter 16)."""

    uses_model = True

    base: Base
    held_out: Turns
    layout: str
    max_length: int

    def run(self, work: Work) -> HeldOutAnswers:
        models.be_repeatable()
        weights, turns, shown = self.base.weights(), self.held_out.read(), prompts.LAYOUTS[self.layout]
        unseen = train.encode(turns, shown, models.load_tokenizer(weights), self.max_length, unit_of(self.layout))
        size = sum(len(shown(turn).target.encode()) for turn in turns)
        return HeldOutAnswers(len(turns), unseen.target_tokens, size, train.held_out_loss(models.load(weights), unseen))


@dataclass(frozen=True, kw_only=True)
class FineTuned(train.FineTuned):
    """What a supervised fine-tuning leaves; ``layout``: what it was shown, in `prompts.LAYOUTS`."""

    layout: str


def unit_of(layout: str) -> str:
    """What is packed together: the paper's generator prompt names the strategy first, and its turns share next to nothing."""
    return "turn" if layout == "generator" else "dialogue"


def layout_of(role: Role, generator_layout: str) -> str:
    """The name in ``prompts.LAYOUTS`` of what ``role`` is shown."""
    return "generator-trunk" if role == "generator" and generator_layout == "trunk" else role


@dataclass(frozen=True, eq=False)
class FineTune(Policy):
    """The base model fine-tuned in one role."""

    role: Role
    layout: str
    turns: Turns
    held_out: Turns
    training: train.Training

    def run(self, work: Work) -> FineTuned:
        return _fine_tuned(self, work, corpus.turns, prompts.LAYOUTS[self.layout], self.layout)


@dataclass(frozen=True, eq=False)
class FineTuneSeeker(Policy):
    """The base model fine-tuned on what seekers said next, or that the conversation was over (CSO, appendix A)."""

    turns: Turns
    held_out: Turns
    training: train.Training | None
    """None where the role is a server's."""

    def run(self, work: Work) -> FineTuned | Missing:
        if self.training is None:
            return Missing("the profile has its seeker's role behind a server")
        return _fine_tuned(self, work, embedded.seeker_turns, embedded.seeker, "seeker")


def _fine_tuned(
    step: FineTune | FineTuneSeeker,
    work: Work,
    turns_of: Callable[[Dialogue], list[Turn]],
    shown: prompts.Layout,
    layout: str,
) -> FineTuned:
    """The base model of ``step`` fine-tuned on ``turns_of`` its dialogues as they are ``shown``."""
    learned, unseen = (
        [turn for one in some.dialogues() for turn in turns_of(one)] for some in (step.turns, step.held_out)
    )
    found = train.train_sft(
        step.base.weights(), learned, shown, step.training, folder=work.folder, seed=step.seed, max_length=step.max_length,
        held_out=unseen, unit=unit_of(layout), launch=step.launch,
    )  # fmt: skip
    work.tokens = found.tokens
    return FineTuned(**vars(found), layout=layout)
