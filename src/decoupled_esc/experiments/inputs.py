"""What steps read that no step makes: corpora and published files, by digest; and the model that training starts from."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from decoupled_esc import corpus, models
from decoupled_esc.corpus import Corpus, CorpusError, Dialogue, Turn, fetch
from decoupled_esc.generate.vllm import Serving
from decoupled_esc.models import Backbone, Weights
from decoupled_esc.pipeline import Step, UpstreamMissing, unkeyed
from decoupled_esc.train import Launch

CORPORA = ("esconv", "failed_esconv")
FILES = (
    "decoupledesc_release", "empathy_mental_health", "extes", "esc_pro", "ieval", "empathic_judges", "mentalalign",
    "kang2024_replies", "cauesc_replies", "transesc_replies", "minilm-l6-v2", "smollm2-135m",
)  # fmt: skip
ABSENT = "absent"
"""Stands for the digest of files that are not on this machine: a step says what it lacks, and runs again once they have come."""


@cache
def load(name: str, download: bool = True) -> Corpus:
    """A corpus, read once in a process."""
    return corpus.load(name, download=download)


@dataclass(frozen=True)
class Source:
    """A corpus as it is on this machine, or as the project publishes it."""

    name: str
    digest: str

    def read(self) -> Corpus:
        """The corpus.  Raises CorpusError where this machine has another one than the one asked for."""
        found = load(self.name, download=False)
        if found.digest != self.digest:
            raise CorpusError(
                f"{self.name} on this machine ({found.name}) is not the one that this step was planned with",
                remedy="run the same command again, with the data where it was",
            )
        return found

    @property
    def is_real(self) -> bool:
        """Whether it is the published corpus, not the synthetic miniature."""
        return self.digest == corpus.manifest_digests()[self.name]


@dataclass(frozen=True)
class Files:
    """Published files that only some steps read and nothing downloads unasked."""

    name: str
    identity: str

    @property
    def are_here(self) -> bool:
        """Whether this machine has them."""
        return self.identity != ABSENT

    def paths(self) -> tuple[Path, ...]:
        """The files.  Raises UpstreamMissing where there are none."""
        if not self.are_here:
            raise UpstreamMissing(f"{self.name} is not on this machine; {fetch.entry(self.name).remedy}")
        found = fetch.here(self.name)
        if found is None:
            raise CorpusError(
                f"{self.name} was here when this run was planned, and is gone", remedy="run the same command again"
            )
        return found.paths


@dataclass(frozen=True)
class Inputs:
    """All of them: corpora and files by name."""

    corpora: Mapping[str, Source]
    files: Mapping[str, Files]


def on_this_machine(*, download: bool) -> Inputs:
    """What this machine has; ``download`` fetches the corpora where they are not here."""
    corpora = {name: Source(name, load(name, download).digest) for name in CORPORA}
    here = {name: fetch.here(name) is not None for name in FILES}
    return Inputs(corpora, {name: Files(name, fetch.identity(name) if here[name] else ABSENT) for name in FILES})


def as_published() -> Inputs:
    """What published results were made from: to trust them needs no copy of it.  The users' own copies are none of it."""
    digests = corpus.manifest_digests()
    own = {"extes", "esc_pro"}
    files = {name: Files(name, ABSENT if name in own else fetch.identity(name)) for name in FILES}
    return Inputs({name: Source(name, digests[name]) for name in CORPORA}, files)


@dataclass(frozen=True)
class Turns:
    """Turns of a split of ESConv, or of its first so many dialogues."""

    esconv: Source
    split: str
    limit: int | None = None

    def dialogues(self) -> list[Dialogue]:
        """The dialogues, in the order of the split."""
        return list(self.esconv.read().split(self.split)[: self.limit])

    def read(self) -> list[Turn]:
        """Their supporters' turns."""
        return [turn for dialogue in self.dialogues() for turn in corpus.turns(dialogue)]


@dataclass(frozen=True)
class Base:
    """The model that every training starts from, and what of the machine it needs."""

    backbone: Backbone
    shipped: Mapping[str, str]
    """Digests of the weights and the tokenizer, shipped with this repository or in a package; empty for one on the hub."""
    needs_gpu: bool = unkeyed(default=False)

    def weights(self) -> Weights:
        """Its weights.  Raises ModelUnavailable where it needs a GPU and none is visible."""
        if self.needs_gpu:
            import torch

            if not torch.cuda.is_available():
                raise models.ModelUnavailable(
                    f"{self.backbone.name} needs a GPU, and none is visible here. Use profile smoke or laptop, or run on a GPU machine"
                )
        return self.backbone.weights


def base_of(backbone: Backbone, needs_gpu: bool) -> Base:
    """`Base` of a profile."""
    return Base(backbone, {} if backbone.kind == "hub" else backbone.digests, needs_gpu=needs_gpu)


@dataclass(frozen=True, eq=False, kw_only=True)
class Measured(Step):
    """A step whose numbers have intervals, by so many replicates from a seed."""

    replicates: int
    seed: int

    @property
    def resampling(self) -> dict[str, int]:
        """What `evaluate` calls ``**resampling``."""
        return {"replicates": self.replicates, "seed": self.seed}


@dataclass(frozen=True, eq=False)
class Policy(Step):
    """A step that leaves a trained model in the folder ``policy``."""

    leaves = ("policy",)
    uses_model = True

    base: Base
    max_length: int
    """Tokens that a prompt and its answer may take together."""
    seed: int
    launch: Launch | None = unkeyed(default=None)
    """How many processes train together; None: one."""


@dataclass(frozen=True)
class Decoding:
    """How an engine reads and answers."""

    max_length: int
    batch_tokens: int
    engine: str
    """``transformers`` or ``vllm``, whose random numbers differ."""
    serving: Serving | None = unkeyed(default=None)


def weights_of(work, base: Base, policy: Policy | None) -> Weights:
    """What ``policy`` left, checked; None is the base model."""
    if policy is None:
        return base.weights()
    start = getattr(policy, "start", None)  # the policy that it was trained from
    folder = work.path(policy, "policy")
    return models.weights_of(base.weights(), folder, work.path(start, "policy") if start is not None else None)
