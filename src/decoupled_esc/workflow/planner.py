"""What a run will cost, and what one did cost: hours, memory, tokens and money by stage.

The ledger reads what stages wrote of themselves.  The plan multiplies: tokens that the ledger counted, times operations a
token, over a card's rate; every factor is a constant here or a column of the table.  Nothing in it was measured on the
card it is for; ``SHARE`` is the assumption that decides, and a run of one stage replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decoupled_esc.train import Training
from decoupled_esc.workflow.profiles import Profile
from decoupled_esc.workflow.stages import STAGES
from decoupled_esc.workflow.store import Result


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet: dense bfloat16 rate, memory, memory bandwidth."""

    name: str
    tflops: float
    gib: float
    gib_per_second: float


CARDS = {
    card.name: card
    for card in (
        Card("RTX 4090", 165, 24, 939), Card("L40S", 362, 48, 805), Card("A100 80GB", 312, 80, 1899), Card("H100 80GB", 989, 80, 3120),
    )
}  # fmt: skip
"""The paper's card (four of them, appendix D.1), and some that are for hire."""


@dataclass(frozen=True)
class Model:
    """A backbone by its published configuration."""

    parameters: float
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head: int
    vocabulary: int


MODELS = {
    "Qwen/Qwen2.5-7B-Instruct": Model(7.62e9, 28, 3584, 18944, 28, 4, 128, 152064),
    "meta-llama/Llama-3.1-8B-Instruct": Model(8.03e9, 32, 4096, 14336, 32, 8, 128, 128256),
    "google/gemma-2-9b-it": Model(9.24e9, 42, 3584, 14336, 16, 8, 256, 256000),
}

SHARE = 0.35
"""Of a card's rate that training and reading prompts are taken to reach.  An assumption: chapter 15 measures shares on the CPU only."""
BATCH = 64
"""Replies that vLLM is taken to write at once: each step reads the weights once for all of them."""
TOKENS = 0.72
"""Tokens of a large vocabulary a token of esc-base's (whose words are shorter pieces); an assumption, near what English text gives."""


@dataclass(frozen=True)
class Line:
    """One stage of a plan."""

    stage: str
    read: float
    """Tokens read, in training once an epoch."""
    written: float
    hours: float
    gib: float
    dollars: float = 0.0


def ledger(results: Mapping[str, Result]) -> list[dict]:
    """What each stage took, in the order of the graph: wall seconds, tokens, peak memory (MiB), date, commit."""
    rows = []
    for name in STAGES:
        if name in results:
            how = results[name].provenance
            rows.append({"stage": name, "seconds": how["wall_seconds"], "tokens": how["tokens"], "mib": how["peak_memory_mib"], "date": how["date"], "commit": how["commit"]})
    return rows


def flops_a_token(model: Model, kind: str, lora: bool) -> float:
    """2 N to read a token; for training as much again backwards through activations, and again for gradients of all weights."""
    forward = 2 * model.parameters
    return forward if kind == "read" else forward * (2 if lora else 3)


def memory(model: Model, tokens: float, *, training: bool, lora_rank: int | None, targets: float = 400, width: int = 2, cards: int = 1) -> float:
    """GiB a card: weights of ``width`` bytes; adapters with gradient and Adam's state in float32; activations kept; logits of the targets.

    Activations a token and layer, in bfloat16 without checkpointing: about 12 vectors of the hidden size and 3 of the
    feed-forward one.  All weights instead of adapters: 16 bytes a weight in all.  ``cards`` share what belongs to weights.
    """
    own = model.parameters * (width if lora_rank or not training else 16) / cards
    if not training:
        cache = 2 * model.layers * model.key_value_heads * model.head * width  # bytes a token: keys and values
        return (own + tokens * cache) / 2**30
    if lora_rank:
        widths = 2 * model.hidden + 2 * (model.hidden + model.head * model.key_value_heads) + 3 * (model.hidden + model.feed_forward)
        own += 16 * lora_rank * model.layers * widths
    kept = tokens * model.layers * (12 * model.hidden + 3 * model.feed_forward) * 2
    return (own + kept + targets * model.vocabulary * 4 * 2) / 2**30


def cards(profile: Profile) -> int:
    """On how many cards ``profile`` trains."""
    return profile.several_gpus.processes if profile.several_gpus else 1


def plan(profile: Profile, card: Card, counted: Mapping[str, Result]) -> list[Line]:
    """A line a stage that needs the model or a judge, for one seed of ``profile`` on as many of ``card`` as it trains on.

    Hours are those of all cards together, memory is that of each.

    ``counted``: results of a profile on the whole data, for its tokens.  Raises KeyError for a backbone that is not in
    ``MODELS``.
    """
    model, lines = MODELS[profile.backbone.name], []
    rate = card.tflops * 1e12 * SHARE

    width = 4 if profile.backbone.dtype == "float32" else 2
    spread = cards(profile) if profile.several_gpus and profile.several_gpus.config == "fsdp" else 1

    def generation(name: str, read: float, written: float) -> Line:
        step = width * model.parameters / 2**30 / card.gib_per_second
        hours = (read * flops_a_token(model, "read", True) / rate + written / BATCH * step) / 3600
        return Line(name, read, written, hours, memory(model, BATCH * 1000, training=False, lora_rank=16, width=width))

    for name in STAGES:
        if name not in counted or profile.cso.lora is None and "cso-lora" in name:
            continue
        kind, payload = name.split("-")[0], counted[name].payload
        if kind in ("sft", "dpo", "ipo", "simpo", "kto", "orpo", "cso") and "tokens" in payload and name != "sft-seeker":
            apart = "generator" in name and profile.generator_layout == "paper"
            read = TOKENS * payload["tokens_apart" if apart else "tokens"]
            training = _chaining(profile, name) if kind == "cso" else profile.sft.generator if apart else profile.sft.vanilla
            lora = training.lora
            if kind == "cso":  # whose epochs differ between the profiles
                read *= training.epochs / _epochs(counted[name], training.epochs)
            hours = read * flops_a_token(model, "train", lora is not None) / rate / 3600
            at_once = 500 * training.micro_batch if apart else 1000
            lines.append(Line(name, read, 0, hours, memory(model, at_once, training=True, lora_rank=lora.rank if lora else None, width=width, cards=spread)))
        elif kind in ("candidates", "replies") or name == "esc-pro-random":
            written = TOKENS * (counted[name].provenance["tokens"] or 0)
            turns = payload.get("turns", payload.get("pairs", 0)) * payload.get("draws", 1)
            lines.append(generation(name, turns * READ_A_TURN, written))  # prefixes that a server has cached are read for nothing
        elif name == "strategy-test":
            own = {system: found for system, found in payload["systems"].items() if profile.cso.lora is not None or "lora" not in system}
            lines.append(generation(name, len(own) * payload["windows"] * READ_A_WINDOW, TOKENS * sum(found["tokens"] for found in own.values())))
        elif name == "judged" and profile.judge is not None:
            lines.append(_judged(profile))
        elif name == "search" and profile.search.roles is not None:
            lines.append(_searched(profile, payload))
    return lines


def _chaining(profile: Profile, name: str) -> Training:
    how = profile.cso.lora if name.startswith("cso-lora") else profile.cso
    return how.sft if name.endswith("-sft") else how.training


def _epochs(counted: Result, otherwise: int) -> int:
    """The epochs of a training on ESC-Pro, as they stand in its result."""
    for key, how in counted.inputs.get("settings", {}).items():
        if key in ("cso.sft", "cso.training"):
            return how["epochs"]
        if key == "cso.lora":
            return how["sft" if counted.stage.endswith("-sft") else "training"]["epochs"]
    return otherwise


READ_A_TURN = 130
"""Tokens of a turn's prompt that its dialogue's earlier turns have not read: a seeker's and a supporter's message, and the instruction's share."""
READ_A_WINDOW = 350
"""Tokens of a window of the strategy test set: ten utterances and the instruction, of which no two share a beginning."""
JUDGED = (270, 17)
"""Tokens that a judge reads and writes a question (the client's own estimate of the paper's protocol, chapter 08)."""
ASKED = (800, 40)
"""Tokens that a role of the search reads and writes a call: a talk of a dozen rounds and the instruction."""


def _judged(profile: Profile) -> Line:
    from decoupled_esc.workflow.stages import JUDGED as SYSTEMS

    protocol, dollars, read, written = profile.judge.protocol, 0.0, 0.0, 0.0
    turns = protocol.turns or 1792
    for endpoint in profile.judge.endpoints:
        calls = len(SYSTEMS) * turns * (5 if protocol.calls == "each" else 2) * protocol.repeats + 800 + 4 * turns * protocol.pairs
        read, written = read + calls * JUDGED[0], written + calls * JUDGED[1]
        if endpoint.dollars_per_million_in is not None and endpoint.dollars_per_million_out is not None:
            dollars += calls * (JUDGED[0] * endpoint.dollars_per_million_in + JUDGED[1] * endpoint.dollars_per_million_out) / 1e6
    return Line("judged", read, written, 0.0, 0.0, dollars)


def _searched(profile: Profile, counted: Mapping) -> Line:
    """Calls as many an iteration as were counted; prices of the roles' servers, evenly."""
    how = profile.search
    iterations = sum(tree["iterations"] for tree in counted["trees"].values()) if "trees" in counted else 0
    an_iteration = sum(counted["tasks"].values()) / iterations if iterations else 9.0
    calls = how.dialogues * how.constants.least_iterations * an_iteration
    dollars = 0.0
    for endpoint in how.roles.values():
        if endpoint.dollars_per_million_in is not None and endpoint.dollars_per_million_out is not None:
            dollars += calls / len(how.roles) * (ASKED[0] * endpoint.dollars_per_million_in + ASKED[1] * endpoint.dollars_per_million_out) / 1e6
    return Line("search", calls * ASKED[0], calls * ASKED[1], 0.0, 0.0, dollars)


def checked(results: Mapping[str, Result], by: str = "sft-vanilla") -> list[dict]:
    """The plan's arithmetic against the ledger: each training's seconds as they follow from the rate of stage ``by``, and as they were.

    Operations are 6 N a token that is read, and a preference training also reads everything once for its reference (2 N).
    """

    def operations(payload: Mapping) -> float:
        epochs_once = 2 * payload["tokens"] if "loss" in payload else 0
        return payload["parameters"] * (6 * payload["tokens"] + epochs_once)

    trained = {
        name: found for name, found in results.items()
        if name.split("-")[0] in ("sft", "dpo", "ipo", "simpo", "kto", "orpo") and found.payload.get("tokens")
    }  # fmt: skip
    if by not in trained:
        return []
    rate = operations(trained[by].payload) / trained[by].provenance["wall_seconds"]
    return [
        {
            "stage": name, "operations": operations(found.payload), "planned": operations(found.payload) / rate, "took": found.provenance["wall_seconds"],
            "rate": operations(found.payload) / found.provenance["wall_seconds"],
        }
        for name, found in trained.items()
    ]  # fmt: skip


def total(lines: Sequence[Line]) -> Line:
    """Sums; of memory the largest."""
    sums = [sum(getattr(line, key) for line in lines) for key in ("read", "written", "hours")]
    return Line("all", *sums, max((line.gib for line in lines), default=0.0), sum(line.dollars for line in lines))


def table(lines: Sequence[Line]) -> list[dict]:
    """For printing: a line a stage and their sum, numbers as text."""
    return [
        {
            "stage": line.stage, "tokens read": f"{line.read / 1e6:.1f}M", "written": f"{line.written / 1e6:.2f}M" if line.written else "",
            "GPU-hours": f"{line.hours:.2f}" if line.hours else "", "GiB": f"{line.gib:.0f}" if line.gib else "",
            "dollars": f"{line.dollars:.2f}" if line.dollars else "",
        }
        for line in (*lines, total(lines))
    ]  # fmt: skip
