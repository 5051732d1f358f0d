"""The replies of the scoreboard by the offline judges (chapter 18): the scale of empathy, the error classifier, and length beside them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from decoupled_esc import corpus
from decoupled_esc.corpus import published_replies
from decoupled_esc.evaluate import offline
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Means, Reply, ScoreTable
from decoupled_esc.experiments import replies, scoreboard
from decoupled_esc.experiments.inputs import Files, Measured, Turns
from decoupled_esc.experiments.judging import error_shares, replies_of
from decoupled_esc.experiments.labels import EmpathyRatings, ErrorLabels, released_replies
from decoupled_esc.pipeline import Missing, Work, attempt
from decoupled_esc.taxonomy import NO_ERROR

EMPATHY, FREE, WORDS = "empathy, 0 to 6", "no error, %", "words"
COLUMNS = (EMPATHY, FREE, WORDS)
"""Sum of the three mechanisms' expected levels; mean probability that a reply has no psychological error; words of a reply."""


@dataclass(frozen=True)
class JudgedScoreboard:
    """Means of `COLUMNS` by test set, with the human reference as a system of its own; what the judges learned from."""

    tables: dict[str, ScoreTable]
    learned_from: str
    absent: dict[str, str]
    """Data set that is not on this machine -> why."""
    replies: int
    """How many were judged."""


@dataclass(frozen=True, eq=False)
class JudgePublished(Measured):
    """All published replies and ours by the offline judges.  No reply is judged by what learned from a label at its dialogue."""

    labels: ErrorLabels
    ratings: EmpathyRatings
    replies: dict[str, Files]
    systems: dict[str, replies.Reply]
    turns: Turns

    def run(self, work: Work) -> JudgedScoreboard | Missing:
        whole = self.labels.esconv.read()
        if whole.name != "esconv":
            return Missing("published replies belong to the real ESConv, and the synthetic miniature stands in for it")
        rated, labels, turns = self.ratings.read(), self.labels.read(), self.turns.read()
        every = [turn for dialogue in whole.dialogues for turn in corpus.turns(dialogue)]
        paths = {name: attempt(files.paths) for name, files in self.replies.items()}
        sets: dict[str, dict[str, list[Reply]]] = {}
        for name, found in paths.items():
            if not isinstance(found, Missing):
                read = published_replies.read(name, found, every)
                sets[scoreboard.SETS[name]] = {
                    system: [Reply(f"{system}/{row.row}", row.turn, row.strategy, row.reply) for row in rows]
                    for system, rows in read.items()
                }
        sets[scoreboard.OWN] = {name: replies_of(work, name, step, turns) for name, step in self.systems.items()}
        sets[scoreboard.OWN] |= self._backbones({turn.id for turn in turns})
        sets = {name: _comparable(systems) for name, systems in sets.items()}
        flat = [reply for systems in sets.values() for written in systems.values() for reply in written]
        levels = offline.EmpathyScale().fit(rated).levels([reply.text for reply in flat]).sum(axis=1)
        probable, learned = error_shares(labels, flat, self.seed)
        words = [len(reply.text.split()) for reply in flat]
        values = np.column_stack([levels, probable[:, LABELS.index(NO_ERROR)], words])
        tables, first = {}, 0
        for name, systems in sets.items():
            own = {}
            for system, written in systems.items():
                own[system], first = values[first : first + len(written)], first + len(written)
            means = Means([reply.turn.dialogue for reply in next(iter(systems.values()))], **self.resampling)
            contrasts = [pair for pair in scoreboard.CONTRASTS if set(pair) <= own.keys()]
            contrasts += [(system, scoreboard.HUMAN) for system in own if system != scoreboard.HUMAN]
            tables[name] = means.table(own, COLUMNS, contrasts)
        absent = {name: found.reason for name, found in paths.items() if isinstance(found, Missing)}
        return JudgedScoreboard(tables, f"{len(rated):,} ratings by people; {learned}", absent, len(flat))

    def _backbones(self, asked: set[str]) -> dict[str, list[Reply]]:
        """The released replies of DecoupledESC's two SFT models, where they are on this machine."""
        found: dict[str, list[Reply]] = {}
        rows = attempt(lambda: released_replies(self.labels.release, self.labels.esconv, self.labels.failed))
        for row in () if isinstance(rows, Missing) else rows:
            if row.source in scoreboard.BACKBONES and row.turn.id in asked:
                name = scoreboard.BACKBONES[row.source]
                found.setdefault(name, []).append(Reply(f"{name}/{row.turn.id}", row.turn, row.strategy, row.reply))
        return found


def _comparable(systems: Mapping[str, list[Reply]]) -> dict[str, list[Reply]]:
    """``systems`` at the turns that all of them answered, in one order, and what people wrote there."""
    if len(systems) == 1:  # one system may answer a turn twice
        (name,) = systems
        aligned = {name: list(systems[name])}
    else:
        by_turn = {name: {reply.turn.id: reply for reply in written} for name, written in systems.items()}
        common = sorted(set.intersection(*(set(one) for one in by_turn.values())))
        aligned = {name: [one[id] for id in common] for name, one in by_turn.items()}
    first = next(iter(aligned.values()))
    human = [Reply(f"{scoreboard.HUMAN}/{one.id}", one.turn, one.turn.strategy, one.turn.reply) for one in first]
    return {**aligned, scoreboard.HUMAN: human}
