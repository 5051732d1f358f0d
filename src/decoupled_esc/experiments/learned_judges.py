"""Judges that learn from published judgements, and what each is worth on people and writers that it has not learned from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc import models, progress
from decoupled_esc.corpus import empathy
from decoupled_esc.corpus.judgements import TEXTS, read_conversations, read_empathic, read_ieval
from decoupled_esc.evaluate import learned_judges, offline, read_by_model
from decoupled_esc.evaluate.learned_judges import LearnedPreferences
from decoupled_esc.evaluate.published_judges import AgreementTable, expert_agreement
from decoupled_esc.experiments.inputs import Base, Files, Measured, base_of
from decoupled_esc.files import read_rows
from decoupled_esc.pipeline import Missing, Step, Work


@dataclass(frozen=True)
class ConversationsRead:
    """How likely a language model finds the replies of the judged conversations."""

    conversations: int
    tokens: int
    logp: dict[str, float]
    """Data set -> mean log-probability per token of the replies in nats, over conversations."""


@dataclass(frozen=True, eq=False)
class ReadConversations(Step):
    """Every judged conversation as a language model reads it; its rows hold the hidden states, and no text."""

    leaves = ("readings.jsonl",)
    uses_model = True

    base: Base
    package: Files
    """Of ``base``."""
    ieval: Files
    empathic: Files

    def run(self, work: Work) -> ConversationsRead:
        self.package.paths()
        said = {f"ieval/{k}": chat.said for k, chat in enumerate(read_ieval(self.ieval.paths()[0]))}
        said |= {
            f"experts/{sample}/{id}": one for (sample, id), one in read_conversations(self.empathic.paths()).items()
        }
        models.be_repeatable()
        weights, rows = self.base.weights(), work.rows("readings")
        left = {id: one for id, one in said.items() if id not in rows.by_id}
        read = read_by_model.readings(models.load(weights), models.load_tokenizer(weights), list(left.values()))
        with progress.bar(len(said), work.name, initial=len(rows.by_id)) as bar:
            for id, (tokens, logp, hidden) in zip(left, read, strict=True):
                values = {"nats": round(logp, 4), "hidden": hidden.astype(float).round(3).tolist()}
                rows.append([{"id": id, "tokens": tokens} | values])
                bar.update()
        found = [rows.by_id[id] for id in said]
        work.tokens = sum(row["tokens"] for row in found)
        logp = {part: float(np.mean([row["nats"] for row in found if row["id"].startswith(part)])) for part in PARTS}
        return ConversationsRead(len(found), work.tokens, logp)

    def features(self, work: Work, part: str) -> dict[str, np.ndarray]:
        """What `learned_judges.MODEL_GROUPS` are in the conversations of ``part`` of `PARTS`, in the order of its reader."""
        found = [row for row in read_rows(work.path(self, "readings.jsonl"), "readings") if row["id"].startswith(part)]
        columns = ([[row["nats"]] for row in found], [row["hidden"] for row in found])
        return dict(zip(learned_judges.MODEL_GROUPS, map(np.array, columns), strict=True))


PARTS = ("ieval", "experts")


@dataclass(frozen=True)
class LearnedJudges:
    """A judge of preference on iEval's pairs, and one of ratings beside the raters of the same conversations."""

    preferences: LearnedPreferences
    ratings: AgreementTable
    conversations: int
    """That experts rated and whose texts are published."""


@dataclass(frozen=True, eq=False)
class MeasureLearnedJudges(Measured):
    """What the learned judges are worth; needs no model of ours."""

    ieval: Files
    empathic: Files
    rated: Files
    """Ratings of empathy, from which features are learned."""
    encoder: Files
    read: ReadConversations
    """Does without where the model is not here."""

    def run(self, work: Work) -> LearnedJudges | Missing:
        from decoupled_esc.evaluate.embeddings import Encoder

        encode, rated = Encoder(self.encoder.paths()[0]).encode, empathy.read(self.rated.paths()[0].parent)
        paths = self.empathic.paths()
        said = read_conversations(paths)
        # EPITOME's posts come from the very data that the scale of empathy learns from.
        posts = {id for sample, id in said if sample == "EPITOME"}
        levels = offline.EmpathyScale().fit([row for row in rated if row.post not in posts]).levels
        ratings = [row for row in read_empathic(paths[0]).rows if row.sample in TEXTS]
        judged = (ratings, list(said))
        by_model = not isinstance(work.get(self.read), Missing)

        def features(conversations: Sequence[Sequence[str]], part: str) -> learned_judges.Features:
            own = learned_judges.features(conversations, encode, levels)
            return own | (self.read.features(work, part) if by_model else {})

        found = features(list(said.values()), "experts")
        made = learned_judges.predicted_ratings(*judged, found, self.seed)
        groups = learned_judges.groups_for_ratings(*judged, found, self.seed)
        chats = read_ieval(self.ieval.paths()[0])
        chatted = features([chat.said for chat in chats], "ieval")
        return LearnedJudges(
            preferences=learned_judges.learned_preferences(chats, chatted, groups, **self.resampling),
            ratings=expert_agreement([*ratings, *made], {}, **self.resampling),
            conversations=len(said),
        )


def learned(files: Mapping[str, Files], resampling: Mapping[str, int]) -> dict[str, Step]:
    """The steps of this module, by name."""
    model = models.PackagedModel(kind="package", name="smollm2-135m")
    chats, ratings = files["ieval"], files["empathic_judges"]
    read = ReadConversations(base_of(model, needs_gpu=False), files[model.name], chats, ratings)
    rated, encoder = files["empathy_mental_health"], files["minilm-l6-v2"]
    judges = MeasureLearnedJudges(chats, ratings, rated, encoder, read, **resampling)
    return {"judged-conversations": read, "learned-judges": judges}
