"""Judges that learn from published judgements, and what each is worth on people and writers that it has not learned from."""

from dataclasses import dataclass

from decoupled_esc.corpus import empathy
from decoupled_esc.corpus.judgements import TEXTS, read_conversations, read_empathic, read_ieval
from decoupled_esc.evaluate import learned_judges, offline
from decoupled_esc.evaluate.learned_judges import LearnedPreferences
from decoupled_esc.evaluate.published_judges import AgreementTable, expert_agreement
from decoupled_esc.experiments.inputs import Files, Measured
from decoupled_esc.pipeline import Missing, Work


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
        found = learned_judges.features(list(said.values()), encode, levels)
        made = learned_judges.predicted_ratings(*judged, found, self.seed)
        groups = learned_judges.groups_for_ratings(*judged, found, self.seed)
        chats = read_ieval(self.ieval.paths()[0])
        chatted = learned_judges.features([chat.said for chat in chats], encode, levels)
        return LearnedJudges(
            preferences=learned_judges.learned_preferences(chats, chatted, groups, **self.resampling),
            ratings=expert_agreement([*ratings, *made], {}, **self.resampling),
            conversations=len(said),
        )
