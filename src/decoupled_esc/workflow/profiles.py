"""Profiles: everything that a run depends on, typed and strict.

A profile is one file, ``profiles/<name>.yaml``, or what it says otherwise than the one that it ``extends``.  An unknown key
or value is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from decoupled_esc.evaluate.judges import Protocol
from decoupled_esc.generate.client import Endpoint, Mode
from decoupled_esc.generate.local import Sampling
from decoupled_esc.generate.vllm import Serving
from decoupled_esc.models import Backbone
from decoupled_esc.search.tree import Constants
from decoupled_esc.train import Launch, Preference, Training

FOLDER = Path(__file__).parents[3] / "profiles"


class ProfileError(ValueError):
    """A profile that does not exist, or that says something it can't say."""


class Strict(BaseModel):
    """A section of a profile: every key required unless it has a default, no other key allowed, no coercion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Data(Strict):
    """Which part of the corpus is used.  ``null`` is all of it."""

    train_dialogues: int | None
    test_dialogues: int | None
    window: int
    """Tokens that a prompt and its answer may take together; older messages are cut beyond it."""


class SupervisedFineTuning(Strict):
    """One training each for the three roles."""

    vanilla: Training
    planner: Training
    generator: Training


class Generation(Strict):
    """How replies and plans are drawn."""

    reply: Sampling
    plan: Sampling
    batch_tokens: int
    vllm: Serving | None = None
    """None: transformers in this process; else vLLM servers."""


class PreferenceTraining(Strict):
    """One preference optimisation: how it is trained, and which loss."""

    training: Training
    loss: Preference


class Alternative(Strict):
    """Another loss in place of a role's own: its learning rate and constants; all else as there."""

    learning_rate: float
    loss: Preference


class PreferenceOptimisation(Strict):
    """One preference optimisation each for the three roles (section 5.2), and the losses that the papers leave to others."""

    vanilla: PreferenceTraining
    planner: PreferenceTraining
    generator: PreferenceTraining
    alternatives: dict[Literal["ipo", "simpo", "kto", "orpo"], Alternative]


class Mining(Strict):
    """How preference pairs are mined (IPM, section 4)."""

    draws: int = Field(ge=1)
    """Replies of the generator, and of the vanilla model, to each training turn."""


class Search(Strict):
    """How dialogues are searched for better turns (CSO, section 3)."""

    dialogues: int = Field(ge=1)
    """Gold dialogues that a tree is grown around."""
    longest_gold: int = Field(ge=2)
    """Supporter turns of the longest of them."""
    constants: Constants
    threshold: float
    """Q from which a path is preferred, and up to which a sibling is rejected (0.5 in CSO)."""
    seeker: Training | None
    """How the seeker model is trained; None where a server plays it."""
    roles: dict[Literal["supporter", "seeker", "strategies", "reward"], Endpoint] | None
    """Who plays the four roles; None: models of this profile."""

    @model_validator(mode="after")
    def _played(self) -> Search:
        if self.roles is None and self.seeker is None:
            raise ValueError("without roles behind servers the search needs a seeker to train")
        if self.roles is not None and len(self.roles) < 4:
            raise ValueError("roles names a server for each of supporter, seeker, strategies and reward")
        return self


class Chaining(Strict):
    """How models are trained on ESC-Pro with one tuning, of all weights or of adapters (CSO, Tables 13 and 14)."""

    sft: Training
    training: Training
    """Of all losses, but for the learning rate."""
    losses: dict[Literal["dpo", "ipo", "simpo", "kto", "orpo"], Alternative]

    @field_validator("losses")
    @classmethod
    def _all(cls, losses: dict) -> dict:
        if len(losses) < 5:
            raise ValueError("each of dpo, ipo, simpo, kto and orpo needs its constants")
        return losses


class ChainOfStrategy(Chaining):
    """What is trained on ESC-Pro, and how (CSO, sections 3.3 and 5)."""

    start: Literal["base-model", "sft-vanilla"]
    """What is trained further: CSO takes an instruction-tuned base; a small base can't answer before it was fine-tuned."""
    lora: Chaining | None
    """The same with adapters, where the rest trains all weights: CSO's tables have both tunings.  None: one tuning."""


class Judge(Strict):
    """The LLM judges of a profile, and how they are asked."""

    endpoints: list[Endpoint] = Field(min_length=1)
    """The first mines pairs; the others say how far judges agree.  A model's name is its identity: in scores, and in the
    record of what was answered."""
    mode: Mode
    protocol: Protocol

    @field_validator("endpoints")
    @classmethod
    def _told_apart(cls, endpoints: list[Endpoint]) -> list[Endpoint]:
        if len({endpoint.model for endpoint in endpoints}) < len(endpoints):
            raise ValueError("two judges have one model name, and their scores could not be told apart")
        return endpoints


class Profile(Strict):
    """One way to run the whole book."""

    name: str
    description: str
    seed: int
    more_seeds: list[int]
    """Other seeds under which the questions are asked again: each is a profile of its own, called ``<name>@<seed>``."""
    needs_gpu: bool
    backbone: Backbone = Field(discriminator="kind")
    data: Data
    generator_layout: Literal["paper", "trunk"]
    """Where the generator reads its strategy: before the dialogue as in the paper, turn by turn; or after it, so that a
    dialogue is read once for all its turns."""
    several_gpus: Launch | None = None
    """None: each training in one process."""
    sft: SupervisedFineTuning
    generation: Generation
    mining: Mining
    preference: PreferenceOptimisation
    search: Search
    cso: ChainOfStrategy
    judge: Judge | None
    """None: no LLM judge; the offline judges always judge, under their own names."""
    bootstrap_replicates: int
    scale: Literal["smoke", "small", "paper"]
    """How far figures may be read: a smoke figure shows that the steps work, and nothing else."""

    def under(self, seed: int) -> Profile:
        """This profile with another seed, and no more."""
        return self.model_copy(update={"name": f"{self.name.partition('@')[0]}@{seed}", "seed": seed, "more_seeds": []})

    @model_validator(mode="after")
    def _one_kind_of_weights(self) -> Profile:
        """A later training goes on with what an earlier one trained: an adapter, or all weights."""
        lora = {"cso.sft": self.cso.sft.lora, "cso.training": self.cso.training.lora}
        if self.cso.start == "sft-vanilla":
            lora["sft.vanilla"] = self.sft.vanilla.lora
        if len({one is None for one in lora.values()}) > 1:
            raise ValueError(f"{', '.join(lora)}: all of them train an adapter (lora), or none does")
        if (other := self.cso.lora) is not None:
            if self.cso.training.lora is not None:
                raise ValueError("cso.lora: cso itself trains adapters already, and this is for both tunings; set it to null")
            if None in (other.sft.lora, other.training.lora):
                raise ValueError("cso.lora: its sft and training need a lora section each, with rank and alpha")
        return self

    @model_validator(mode="after")
    def _shared_evenly(self) -> Profile:
        """Several processes of a training take as much of a batch each."""
        if self.several_gpus is None:
            return self
        roles = ("vanilla", "planner", "generator")
        trainings = {f"sft.{role}": getattr(self.sft, role) for role in roles}
        trainings |= {f"preference.{role}.training": getattr(self.preference, role).training for role in roles}
        trainings |= {"search.seeker": self.search.seeker} if self.search.seeker else {}
        for name, how in {"cso": self.cso, "cso.lora": self.cso.lora}.items():
            trainings |= {f"{name}.sft": how.sft, f"{name}.training": how.training} if how else {}
        share = self.several_gpus.processes
        if uneven := [f"{name} ({how.batch})" for name, how in trainings.items() if how.batch % (how.micro_batch * share)]:
            raise ValueError(f"several_gpus: each batch must be a multiple of its micro_batch times {share} processes, and these are not: {', '.join(uneven)}")
        return self

    @property
    def deviations(self) -> tuple[str, ...]:
        """What a reader of a comparison with the papers has to know about this profile, a sentence each."""
        whole = "An optimiser step takes whole dialogues" + ", but for the generator" * (self.generator_layout == "paper")
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
        return tuple(found)


def names() -> list[str]:
    """The profiles that exist."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """The profile ``name``, or under another seed ``name@seed``.  Raises ProfileError naming the file, the key and the nearest."""
    name, at, seed = name.partition("@")
    if at and not seed.isdigit():
        raise ProfileError(f"after @ stands a seed, a whole number: {name}@14, and not {name}@{seed}")
    if name not in names():
        raise ProfileError(f"no profile {name!r}{nearest(name, names())}. Profiles: {', '.join(names())}")
    described, data = files(name), {}
    for path in reversed(described):
        data = _laid_over(data, {key: value for key, value in _read(path).items() if key != "extends"})
    profile = parse_profile({"name": name, **data}, ", which extends ".join(f"profiles/{path.name}" for path in described))
    return profile.under(int(seed)) if at else profile


def files(name: str) -> list[Path]:
    """The file of profile ``name``, and that of the profile which it extends.  Raises ProfileError where that can't be extended."""
    path = FOLDER / f"{name}.yaml"
    base = _read(path).get("extends")
    if base is None:
        return [path]
    if base not in names():
        raise ProfileError(f"profiles/{path.name}: extends {base!r}, which is no profile{nearest(base, names())}")
    if "extends" in _read(FOLDER / f"{base}.yaml"):
        raise ProfileError(f"profiles/{path.name}: extends {base}, which extends another one itself; extend that")
    return [path, FOLDER / f"{base}.yaml"]


def _read(path: Path) -> dict:
    try:
        data = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ProfileError(f"profiles/{path.name}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ProfileError(f"profiles/{path.name}: not a mapping of keys to values, got {data!r}")
    if "name" in data:
        raise ProfileError(f"profiles/{path.name}: unknown key 'name': a profile is called what its file is called")
    return data


def _laid_over(below: dict, above: dict) -> dict:
    """``below`` with what ``above`` says otherwise, section by section."""
    both = {key: _laid_over(below[key], value) for key, value in above.items() if isinstance(value, dict) and isinstance(below.get(key), dict)}
    return below | above | both


def parse_profile(data: dict, source: str) -> Profile:
    """A profile from plain data; ``source`` is named in errors."""
    try:
        return Profile.model_validate(data, strict=True)  # strict in the sections that other rooms define, too
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise ProfileError(f"{source}: " + "; ".join(lines)) from None


def nearest(word: str, known: list[str]) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _explain(problem: dict) -> str:
    path = [str(part) for part in problem["loc"]]
    if path[:1] == ["backbone"]:
        del path[1:2]  # pydantic names the union's branch ("embedded", "hub"); a reader of the file sees no such level
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}{nearest(path[-1], _keys_beside(path))}"
    if problem["type"] == "missing":
        return f"missing key {where!r}"
    if problem["type"] == "value_error" and isinstance(problem["input"], dict):  # about a whole section, which is long
        return f"{where}: {problem['ctx']['error']}".removeprefix(": ")
    return f"{where}: {problem['msg'].lower()}, got {problem['input']!r}"


def _keys_beside(path: list[str]) -> list[str]:
    """The known keys of the section that ``path`` points into."""
    schema = Profile.model_json_schema()
    keys = _keys(schema, schema)
    for part in path[:-1]:
        keys = _keys(keys.get(part, {}), schema)
    return list(keys)


def _keys(node: dict, schema: dict) -> dict[str, dict]:
    """The keys of a section of ``schema``, whichever of its forms it takes."""
    found: dict[str, dict] = {}
    for option in [node, *node.get("anyOf", []), *node.get("oneOf", [])]:
        section = schema["$defs"][option["$ref"].rsplit("/", 1)[-1]] if "$ref" in option else option
        found |= section.get("properties", {})
    return found
