"""Profiles: everything that a run depends on, typed and strict.

A profile is one file, ``profiles/<name>.yaml``, or what it says otherwise than the one that it ``extends``.  An unknown key
or value is an error that names the nearest known one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from decoupled_esc.errors import KnownError, nearest
from decoupled_esc.evaluate.judges import Protocol
from decoupled_esc.generate.client import Endpoint, Mode
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.generate.vllm import Serving
from decoupled_esc.models import Backbone
from decoupled_esc.search.tree import Constants
from decoupled_esc.train import Launch, Preference, Training

FOLDER = Path(__file__).parents[3] / "profiles"


class ProfileError(KnownError, ValueError):
    """A profile that does not exist, or that says something it can't say."""


class Section(BaseModel):
    """A section of a profile: every key required unless it has a default, no other key allowed, no coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Data(Section):
    """Which part of the corpus is used.  ``null`` is all of it."""

    train_dialogues: PositiveInt | None
    test_dialogues: PositiveInt | None
    validation_dialogues: PositiveInt | None = None
    """On which preference optimisation says how far it has moved; fine-tuning is followed on all."""
    max_length: int = Field(ge=64)
    """Tokens that a prompt and its answer may take together; older messages are cut beyond it."""


class SupervisedFineTuning(Section):
    """One training run each for the three roles."""

    vanilla: Training
    planner: Training
    generator: Training


class Generation(Section):
    """How replies and plans are sampled."""

    reply: Sampling
    plan: Sampling
    batch_tokens: PositiveInt
    vllm: Serving | None = None
    """None: transformers in this process; else vLLM servers."""


class PreferenceTraining(Section):
    """One preference optimisation: how it is trained, and which loss."""

    training: Training
    loss: Preference


class Alternative(Section):
    """Another loss in place of a role's own: its learning rate and constants; all else as there."""

    learning_rate: PositiveFloat
    loss: Preference


class Alternatives(Section):
    """The losses that the papers leave to others."""

    ipo: Alternative
    simpo: Alternative
    kto: Alternative
    orpo: Alternative


class PreferenceOptimisation(Section):
    """One preference optimisation each for the three roles (section 5.2), and other losses in its place."""

    vanilla: PreferenceTraining
    planner: PreferenceTraining
    generator: PreferenceTraining
    alternatives: Alternatives


class Mining(Section):
    """How preference pairs are mined (IPM, section 4)."""

    samples: PositiveInt
    """Replies of the generator, and of the vanilla model, to each training turn."""
    dialogues: PositiveInt | None = None
    """Training dialogues whose turns are mined; null is all that are trained on."""
    as_in: str | None = None
    """A profile without LLM judges whose pairs these are, so that what is trained on them is shared; null: pairs of its own."""

    @pydantic.field_validator("as_in")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in names():
            raise ValueError(f"no profile {name!r}{nearest(name, names())}")
        return name


class Search(Section):
    """How dialogues are searched for better turns (CSO, section 3)."""

    seeds: Literal["esconv", "extes"]
    """Where the gold dialogues come from: ESConv's training split, or a copy of ExTES, as in CSO."""
    dialogues: PositiveInt
    """Gold dialogues that a tree is grown around, in each search."""
    searches: PositiveInt
    """Searches, under the first so many seeds, of other dialogues by other models; the seeds train on them by turns."""
    max_gold_turns: int = Field(ge=2)
    """Supporter turns of the longest of them."""
    constants: Constants
    threshold: float = Field(ge=-100, le=100)
    """Q from which a path is preferred, and up to which a sibling is rejected (0.5 in CSO)."""
    seeker: Training | None
    """How the seeker model is trained; None where a server has its role."""
    roles: dict[Literal["supporter", "seeker", "strategies", "reward"], Endpoint] | None
    """Servers for the four roles; None: models of this profile."""

    @pydantic.model_validator(mode="after")
    def _filled(self) -> Search:
        if self.roles is None and self.seeker is None:
            raise ValueError("without roles behind servers the search needs a seeker to train")
        if self.roles is not None and len(self.roles) < 4:
            raise ValueError("roles names a server for each of supporter, seeker, strategies and reward")
        return self


class Losses(Alternatives):
    """Every loss that CSO compares."""

    dpo: Alternative


class CSOTuning(Section):
    """How models are trained on ESC-Pro with one tuning, of all weights or of adapters (CSO, Tables 13 and 14)."""

    sft: Training
    training: Training
    """Of all losses, but for the learning rate."""
    losses: Losses


class CSO(CSOTuning):
    """What is trained on ESC-Pro, and how (CSO, sections 3.3 and 5)."""

    start: Literal["base-model", "sft-vanilla"]
    """What is trained further: CSO takes an instruction-tuned base; a small base can't answer before it was fine-tuned."""
    pairs: Literal["searched", "published"]
    """Pairs of this profile's search, or a copy of the ESC-Pro that CSO's authors published."""
    lora: CSOTuning | None
    """The same with adapters, where the rest trains all weights: CSO's tables have both tunings.  None: one tuning."""


class Judge(Section):
    """The LLM judges of a profile, and how they are asked."""

    endpoints: list[Endpoint] = Field(min_length=1)
    """The first mines pairs; the others say how far judges agree.  A model's name is its identity: in scores, and in the
    record of what was answered."""
    mode: Mode
    protocol: Protocol

    @pydantic.field_validator("endpoints")
    @classmethod
    def _distinct(cls, endpoints: list[Endpoint]) -> list[Endpoint]:
        if len({endpoint.model for endpoint in endpoints}) < len(endpoints):
            raise ValueError("two judges have one model name, and their scores could not be told apart")
        return endpoints


class Profile(Section):
    """One way to run the whole book."""

    name: str
    description: str
    caveats: tuple[str, ...] = ()
    """What a reader of its numbers has to know beside `deviations`, a sentence each."""
    seed: Seed
    other_seeds: list[Seed]
    """Further seeds under which the systems of the questions are trained and sampled again."""
    needs_gpu: bool
    backbone: Backbone = Field(discriminator="kind")
    data: Data
    generator_layout: Literal["paper", "trunk"]
    """Where the generator reads its strategy: before the dialogue as in the paper, turn by turn; or after it, so that a
    dialogue is read once for all its turns."""
    launch: Launch | None = None
    """None: each training in one process."""
    sft: SupervisedFineTuning
    generation: Generation
    mining: Mining
    preference: PreferenceOptimisation
    search: Search
    cso: CSO
    judge: Judge | None
    """None: no LLM judge; the offline judges always judge, under their own names."""
    left_out: list[str] = []
    """Systems (experiments/book.py) that no score of this profile needs; their replies can be asked for by name."""
    bootstrap_replicates: int = Field(ge=10)
    scale: Literal["smoke", "small", "paper"]
    """How far figures may be read: a smoke figure shows that the steps work, and nothing else."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds, its own first."""
        return (self.seed, *self.other_seeds)

    @pydantic.model_validator(mode="after")
    def _distinct_seeds(self) -> Profile:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"other_seeds: {self.other_seeds} repeat a seed, or the profile's own, {self.seed}")
        return self

    @pydantic.model_validator(mode="after")
    def _room_for_prompts(self) -> Profile:
        longest = max(self.generation.reply.max_new_tokens, self.generation.plan.max_new_tokens)
        if longest >= self.data.max_length:
            raise ValueError(
                f"generation: max_new_tokens {longest} leaves no room for a prompt in data.max_length {self.data.max_length}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _one_kind_of_weights(self) -> Profile:
        """A later training goes on with what an earlier one trained: an adapter, or all weights."""
        lora = {"cso.sft": self.cso.sft.lora, "cso.training": self.cso.training.lora}
        if self.cso.start == "sft-vanilla":
            lora["sft.vanilla"] = self.sft.vanilla.lora
        if len({one is None for one in lora.values()}) > 1:
            raise ValueError(f"{', '.join(lora)}: all of them train an adapter (lora), or none does")
        if (other := self.cso.lora) is not None:
            if self.cso.training.lora is not None:
                raise ValueError(
                    "cso.lora: cso itself trains adapters already, and this is for both tunings; set it to null"
                )
            if None in (other.sft.lora, other.training.lora):
                raise ValueError("cso.lora: its sft and training need a lora section each, with rank and alpha")
        return self

    @pydantic.model_validator(mode="after")
    def _shared_evenly(self) -> Profile:
        """The processes of a training take equal parts of a batch."""
        processes = self.launch.processes if self.launch else 1
        uneven = [f"{name} ({one.batch_size})" for name, one in self.trainings().items()
                  if one.batch_size % (one.per_device_batch_size * processes)]  # fmt: skip
        if uneven:
            times = f" times {processes} processes" if processes > 1 else ""
            raise ValueError(
                f"each batch_size must be a multiple of its per_device_batch_size{times}, and these are not: {', '.join(uneven)}"
            )
        return self

    def trainings(self) -> dict[str, Training]:
        """Every training run of this profile, by its key."""
        roles = ("vanilla", "planner", "generator")
        found = {f"sft.{role}": getattr(self.sft, role) for role in roles}
        found |= {f"preference.{role}.training": getattr(self.preference, role).training for role in roles}
        found |= {"search.seeker": self.search.seeker} if self.search.seeker else {}
        for name, tuning in {"cso": self.cso, "cso.lora": self.cso.lora}.items():
            found |= {f"{name}.sft": tuning.sft, f"{name}.training": tuning.training} if tuning else {}
        return found

    @property
    def deviations(self) -> tuple[str, ...]:
        """What a reader of a comparison with the papers has to know about this profile, a sentence each."""
        whole = "An optimiser step takes whole dialogues" + ", but for the generator" * (
            self.generator_layout == "paper"
        )
        found = [f"{whole}; the paper's takes 32 turns from anywhere."]
        if self.generator_layout == "trunk":
            found.append("The generator reads its strategy after the dialogue; the paper's reads it before.")
        if self.sft.vanilla.lora is None:
            found.append("All weights are trained; the paper's trains a low-rank adapter.")
        if self.backbone.kind == "embedded":
            found.append(
                f"Our base, {self.backbone.name}, is a small model that has read ESConv's training dialogues without tags; "
                "the paper's is an instruction-tuned model of seven or eight billion parameters."
            )
        if self.backbone.kind == "package":
            found.append(
                f"Our base, {self.backbone.name}, is an instruction-tuned model of 135 million parameters that was stored in 4 bits; "
                "the paper's has seven or eight billion, in full precision."
            )
        return (*found, *self.caveats)


def names() -> list[str]:
    """The profiles that exist."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """The profile ``name``.  Raises ProfileError naming the file, the key and the nearest known one."""
    if name not in names():
        raise ProfileError(f"no profile {name!r}{nearest(name, names())}. Profiles: {', '.join(names())}")
    path = FOLDER / f"{name}.yaml"
    data, sources = _read(path), [f"profiles/{path.name}"]
    while (base := data.pop("extends", None)) is not None:
        if base not in names():
            raise ProfileError(f"{sources[-1]}: extends {base!r}, which is no profile{nearest(base, names())}")
        if f"profiles/{base}.yaml" in sources:
            raise ProfileError(f"{sources[-1]}: extends {base}, which extends this one")
        data, sources = _laid_over(_read(FOLDER / f"{base}.yaml"), data), [*sources, f"profiles/{base}.yaml"]
    return parse_profile({"name": name, **data}, ", which extends ".join(sources))


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, and a date is text."""


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:merge" and key.value in seen:
            raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {key.value!r} stands twice in one section")
        seen.add(key.value)
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


def _read(path: Path) -> dict:
    try:
        data = yaml.load(path.read_bytes(), Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        said = " ".join(str(error).split()) or "nested too deeply"
        raise ProfileError(f"profiles/{path.name}: not valid YAML: {said[:300]}") from None
    except OSError as error:
        raise ProfileError(f"profiles/{path.name}: can't be read ({error.strerror})") from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ProfileError(f"profiles/{path.name}: not a mapping of keys to values, got {str(data)[:80]!r}")
    if "name" in data:
        raise ProfileError(f"profiles/{path.name}: unknown key 'name': a profile is called what its file is called")
    return data


def _laid_over(below: dict, above: dict) -> dict:
    """``below`` with what ``above`` says otherwise, section by section."""
    both = {
        k: _laid_over(below[k], v) for k, v in above.items() if isinstance(v, dict) and isinstance(below.get(k), dict)
    }
    return below | above | both


def parse_profile(data: dict, source: str) -> Profile:
    """A profile from plain data; ``source`` is named in errors."""
    try:
        # As JSON, whose lists are tuples, too; strict in the sections that other rooms define as well.
        return Profile.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise ProfileError(f"{source}: " + "; ".join(map(_explain, error.errors()[:12]))) from None
    except (RecursionError, ValueError, TypeError):  # of json
        raise ProfileError(f"{source}: a section contains itself, or a value is neither text nor number") from None


def _explain(problem: dict) -> str:
    path = [str(part) for part in problem["loc"]]
    if path[:1] == ["backbone"]:
        del path[1:2]  # the union's branch ("embedded", "hub", "package"): a reader of the file sees no such level
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}{nearest(path[-1], _known_keys())}"
    if problem["type"] == "missing":
        return f"missing key {where!r}"
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):  # about a whole section, which is long
        return f"{where}: {problem['ctx']['error']}".removeprefix(": ")
    return f"{where}: {problem['msg'].lower()}, got {repr(problem['input'])[:80]}"


def _known_keys() -> list[str]:
    """Every key of every section."""
    schema = Profile.model_json_schema()
    return sorted({key for section in (schema, *schema["$defs"].values()) for key in section.get("properties", {})})
