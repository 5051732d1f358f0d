"""One scoreboard for published systems on ESConv and ours (chapter 18): one metric code, each test set declared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from decoupled_esc import corpus, taxonomy
from decoupled_esc.corpus import Turn, published_replies, released
from decoupled_esc.corpus.published_replies import PublishedReply
from decoupled_esc.corpus.readers import DataFile
from decoupled_esc.evaluate import EvaluatedTurn, Evaluation, decoding, evaluate_systems
from decoupled_esc.experiments.inputs import Files, Measured, Source, Turns
from decoupled_esc.experiments.replies import Reply
from decoupled_esc.experiments.scores import evaluated
from decoupled_esc.pipeline import Missing, Work, attempt

OWN = "DecoupledESC's split"
"""The test set of DecoupledESC's authors and of this book."""

HUMAN = "human reference"
BACKBONES = {"qwen-sft": "Qwen2.5-7B, SFT", "llama-sft": "Llama-3.1-8B, SFT"}
CONTRASTS = (
    ("TransESC + Muffin", "TransESC"),
    ("Llama-3.1-8B, SFT", "Qwen2.5-7B, SFT"),
    *((name, backbone) for name in ("vanilla-sft", "decoupled-sft", "decoupled-dpo") for backbone in BACKBONES.values()),
)  # fmt: skip
"""The differences measured between systems of one test set, each the first minus the second."""


@dataclass(frozen=True)
class TestSet:
    """What the systems of one test set were asked."""

    rows: int
    turns: int
    """Different turns: one file asks some twice, after windows of other lengths."""
    dialogues: int
    unique: int
    """Rows whose reference and last message belong to one turn of ESConv alone."""
    splits: dict[str, int]
    """Dialogues by the split that DecoupledESC puts them in."""
    shared: dict[str, int]
    """Other test set -> turns that are in both."""


@dataclass(frozen=True)
class Scoreboard:
    """Every published system and ours: on its own test set, and on the turns that it shares with ours."""

    sets: dict[str, TestSet]
    scores: dict[str, Evaluation]
    """By test set.  References are the files' own, as their authors scored."""
    accuracy: dict[str, float]
    """System -> share of rows with the gold strategy, in per cent."""
    paired: dict[str, Evaluation]
    """Other test set -> its systems and ours on the turns of both, against ESConv's references."""
    sweeps: dict[str, tuple[decoding.StrategyScores, ...]]
    """Systems with published scores of all eight strategies, over temperatures."""
    calibration: dict[str, decoding.Calibration]
    absent: dict[str, str]
    """Data set that is not on this machine -> why."""


@dataclass(frozen=True, eq=False)
class ScorePublished(Measured):
    """All published replies and ours, scored by one code."""

    esconv: Source
    failed: Source
    release: Files
    replies: dict[str, Files]
    systems: dict[str, Reply]
    turns: Turns

    def run(self, work: Work) -> Scoreboard | Missing:
        whole = self.esconv.read()
        if whole.name != "esconv":
            return Missing("published replies belong to the real ESConv, and the synthetic miniature stands in for it")
        every = {turn.id: turn for dialogue in whole.dialogues for turn in corpus.turns(dialogue)}
        paths = {name: attempt(files.paths) for name, files in self.replies.items()}
        absent = {name: found.reason for name, found in paths.items() if isinstance(found, Missing)}
        if len(absent) == len(paths):
            return next(found for found in paths.values() if isinstance(found, Missing))
        published = {
            SETS[name]: published_replies.read(name, found, list(every.values()))
            for name, found in paths.items()
            if not isinstance(found, Missing)
        }
        gold = {turn.id: turn for turn in self.turns.read()}
        own = {
            name: evaluated(work[step], gold, step.strategy_sampling, step.seed) for name, step in self.systems.items()
        }
        own |= self._backbones(whole, gold)
        asked = {name: [row.turn.id for row in next(iter(found.values()))] for name, found in published.items()}
        asked[OWN] = list(gold)
        split = {dialogue.id: dialogue.split for dialogue in whole.dialogues}
        unique = {name: sum(row.unique for row in next(iter(found.values()))) for name, found in published.items()}
        systems = {
            name: {system: _as_scored(rows) for system, rows in found.items()} for name, found in published.items()
        }
        systems[OWN] = _on_common(own)
        scored = {system: rows for found in published.values() for system, rows in found.items() if rows[0].scores}
        return Scoreboard(
            sets={name: _described(name, ids, unique.get(name, len(ids)), split, asked, every) for name, ids in asked.items()},
            scores={name: _scored(found, self.resampling) for name, found in systems.items()},
            accuracy={system: _accuracy(rows) for found in systems.values() for system, rows in found.items()},
            paired={
                name: evaluate_systems(
                    _on_common({system: _of_esconv(rows) for system, rows in found.items()} | own),
                    contrasts=[(ours, name) for ours in own], **self.resampling,
                )
                for name, found in published.items()
                if set(asked[name]) & set(gold)
            },
            sweeps={system: _sweep(rows, self.resampling) for system, rows in scored.items()},
            calibration={system: decoding.calibration(*scored_rows(rows)[:2]) for system, rows in scored.items()},
            absent=absent,
        )  # fmt: skip

    def _backbones(self, whole: corpus.Corpus, gold: Mapping[str, Turn]) -> dict[str, list[EvaluatedTurn]]:
        """The released replies of DecoupledESC's two SFT models, where they are on this machine."""
        paths = attempt(self.release.paths)
        if isinstance(paths, Missing):
            return {}
        found: dict[str, list[EvaluatedTurn]] = {}
        for row in released.read(paths[0].parent, whole.split("test"), self.failed.read().dialogues):
            if row.source in BACKBONES and row.turn.id in gold:
                found.setdefault(BACKBONES[row.source], []).append(_turn(row.turn, row.strategy, row.reply))
        return found


SETS = {"kang2024_replies": "Kang et al. 2024", "cauesc_replies": "CauESC", "transesc_replies": "TransESC"}
"""Data set -> what its test set is called, and the system that was first published with it."""


def _turn(turn: Turn, strategy: str | None, reply: str) -> EvaluatedTurn:
    return EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, strategy, reply)


def _as_scored(rows: Sequence[PublishedReply]) -> list[EvaluatedTurn]:
    """Row by row, against the references of the file."""
    return [
        EvaluatedTurn(f"{row.row:05}", row.turn.dialogue, row.gold_strategy, row.gold_reply, row.strategy, row.reply)
        for row in rows
    ]


def _of_esconv(rows: Sequence[PublishedReply]) -> list[EvaluatedTurn]:
    """One reply a turn, the first, against ESConv's references."""
    first = {row.turn.id: row for row in reversed(rows)}
    return [_turn(row.turn, row.strategy, row.reply) for row in first.values()]


def _on_common(systems: Mapping[str, list[EvaluatedTurn]]) -> dict[str, list[EvaluatedTurn]]:
    """``systems`` at the turns that all of them answered."""
    common = set.intersection(*({row.id for row in rows} for rows in systems.values()))
    return {name: [row for row in rows if row.id in common] for name, rows in systems.items()}


def _scored(systems: Mapping[str, list[EvaluatedTurn]], resampling: dict) -> Evaluation:
    """Scores of the systems of one test set, with the human reference as a system of its own, and of `CONTRASTS` those between them."""
    said = next(iter(systems.values()))
    people = {HUMAN: [replace(r, predicted_strategy=r.gold_strategy, reply=r.gold_reply, sampled=None) for r in said]}
    contrasts = [pair for pair in CONTRASTS if set(pair) <= systems.keys()]
    return evaluate_systems({**systems, **people}, contrasts=contrasts, **resampling)


def _accuracy(rows: Sequence[EvaluatedTurn]) -> float:
    return 100 * float(np.mean([row.predicted_strategy == row.gold_strategy for row in rows]))


def _described(
    name: str, ids: Sequence[str], unique: int, split: Mapping[str, str], asked: Mapping[str, Sequence[str]],
    every: Mapping[str, Turn],
) -> TestSet:  # fmt: skip
    dialogues = {every[id].dialogue for id in ids}
    shared = {other: len(set(ids) & set(theirs)) for other, theirs in asked.items() if other != name}
    counted = Counter(split[dialogue] for dialogue in dialogues)
    return TestSet(
        len(ids),
        len(set(ids)),
        len(dialogues),
        unique,
        {key: counted[key] for key in ("train", "validation", "test")},
        shared,
    )


def scored_rows(rows: Sequence[PublishedReply]) -> tuple[np.ndarray, list[str], list[str]]:
    """(scores [rows, 8], gold strategies, dialogues)."""
    scores = np.array([row.scores for row in rows], dtype=float)
    scores = np.maximum(scores, -50.0)  # a probability that was printed as 0
    return scores, [row.gold_strategy for row in rows], [row.turn.dialogue for row in rows]


def _sweep(rows: Sequence[PublishedReply], resampling: Mapping[str, int]) -> tuple[decoding.StrategyScores, ...]:
    options = {
        "top_p": 1.0,
        "samples": 10,
        "replicates": min(500, resampling["replicates"]),
        "seed": resampling["seed"],
    }
    return decoding.sweep(*scored_rows(rows), **options)


def read_file(path: Path, turns: Sequence[Turn]) -> list[EvaluatedTurn]:
    """A reader's own system: JSON lines with ``id``, ``strategy`` (or null) and ``reply``, one for each of ``turns``.

    Raises CorpusError naming file, line and field for a line of another form, an id that is unknown or comes twice, and turns
    without a line.
    """
    gold, found = {turn.id: turn for turn in turns}, {}
    file = DataFile(path, "one JSON object per line, for each test turn: id (such as esconv/0012/05), strategy, reply")
    for number, line in enumerate(file.text().splitlines(), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        row = file.json(line, where)
        id, reply = (file.text_of(row, key, where) for key in ("id", "reply"))
        strategy = row.get("strategy")
        if id not in gold or id in found:
            raise file.odd("is there twice" if id in found else f"{id!r} is no test turn", f"{where}, id")
        if strategy is not None and strategy not in taxonomy.STRATEGIES:
            problem = f"{json.dumps(strategy)} is neither null nor one of: {', '.join(taxonomy.STRATEGIES)}"
            raise file.odd(problem, f"{where}, strategy")
        found[id] = _turn(gold[id], strategy, reply)
    if lacking := [id for id in gold if id not in found]:
        raise file.odd(f"{len(lacking)} of {len(gold)} test turns have no line, the first {lacking[0]}", "id")
    return list(found.values())


def score_file(
    path: Path, turns: Sequence[Turn], others: Mapping[str, list[EvaluatedTurn]], *, replicates: int, seed: int
) -> Evaluation:
    """Scores of a reader's own system, under the file's name, beside ``others``, and its paired differences from each."""
    systems = {path.name: read_file(path, turns), **others}
    contrasts = [(path.name, name) for name in others]
    return evaluate_systems(_on_common(systems), contrasts=contrasts, replicates=replicates, seed=seed)
