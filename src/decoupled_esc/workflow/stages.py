"""The stages: every piece of heavy work in this book, what it needs and what it leaves.

    data, released, error-classifier, empathy-scale
    base-model -> sft-vanilla, sft-planner, sft-generator
    sft-*      -> candidates-vanilla, candidates-planner, candidates-generator -> pairs
    pairs      -> dpo-vanilla, dpo-planner, dpo-generator; the same of one kind of pair, or with another loss
    all models -> replies-*, drawn or by argmax
    replies-*  -> metrics, metrics-controlled, metrics-losses, decoding, judged-offline, judged
    replies-*  -> tallies, of every seed -> questions; tallies-errors, of every seed -> errors

    base-model -> sft-seeker; with sft-planner and sft-generator -> search -> esc-pro -> esc-pro-random
    esc-pro    -> cso-sft, cso-dpo and its other losses, amounts and pairs -> replies-cso-*
    replies-*  -> tallies-cso, tallies-cso-lora, of every seed; with tallies -> metrics-cso
    sft-vanilla, cso-sft, cso-dpo and their adapters -> strategy-test, of every seed -> metrics-strategy-test

A stage is a function of its context that returns a JSON-able payload.  Its imports stand inside it: they are what its
code version is taken from, and a reader of stored results never loads torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decoupled_esc.workflow.profiles import Profile
    from decoupled_esc.workflow.session import Context


@dataclass(frozen=True)
class Stage:
    """One stage.  ``settings`` picks what of the profile the result depends on: a change of anything else leaves it."""

    name: str
    run: Callable[..., dict]
    settings: Callable[[Profile], dict]
    needs: tuple[str, ...] = ()
    arguments: dict = field(default_factory=dict)
    """What ``run`` is given beside the context; part of its code version."""
    corpora: tuple[str, ...] = ("esconv",)
    files: tuple[str, ...] = ()
    """Data sets that it reads as files and does without where they are absent, saying so in its result."""
    over_seeds: tuple[str, ...] = ()
    """Stages whose results under the profile's other seeds it reads as well, as ``<name>@<seed>``."""
    once: bool = False
    """It is data, made under the profile's own seed: what is run under another seed reads that."""
    uses_model: bool = True
    leaves: tuple[str, ...] = ()
    """Folders that later stages read from this one's folder, where this profile has them."""


SYSTEMS = (
    "vanilla-base", "vanilla-direct-refine", "vanilla-self-refine", "vanilla-emotion-cot", "vanilla-with-example",
    "vanilla-sft", "vanilla-sft-argmax", "vanilla-dpo", "vanilla-dpo-argmax",
    "decoupled-base", "decoupled-sft", "decoupled-sft-argmax", "decoupled-dpo", "decoupled-dpo-argmax",
)  # fmt: skip
"""Paradigm and method of Table 3's rows, and more; ``-argmax`` takes the most probable, never draws."""

JUDGED = (*(name for name in SYSTEMS if not name.endswith("-argmax")), "gold-sft", "gold-dpo")
"""What judges judge: all that Table 3 has, and the generator under the gold strategy (Table 4)."""

ASKED = (
    "vanilla-sft", "vanilla-sft-argmax", "vanilla-dpo", "vanilla-dpo-argmax",
    "decoupled-sft", "decoupled-sft-argmax", "decoupled-dpo", "decoupled-dpo-argmax", "gold-sft", "gold-dpo",
)  # fmt: skip
"""The systems of the research questions, which are made under several seeds."""

ERRING = ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo")
"""Systems whose psychological errors are asked about under every seed (RQ4)."""

CONTROLLED = ("vanilla-sft", "vanilla-psnr", "vanilla-nspr", "vanilla-nsnr", "vanilla-dpo")
"""Observation 2: the coupled model after pairs of one quadrant each, and after all."""

PLANNERS = ("decoupled-base", "decoupled-sft", "decoupled-dpo")
"""Systems whose planner's scores of all eight strategies are known."""

LOSSES = ("dpo", "ipo", "simpo", "kto", "orpo")

CHAINED: dict[str, dict] = {
    "sft": {"loss": None},
    **{loss: {"loss": loss} for loss in LOSSES},
    "random": {"loss": "dpo", "source": "esc-pro-random"},
    "quarter": {"loss": "dpo", "share": 0.25},
    "half": {"loss": "dpo", "share": 0.5},
    "lora-sft": {"loss": None, "lora": True},
    **{f"lora-{loss}": {"loss": loss, "lora": True} for loss in LOSSES},
}
"""What is trained on ESC-Pro, and how: fine-tuning, five losses, DPO against random rejected turns, DPO on a part of the
trees; and the first six with adapters, where a profile trains all weights otherwise and says how."""

TALLIED = ("vanilla-base", *(f"cso-{name}" for name, how in CHAINED.items() if "lora" not in how))
"""Of CSO's systems those that no research question of DecoupledESC asks for ..."""

TALLIED_LORA = tuple(f"cso-{name}" for name, how in CHAINED.items() if "lora" in how)
"""... and the adapters, which some profiles don't have beside them."""

CSO_SYSTEMS = ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo", *TALLIED, *TALLIED_LORA)

CSO_CONTRASTS = (
    ("cso-dpo", "cso-sft"),
    ("cso-dpo", "cso-random"),
    ("cso-dpo", "vanilla-sft"),
    ("cso-dpo", "vanilla-dpo"),
    ("cso-dpo", "decoupled-sft"),
    ("cso-dpo", "decoupled-dpo"),
    ("cso-sft", "vanilla-base"),
    ("cso-sft", "vanilla-sft"),
    *((f"cso-{name}", "cso-sft") for name in ("ipo", "simpo", "kto", "orpo", "random", "quarter", "half")),
    *((f"cso-lora-{loss}", "cso-lora-sft") for loss in LOSSES),
    ("cso-lora-sft", "vanilla-sft"),
    ("cso-lora-dpo", "vanilla-sft"),
    ("cso-lora-dpo", "cso-dpo"),
)

STRATEGY_TESTED = {"vanilla-sft": "sft-vanilla", **{name: name for name in ("cso-sft", "cso-dpo", "cso-lora-sft", "cso-lora-dpo")}}
"""Systems that are asked at the strategy test set, too -> the stage that trained them."""

CONTRASTS = (
    ("vanilla-dpo", "vanilla-sft"),
    ("decoupled-dpo", "decoupled-sft"),
    ("decoupled-dpo", "vanilla-dpo"),
    ("vanilla-dpo-argmax", "vanilla-sft-argmax"),
    ("decoupled-dpo-argmax", "decoupled-sft-argmax"),
    ("decoupled-dpo-argmax", "vanilla-dpo-argmax"),
    ("decoupled-sft-argmax", "vanilla-sft-argmax"),
    *((f"vanilla-{name}", "vanilla-base") for name in ("direct-refine", "self-refine", "emotion-cot", "with-example")),
    ("vanilla-sft", "vanilla-base"),
    ("decoupled-sft", "decoupled-base"),
    ("decoupled-sft", "vanilla-sft"),
    ("decoupled-base", "vanilla-base"),
    ("vanilla-sft-argmax", "vanilla-sft"),
    ("decoupled-sft-argmax", "decoupled-sft"),
)
"""The differences between systems that are measured, each the first minus the second."""

CONTROLLED_CONTRASTS = (
    *((name, "vanilla-sft") for name in CONTROLLED[1:]), ("vanilla-nsnr", "vanilla-psnr"), ("vanilla-nspr", "vanilla-psnr"),
)  # fmt: skip

ROLES = ("vanilla", "planner", "generator")

EXAMPLE = "esconv/0071"
"""The dialogue whose first four messages the book quotes: ordinary, and without anything that names a person."""


def data(context: Context) -> dict:
    """Counts of ESConv and FailedESConv: Tables 1 and 6, Figure 8, the split, what the data sets have wrong."""
    from collections import Counter

    from decoupled_esc import corpus as corpora
    from decoupled_esc.corpus import statistics

    whole, train, failed = context.corpus, context.corpus.split("train"), context.corpora["failed_esconv"]
    example = next((dialogue for dialogue in train if dialogue.id == EXAMPLE), train[0])
    return {
        "corpus": whole.name,
        "digest": whole.digest,
        "dialogues": {split: len(whole.split(split)) for split in ("train", "validation", "test")},
        "turns": {
            split: statistics.blank_contexts(whole.split(split))[1] for split in ("train", "validation", "test")
        },
        "example": {"id": example.id, "messages": [vars(m) for m in corpora.chat_form(example)[:4]]},
        "blank_turns": {split: statistics.blank_contexts(whole.split(split))[0] for split in ("train", "test")},
        "size": statistics.size(train),
        "strategy_counts": statistics.strategy_counts(train),
        "strategy_by_stage": statistics.strategy_by_stage(train).tolist(),
        "survey": {name: statistics.survey(found.dialogues) for name, found in context.corpora.items()},
        "failed": {
            "corpus": failed.name,
            "dialogues": len(failed.dialogues),
            "strategy_counts": statistics.strategy_counts(failed.dialogues),
        },
        "flaws": {
            name: dict(sorted(Counter(flaw.what for flaw in found.flaws).items()))
            for name, found in context.corpora.items()
        },
    }


def released(context: Context) -> dict:
    """The authors' own outputs: errors that GPT labelled (Figure 2), and their SFT replies scored again (Table 3)."""
    from decoupled_esc.corpus import released as outputs
    from decoupled_esc.evaluate import EvaluatedTurn, errors, evaluate_systems

    name = "decoupledesc_release"
    if name not in context.files:
        return {"missing": f"{name} is not on this machine; get it with: decoupled-esc data fetch {name}"}
    if context.corpus.name != "esconv":
        return {"missing": "the released outputs belong to the real ESConv, and the synthetic miniature stands in for it"}
    found = outputs.read(context.files[name][0].parent, context.corpus.split("test"), context.corpora["failed_esconv"].dialogues)
    replicates, seed = context.profile.bootstrap_replicates, context.profile.seed

    def scored(rows: list, others: list | None = None) -> dict:
        """Scores by source, and the differences from the same replies dealt otherwise."""
        systems: dict[str, list] = {}
        for name, some in (("{}", rows), ("{} at random", others or [])):
            for row in some:
                turn = row.turn
                evaluated = EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, row.strategy, row.reply)
                systems.setdefault(name.format(row.source), []).append(evaluated)
        contrasts = [(name, f"{name} at random") for name in systems if f"{name} at random" in systems]
        return asdict(evaluate_systems(systems, contrasts=contrasts, replicates=replicates, seed=seed))

    replies = [row for row in found if row.source != "failed"]
    by_order = [row for row in replies if not row.unique]
    after_blank = [row for row in by_order if not row.turn.context[-1].text.strip()]
    return {
        "errors": errors.shares(found, replicates=replicates, seed=seed),
        "repeats": errors.repeats(found, replicates=replicates, seed=seed),
        "scores": {
            "all": scored(replies),
            "by words alone": scored([row for row in replies if row.unique]),
            "by order, after a blank message": scored(after_blank),
            "by order, others": scored([row for row in by_order if row.turn.context[-1].text.strip()]),
        },
        "order_against_chance": scored(by_order, outputs.dealt_at_random(by_order, seed)),
    }


def base_model(context: Context) -> dict:
    """The model that every fine-tuning starts from, shipped or published, and how well a shipped one predicts dialogues."""
    from decoupled_esc.corpus import open_text
    from decoupled_esc.train import pretrain

    profile = context.profile
    if profile.backbone.kind == "hub":
        return {"kind": "hub", "name": profile.backbone.name, "revision": profile.backbone.revision}
    _be_repeatable()
    model, tokenizer = _load(context)
    held_out = open_text.from_dialogues(context.corpus.split("validation"))
    return {
        "kind": "embedded",
        "name": profile.backbone.name,
        **_shipped(profile),
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "held_out_dialogues": len(held_out),
        "held_out": pretrain.perplexity(model, tokenizer, held_out, model.config.max_position_embeddings),
    }


def sft(context: Context, role: str) -> dict:
    """The base model fine-tuned as ``vanilla``, one model for strategy and reply (the coupled baseline), as ``planner``
    (DecoupledESC, Eq. 3), or as ``generator`` under the gold strategy (Eq. 4)."""
    from decoupled_esc import corpus, prompts

    layout = _layout(context.profile, role)
    # The paper's generator prompt names the strategy first, and its turns have next to nothing in common.
    unit = "turn" if layout == "generator" else "dialogue"
    return {"layout": layout, **_fine_tuned(context, corpus.turns, prompts.LAYOUTS[layout], unit, getattr(context.profile.sft, role))}


def sft_seeker(context: Context) -> dict:
    """The seeker of the search: what people who sought support said next, or that the talk was over (CSO, appendix A)."""
    from decoupled_esc.search import embedded

    how = context.profile.search.seeker
    if how is None:
        return {"missing": f"profile {context.profile.name} has its seeker played behind a server"}
    return _fine_tuned(context, embedded.seeker_turns, embedded.seeker, "dialogue", how)


def _fine_tuned(context: Context, turns_of, layout, unit: str, how) -> dict:
    """The base model fine-tuned on what ``turns_of`` makes of each training dialogue, in ``layout``."""
    from decoupled_esc import models, train

    profile = context.profile
    _be_repeatable()
    model, tokenizer = _load(context, for_training=True)
    dialogues = context.corpus.split("train")[: profile.data.train_dialogues]
    turns = [turn for dialogue in dialogues for turn in turns_of(dialogue)]
    sequences = train.encode(turns, layout, tokenizer, profile.data.window, unit)
    model, log = _trained(context, None, model, tokenizer, sequences, how)
    context.tokens = log.tokens
    unseen = [turn for dialogue in context.corpus.split("validation") for turn in turns_of(dialogue)]
    held_out = train.encode(unseen, layout, tokenizer, profile.data.window, unit)
    return {
        "held_out_turns": len(unseen),
        "held_out_loss": train.held_out_loss(model, held_out),
        "held_out_tokens": held_out.target_tokens,
        "weights": models.weights_digest(context.folder / "policy"),
        "dialogues": len(dialogues),
        "turns": len(turns),
        "unit": unit,
        "sequences": len(sequences),
        "cut": sequences.cut,
        **asdict(log),
    }


def replies_vanilla(context: Context, adapter: str | None, argmax: bool = False) -> dict:
    """A coupled model on every test turn: drawn, or printing the most probable token each time.

    ``adapter``: the stage that trained it; None is the base model, asked for ``[Strategy] reply``.
    """
    from decoupled_esc import prompts

    if adapter and not (context.folders[adapter] / "policy").exists():
        return {"missing": context.needs[adapter].payload["missing"]}
    engine, turns, sampling = _engine(context, adapter), _test_turns(context), _reply_sampling(context, argmax)
    asked = _fit(context, engine, turns, prompts.vanilla, sampling)
    written = _complete(context, engine, asked, sampling, "replies")
    rows = []
    for turn in turns:
        strategy, reply = prompts.parse_tagged(written[turn.id]["text"])
        rows.append({"id": turn.id, "strategy": strategy, "reply": reply, **_kept(written[turn.id])})
    return _summary(context, rows)


def replies_prompted(context: Context, baseline: str) -> dict:
    """The base model under a prompting baseline on every test turn.

    The baseline's steps are in the stage's folder, the first of them in the result.
    """
    from decoupled_esc import prompts
    from decoupled_esc.generate import baselines

    engine, turns, sampling, steps, read = _engine(context, None), _test_turns(context), _reply_sampling(context, False), {}, {}

    def ask(step: str, layout) -> dict[str, str]:
        asked = _fit(context, engine, turns, layout, sampling)
        read[step] = sum(engine.count(prompt) for prompt in asked)
        steps[step] = _complete(context, engine, asked, sampling, step, draw=len(steps))
        return {id: row["text"] for id, row in steps[step].items()}

    shown = (_example_turn(context),) if baseline == "with_example" else ()
    answers, rows = getattr(baselines, baseline)(ask, *shown), []
    for turn in turns:
        strategy, reply = prompts.parse_tagged(answers[turn.id])
        rows.append({"id": turn.id, "strategy": strategy, "reply": reply, **_kept(steps["refined"][turn.id])})
    return {
        **_summary(context, rows),
        "cost": {step: {"read": read[step], "written": sum(row["tokens"] for row in done.values())} for step, done in steps.items()},
        "transcripts": {turn.id: {step: done[turn.id]["text"] for step, done in steps.items()} for turn in turns[1:4]},
    }


def _example_turn(context: Context):
    """The turn that the baseline *w/ Example* shows."""
    from decoupled_esc import corpus

    train = context.corpus.split("train")
    return corpus.turns(next((dialogue for dialogue in train if dialogue.id == EXAMPLE), train[0]))[1]


def replies_gold(context: Context, adapter: str) -> dict:
    """A generator under the gold strategy, on every test turn (Table 4)."""
    turns = _test_turns(context)
    gold = {turn.id: turn.strategy for turn in turns}
    written = _generated(context, _engine(context, adapter), turns, gold)
    return _summary(context, [{"id": turn.id, "strategy": gold[turn.id], **written[turn.id]} for turn in turns])


def replies_decoupled_argmax(context: Context, drawn: str, generator: str) -> dict:
    """The most probable strategy by the scores that stage ``drawn`` left, and the most probable tokens under it."""
    from decoupled_esc import taxonomy

    scores = {row["id"]: row["scores"] for row in context.needs[drawn].rows}
    turns = _test_turns(context)
    planned = {turn.id: taxonomy.STRATEGIES[max(range(8), key=scores[turn.id].__getitem__)] for turn in turns}
    written = _generated(context, _engine(context, generator), turns, planned, argmax=True)
    return _summary(context, [{"id": turn.id, "strategy": planned[turn.id], **written[turn.id]} for turn in turns])


def replies_decoupled(context: Context, planner: str | None, generator: str | None) -> dict:
    """A planner, and a generator under the planner's strategies, on every test turn; None is the base model."""
    from decoupled_esc import prompts, taxonomy

    turns, sampling = _test_turns(context), context.profile.generation.plan
    engine = _engine(context, planner)
    asked = _fit(context, engine, turns, prompts.planner, sampling)
    plans = _complete(context, engine, asked, sampling, "plans", plans=True)
    scored = context.open_rows("scores")
    for ids, scores in engine.score_choices([p for p in asked if p.id not in scored.by_id], taxonomy.STRATEGIES):
        scored.append({"id": id, "scores": row} for id, row in zip(ids, scores.round(4).tolist(), strict=True))

    planned = {turn.id: prompts.parse_strategy(plans[turn.id]["text"]) for turn in turns}
    written = _generated(context, engine if generator == planner else _engine(context, generator), turns, planned)
    rows = [
        {
            "id": turn.id,
            "strategy": planned[turn.id],
            "plan": plans[turn.id]["text"],
            "scores": scored.by_id[turn.id]["scores"],
            **written[turn.id],
        }
        for turn in turns
    ]
    return _summary(context, rows)


def _generated(context: Context, engine, turns, planned: dict[str, str | None], *, argmax: bool = False) -> dict[str, dict]:
    """By turn id: the reply under its planned strategy, and how long it is."""
    from decoupled_esc import prompts

    layout, sampling = prompts.LAYOUTS[_layout(context.profile, "generator")], _reply_sampling(context, argmax)
    # A plan that names no strategy still needs a reply: it is written under "Others", and the plan counts as invalid.
    under = [replace(turn, strategy=planned[turn.id] or "Others") for turn in turns]
    written = _complete(context, engine, _fit(context, engine, under, layout, sampling), sampling, "replies")
    return {id: {"reply": " ".join(row["text"].split()), **_kept(row)} for id, row in written.items()}


def _reply_sampling(context: Context, argmax: bool):
    sampling = context.profile.generation.reply
    return sampling.model_copy(update={"temperature": 0.0}) if argmax else sampling


def candidates(context: Context, role: str) -> dict:
    """What a fine-tuned model would do at every training turn (IPM, section 4.1), in ``samples/0.jsonl`` and so on, by turn id.

    The planner draws once, as in decoding; the generator, under the gold strategy, and the coupled model several times.
    """
    import hashlib

    from decoupled_esc import prompts

    profile = context.profile
    sampling, draws = (profile.generation.plan, 1) if role == "planner" else (profile.generation.reply, profile.mining.draws)
    engine, turns = _engine(context, f"sft-{role}"), _training_turns(context)
    asked = _fit(context, engine, turns, prompts.LAYOUTS[_layout(profile, role)], sampling)
    found = [_complete(context, engine, asked, sampling, f"samples/{draw}", draw, plans=role == "planner") for draw in range(draws)]
    context.tokens = sum(row["tokens"] for rows in found for row in rows.values())
    said = hashlib.sha256()
    for rows in found:
        for turn in turns:
            said.update(f"{turn.id}\t{rows[turn.id]['text']}\n".encode())
    return {"turns": len(turns), "draws": draws, "digest": said.hexdigest()[:16]}


def mine(context: Context) -> dict:
    """Preference pairs from the candidates (IPM-PrefDial), written by id, and what they are made of."""
    from collections import Counter

    import numpy as np

    from decoupled_esc import mining, prompts, taxonomy
    from decoupled_esc.corpus.empathy import MECHANISMS
    from decoupled_esc.evaluate import offline
    from decoupled_esc.evaluate.judged import Means

    turns, by_id = _training_turns(context), {turn.id: turn for turn in _training_turns(context)}
    plans = [{id: prompts.parse_strategy(text) for id, text in draw.items()} for draw in _samples(context, "planner")]
    replies = [{id: " ".join(text.split()) for id, text in draw.items()} for draw in _samples(context, "generator")]
    coupled = [{id: prompts.parse_tagged(text) for id, text in draw.items()} for draw in _samples(context, "vanilla")]
    judge, label = _error_judge(context)
    under_gold = [{id: (by_id[id].strategy, reply) for id, reply in draw.items()} for draw in replies]
    seen = {"generator": [label(turns, draw) for draw in under_gold], "vanilla": [label(turns, draw) for draw in coupled]}
    found, left = {}, {}
    found["strategy"], left["strategy"] = mining.strategy_pairs(turns, plans)
    found["response"], left["response"] = mining.response_pairs(turns, replies, seen["generator"])
    found["vanilla"], left["vanilla"] = mining.vanilla_pairs(turns, coupled, seen["vanilla"])
    sampling = context.profile.generation.reply
    said = {"judge": judge, "temperature": sampling.temperature, "top_p": sampling.top_p}
    for kind, mined in found.items():
        mining.write(context.folder / f"{kind}.jsonl", mined, **(said if kind != "strategy" else {**said, "judge": None}))
    (context.folder / "README.md").write_text(_card(context, judge, found), encoding="utf-8")

    rated, quality = _empathy_ratings(context), None
    if not isinstance(rated, str) and found["response"]:
        scale = offline.EmpathyScale().fit(rated)
        sides = [scale.levels(texts) for texts in zip(*[(by_id[p.turn].reply, p.reply) for p in found["response"]], strict=True)]
        values = {name: np.hstack([side, side.sum(axis=1, keepdims=True)]) for name, side in zip(("chosen", "rejected"), sides, strict=True)}
        means = Means([by_id[p.turn].dialogue for p in found["response"]], **_resampling(context))
        quality = means.table(values, [*MECHANISMS, "all three"], [("chosen", "rejected")])
    counted = {role: [Counter(rejected for _, rejected in draw.values()) for draw in draws] for role, draws in seen.items()}
    chosen = Counter(gold for gold, _ in seen["generator"][0].values())
    return {
        "judge": judge,
        "turns": len(turns),
        "draws": {"planner": len(plans), "generator": len(replies), "vanilla": len(coupled)},
        "pairs": {kind: len(mined) for kind, mined in found.items()},
        "digests": {kind: _file_digest(context.folder / f"{kind}.jsonl") for kind in found},
        "left": {kind: dict(counts.most_common()) for kind, counts in left.items()},
        "errors": {kind: dict(Counter(p.error for p in found[kind])) for kind in ("response", "vanilla")},
        "quadrants": dict(Counter(p.quadrant for p in found["vanilla"])),
        "characters": {
            "chosen": _mean([len(by_id[p.turn].reply) for p in found["response"]]),
            "rejected": _mean([len(p.reply) for p in found["response"]]),
        },
        "strategies": {
            kind: {
                "chosen": [sum(by_id[p.turn].strategy == s for p in mined) for s in taxonomy.STRATEGIES],
                "rejected": [sum(p.strategy == s for p in mined) for s in taxonomy.STRATEGIES],
            }
            for kind, mined in found.items()
        },
        "candidates": {
            "gold": dict(chosen),
            **{role: dict(sum(counts, Counter())) for role, counts in counted.items()},
        },
        "agree": {"planner": 100 * _mean([plans[0][t.id] == t.strategy for t in turns]),
                  "vanilla": 100 * _mean([coupled[0][t.id][0] == t.strategy for t in turns])},
        "empathy": quality,
        "examples": _examples(found, by_id),
    }  # fmt: skip


def _samples(context: Context, role: str) -> list[dict[str, str]]:
    """Draw by draw: turn id -> what was printed."""
    import json

    folder = context.folders[f"candidates-{role}"] / "samples"
    found = []
    for draw in range(context.needs[f"candidates-{role}"].payload["draws"]):
        rows = [json.loads(line) for line in (folder / f"{draw}.jsonl").read_bytes().splitlines()]
        found.append({row["id"]: row["text"] for row in rows})
    return found


def _error_judge(context: Context):
    """(id of the profile's error judge, turns and {turn id: (strategy, reply)} -> {turn id: (gold's label, the reply's)})."""
    from decoupled_esc.corpus import CorpusError
    from decoupled_esc.evaluate import judges, offline
    from decoupled_esc.evaluate.judged import Reply
    from decoupled_esc.generate.client import Client
    from decoupled_esc.generate.record import Record

    def both(turns, drawn) -> list:
        return [
            (Reply(f"gold/{t.id}", t, t.strategy, t.reply), Reply(f"drawn/{t.id}", t, drawn[t.id][0], drawn[t.id][1])) for t in turns
        ]

    if context.profile.judge is not None:
        how = context.profile.judge
        judge = judges.LLMJudge(Client(how.endpoints[0], Record(context.answers), how.mode), how.protocol)

        def asked(turns, drawn):
            return dict(zip([t.id for t in turns], judge.labels_of_pairs(both(turns, drawn)), strict=True))

        return judge.id, asked
    labels = _error_labels(context)
    if isinstance(labels, str):
        raise CorpusError(labels, remedy="or give the profile a judge section")
    replies, names, sources, _ = labels
    classifier = offline.ErrorClassifier().fit(replies, names)

    def classified(turns, drawn):
        gold, said = zip(*both(turns, drawn), strict=True)
        return dict(zip([t.id for t in turns], zip(classifier.errors(gold), classifier.errors(said), strict=True), strict=True))

    return classifier.id + " on invented labels" * (set(sources) == {"invented"}), classified


def _examples(found: dict, by_id: dict) -> list[dict]:
    """For each error the pair with the fewest words in all, of those that have some on every side (Figures 11-14)."""
    def words(pair) -> int:
        return len(f"{by_id[pair.turn].context[-1].text} {by_id[pair.turn].reply} {pair.reply or ''}".split())

    def telling(pair) -> bool:
        texts = (by_id[pair.turn].context[-1].text, by_id[pair.turn].reply, pair.reply or "")
        return all(8 <= len(text.split()) <= 25 for text in texts)

    examples = []
    for error in ("Strategy Mismatch", "Lack of Empathy", "Early Emotion Shift", "Template Response"):
        kind = "vanilla" if error == "Strategy Mismatch" else "response"
        fitting = [p for p in found[kind] if p.error == error and telling(p) and (kind == "response" or p.strategy != by_id[p.turn].strategy)]
        if fitting:
            pair = min(fitting, key=lambda p: (words(p), p.id))
            turn = by_id[pair.turn]
            examples.append({"id": pair.id, "error": error, "seeker": turn.context[-1].text, "chosen_strategy": turn.strategy,
                             "chosen": turn.reply, "rejected_strategy": pair.strategy, "rejected": pair.reply})  # fmt: skip
    return examples


def _card(context: Context, judge: str, found: dict) -> str:
    """The data card of the mined pairs, beside them."""
    reply, plan = context.profile.generation.reply, context.profile.generation.plan
    counts = "\n".join(f"* `{kind}.jsonl`: {len(mined):,} pairs" for kind, mined in found.items())
    return f"""# Preference pairs mined under profile {context.profile.name}

{counts}

**Made by** drawing from models fine-tuned on ESConv's training dialogues (base: {context.profile.backbone.name}) at every training
turn: strategies at temperature {plan.temperature}, top-p {plan.top_p}; replies at {reply.temperature}, {reply.top_p}; seed {context.profile.seed}. Rejected is
what the model drew; chosen is what a person did at that turn. Errors were judged by: {judge}.

**A row** has `id` (turn and draw), `turn`, `kind`, the rejected `strategy` and `reply`, the judge's labels `error` (rejected) and
`chosen_error`, for vanilla pairs the `quadrant` (P or N: positive or negative; s, r: strategy, response), and `judge`, `temperature`, `top_p`.
The chosen side is not copied: it stands in ESConv at `turn`, and `decoupled_esc.mining.with_text` joins the two.
`datasets.load_dataset("json", data_files="response.jsonl")` reads the file as it is.

**For** studying preference optimisation. Rejected replies are a small model's and can be wrong or hurtful; chosen ones are
unreviewed. Nothing here is counselling, nor fit for training a system that people in distress would talk to.
ESConv is under CC BY-NC 4.0; treat what is derived from it alike.
"""


def _mean(values: list) -> float:
    return sum(values) / len(values) if values else 0.0


def _file_digest(path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def prefer(context: Context, role: str, loss: str | None = None, quadrant: str | None = None) -> dict:
    """A fine-tuned model taught to prefer what a person did to its own mistake: SP-DPO (Eq. 5), RG-DPO (Eq. 6) or Vanilla-DPO.

    ``loss`` takes another's place; ``quadrant`` leaves the coupled model the pairs of one kind alone (Observation 2).
    """
    from decoupled_esc import corpus, mining, models, prompts, train
    from decoupled_esc.train.divergence import divergence

    profile, how = context.profile, getattr(context.profile.preference, role)
    training, preference = how.training, how.loss
    if loss is not None:
        other = profile.preference.alternatives[loss]
        training, preference = training.model_copy(update={"learning_rate": other.learning_rate}), other.loss
    _be_repeatable()
    by_id = {turn.id: turn for turn in _training_turns(context)}
    kind = {"planner": "strategy", "generator": "response", "vanilla": "vanilla"}[role]
    mined = mining.read(context.folders["pairs"] / f"{kind}.jsonl")
    if quadrant is not None:
        mined = _of_one_kind(mined, quadrant, profile.seed)
    layout, unit = prompts.LAYOUTS[_layout(profile, role)], "turn" if _layout(profile, role) == "generator" else "dialogue"
    if not mined:
        return _nothing_to_learn(context, role, preference)
    model, tokenizer = _load(context, f"sft-{role}", for_training=True)
    sequences = train.encode_pairs(
        [train.Pair(pair.id, by_id[pair.turn], pair.rejected) for pair in mined], layout, tokenizer, profile.data.window, unit,
        mismatched=profile.seed if preference.loss == "kto" else None,
    )  # fmt: skip
    reference = None
    if preference.has_reference:
        weights = models.weights_digest(context.folders[f"sft-{role}"] / "policy")
        reference = train.reference_logps(model, sequences, weights, context.folder, training.precision)
    model, log = _trained(context, f"sft-{role}", model, tokenizer, sequences, training, preference=preference, reference=reference)
    context.tokens = log.tokens
    unseen = [turn for dialogue in context.corpus.split("validation") for turn in corpus.turns(dialogue)]
    held_out = train.encode(unseen, layout, tokenizer, profile.data.window, unit)
    before, _ = _load(context, f"sft-{role}")
    return {
        "loss": preference.model_dump(),
        "pairs": len(mined),
        "sequences": len(sequences),
        "cut": sequences.cut,
        "held_out_loss": train.held_out_loss(model, held_out),
        "held_out_loss_before": train.held_out_loss(before, held_out),
        "divergence": divergence(model, before, held_out),
        "weights": models.weights_digest(context.folder / "policy"),
        **asdict(log),
    }


def _nothing_to_learn(context: Context, role: str, preference) -> dict:
    """Without a single pair, as can happen on very little data, the policy stays the fine-tuned one."""
    import shutil

    from decoupled_esc import models

    shutil.copytree(context.folders[f"sft-{role}"] / "policy", context.folder / "policy", dirs_exist_ok=True)
    loss = context.needs[f"sft-{role}"].payload["held_out_loss"]
    nothing = dict.fromkeys(("pairs", "sequences", "cut", "tokens", "tokens_apart", "target_tokens", "trainable", "parameters"), 0)
    return {
        **nothing, "loss": preference.model_dump(), "held_out_loss": loss, "held_out_loss_before": loss, "divergence": 0.0,
        "weights": models.weights_digest(context.folder / "policy"), "steps": [],
    }  # fmt: skip


def _of_one_kind(mined: list, quadrant: str, seed: int) -> list:
    """The vanilla pairs of one quadrant, as many as the smallest quadrant has, so that only their kind differs."""
    import random
    from collections import Counter

    own = [pair for pair in mined if pair.quadrant == quadrant]
    most = min(Counter(pair.quadrant for pair in mined).values(), default=0)
    kept = set(random.Random(seed).sample(range(len(own)), min(most, len(own))))
    return [pair for number, pair in enumerate(own) if number in kept]


def metrics(context: Context, systems: tuple[str, ...], contrasts: tuple[tuple[str, str], ...]) -> dict:
    """Every automatic and strategy metric of ``systems``, both variants, with intervals and paired differences."""
    from decoupled_esc.evaluate import evaluate_systems

    found = {name: _evaluated(context, f"replies-{name}") for name in systems}
    return asdict(evaluate_systems(found, contrasts=contrasts, **_resampling(context)))


def _evaluated(context: Context, need: str) -> list:
    from decoupled_esc.evaluate import EvaluatedTurn

    gold = {turn.id: turn for turn in _test_turns(context)}

    def evaluated(row: dict) -> EvaluatedTurn:
        turn = gold[row["id"]]
        return EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, row["strategy"], row["reply"])

    return [evaluated(row) for row in context.needs[need].rows]


def grow_trees(context: Context) -> dict:
    """A search tree for each seed dialogue (CSO, section 3.1); its log in ``logs/``, the tree as a row."""
    import asyncio

    from decoupled_esc.search.export import exported, summary
    from decoupled_esc.search.grow import growing

    how, seeds, trees = context.profile.search, _seeds(context), _trees(context)
    logs = {name: context.open_rows(f"logs/{name.replace('/', '-')}") for name in trees}
    if how.roles is None:
        paid = _reward(context)
        if isinstance(paid, str):
            return {"missing": paid}
        asyncio.run(growing(trees, _embedded_roles(context, paid), logs))
    else:
        asyncio.run(_served(context, {dialogue.id: dialogue.situation for dialogue in seeds}, trees, logs))
    context.rows = tuple(exported(tree, name) for name, tree in trees.items())
    return {
        "seeds": len(seeds),
        "trees": {name: summary(tree) for name, tree in trees.items()},
        "finished": _counted(tree.finished for tree in trees.values()),
        "failures": _counted(why for tree in trees.values() for _, why in tree.failures),
        "tasks": _counted(_kind(row) for log in logs.values() for row in log.by_id.values()),
        "roles": "models of this profile" if how.roles is None else {kind: endpoint.model for kind, endpoint in how.roles.items()},
        "constants": how.constants.model_dump(),
    }


def _seeds(context: Context) -> list:
    """The gold dialogues that trees are grown around: drawn from the training split, of those that are not too long."""
    import random

    from decoupled_esc import corpus

    how = context.profile.search
    dialogues = context.corpus.split("train")[: context.profile.data.train_dialogues]
    short = [dialogue for dialogue in dialogues if 2 <= len(corpus.turns(dialogue)) <= how.longest_gold]
    chosen = set(random.Random(context.profile.seed).sample(range(len(short)), min(how.dialogues, len(short))))
    return [dialogue for number, dialogue in enumerate(short) if number in chosen]


def _trees(context: Context) -> dict:
    from decoupled_esc import corpus, taxonomy
    from decoupled_esc.search.tree import Tree

    constants = context.profile.search.constants
    return {dialogue.id: Tree(corpus.chat_form(dialogue), taxonomy.STRATEGIES, constants) for dialogue in _seeds(context)}


def _counted(names) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(names).most_common())


def _kind(row: dict) -> str:
    """What was asked, by the form of the answer in a log."""
    kinds = {"failed": "failed", "reply": "supporter", "seeker": "seeker", "quality": "reward", "scores": "strategies"}
    return next(kind for key, kind in kinds.items() if key in row)


def _reward(context: Context):
    """A function of turns that gives each its `Quality`, by the offline judges; or why there is none (a sentence)."""
    from decoupled_esc.search.tree import Quality

    ranks = _among_people(context)
    if isinstance(ranks, str):
        return ranks

    def paid(turns: list) -> list:
        from decoupled_esc.evaluate.judged import Reply

        found = ranks.scores([Reply(turn.id, turn, turn.strategy, turn.reply) for turn in turns])
        return [Quality(round(warmth, 3), None, None, round(fit, 3)) for warmth, fit in found]

    return paid


def _among_people(context: Context):
    """The offline judges, whose scores are places among people's turns of the training split; or why there are none."""
    import random

    from decoupled_esc.evaluate import offline, ranks
    from decoupled_esc.evaluate.judged import Reply

    labels, rated = _error_labels(context), _empathy_ratings(context)
    for missing in (labels, rated):
        if isinstance(missing, str):
            return missing
    turns = _training_turns(context)
    people = random.Random(context.profile.seed).sample(turns, min(4000, len(turns)))
    classifier, scale = offline.ErrorClassifier().fit(labels[0], labels[1]), offline.EmpathyScale().fit(rated)
    return ranks.AmongPeople(classifier, scale, [Reply(turn.id, turn, turn.strategy, turn.reply) for turn in people])


def _embedded_roles(context: Context, paid):
    from decoupled_esc import prompts, taxonomy
    from decoupled_esc.search import embedded

    profile = context.profile
    return embedded.roles(
        supporter=_engine(context, "sft-generator"),
        planner=_engine(context, "sft-planner"),
        seeker_model=_engine(context, "sft-seeker"),
        reward=paid,
        generator_layout=prompts.LAYOUTS[_layout(profile, "generator")],
        strategies=taxonomy.STRATEGIES,
        sampling=profile.generation.reply,
        window=profile.data.window,
        seed=profile.seed,
    )


async def _served(context: Context, situations: dict[str, str], trees: dict, logs: dict) -> None:
    """Grow ``trees`` by the servers of the profile; roles at one endpoint share its budget."""
    from contextlib import AsyncExitStack

    from decoupled_esc import taxonomy
    from decoupled_esc.generate.client import Client
    from decoupled_esc.generate.record import Record
    from decoupled_esc.search.grow import growing
    from decoupled_esc.search.roles import ServedRoles

    served = context.profile.search.roles
    async with AsyncExitStack() as stack:
        functions = {}
        for endpoint in dict.fromkeys(served.values()):
            functions[endpoint] = await stack.enter_async_context(Client(endpoint, Record(context.answers)).session())
        asked = {kind: functions[endpoint] for kind, endpoint in served.items()}
        await growing(trees, ServedRoles(asked, situations, {s.name: s.meaning for s in taxonomy.ESCONV}), logs)


def esc_pro(context: Context) -> dict:
    """Preferred turns and what is rejected for them, from the grown trees (CSO, section 3.2); pairs in ``pairs.jsonl``."""
    import numpy as np

    from decoupled_esc import corpus, taxonomy
    from decoupled_esc.evaluate.judged import Means, Reply
    from decoupled_esc.search import escpro, pairs
    from decoupled_esc.search.grow import replay

    how = context.profile.search
    if "missing" in context.needs["search"].payload:
        escpro.write(context.folder / "pairs.jsonl", [])
        escpro.write_turns(context.folder / "sft.jsonl", [])
        return {"missing": context.needs["search"].payload["missing"]}
    trees = _trees(context)
    for name, tree in trees.items():
        replay(name, tree, _Log(context.folders["search"] / "logs" / f"{name.replace('/', '-')}.jsonl"))
    found = {
        condition: [path for name, tree in trees.items() for path in pairs.dialogues(tree, name, condition, how.threshold)]
        for condition in ("paper", "released")
    }
    used = found["released"]
    distinct = pairs.distinct(used)
    own = escpro.pairs(distinct)
    escpro.write(context.folder / "pairs.jsonl", own)
    escpro.write_turns(context.folder / "sft.jsonl", [one.turn for one in distinct])
    judged_by, quality = _among_people(context), None
    if own and not isinstance(judged_by, str):
        sides = (
            [Reply(f"p/{pair.id}", pair.turn, pair.turn.strategy, pair.turn.reply) for pair in own],
            [Reply(f"r/{pair.id}", pair.turn, pair.strategy, pair.reply) for pair in own],
        )
        values = {side: np.array(judged_by.scores(replies)) for side, replies in zip(("preferred", "rejected"), sides, strict=True)}
        means = Means([pair.turn.dialogue for pair in own], **_resampling(context))
        quality = means.table(values, ["empathy", "strategy"], [("preferred", "rejected")])
    seeds = _seeds(context)
    return {
        "seeds": _seed_counts(seeds),
        "statistics": {condition: pairs.statistics(paths) for condition, paths in found.items()},
        "pairs": len(own),
        "digest": _file_digest(context.folder / "pairs.jsonl"),
        "by_stage": {
            "seeds": _strategies_by_stage([[turn.strategy for turn in corpus.turns(dialogue)] for dialogue in seeds]),
            "preferred": _strategies_by_stage([[one.turn.strategy for one in path] for path in used]),
        },
        "strategies": {
            side: [sum(name == strategy for name in names) for strategy in taxonomy.STRATEGIES]
            for side, names in (("preferred", [one.turn.strategy for one in distinct]), ("rejected", [pair.strategy for pair in own]))
        },
        "quality": quality,
        "toxicity": _toxicity(context, seeds, used),
        "examples": [
            {"id": pair.id, "preferred_strategy": pair.turn.strategy, "preferred": pair.turn.reply, "rejected_strategy": pair.strategy,
             "rejected": pair.reply}
            for pair in own if not _of_people(distinct, pair.turn.id)
        ][:5],
    }  # fmt: skip


class _Log:
    """A finished log, only read."""

    def __init__(self, path):
        import json

        self.by_id = {row["id"]: row for row in map(json.loads, path.read_bytes().splitlines())}


def _of_people(distinct: list, id: str) -> bool:
    return any(one.gold for one in distinct if one.turn.id == id)


def _seed_counts(seeds: list) -> dict:
    """Table 5's counts of the seed dialogues, in chat form."""
    from decoupled_esc import corpus

    said = [message.text for dialogue in seeds for message in corpus.chat_form(dialogue)]
    return {
        "dialogues": len(seeds),
        "utterances": len(said),
        "length": len(said) / len(seeds) if seeds else None,
        "words": _mean([len(text.split()) for text in said]),
    }


def _strategies_by_stage(dialogues: list[list[str]]) -> list[list[int]]:
    """Counts [6 stages, 8 strategies] of supporters' turns (CSO, Figures 3 and 9)."""
    from decoupled_esc import taxonomy

    counts = [[0] * len(taxonomy.STRATEGIES) for _ in range(taxonomy.STAGES)]
    for names in dialogues:
        for place, name in enumerate(names):
            counts[taxonomy.stage(place, len(names))][taxonomy.STRATEGIES.index(name)] += 1
    return counts


def _toxicity(context: Context, seeds: list, paths: list) -> dict:
    """Mean probability of profanity by side (CSO, Table 7, by another classifier), with intervals by seed dialogue."""
    import numpy as np
    from profanity_check import predict_prob

    from decoupled_esc import corpus
    from decoupled_esc.evaluate.judged import Means

    said: dict[str, list[tuple[str, str]]] = {
        f"seeds/{role}": [(d.id, m.text) for d in seeds for m in corpus.chat_form(d) if m.role == role] for role in ("seeker", "supporter")
    }
    turns = [one for path in paths for one in path]
    said["esc-pro/seeker"] = [(one.turn.dialogue, one.turn.context[-1].text) for one in turns]
    said["esc-pro/preferred"] = [(one.turn.dialogue, one.turn.reply) for one in turns]
    said["esc-pro/rejected"] = [(one.turn.dialogue, other.reply) for one in turns for other in one.rejected]
    said["seeds"] = said["seeds/seeker"] + said["seeds/supporter"]
    said["esc-pro"] = said["esc-pro/seeker"] + said["esc-pro/preferred"] + said["esc-pro/rejected"]
    return {
        part: Means([where for where, _ in lines], **_resampling(context)).of(np.asarray(predict_prob([text for _, text in lines])))
        for part, lines in said.items() if lines
    }


def esc_pro_random(context: Context) -> dict:
    """ESC-Pro-Random: each turn of ESC-Pro's pairs against a reply under another strategy, drawn at random (CSO, section 5.3)."""
    from decoupled_esc import taxonomy
    from decoupled_esc.search import escpro, pairs

    turns = escpro.turns_of(escpro.read(context.folders["esc-pro"] / "pairs.jsonl"))
    others = [replace(turn, strategy=strategy) for turn, strategy in zip(turns, pairs.other_strategies(turns, taxonomy.STRATEGIES, context.profile.seed), strict=True)]
    written = _generated(context, _engine(context, "sft-generator"), others, {turn.id: turn.strategy for turn in others}) if others else {}
    found = [escpro.ProPair(f"{turn.id}#random", turn, other.strategy, written[turn.id]["reply"]) for turn, other in zip(turns, others, strict=True)]
    found = [pair for pair in found if pair.reply]
    escpro.write(context.folder / "pairs.jsonl", found)
    return {"pairs": len(found), "digest": _file_digest(context.folder / "pairs.jsonl")}


def chain(context: Context, loss: str | None, source: str = "esc-pro", share: float = 1.0, lora: bool = False) -> dict:
    """The coupled model taught to prefer the turns that the search preferred (CSO, Eq. 7 to 9).

    ``loss`` None fine-tunes on the preferred turns (ESC-Pro-SFT); ``source`` esc-pro-random has random rejected turns
    (section 5.3); ``share`` of the trees (Figure 4); ``lora`` trains an adapter on what others train whole.
    """
    from decoupled_esc import corpus, models, prompts, train
    from decoupled_esc.search import escpro
    from decoupled_esc.train.divergence import divergence

    profile, how = context.profile, context.profile.cso.lora if lora else context.profile.cso
    if how is None:
        return {"missing": f"profile {profile.name} has one tuning for CSO, and no section cso.lora"}
    _be_repeatable()
    start = profile.cso.start if profile.cso.start != "base-model" else None
    found = escpro.some(escpro.read(context.folders[source] / "pairs.jsonl"), share)
    turns = escpro.turns_of(found) if loss else escpro.read_turns(context.folders[source] / "sft.jsonl")
    counts = {"pairs": len(found) if loss else 0, "turns": len(turns), "trees": len({turn.dialogue for turn in turns})}
    if counts["turns"] < 2:
        return counts | _as_before(context, start)
    model, tokenizer = _load(context, start, for_training=True)
    window, preference, reference = profile.data.window, None, None
    if loss is None:
        sequences = train.encode(turns, prompts.vanilla, tokenizer, window)
        training = how.sft
    else:
        preference, training = how.losses[loss].loss, how.training.model_copy(update={"learning_rate": how.losses[loss].learning_rate})
        chained = [train.Pair(pair.id, pair.turn, pair.rejected) for pair in found]
        sequences = train.encode_pairs(chained, prompts.vanilla, tokenizer, window, mismatched=profile.seed if loss == "kto" else None)
        if preference.has_reference:
            weights = models.weights_digest(context.folders[start] / "policy") if start else profile.backbone.name
            reference = train.reference_logps(model, sequences, weights, context.folder, training.precision)
    model, log = _trained(context, start, model, tokenizer, sequences, training, preference=preference, reference=reference)
    context.tokens = log.tokens
    unseen = [turn for dialogue in context.corpus.split("validation")[: profile.data.test_dialogues or 40] for turn in corpus.turns(dialogue)]
    held_out = train.encode(unseen, prompts.vanilla, tokenizer, window)
    before, _ = _load(context, start)
    return {
        **counts,
        "loss": preference.model_dump() if preference else {"loss": "sft"},
        "learning_rate": training.learning_rate,
        "held_out_loss": train.held_out_loss(model, held_out),
        "held_out_loss_before": train.held_out_loss(before, held_out),
        "divergence": divergence(model, before, held_out),
        "weights": models.weights_digest(context.folder / "policy"),
        **asdict(log),
    }


def _as_before(context: Context, start: str | None) -> dict:
    """Without two turns to learn from, as can happen on very little data, the policy stays what it started as."""
    import shutil

    from decoupled_esc import models

    if start:
        shutil.copytree(context.folders[start] / "policy", context.folder / "policy", dirs_exist_ok=True)
    else:
        model, tokenizer = _load(context)
        for kept in (model, tokenizer):
            kept.save_pretrained(context.folder / "policy")
    return {"missing": "the search left too few pairs to learn from", "weights": models.weights_digest(context.folder / "policy")}


def tallies(context: Context, systems: tuple[str, ...]) -> dict:
    """What ``systems`` did at the test turns under one seed, in the few kilobytes that scores over seeds need."""
    from decoupled_esc.evaluate import seeds

    made = [name for name in systems if "missing" not in context.needs[f"replies-{name}"].payload]
    context.rows = tuple({"id": name, **seeds.record(_evaluated(context, f"replies-{name}"))} for name in made)
    return {"systems": made, "turns": len(_test_turns(context))}


def strategy_test(context: Context, policies: dict[str, str]) -> dict:
    """What coupled models say at the strategy test set of `corpus.windows`, drawn as at the test turns; a row a system, as `tallies` has.

    ``policies``: system -> the stage that trained it.
    """
    from collections import Counter

    from decoupled_esc import prompts
    from decoupled_esc.evaluate import EvaluatedTurn, seeds

    turns, sampling, rows, counts = _windows(context), _reply_sampling(context, False), [], {}
    for system, policy in policies.items():
        if not (context.folders[policy] / "policy").exists():
            continue
        engine = _engine(context, policy)
        written = _complete(context, engine, _fit(context, engine, turns, prompts.vanilla, sampling), sampling, system)
        engine = None
        context.open.close()  # a server that holds this policy: the next one needs its place
        context.servers.clear()
        answers = {turn.id: prompts.parse_tagged(written[turn.id]["text"]) for turn in turns}
        found = [EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, *answers[turn.id]) for turn in turns]
        rows.append({"id": system, **seeds.record(found)})
        counts[system] = {"invalid": sum(strategy is None for strategy, _ in answers.values()), "tokens": sum(row["tokens"] for row in written.values())}
    context.rows, context.tokens = tuple(rows), sum(count["tokens"] for count in counts.values())
    return {"windows": len(turns), "strategies": dict(Counter(turn.strategy for turn in turns)), "systems": counts}


def _windows(context: Context) -> list:
    from decoupled_esc.corpus import windows

    return windows.strategy_test(context.corpus.split("test")[: context.profile.data.test_dialogues])


def over_seeds(context: Context, systems: tuple[str, ...], contrasts: tuple[tuple[str, str], ...], windows: bool = False) -> dict:
    """Scores of ``systems`` and their differences averaged over all seeds, and the differences under each, by the tallies.

    ``windows``: they are of the strategy test set, not of the test turns.
    """
    from decoupled_esc.evaluate.seeds import evaluate_seeds

    by_seed: dict[int, dict] = {seed: {} for seed in (context.profile.seed, *context.profile.more_seeds)}
    for need, result in context.needs.items():
        seed = int(need.partition("@")[2] or context.profile.seed)
        by_seed[seed] |= {row["id"]: row for row in result.rows if row["id"] in systems}
    made = set.intersection(*map(set, by_seed.values()))
    contrasts = [pair for pair in contrasts if made.issuperset(pair)]
    turns = _windows(context) if windows else _test_turns(context)
    together, single = evaluate_seeds(turns, by_seed, contrasts=contrasts, **_resampling(context))
    return {"seeds": list(by_seed), "together": asdict(together), "by_seed": {str(seed): values for seed, values in single.items()}}


def decoding(context: Context) -> dict:
    """Strategy scores of every planner from argmax to high temperatures, and its calibration (chapter 14)."""
    import numpy as np

    from decoupled_esc.evaluate import decoding as curves
    from decoupled_esc.generate import baselines

    turns, train = _test_turns(context), _training_turns(context)
    planners = {"word planner": baselines.word_planner(train, turns), "gold frequencies": baselines.frequency_planner(train, turns)}
    for name in PLANNERS:
        scores = {row["id"]: row["scores"] for row in context.needs[f"replies-{name}"].rows}
        planners[name] = np.array([scores[turn.id] for turn in turns])
    gold, dialogues = [turn.strategy for turn in turns], [turn.dialogue for turn in turns]
    resampling = {**_resampling(context), "replicates": min(500, context.profile.bootstrap_replicates)}
    return {
        "turns": len(turns),
        "sweeps": {name: curves.sweep(scores, gold, dialogues, draws=10, **resampling) for name, scores in planners.items()},
        "calibration": {name: curves.calibration(scores, gold) for name, scores in planners.items()},
    }


def error_classifier(context: Context) -> dict:
    """What the offline error classifier is worth against the labels that it learns from."""
    from decoupled_esc.evaluate import offline

    found = _error_labels(context)
    if isinstance(found, str):
        return {"missing": found}
    replies, labels, sources, sure = found
    if set(sources) == {"invented"}:
        return {"missing": "the labels are invented ones of this project, and a classifier trained on them is worth nothing"}
    return offline.error_validity(replies, labels, sources, sure, **_resampling(context))


def empathy_scale(context: Context) -> dict:
    """What the offline empathy scale is worth: on other posts, and against the ratings of ESConv's own seekers."""
    from decoupled_esc.evaluate import offline

    rated = _empathy_ratings(context)
    if isinstance(rated, str):
        return {"missing": rated}
    if rated[0].post.startswith("invented"):
        return {"missing": "the ratings are invented ones of this project, and a scale trained on them is worth nothing"}
    people = {name: found.dialogues for name, found in context.corpora.items()}
    scale = offline.EmpathyScale().fit(rated)
    return {
        "posts": offline.empathy_validity(rated, **_resampling(context)),
        "seekers": offline.against_seekers(scale, people, **_resampling(context)),
    }


def judged_offline(context: Context) -> dict:
    """Every system's replies, and the gold ones, by the offline judges: shares of errors, levels of empathy."""
    import numpy as np

    from decoupled_esc.corpus.empathy import MECHANISMS
    from decoupled_esc.evaluate import errors, offline
    from decoupled_esc.evaluate.judged import Means, Reply

    labels, rated, turns = _error_labels(context), _empathy_ratings(context), _test_turns(context)
    systems = {"gold": [Reply(f"gold/{turn.id}", turn, turn.strategy, turn.reply) for turn in turns]}
    systems |= {name: _replies(context, name, turns) for name in JUDGED}
    dialogues = [turn.dialogue for turn in turns]
    flat = [reply for written in systems.values() for reply in written]

    def split(values: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(systems, np.split(values, len(systems)), strict=True))

    means = Means(dialogues, **_resampling(context))
    contrasts = [*_between(JUDGED), *((name, "gold") for name in JUDGED)]
    found: dict = {"turns": len(turns), "errors": {"missing": labels}, "empathy": {"missing": rated}}
    if not isinstance(labels, str):
        probable, learned = _error_shares(context, labels, flat)
        found["errors"] = {"learned_from": learned, **means.table(split(probable), errors.LABELS, contrasts)}
    if not isinstance(rated, str):
        levels = offline.EmpathyScale().fit(rated).levels([reply.text for reply in flat])
        total = np.hstack([levels, levels.sum(axis=1, keepdims=True)])
        invented = rated[0].post.startswith("invented")
        learned = f"{len(rated):,} {'INVENTED ratings' if invented else 'ratings by people'}"
        found["empathy"] = {"learned_from": learned, **means.table(split(total), [*MECHANISMS, "all three"], contrasts)}
    return found


def _error_shares(context: Context, labels: tuple, written: list):
    """(how probable each error is in each reply, float [replies, 6] in per cent; what the classifier learned from)."""
    from decoupled_esc.evaluate import offline

    replies, names, sources, _ = labels
    # A turn's own dialogue is kept out of what judges it: GPT's labels of other replies to it would give it away.
    own, asked = ([reply.turn.dialogue for reply in of] for of in (replies, written))
    probable = offline.out_of_fold(replies, names, own, written, asked, seed=context.profile.seed)
    return 100 * probable, f"{len(replies):,} {'INVENTED labels' if set(sources) == {'invented'} else 'labels by GPT'}"


def tallies_errors(context: Context, systems: tuple[str, ...]) -> dict:
    """The offline classifier's shares of errors in the replies of ``systems`` under one seed, summed by dialogue."""
    import numpy as np

    labels, turns = _error_labels(context), _test_turns(context)
    if isinstance(labels, str):
        return {"missing": labels}
    probable, learned = _error_shares(context, labels, [reply for name in systems for reply in _replies(context, name, turns)])
    place = np.unique([turn.dialogue for turn in turns], return_inverse=True)[1]
    rows = []
    for name, shares in zip(systems, np.split(probable, len(systems)), strict=True):
        sums = np.zeros((place.max() + 1, shares.shape[1]))
        np.add.at(sums, place, shares)
        rows.append({"id": name, "sums": sums.round(4).tolist()})
    context.rows = tuple(rows)
    return {"systems": list(systems), "turns": len(turns), "learned_from": learned}


def errors_over_seeds(context: Context, systems: tuple[str, ...]) -> dict:
    """Shares of errors by the offline classifier and their differences, averaged over all seeds, and the differences under each (RQ4)."""
    import numpy as np

    from decoupled_esc.evaluate import errors
    from decoupled_esc.evaluate.seeds import mean_over_seeds

    by_seed = {int(need.partition("@")[2] or context.profile.seed): result for need, result in context.needs.items()}
    if without := [result.payload["missing"] for result in by_seed.values() if "missing" in result.payload]:
        return {"missing": without[0]}
    sums = {seed: {row["id"]: np.array(row["sums"]) for row in result.rows} for seed, result in by_seed.items()}
    counts = np.unique([turn.dialogue for turn in _test_turns(context)], return_counts=True)[1]
    found, values = mean_over_seeds(counts, sums, errors.LABELS, contrasts=_between(systems), **_resampling(context))
    averages = {
        part: {name: {label: asdict(share) for label, share in shares.items()} for name, shares in of.items()} for part, of in found.items()
    }
    learned = by_seed[context.profile.seed].payload["learned_from"]
    return {"seeds": list(by_seed), "learned_from": learned, **averages, "by_seed": {str(seed): of for seed, of in values.items()}}


def judged(context: Context) -> dict:
    """Every system's replies by the LLM judges of the profile: Likert scores, errors, and pairs of systems."""
    from decoupled_esc.evaluate import judges
    from decoupled_esc.generate.client import Client
    from decoupled_esc.generate.record import Record

    judge = context.profile.judge
    if judge is None:
        return {"missing": f"profile {context.profile.name} has no LLM judge"}
    turns = judges.drawn(_test_turns(context), judge.protocol, context.profile.seed)
    systems = {name: _replies(context, name, turns) for name in JUDGED}
    record, rows, found, scores, context.tokens = Record(context.answers), [], {}, {}, 0
    for endpoint in judge.endpoints:
        asked = judges.LLMJudge(Client(endpoint, record, judge.mode), judge.protocol)
        found[asked.id], scores[asked.id], own = _judged_by(asked, systems, turns, **_resampling(context))
        rows += own
        context.tokens += asked.tokens
    first, *others = scores
    quality = _pair_quality(context, judges.LLMJudge(Client(judge.endpoints[0], record, judge.mode), judge.protocol))
    dialogues = [turn.dialogue for turn in turns] * len(systems)
    context.rows = tuple(rows)
    return {
        "turns": len(turns),
        "after_blank": sum(not turn.context[-1].text.strip() for turn in turns),
        "protocol": judge.protocol.model_dump(),
        "judges": found,
        "mined_pairs": quality,
        "between": {
            f"{first} ~ {other}": judges.agreement(scores[first], scores[other], dialogues, judges.SCALE, **_resampling(context))
            for other in others
        },
    }


def _pair_quality(context: Context, judge) -> dict:
    """The first judge's scores of the chosen and rejected replies of 100 response pairs (Table 2); the gold is not shown."""
    import random

    from decoupled_esc import mining
    from decoupled_esc.evaluate import judges
    from decoupled_esc.evaluate.judged import Means, Reply

    by_id = {turn.id: turn for turn in _training_turns(context)}
    mined = mining.read(context.folders["pairs"] / "response.jsonl")
    some = random.Random(context.profile.seed).sample(mined, min(100, len(mined)))
    if not some:
        return {"pairs": 0}
    blind = judges.LLMJudge(judge.client, judge.protocol.model_copy(update={"gold": "hidden"}))
    sides = {
        side: [Reply(f"{side}/{p.id}", by_id[p.turn], by_id[p.turn].strategy, text(p)) for p in some]
        for side, text in (("chosen", lambda p: by_id[p.turn].reply), ("rejected", lambda p: p.reply))
    }
    values = {side: judges.as_numbers(blind.scores(replies)) for side, replies in sides.items()}
    means = Means([by_id[p.turn].dialogue for p in some], **_resampling(context))
    context.tokens += blind.tokens
    return {"pairs": len(some), "judge": judge.id, **means.table(values, [d.key for d in judges.DIMENSIONS], [("chosen", "rejected")])}


def _judged_by(judge, systems: dict[str, list], turns: list, **resampling) -> tuple[dict, list[dict], list[dict]]:
    """(payload, scores of all replies, rows) of one judge."""
    import sys

    import numpy as np

    from decoupled_esc.evaluate import errors, judges
    from decoupled_esc.evaluate.judged import Means

    flat = [reply for written in systems.values() for reply in written]
    dialogues = [turn.dialogue for turn in turns]
    against = (("decoupled-sft", "vanilla-sft"), ("decoupled-dpo", "vanilla-dpo")) if judge.protocol.pairs else ()
    pairs = {f"{one} - {other}": list(zip(systems[one], systems[other], strict=True)) for one, other in against}
    print(f"in all, without what is recorded: {judge.estimate(flat, sum(pairs.values(), []))}", file=sys.stderr, flush=True)
    scores, labels = judge.scores(flat), judge.errors(flat)
    again = [judge.scores(flat, repeat) for repeat in range(1, judge.protocol.repeats)]

    def split(values):
        return dict(zip(systems, (values[k * len(turns) : (k + 1) * len(turns)] for k in range(len(systems))), strict=True))

    numbers, columns = judges.as_numbers(scores), [d.key for d in judges.DIMENSIONS]
    spoken = np.array([bool(turn.context[-1].text.strip()) for turn in turns])
    somebody = [name for name, says in zip(dialogues, spoken, strict=True) if says]
    shares = np.array([[np.nan if label is None else 100.0 * (label == one) for one in errors.LABELS] for label in labels])
    means = Means(dialogues, **resampling)
    payload = {
        "resolved": sorted(judge.resolved),
        "scores": means.table(split(numbers), columns, _between(JUDGED)),
        "scores_after_words": Means(somebody, **resampling).table(
            {name: values[spoken] for name, values in split(numbers).items()}, columns, _between(JUDGED)
        ) if somebody else None,
        "errors": means.table(split(shares), errors.LABELS, _between(JUDGED)),
        "unread": {
            name: {**dict(zip(columns, np.isnan(values).sum(axis=0).tolist(), strict=True)), "error": split(labels)[name].count(None)}
            for name, values in split(numbers).items()
        },
        "repeats": [judges.agreement(scores, other, dialogues * len(systems), judges.SCALE, **resampling) for other in again],
        "pairs": {},
        "orders": {},
    }  # fmt: skip
    rows = [
        {"id": reply.id, "judge": judge.id, "scores": score, "error": label}
        for reply, score, label in zip(flat, scores, labels, strict=True)
    ]
    for name, both_replies in pairs.items():
        chosen = judge.choices(both_replies)
        sides = [[{key: both[k] for key, both in row.items()} for row in chosen] for k in (0, 1)]
        payload["pairs"][name] = judges.outcomes(chosen, dialogues, **resampling)
        payload["orders"][name] = judges.agreement(*sides, dialogues, (-1, 0, 1), **resampling)
    return payload, scores, rows


def _between(names) -> list[tuple[str, str]]:
    """The differences that can be taken between ``names``."""
    return [pair for pair in (*CONTRASTS, ("gold-dpo", "gold-sft")) if set(pair) <= set(names)]


def _replies(context: Context, system: str, turns: list) -> list:
    """What ``system`` answered to ``turns``, for a judge."""
    from decoupled_esc.evaluate.judged import Reply

    rows = {row["id"]: row for row in context.needs[f"replies-{system}"].rows}
    return [Reply(f"{system}/{turn.id}", turn, rows[turn.id]["strategy"], rows[turn.id]["reply"]) for turn in turns]


def _error_labels(context: Context) -> tuple[list, list[str], list[str], list[bool]] | str:
    """(replies, labels, who wrote each, whether its turn is sure) that a classifier can learn from; or why there are none."""
    from decoupled_esc.corpus import invented
    from decoupled_esc.corpus import released as outputs
    from decoupled_esc.evaluate.judged import Reply

    name = "decoupledesc_release"
    if name in context.files and context.corpus.name == "esconv":
        failed = context.corpora["failed_esconv"].dialogues
        found = outputs.read(context.files[name][0].parent, context.corpus.split("test"), failed)
    elif context.profile.scale == "smoke":
        found, _ = invented.read()
    else:
        return _not_here(context, name)
    found = [row for row in found if row.error is not None]
    replies = [Reply(f"{row.source}/{row.turn.id}", row.turn, row.strategy, row.reply) for row in found]
    return replies, [row.error for row in found], [row.source for row in found], [row.unique for row in found]


def _empathy_ratings(context: Context) -> list | str:
    """Replies with people's ratings of empathy; or why there are none."""
    from decoupled_esc.corpus import empathy, invented

    name = "empathy_mental_health"
    if name in context.files:
        return empathy.read(context.files[name][0].parent)
    if context.profile.scale == "smoke":
        return invented.read()[1]
    return _not_here(context, name)


def _not_here(context: Context, name: str) -> str:
    if name in context.files:
        return f"{name} belongs to the real ESConv, and the synthetic miniature stands in for it"
    return f"{name} is not on this machine; get it with: decoupled-esc data fetch {name}"


def _resampling(context: Context) -> dict[str, int]:
    return {"replicates": context.profile.bootstrap_replicates, "seed": context.profile.seed}


def _be_repeatable() -> None:
    """Same bytes out on the same CPU: one thread, because sums in another order give other bytes, and deterministic kernels.

    Stages side by side fill the cores.
    On a GPU some kernels have no deterministic form; they are used all the same, and torch warns.
    """
    import os

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar each for loading and saving a few megabytes
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)


def _shipped(profile: Profile) -> dict[str, str]:
    """The identity of the base model that is shipped with this repository, where the profile starts from one."""
    import hashlib

    from decoupled_esc import models

    if profile.backbone.kind == "hub":
        return {}
    folder = profile.backbone.folder
    tokenizer = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    return {"weights": models.weights_digest(folder), "tokenizer": tokenizer}


def _layout(profile: Profile, role: str) -> str:
    """The name in ``prompts.LAYOUTS`` of what ``role`` is shown under this profile."""
    return "generator-trunk" if role == "generator" and profile.generator_layout == "trunk" else role


def _load(context: Context, adapter: str | None = None, *, for_training: bool = False):
    """(model, tokenizer) of the profile's backbone, with the adapter that stage ``adapter`` left."""
    from decoupled_esc import models

    source, revision, dtype, policy = _weights(context, adapter)
    model = models.load(source, revision=revision, dtype=dtype, adapter=policy, for_training=for_training)
    return model, models.load_tokenizer(source, revision)


def _weights(context: Context, adapter: str | None):
    """(folder or hub name, revision, dtype, folder of an adapter on it or None) of the model that stage ``adapter`` left."""
    backbone = context.profile.backbone
    if backbone.kind == "embedded":
        source, revision, dtype = backbone.folder, None, "float32"
    else:
        source, revision, dtype = backbone.name, backbone.revision, backbone.dtype
    policy = context.folders[adapter] / "policy" if adapter else None
    if policy is not None and not _is_adapter(policy):
        return policy, None, dtype, None  # full fine-tuning left a whole model
    start = context.folders.get(context.profile.cso.start)
    if adapter and adapter.startswith("cso-") and start is not None and not _is_adapter(start / "policy") and (start / "policy").exists():
        source, revision = start / "policy", None  # an adapter on the whole model that CSO's training started from
    return source, revision, dtype, policy


def _is_adapter(policy) -> bool:
    return (policy / "adapter_config.json").exists()


def _trained(context: Context, start: str | None, model, tokenizer, sequences, how, **preference):
    """(the policy, log) of training ``model``, which stage ``start`` left: in this process, or in as many as the profile says."""
    import torch

    from decoupled_esc import models, train

    profile, policy = context.profile, context.folder / "policy"
    if profile.several_gpus is None:
        return model, train.fine_tune(model, tokenizer, sequences, how, context.folder, seed=profile.seed, **preference)
    model.to("cpu")  # the others need its place,
    torch.cuda.empty_cache()  # which this process would keep
    weights = _weights(context, start)
    log = train.launched(weights, sequences, how, context.folder, profile.several_gpus, seed=profile.seed, **preference)
    source, revision, dtype, _ = weights
    adapter = policy if _is_adapter(policy) else None
    return models.load(source if adapter else policy, revision=revision if adapter else None, dtype=dtype, adapter=adapter), log


def _engine(context: Context, adapter: str | None):
    from decoupled_esc.generate.local import TransformersEngine

    if context.profile.generation.vllm is not None:
        return _vllm_engine(context, adapter)
    _be_repeatable()
    model, tokenizer = _load(context, adapter)
    return TransformersEngine(model, tokenizer, batch_tokens=context.profile.generation.batch_tokens)


def _vllm_engine(context: Context, adapter: str | None):
    """The model of stage ``adapter`` behind vLLM; adapters on one base share its server, which ends with the stage."""
    from decoupled_esc import models
    from decoupled_esc.generate.vllm import Server, ServerError, VLLMEngine

    profile, serving = context.profile, context.profile.generation.vllm
    source, revision, dtype, policy = _weights(context, adapter)
    tokenizer, name = models.load_tokenizer(source, revision), adapter if policy else "base"
    if serving.urls:
        if adapter and policy is None:
            raise ServerError(f"{adapter} left a whole model and no adapter, which the servers at urls can't be given; leave urls out")
        return VLLMEngine(serving.urls, name, tokenizer, serving)
    if str(source) not in context.servers:
        adapters = {need: folder / "policy" for need, folder in context.folders.items() if _is_adapter(folder / "policy")}
        server = Server(
            source, context.folder / "vllm.log", adapters=adapters if policy or adapter is None else {}, revision=revision, dtype=dtype,
            window=profile.data.window, seed=profile.seed, serving=serving,
        )  # fmt: skip
        context.servers[str(source)] = context.open.enter_context(server).url
    return VLLMEngine([context.servers[str(source)]], name, tokenizer, serving)


def _training_turns(context: Context) -> list:
    from decoupled_esc import corpus

    dialogues = context.corpus.split("train")[: context.profile.data.train_dialogues]
    return [turn for dialogue in dialogues for turn in corpus.turns(dialogue)]


def _test_turns(context: Context) -> list:
    from decoupled_esc import corpus

    dialogues = context.corpus.split("test")[: context.profile.data.test_dialogues]
    return [turn for dialogue in dialogues for turn in corpus.turns(dialogue)]


def _fit(context: Context, engine, turns, layout, sampling) -> list:
    """Prompts with room for the answer: as in training, both share the window."""
    from decoupled_esc import prompts

    room = context.profile.data.window - sampling.max_new_tokens
    return [prompts.fit(turn, layout, engine.count, room)[0] for turn in turns]


def _complete(context: Context, engine, asked: list, sampling, what: str, draw: int = 0, *, plans: bool = False) -> dict[str, dict]:
    """Completions by id, written down batch by batch; another ``draw`` is drawn with other random numbers.

    ``plans`` are strategies, and behind vLLM can be nothing else.
    """
    from decoupled_esc import progress, taxonomy

    written, seed = context.open_rows(what), context.profile.seed + 1000 * draw
    guided = {"choices": taxonomy.STRATEGIES} if plans and context.profile.generation.vllm is not None else {}
    with progress.bar(len(asked), f"{context.folder.name}: {what}", initial=len(written.by_id)) as bar:
        for batch in engine.complete(asked, sampling, seed=seed, done=frozenset(written.by_id), **guided):
            written.append(asdict(completion) for completion in batch)
            bar.update(len(written.by_id) - bar.n)
    return written.by_id


def _kept(completion: dict) -> dict:
    return {"tokens": completion["tokens"], "finished": completion["finished"]}


def _summary(context: Context, rows: list[dict]) -> dict:
    context.rows = tuple(rows)
    context.tokens = sum(row["tokens"] for row in rows)
    return {
        "turns": len(rows),
        "invalid": sum(row["strategy"] is None for row in rows),
        "unfinished": sum(not row["finished"] for row in rows),
        "empty": sum(not row["reply"] for row in rows),
    }


def _settings(*parts: str) -> Callable[[Profile], dict]:
    """Picks dotted ``parts`` of a profile, and the seed."""

    def pick(profile: Profile) -> dict:
        chosen: dict = {"seed": profile.seed}
        for part in parts:
            value = profile
            for key in part.split("."):
                value = value[key] if isinstance(value, dict) else getattr(value, key)
            chosen[part] = value.model_dump() if hasattr(value, "model_dump") else value
        if profile.generation.vllm is not None and any(part.startswith("generation.") for part in parts):
            chosen["engine"] = "vllm"
        return chosen

    return pick


def _judge_settings(profile: Profile) -> dict:
    """Who judges and what is asked; not its price, its budget, its address or its pace, which change no answer."""
    judge = profile.judge
    if judge is None:
        return {"judge": None}
    return {"judge": {"models": [endpoint.model for endpoint in judge.endpoints], "protocol": judge.protocol.model_dump()}}


def _search_settings(profile: Profile) -> dict:
    """How trees are grown, and by whom; not what a server costs, which changes no answer."""
    how = profile.search
    roles = None if how.roles is None else {kind: endpoint.model for kind, endpoint in sorted(how.roles.items())}
    return {"dialogues": how.dialogues, "longest_gold": how.longest_gold, "constants": how.constants.model_dump(), "roles": roles}


_TEST = ("data.test_dialogues", "data.window", "generation.reply", "generation.batch_tokens")

_TRAIN = ("data.train_dialogues", "data.window", "generation.batch_tokens")

_PLAN = ("generation.plan",)
_TRAINED = ("data.train_dialogues", "data.window")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("data", data, lambda profile: {}, corpora=("esconv", "failed_esconv"), uses_model=False),
        Stage(
            "released",
            released,
            _settings("bootstrap_replicates"),
            corpora=("esconv", "failed_esconv"),
            files=("decoupledesc_release",),
            uses_model=False,
        ),
        Stage("base-model", base_model, lambda profile: _settings("backbone")(profile) | _shipped(profile)),
        *(
            Stage(
                f"sft-{role}",
                sft,
                _settings(
                    "data.train_dialogues", "data.window", f"sft.{role}", *["generator_layout"] * (role == "generator")
                ),
                ("base-model",),
                {"role": role},
                leaves=("policy",),
            )
            for role in ROLES
        ),
        *(
            Stage(
                f"candidates-{role}",
                candidates,
                _settings(*_TRAIN, *parts),
                ("base-model", f"sft-{role}"),
                {"role": role},
                leaves=("samples",),
            )
            for role, parts in {
                "planner": ("generation.plan",),
                "generator": ("generation.reply", "mining.draws", "generator_layout"),
                "vanilla": ("generation.reply", "mining.draws"),
            }.items()
        ),
        Stage(
            "pairs",
            mine,
            lambda profile: _settings("data.train_dialogues", "generation.reply", "generation.plan", "scale", "bootstrap_replicates")(profile)
            | _judge_settings(profile),
            tuple(f"candidates-{role}" for role in ROLES),
            corpora=("esconv", "failed_esconv"),
            files=("decoupledesc_release", "empathy_mental_health"),
            uses_model=False,
            leaves=("strategy.jsonl", "response.jsonl", "vanilla.jsonl"),
        ),
        *(
            Stage(
                name,
                prefer,
                _settings(*_TRAINED, f"preference.{how['role']}", *parts, *["generator_layout"] * (how["role"] == "generator")),
                ("base-model", f"sft-{how['role']}", "pairs"),
                how,
                leaves=("policy",),
            )
            for name, how, *parts in (
                *((f"dpo-{role}", {"role": role}) for role in ROLES),
                *((f"dpo-vanilla-{kind.lower()}", {"role": "vanilla", "quadrant": kind}) for kind in ("PsNr", "NsPr", "NsNr")),
                *(
                    (f"{loss}-{role}", {"role": role, "loss": loss}, f"preference.alternatives.{loss}")
                    for loss in LOSSES[1:] for role in ("planner", "generator")
                ),
            )
        ),
        *(
            Stage(f"replies-{name}", replies_vanilla, _settings(*_TEST), ("base-model", *([adapter] if adapter else [])), {"adapter": adapter, **how})
            for name, adapter, how in (
                ("vanilla-base", None, {}),
                ("vanilla-sft", "sft-vanilla", {}),
                ("vanilla-sft-argmax", "sft-vanilla", {"argmax": True}),
                ("vanilla-dpo", "dpo-vanilla", {}),
                ("vanilla-dpo-argmax", "dpo-vanilla", {"argmax": True}),
                *((f"vanilla-{kind}", f"dpo-vanilla-{kind}", {}) for kind in ("psnr", "nspr", "nsnr")),
            )
        ),
        *(
            Stage(f"replies-vanilla-{name}", replies_prompted, _settings(*_TEST), ("base-model",), {"baseline": name.replace("-", "_")})
            for name in ("direct-refine", "self-refine", "emotion-cot", "with-example")
        ),
        *(
            Stage(f"replies-{name}", run, _settings(*_TEST, "generator_layout", *parts), ("base-model", *filter(None, how.values())), how)
            for name, run, parts, how in (
                ("decoupled-base", replies_decoupled, _PLAN, {"planner": None, "generator": None}),
                *(
                    (f"decoupled-{kind}", replies_decoupled, _PLAN, {"planner": f"{kind}-planner", "generator": f"{kind}-generator"})
                    for kind in ("sft", *LOSSES)
                ),
                *(
                    (f"decoupled-{kind}-argmax", replies_decoupled_argmax, (), {"generator": f"{kind}-generator", "drawn": f"replies-decoupled-{kind}"})
                    for kind in ("sft", "dpo")
                ),
                *((f"gold-{kind}", replies_gold, (), {"adapter": f"{kind}-generator"}) for kind in ("sft", "dpo")),
            )
        ),
        *(
            Stage(
                name,
                metrics,
                _settings("data.test_dialogues", "bootstrap_replicates"),
                tuple(f"replies-{system}" for system in systems),
                {"systems": systems, "contrasts": contrasts},
                uses_model=False,
            )
            for name, systems, contrasts in (
                ("metrics", SYSTEMS, CONTRASTS),
                ("metrics-controlled", CONTROLLED, CONTROLLED_CONTRASTS),
                (
                    "metrics-losses",
                    ("decoupled-sft", *(f"decoupled-{loss}" for loss in LOSSES)),
                    tuple((f"decoupled-{loss}", "decoupled-sft") for loss in LOSSES),
                ),
            )
        ),
        Stage(
            "sft-seeker", sft_seeker, _settings("data.train_dialogues", "data.window", "search.seeker"), ("base-model",), leaves=("policy",)
        ),
        Stage(
            "search",
            grow_trees,
            lambda profile: _settings("data.train_dialogues", "data.window", "generation.reply", "generation.batch_tokens", "generator_layout", "scale")(profile)
            | _search_settings(profile),
            ("base-model", "sft-planner", "sft-generator", "sft-seeker"),
            corpora=("esconv", "failed_esconv"),
            files=("decoupledesc_release", "empathy_mental_health"),
            leaves=("logs",),
            once=True,
        ),
        Stage(
            "esc-pro",
            esc_pro,
            lambda profile: _settings("data.train_dialogues", "search.threshold", "scale", "bootstrap_replicates")(profile) | _search_settings(profile),
            ("search",),
            corpora=("esconv", "failed_esconv"),
            files=("decoupledesc_release", "empathy_mental_health"),
            uses_model=False,
            leaves=("pairs.jsonl", "sft.jsonl"),
            once=True,
        ),
        Stage(
            "esc-pro-random",
            esc_pro_random,
            _settings("data.window", "generation.reply", "generation.batch_tokens", "generator_layout"),
            ("base-model", "sft-generator", "esc-pro"),
            corpora=(),
            leaves=("pairs.jsonl",),
            once=True,
        ),
        *(
            Stage(
                f"cso-{name}",
                chain,
                _settings(
                    "data.test_dialogues", "data.window", "cso.start",
                    *(("cso.lora",) if "lora" in how else ("cso.sft",) if how["loss"] is None else ("cso.training", f"cso.losses.{how['loss']}")),
                ),
                ("base-model", "sft-vanilla", how.get("source", "esc-pro")),
                how,
                leaves=("policy",),
            )
            for name, how in CHAINED.items()
        ),
        *(
            Stage(
                f"replies-cso-{name}", replies_vanilla, _settings(*_TEST),
                ("base-model", f"cso-{name}", *["sft-vanilla"] * ("lora" in how)), {"adapter": f"cso-{name}"},
            )
            for name, how in CHAINED.items()
        ),
        *(
            Stage(
                name, tallies, _settings("data.test_dialogues"), tuple(f"replies-{system}" for system in systems), {"systems": systems},
                uses_model=False,
            )
            for name, systems in (("tallies", ASKED), ("tallies-cso", TALLIED), ("tallies-cso-lora", TALLIED_LORA))
        ),
        Stage(
            "strategy-test", strategy_test, _settings(*_TEST), ("base-model", *STRATEGY_TESTED.values()), {"policies": STRATEGY_TESTED},
        ),
        Stage(
            "tallies-errors",
            tallies_errors,
            _settings("data.test_dialogues", "scale"),
            tuple(f"replies-{system}" for system in ERRING),
            {"systems": ERRING},
            corpora=("esconv", "failed_esconv"),
            files=("decoupledesc_release",),
            uses_model=False,
        ),
        Stage(
            "errors",
            errors_over_seeds,
            _settings("data.test_dialogues", "bootstrap_replicates", "more_seeds"),
            ("tallies-errors",),
            {"systems": ERRING},
            over_seeds=("tallies-errors",),
            uses_model=False,
        ),
        *(
            Stage(
                name,
                over_seeds,
                _settings("data.test_dialogues", "bootstrap_replicates", "more_seeds"),
                needs,
                {"systems": systems, "contrasts": contrasts, **more},
                over_seeds=needs,
                uses_model=False,
            )
            for name, systems, contrasts, needs, more in (
                ("questions", ASKED, tuple(_between(ASKED)), ("tallies",), {}),
                ("metrics-cso", CSO_SYSTEMS, CSO_CONTRASTS, ("tallies", "tallies-cso", "tallies-cso-lora"), {}),
                (
                    "metrics-strategy-test", tuple(STRATEGY_TESTED), tuple(pair for pair in CSO_CONTRASTS if STRATEGY_TESTED.keys() >= set(pair)),
                    ("strategy-test",), {"windows": True},
                ),
            )
        ),
        Stage(
            "decoding",
            decoding,
            _settings("data.train_dialogues", "data.test_dialogues", "bootstrap_replicates"),
            tuple(f"replies-{name}" for name in PLANNERS),
            uses_model=False,
        ),
        Stage(
            "error-classifier",
            error_classifier,
            _settings("bootstrap_replicates", "scale"),
            corpora=("esconv", "failed_esconv"),
            files=("decoupledesc_release",),
            uses_model=False,
        ),
        Stage(
            "empathy-scale",
            empathy_scale,
            _settings("bootstrap_replicates", "scale"),
            corpora=("esconv", "failed_esconv"),
            files=("empathy_mental_health",),
            uses_model=False,
        ),
        Stage(
            "judged-offline",
            judged_offline,
            _settings("data.test_dialogues", "bootstrap_replicates", "scale"),
            tuple(f"replies-{name}" for name in JUDGED),
            corpora=("esconv", "failed_esconv"),
            files=("decoupledesc_release", "empathy_mental_health"),
            uses_model=False,
        ),
        Stage(
            "judged",
            judged,
            lambda profile: _settings("data.train_dialogues", "data.test_dialogues", "bootstrap_replicates")(profile)
            | _judge_settings(profile),
            ("pairs", *(f"replies-{name}" for name in JUDGED)),
            uses_model=False,
        ),
    )
}


def file_sets() -> list[str]:
    """The data sets that some stage reads as files."""
    return sorted({name for stage in STAGES.values() for name in stage.files})


def of_every_seed() -> list[str]:
    """The stages that are run under a profile's other seeds too: those read over seeds, and what they need."""
    wanted, queue = set(), [name for stage in STAGES.values() for name in stage.over_seeds]
    while queue:
        name = queue.pop()
        if name not in wanted and not STAGES[name].once:
            wanted.add(name)
            queue += STAGES[name].needs
    return [name for name in STAGES if name in wanted]
