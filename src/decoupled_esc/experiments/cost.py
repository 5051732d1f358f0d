"""What a run will cost, and what one did cost: hours, memory, tokens and money by step.

The ledger reads the provenance of results.  The plan multiplies: tokens that a finished run counted, times operations
per token, over a card's rate; every factor is a constant here.  Nothing in it was measured on the card that it is for;
``SHARE`` is the assumption that decides, and a run of one step replaces it.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from decoupled_esc.errors import KnownError
from decoupled_esc.experiments import controls, cso, inputs, searches
from decoupled_esc.experiments.book import steps as steps_of
from decoupled_esc.experiments.inputs import Policy
from decoupled_esc.experiments.judging import AskJudges
from decoupled_esc.experiments.preferences import MinePairs, SampleCandidates, TrainPreference
from decoupled_esc.experiments.profiles import Profile, nearest
from decoupled_esc.experiments.replies import Reply
from decoupled_esc.experiments.run import Book
from decoupled_esc.experiments.scores import AnswerStrategyTest
from decoupled_esc.experiments.sft import FineTune, FineTuneSeeker, unit_of
from decoupled_esc.generate.client import Endpoint
from decoupled_esc.pipeline import Missing, Step
from decoupled_esc.train import Preferred


class CostError(KnownError):
    """A plan that can't be made."""


class Card(NamedTuple):
    """A GPU by its data sheet: dense bfloat16 rate, memory, memory bandwidth."""

    tflops: float
    gib: float
    gib_per_second: float


CARDS = {
    "RTX 4090": Card(165, 24, 939),
    "L40S": Card(362, 48, 805),
    "A100 80GB": Card(312, 80, 1899),
    "H100 80GB": Card(989, 80, 3120),
}
"""The paper's card (four of them, appendix D.1), and some that are for hire."""


class Model(NamedTuple):
    """A backbone by its published configuration; ``key_value``: heads of keys and values times their size."""

    parameters: float
    layers: int
    hidden: int
    feed_forward: int
    key_value: int
    vocabulary: int


MODELS = {
    "Qwen/Qwen2.5-7B-Instruct": Model(7.62e9, 28, 3584, 18944, 4 * 128, 152064),
    "meta-llama/Llama-3.1-8B-Instruct": Model(8.03e9, 32, 4096, 14336, 8 * 128, 128256),
    "google/gemma-2-9b-it": Model(9.24e9, 42, 3584, 14336, 8 * 256, 256000),
    "smollm2-135m": Model(1.345e8, 30, 576, 1536, 3 * 64, 49152),
}

SHARE = 0.35
"""Of a card's rate that training and reading prompts are taken to reach: an assumption."""
BATCH = 64
"""Replies that vLLM is taken to write at once: each step reads the weights once for all of them."""
TOKENS = 0.72
"""Tokens of a large vocabulary per token of esc-base's, whose words are shorter pieces: an assumption."""
READ_PER_TURN = 130
"""Prompt tokens of a turn that the turns before have not read: two messages, and the instruction's share."""
READ_PER_WINDOW = 350
"""Tokens of a window of the strategy test set: ten utterances and the instruction."""
JUDGED = (270, 17)
"""Tokens that a judge reads and writes per question (the client's own estimate of the paper's protocol, chapter 08)."""
ASKED = (800, 40)
"""Tokens that a role of the search reads and writes per call: a dialogue of a dozen rounds and the instruction."""


class Made(NamedTuple):
    """A step with its result, and what is known of its making."""

    step: Step
    result: object
    provenance: dict


def one_seed(profile: Profile) -> dict[str, Step]:
    """The steps of ``profile`` without those of its other seeds, by name."""
    return steps_of(profile.model_copy(update={"other_seeds": []}), inputs.as_published())


def made(book: Book) -> dict[str, Made]:
    """All that ``book`` has, by name."""
    found = {name: (step, book.stored(name)) for name, step in book.published_steps.items()}
    return {name: Made(step, one.result, one.provenance) for name, (step, one) in found.items() if one is not None}


GROUPS = {
    "fine-tuning": FineTune | FineTuneSeeker,
    "candidates and pairs": SampleCandidates | MinePairs | controls.MatchPairs,
    "preference optimisation": TrainPreference | controls.TrainChosen,
    "search and ESC-Pro": searches.GrowTrees | searches.ExtractPairs | searches.CompareSearches
    | cso.ReadPublishedPairs | cso.SampleRandomPairs | cso.SampleMinedPairs,
    "CSO": cso.TrainCSO | AnswerStrategyTest,
    "replies": Reply,
    "metrics, judges and counts": Step,
}  # fmt: skip
"""The lines of the ledger."""


def group_of(step: Step) -> str:
    """The line of the ledger that ``step`` belongs to; replies of a policy that CSO trained belong to CSO."""
    made_by = getattr(step, "policy", None)
    own = made_by if isinstance(made_by, cso.TrainCSO) else step
    return next(title for title, kinds in GROUPS.items() if isinstance(own, kinds))


def ledger(found: Iterable[Made]) -> dict[str, float]:
    """What steps took together: ``steps``, ``seconds``, ``tokens``, and the peak memory of the largest (``mib``)."""
    rows = [one.provenance for one in found]
    sums = {"seconds": sum(row["wall_seconds"] for row in rows), "tokens": sum(row["tokens"] or 0 for row in rows)}
    return {"steps": len(rows), **sums, "mib": max((row["peak_memory_mib"] for row in rows), default=0)}


class Line(NamedTuple):
    """One step of a plan.  ``read``: tokens, in training once per epoch; ``gib`` of each card, ``hours`` of all."""

    step: str
    read: float
    written: float = 0.0
    hours: float = 0.0
    gib: float = 0.0
    dollars: float = 0.0


def flops_per_token(model: Model, *, training: bool, lora: bool) -> float:
    """2 N to read a token; in training as much again backwards, and again for gradients of all weights."""
    return 2 * model.parameters * (1 if not training else 2 if lora else 3)


def memory(model: Model, tokens: float, *, training: bool, rank: int | None, width: int = 2, cards: int = 1) -> float:
    """GiB per card: weights of ``width`` bytes, adapters with Adam's state, activations, the logits of 400 targets.

    Activations per token and layer, in bfloat16 without checkpointing: about 12 vectors of the hidden size and 3 of the
    feed-forward one.  ``rank`` None trains all weights, at 16 bytes each.  ``cards`` share what belongs to weights.
    """
    _, layers, hidden, feed_forward, key_value, vocabulary = model
    own = model.parameters * (width if rank or not training else 16) / cards
    if not training:
        return (own + tokens * 2 * layers * key_value * width) / 2**30
    adapters = 16 * (rank or 0) * layers * (2 * hidden + 2 * (hidden + key_value) + 3 * (hidden + feed_forward))
    kept = tokens * layers * (12 * hidden + 3 * feed_forward) * 2
    return (own + adapters + kept + 400 * vocabulary * 4 * 2) / 2**30


def cards_of(profile: Profile) -> int:
    """On how many cards ``profile`` trains."""
    return profile.launch.processes if profile.launch else 1


class Plan:
    """What the steps of one seed of ``profile`` take on as many of ``card`` as it trains on."""

    def __init__(self, profile: Profile, card: Card):
        self.profile, self.card, self.model = profile, card, MODELS[profile.backbone.name]
        self.width = 4 if profile.backbone.dtype == "float32" else 2

    def lines(self, counted: Mapping[str, Made]) -> list[Line]:
        """A line for each step that needs the model or a server.  ``counted``: what a run on the whole data made."""
        steps = one_seed(self.profile)
        lines = [self._line(name, steps[name], counted[name]) for name in steps if name in counted]
        return [line for line in lines if line is not None]

    def _line(self, name: str, step: Step, found: Made) -> Line | None:
        result, written = found.result, found.provenance["tokens"] or 0
        policy = getattr(step, "policy", step)
        if isinstance(policy, Policy) and policy.training is None:
            return None
        match step:
            case AskJudges():
                return _judged(name, step) if step.judge else None
            case _ if isinstance(result, Missing):
                return None
            case Policy():
                return self._training(name, step, found)
            case SampleCandidates():
                return self._generation(name, result.turns * result.samples * READ_PER_TURN, written)
            case Reply():
                return self._generation(name, result.turns * READ_PER_TURN, written)
            case cso.SampleRandomPairs():
                return self._generation(name, result.pairs * READ_PER_TURN, written)
            case AnswerStrategyTest():
                trained = [system for system, one in step.policies.items() if one.training and system in result.systems]
                written = sum(result.systems[system].tokens for system in trained)
                return self._generation(name, len(trained) * result.windows * READ_PER_WINDOW, written)
            case searches.GrowTrees():
                return _searched(name, step, result) if step.roles else None

    def _training(self, name: str, step: Policy, found: Made) -> Line:
        from_start = isinstance(step, TrainPreference | controls.TrainChosen)
        layout = step.start.layout if from_start else getattr(step, "layout", "vanilla")
        alone, config = unit_of(layout) == "turn", step.training
        tokens = found.result.unpacked_tokens if alone else found.result.tokens
        read = TOKENS * tokens * config.epochs / found.step.training.epochs
        at_once, rank = 500 * config.per_device_batch_size if alone else 1000, config.lora and config.lora.rank
        spread = cards_of(self.profile) if self.profile.launch and self.profile.launch.config == "fsdp" else 1
        gib = memory(self.model, at_once, training=True, rank=rank, width=self.width, cards=spread)
        return Line(name, read, 0, self._hours(read, training=True, lora=rank is not None), gib)

    def _generation(self, name: str, read: float, counted: float) -> Line:
        """Prefixes that a server has cached are read for nothing; each step of decoding reads the weights once."""
        seconds = self.width * self.model.parameters / 2**30 / self.card.gib_per_second
        written = TOKENS * counted
        hours = self._hours(read, training=False, lora=True) + written / BATCH * seconds / 3600
        gib = memory(self.model, BATCH * 1000, training=False, rank=16, width=self.width)
        return Line(name, read, written, hours, gib)

    def _hours(self, tokens: float, **kind) -> float:
        return tokens * flops_per_token(self.model, **kind) / (self.card.tflops * 1e12 * SHARE) / 3600


def _judged(name: str, step: AskJudges) -> Line:
    protocol, turns = step.judge.protocol, step.judge.protocol.turns or 1792
    per_turn = len(step.systems) * (5 if protocol.calls == "each" else 2) * protocol.repeats + 4 * protocol.pairs
    return _served(name, turns * per_turn + 800, JUDGED, step.judge.endpoints)


def _searched(name: str, step: searches.GrowTrees, counted: searches.SearchSummary) -> Line:
    """As many calls per iteration as were counted, evenly to the servers of the roles."""
    iterations = sum(tree.iterations for tree in counted.trees.values())
    per_iteration = sum(counted.tasks.values()) / iterations if iterations else 9.0
    calls = step.seeds.number * step.constants.min_iterations * per_iteration
    return _served(name, calls / len(step.endpoints), ASKED, list(step.endpoints.values()))


def _served(name: str, calls: float, tokens: tuple[int, int], endpoints: Sequence[Endpoint]) -> Line:
    """``calls`` of each of ``endpoints``, at their prices."""
    prices = [(one.dollars_per_million_in, one.dollars_per_million_out) for one in endpoints]
    dollars = sum(calls * (tokens[0] * price[0] + tokens[1] * price[1]) / 1e6 for price in prices if None not in price)
    every = calls * len(endpoints)
    return Line(name, every * tokens[0], every * tokens[1], dollars=dollars)


def total(lines: Sequence[Line]) -> Line:
    """Sums; of memory the largest."""
    read, written, hours, gib, dollars = zip(*(line[1:] for line in lines), strict=True)
    return Line("all", sum(read), sum(written), sum(hours), max(gib), sum(dollars))


COLUMNS = ("tokens read", "written", "GPU-hours", "GiB", "dollars")


def table(lines: Sequence[Line]) -> dict[str, dict[str, str]]:
    """For printing: the lines and their sum by step, numbers as text."""

    def texts(line: Line) -> list[str]:
        millions = [f"{line.read / 1e6:.1f}M", f"{line.written / 1e6:.2f}M"]
        return [*millions, f"{line.hours:.2f}", f"{line.gib:.0f}", f"{line.dollars:.2f}"]

    rows = [(line, zip(COLUMNS, line[1:], texts(line), strict=True)) for line in (*lines, total(lines))]
    return {line.step: {title: text if value else "" for title, value, text in row} for line, row in rows}


def plan_of(profile: Profile, card: str) -> list[str]:
    """The plan of ``profile`` as lines of text, with tokens as profile laptop counted them.

    Raises CostError for an unknown card, naming the nearest, and for a profile that needs no GPU.
    """
    if card not in CARDS:
        raise CostError(f"no card {card!r}{nearest(card, list(CARDS))}. Cards: {', '.join(CARDS)}")
    if profile.backbone.name not in MODELS:
        why = f"experiments/cost.py knows no {profile.backbone.name}" if profile.needs_gpu else "it needs no GPU"
        raise CostError(f"profile {profile.name}: {why}, and there is nothing to plan; see: decoupled-esc status")
    number = cards_of(profile)
    on = f"one {card}" if number == 1 else f"{number} x {card} (GPU-hours of all, GiB on each)"
    said = f"one seed; tokens as counted under profile laptop; at {100 * SHARE:.0f}% of the card's rate (assumed)"
    rows = table(Plan(profile, CARDS[card]).lines(made(Book("laptop"))))
    lines = [f"{step:34}" + "".join(f"{text:>14}" for text in row.values()) for step, row in rows.items()]
    return [f"profile {profile.name} on {on}, {said}", *lines, " " * 34 + "".join(f"{key:>14}" for key in COLUMNS)]


def checked(found: Mapping[str, Made], by: str = "sft-vanilla") -> dict[str, dict[str, float]]:
    """By training run: ``operations``; seconds as ``planned`` from the rate of the step ``by``, and as it ``took``.

    Operations are 6 N per token that is read; preference training also reads everything once for its reference (2 N).
    """
    rows = {
        name: (result.parameters * result.tokens * (8 if isinstance(result, Preferred) else 6), said["wall_seconds"])
        for name, (step, result, said) in found.items()
        if isinstance(step, FineTune | FineTuneSeeker | TrainPreference) and not isinstance(result, Missing)
    }
    rate = rows[by][0] / rows[by][1] if by in rows else None
    return {name: {"operations": n, "planned": n / rate, "took": took} for name, (n, took) in rows.items() if rate}
