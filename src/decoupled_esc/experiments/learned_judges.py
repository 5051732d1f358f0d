"""Judges that learn from published judgements, and what each is worth on people and writers that it has not learned from."""

from dataclasses import dataclass

from decoupled_esc.corpus import empathy
from decoupled_esc.corpus.judgements import TEXTS, read_conversations, read_empathic, read_ieval
from decoupled_esc.evaluate import learned_judges, offline
from decoupled_esc.evaluate.learned_judges import LearnedPreferences
from decoupled_esc.evaluate.published_judges import AgreementTable, expert_agreement
from decoupled_esc.experiments.inputs import Files, Measured
from decoupled_esc.pipeline import Missing, Work, attempt


@dataclass(frozen=True)
class LearnedJudges:
    """A judge of preference on iEval's pairs, and one of ratings beside the raters of the same conversations."""

    preferences: LearnedPreferences | Missing
    ratings: AgreementTable | Missing


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

        encode = Encoder(self.encoder.paths()[0]).encode
        rated = empathy.read(self.rated.paths()[0].parent)
        found = [
            attempt(one) for one in (lambda: self._preferences(encode, rated), lambda: self._ratings(encode, rated))
        ]
        if all(isinstance(part, Missing) for part in found):
            return found[0]
        return LearnedJudges(*found)

    def _preferences(self, encode, rated: list) -> LearnedPreferences:
        chats = read_ieval(self.ieval.paths()[0])
        levels = offline.EmpathyScale().fit(rated).levels
        found = learned_judges.features([chat.said for chat in chats], encode, levels)
        return learned_judges.learned_preferences(chats, found, **self.resampling)

    def _ratings(self, encode, rated: list) -> AgreementTable:
        paths = self.empathic.paths()
        said = read_conversations(paths)
        # EPITOME's posts come from the very data that the scale of empathy learns from.
        posts = {id for sample, id in said if sample == "EPITOME"}
        levels = offline.EmpathyScale().fit([row for row in rated if row.post not in posts]).levels
        found = learned_judges.features(list(said.values()), encode, levels)
        ratings = [row for row in read_empathic(paths[0]).rows if row.sample in TEXTS]
        made = learned_judges.predicted_ratings(ratings, list(said), found, self.seed)
        return expert_agreement([*ratings, *made], {}, **self.resampling)
