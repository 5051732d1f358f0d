"""The one table: every step of this book under a profile, by its readable name.

Systems are rows with fields (policy, decoding, loss, tuning); nothing takes a name apart.  Under the profile's other seeds the same
rows are built again, and those that something reads over seeds are named ``<name>-seed<number>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decoupled_esc.evaluate.seeds import GOLD
from decoupled_esc.experiments import (
    agreement,
    controls,
    corrected,
    cso,
    data,
    judged_scoreboard,
    judging,
    learned_judges,
    preferences,
    replies,
    scoreboard,
    scores,
    searches,
    sft,
    why,
)
from decoupled_esc.experiments.inputs import Decoding, Inputs, Policy, Turns, base_of
from decoupled_esc.experiments.labels import EmpathyRatings, ErrorLabels, LLMJudges, RewardModels, TrainingLabels
from decoupled_esc.experiments.profiles import Profile, ProfileError, nearest
from decoupled_esc.experiments.replies import Reply
from decoupled_esc.experiments.sampling import greedy
from decoupled_esc.experiments.sft import layout_of
from decoupled_esc.pipeline import Step, closure

SYSTEMS = (
    "vanilla-base", "vanilla-direct-refine", "vanilla-self-refine", "vanilla-emotion-cot", "vanilla-with-example",
    "vanilla-sft", "vanilla-sft-argmax", "vanilla-dpo", "vanilla-dpo-argmax",
    "decoupled-base", "decoupled-sft", "decoupled-sft-argmax", "decoupled-dpo", "decoupled-dpo-argmax",
)  # fmt: skip
"""Paradigm and method of Table 3's rows, and more; ``-argmax`` takes the most probable, and never samples."""

SAMPLED_SYSTEMS = (
    "vanilla-base", "vanilla-direct-refine", "vanilla-self-refine", "vanilla-emotion-cot", "vanilla-with-example",
    "vanilla-sft", "vanilla-dpo", "decoupled-base", "decoupled-sft", "decoupled-dpo",
)  # fmt: skip
JUDGED_SYSTEMS = (*SAMPLED_SYSTEMS, "gold-sft", "gold-dpo")
"""What judges judge: all that Table 3 has, and the generator under the gold strategy (Table 4)."""

SEEDED_SYSTEMS = (
    "vanilla-sft", "vanilla-sft-argmax", "vanilla-dpo", "vanilla-dpo-argmax",
    "decoupled-sft", "decoupled-sft-argmax", "decoupled-dpo", "decoupled-dpo-argmax", "gold-sft", "gold-dpo",
)  # fmt: skip
"""The systems of the research questions, which are made under every seed."""

ERROR_SYSTEMS = ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo")
"""Systems whose psychological errors are asked about under every seed (RQ4)."""

ERROR_CONTRAST = ("decoupled-dpo", "vanilla-sft")
"""The gain of the paper's text: over the fine-tuned models of Observation 1, which are coupled."""

LEANING = ("vanilla-sft", "vanilla-dpo")
"""Systems whose share of each strategy is asked about under every seed (section 3.2)."""

SCOREBOARD_SYSTEMS = ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo")
"""Ours beside published systems: those that name strategies."""

CONTROLLED = ("vanilla-sft", "vanilla-psnr", "vanilla-nspr", "vanilla-nsnr", "vanilla-dpo")
"""Observation 2: the coupled model after pairs of one quadrant each, and after all."""

PLANNERS = ("decoupled-base", "decoupled-sft", "decoupled-dpo")
LOSSES = ("dpo", "ipo", "simpo", "kto", "orpo")
ROLES = ("vanilla", "planner", "generator")
PROMPTED = ("direct-refine", "self-refine", "emotion-cot", "with-example")
QUADRANTS = {"psnr": "PsNr", "nspr": "NsPr", "nsnr": "NsNr"}


@dataclass(frozen=True)
class CSORun:
    """A training on ESC-Pro.  ``loss`` None: fine-tuning on the preferred turns."""

    loss: str | None
    pairs: str = "searched"
    """Or ``random``: random rejected turns (section 5.3); ``gold``: people's turns preferred; ``mined``: DecoupledESC's pairs."""
    share: float = 1.0
    """Of the trees (Figure 4)."""
    lora: bool = False
    """With an adapter, where the rest trains all weights."""


CSO_RUNS = {
    "cso-sft": CSORun(None),
    **{f"cso-{loss}": CSORun(loss) for loss in LOSSES},
    **{f"cso-{kind}": CSORun("dpo", pairs=kind) for kind in ("random", "gold", "mined")},
    "cso-quarter": CSORun("dpo", share=0.25),
    "cso-half": CSORun("dpo", share=0.5),
    "cso-lora-sft": CSORun(None, lora=True),
    **{f"cso-lora-{loss}": CSORun(loss, lora=True) for loss in LOSSES},
    "cso-lora-random": CSORun("dpo", pairs="random", lora=True),
    "cso-lora-quarter": CSORun("dpo", share=0.25, lora=True),
    "cso-lora-half": CSORun("dpo", share=0.5, lora=True),
}
CSO_MAIN = ("cso-sft", "cso-dpo", "cso-random", "cso-gold", "cso-mined", "cso-lora-sft", "cso-lora-dpo")
"""The runs of CSO's main claims, which are made under every seed; the others under the first alone."""

CSO_SYSTEMS = ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo", *CSO_RUNS)
STRATEGY_TESTED = ("vanilla-sft", "cso-sft", "cso-dpo", "cso-lora-sft", "cso-lora-dpo")
"""Systems that answer the strategy test set, too."""

CONTRASTS = (
    ("vanilla-dpo", "vanilla-sft"),
    ("decoupled-dpo", "decoupled-sft"),
    ("decoupled-dpo", "vanilla-dpo"),
    ("vanilla-dpo-argmax", "vanilla-sft-argmax"),
    ("decoupled-dpo-argmax", "decoupled-sft-argmax"),
    ("decoupled-dpo-argmax", "vanilla-dpo-argmax"),
    ("decoupled-sft-argmax", "vanilla-sft-argmax"),
    *((f"vanilla-{name}", "vanilla-base") for name in PROMPTED),
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
CSO_CONTRASTS = (
    ("cso-dpo", "cso-sft"),
    *(("cso-dpo", f"cso-{kind}") for kind in ("random", "gold", "mined")),
    *((f"cso-{kind}", "vanilla-sft") for kind in ("random", "gold", "mined")),
    ("cso-dpo", "vanilla-sft"),
    ("cso-dpo", "vanilla-dpo"),
    ("cso-dpo", "decoupled-sft"),
    ("cso-dpo", "decoupled-dpo"),
    ("cso-sft", "vanilla-base"),
    ("cso-sft", "vanilla-sft"),
    *((f"cso-{name}", "cso-sft") for name in ("ipo", "simpo", "kto", "orpo", "random", "quarter", "half")),
    *((f"cso-lora-{loss}", "cso-lora-sft") for loss in LOSSES),
    ("cso-lora-random", "cso-lora-sft"),
    ("cso-lora-dpo", "cso-lora-random"),
    ("cso-lora-sft", "vanilla-sft"),
    ("cso-lora-dpo", "vanilla-sft"),
    ("cso-lora-dpo", "cso-dpo"),
)


def between(systems) -> tuple[tuple[str, str], ...]:
    """The differences that are measured between ``systems``."""
    return tuple(pair for pair in (*CONTRASTS, ("gold-dpo", "gold-sft")) if set(pair) <= set(systems))


class Rows:
    """The steps that a profile trains and samples under one seed, by name."""

    def __init__(self, profile: Profile, inputs: Inputs, seed: int, earlier: Sequence[Rows] = ()):
        """``earlier``: the rows of the seeds before: there are ``search.searches`` searches, and this takes its turn of them."""
        self.profile, self.inputs, self.seed = profile, inputs, seed
        data, generation = profile.data, profile.generation
        esconv = inputs.corpora["esconv"]
        self.train = Turns(esconv, "train", data.train_dialogues)
        self.mined = Turns(esconv, "train", profile.mining.dialogues or data.train_dialogues)
        self.validation = Turns(esconv, "validation")
        self.followed = Turns(esconv, "validation", data.validation_dialogues)
        self.test = Turns(esconv, "test", data.test_dialogues)
        self.base = base_of(profile.backbone, profile.needs_gpu)
        engine = "transformers" if generation.vllm is None else "vllm"
        self.decoding = Decoding(data.max_length, generation.batch_tokens, engine, serving=generation.vllm)
        self.labels = ErrorLabels(
            esconv, inputs.corpora["failed_esconv"], inputs.files["decoupledesc_release"], profile.scale
        )
        self.training_labels = TrainingLabels(self.labels)
        self.ratings = EmpathyRatings(inputs.files["empathy_mental_health"], profile.scale)
        self.resampling = {"replicates": profile.bootstrap_replicates, "seed": seed}
        self.judge = profile.judge and LLMJudges(
            tuple(endpoint.model for endpoint in profile.judge.endpoints), profile.judge.protocol,
            endpoints=tuple(profile.judge.endpoints), mode=profile.judge.mode,
        )  # fmt: skip
        self.runs = CSO_MAIN if earlier else tuple(CSO_RUNS)
        self.steps: dict[str, Step] = {}
        self._fine_tune()
        self._mine()
        self._prefer()
        number = len(earlier)
        turns = 1 if profile.cso.pairs == "published" else profile.search.searches
        again = earlier[number % turns] if number >= turns else None
        self.pairs = dict(again.pairs) if again else self._search(earlier)
        self.pairs["mined"] = self.steps["cso-mined-pairs"] = cso.SampleMinedPairs(
            self.steps["pairs"], self.pairs["searched"], self.seed
        )
        self._train_cso()
        self._reply()
        self._count()

    def _fine_tune(self) -> None:
        for role in ROLES:
            self.steps[f"sft-{role}"] = sft.FineTune(
                **self._policy(), role=role, layout=layout_of(role, self.profile.generator_layout), turns=self.train,
                held_out=self.validation, training=getattr(self.profile.sft, role),
            )  # fmt: skip
        self.steps["sft-seeker"] = sft.FineTuneSeeker(
            **self._policy(), turns=self.train, held_out=self.validation, training=self.profile.search.seeker
        )

    def _policy(self) -> dict:
        tokens = self.profile.data.max_length
        return {"base": self.base, "max_length": tokens, "seed": self.seed, "launch": self.profile.launch}

    def _mine(self) -> None:
        generation, samples = self.profile.generation, self.profile.mining.samples
        for role in ROLES:
            sampling, number = (generation.plan, 1) if role == "planner" else (generation.reply, samples)
            self.steps[f"candidates-{role}"] = preferences.SampleCandidates(
                self.steps[f"sft-{role}"], self.mined, sampling, number, self.decoding, self.seed
            )
        candidates = {role: self.steps[f"candidates-{role}"] for role in ROLES}
        self.steps["pairs"] = preferences.MinePairs(
            **candidates, turns=self.mined, labels=self.training_labels, ratings=self.ratings,
            judge=None if self.profile.mining.as_in else self.judge, profile=self.profile.mining.as_in or self.profile.name,
            **self.resampling,
        )  # fmt: skip

    def _prefer(self) -> None:
        preference = self.profile.preference
        rows = [(f"dpo-{role}", role, None, None) for role in ROLES]
        rows += [(f"dpo-vanilla-{name}", "vanilla", quadrant, None) for name, quadrant in QUADRANTS.items()]
        rows += [
            (f"{loss}-{role}", role, None, getattr(preference.alternatives, loss))
            for loss in LOSSES[1:]
            for role in ("planner", "generator")
        ]
        for name, role, quadrant, other in rows:
            own = getattr(preference, role)
            rate = {} if other is None else {"learning_rate": other.learning_rate}
            self.steps[name] = preferences.TrainPreference(
                **self._policy(), start=self.steps[f"sft-{role}"], pairs=self.steps["pairs"], quadrant=quadrant, turns=self.train,
                held_out=self.followed, preference=(other or own).loss, training=own.training.model_copy(update=rate),
            )  # fmt: skip

    def _search(self, earlier: Sequence[Rows]) -> dict[str, Step]:
        """The pairs of this seed's own search, by kind; other dialogues and models, and one seeker for all searches."""
        profile, search = self.profile, self.profile.search
        seeker = (earlier[0] if earlier else self).steps["sft-seeker"]
        reward = RewardModels(self.training_labels, self.ratings, self.train, self.seed)
        extes = self.inputs.files["extes"] if search.seeds == "extes" else None
        roles = search.roles and {kind: endpoint.model for kind, endpoint in sorted(search.roles.items())}
        self.steps["search"] = searches.GrowTrees(
            searches.SeedDialogues(self.train, extes, search.dialogues, search.max_gold_turns, self.seed),
            self.steps["sft-planner"], self.steps["sft-generator"], seeker, reward, search.constants,
            profile.generation.reply, self.decoding, roles, self.seed, endpoints=search.roles,
        )  # fmt: skip
        pairs = searches.ExtractPairs(self.steps["search"], search.threshold, reward, self.labels, **self.resampling)
        self.steps["esc-pro"] = pairs
        if profile.cso.pairs == "published":
            self.steps["esc-pro-published"] = pairs = cso.ReadPublishedPairs(self.inputs.files["esc_pro"])
        self.steps["esc-pro-random"] = cso.SampleRandomPairs(
            pairs, self.steps["sft-generator"], profile.generation.reply, self.decoding, self.seed
        )
        return {"searched": pairs, "gold": pairs, "random": self.steps["esc-pro-random"]}

    def _train_cso(self) -> None:
        own = self.profile.cso
        held_out = Turns(self.validation.esconv, "validation", self.profile.data.test_dialogues or 40)
        for name in self.runs:
            run = CSO_RUNS[name]
            tuning, preference = own.lora if run.lora else own, None
            training = tuning and (tuning.sft if run.loss is None else tuning.training)
            if training and run.loss is not None:
                loss = getattr(tuning.losses, run.loss)
                training, preference = training.model_copy(update={"learning_rate": loss.learning_rate}), loss.loss
            self.steps[name] = cso.TrainCSO(
                **self._policy(), start=self.steps["sft-vanilla"] if own.start == "sft-vanilla" else None,
                pairs=self.pairs[run.pairs], gold=run.pairs == "gold", share=run.share, held_out=held_out, preference=preference,
                training=training,
            )  # fmt: skip

    def _reply(self) -> None:
        for name, step in {**self._coupled(), **self._decoupled()}.items():
            self.steps[f"replies-{name}"] = step
        self._cross()

    def _asked(self) -> dict:
        reply = self.profile.generation.reply
        return {"base": self.base, "turns": self.test, "sampling": reply, "decoding": self.decoding, "seed": self.seed}

    def _coupled(self) -> dict[str, Reply]:
        asked, steps = self._asked(), self.steps
        policies = {"vanilla-base": None, "vanilla-sft": steps["sft-vanilla"], "vanilla-dpo": steps["dpo-vanilla"]}
        policies |= {f"vanilla-{name}": steps[f"dpo-vanilla-{name}"] for name in QUADRANTS}
        policies |= {name: steps[name] for name in self.runs}
        found: dict[str, Reply] = {
            name: replies.ReplyCoupled(**asked, policy=policy) for name, policy in policies.items()
        }
        most_probable = asked | {"sampling": greedy(asked["sampling"])}
        for name in ("vanilla-sft", "vanilla-dpo"):
            found[f"{name}-argmax"] = replies.ReplyCoupled(**most_probable, policy=policies[name])
        for name in PROMPTED:
            found[f"vanilla-{name}"] = replies.ReplyPrompted(
                **asked, baseline=name.replace("-", "_"), esconv=self.test.esconv
            )
        return found

    def _decoupled(self) -> dict[str, Reply]:
        asked, layout = self._asked(), layout_of("generator", self.profile.generator_layout)
        policies: dict[str, tuple[Policy | None, Policy | None]] = {"base": (None, None)}
        policies |= {
            kind: (self.steps[f"{kind}-planner"], self.steps[f"{kind}-generator"]) for kind in ("sft", *LOSSES)
        }
        found: dict[str, Reply] = {}
        for kind, (planner, generator) in policies.items():
            found[f"decoupled-{kind}"] = replies.ReplyDecoupled(
                **asked, planner=planner, generator=generator, plan=self.profile.generation.plan, layout=layout
            )
        for kind in ("sft", "dpo"):
            found[f"decoupled-{kind}-argmax"] = replies.ReplyArgmax(**asked, sampled=found[f"decoupled-{kind}"])
            found[f"gold-{kind}"] = replies.ReplyGold(**asked, generator=policies[kind][1], layout=layout)
        return found

    def _cross(self) -> None:
        """Chapter 19: the words of one SFT system under the strategies of the other."""
        for plan, writer in (("vanilla", "generator"), ("decoupled", "vanilla")):
            self.steps[f"replies-{plan}-plans-{writer}-words"] = replies.ReplyUnder(
                **self._asked(), plans=self.steps[f"replies-{plan}-sft"], writer=self.steps[f"sft-{writer}"],
                layout=layout_of(writer, self.profile.generator_layout),
            )  # fmt: skip

    def replies(self, systems) -> dict[str, Reply]:
        """The steps that make the replies of ``systems``, by system, without those that the profile leaves out."""
        return {name: self.steps[f"replies-{name}"] for name in systems if name not in self.profile.left_out}

    def _count(self) -> None:
        """What is counted under each seed, for scores over seeds."""
        full, lora = ([name for name in self.runs if CSO_RUNS[name].lora == adapter] for adapter in (False, True))
        for name, systems in {"counts": SEEDED_SYSTEMS, "counts-cso": full, "counts-cso-lora": lora}.items():
            self.steps[name] = scores.CountPerSeed(self.replies(systems), self.test)
        policies = {name: step.policy for name, step in self.replies(STRATEGY_TESTED).items()}
        self.steps["strategy-test"] = scores.AnswerStrategyTest(policies, **self._asked())
        self.steps["counts-errors"] = judging.CountErrors(
            self.replies(ERROR_SYSTEMS), self.test, self.labels, self.seed
        )


def steps(profile: Profile, inputs: Inputs) -> dict[str, Step]:
    """Every step of the book under ``profile``, by name."""
    own = Rows(profile, inputs, profile.seed)
    for name in profile.left_out:
        if f"replies-{name}" not in own.steps:
            raise ProfileError(f"left_out: no system {name!r}{nearest(f'replies-{name}', list(own.steps))}")
    by_seed = {str(profile.seed): own}
    for seed in profile.other_seeds:
        by_seed[str(seed)] = Rows(profile, inputs, seed, list(by_seed.values()))
    esconv, failed = (inputs.corpora[name] for name in ("esconv", "failed_esconv"))
    release, test, resampling = inputs.files["decoupledesc_release"], own.test, own.resampling
    judged = own.replies(JUDGED_SYSTEMS)

    def over_seeds(systems, contrasts, *counts: str, strategy_test: bool = False) -> scores.EvaluateSeeds:
        counted = {seed: tuple(rows.steps[name] for name in counts) for seed, rows in by_seed.items()}
        return scores.EvaluateSeeds(counted, tuple(systems), tuple(contrasts), test, strategy_test, **resampling)

    def evaluate(systems, contrasts) -> scores.Evaluate:
        made = own.replies(systems)
        return scores.Evaluate(made, tuple(pair for pair in contrasts if set(pair) <= made.keys()), test, **resampling)

    tested = [pair for pair in CSO_CONTRASTS if set(pair) <= set(STRATEGY_TESTED)]
    losses = tuple((f"decoupled-{loss}", "decoupled-sft") for loss in LOSSES)
    errors = {seed: rows.steps["counts-errors"] for seed, rows in by_seed.items()}
    asked = (*between(own.replies(ERROR_SYSTEMS)), ERROR_CONTRAST)
    rates = corrected.MeasureErrorRates(own.labels, **resampling)
    found = {
        "data": data.CountData(esconv, failed),
        "released": data.ScoreReleased(esconv, failed, release, **resampling),
        "error-classifier": judging.MeasureErrorClassifier(own.labels, own.training_labels, **resampling),
        "empathy-scale": judging.MeasureEmpathyScale(own.ratings, esconv, failed, **resampling),
        "judgement-agreement": agreement.MeasureAgreement(
            *(inputs.files[name] for name in ("ieval", "empathic_judges", "mentalalign")), **resampling
        ),
        **learned_judges.learned(inputs.files, resampling),
        "judged-spread": agreement.MeasureJudgedSpread(inputs.files["mentalalign"], **resampling),
        "llm-judges": agreement.MeasureLLMJudges(
            own.judge, inputs.files["empathic_judges"], own.labels, profile.name, **resampling
        ),
        "base-model": sft.DescribeBase(own.base, own.validation),
        "base-answers": sft.ReadAnswers(own.base, own.validation, "vanilla", profile.data.max_length),
        **own.steps,
        "searches": searches.CompareSearches(
            {seed: rows.steps["esc-pro"] for seed, rows in by_seed.items() if "esc-pro" in rows.steps}
        ),
        "metrics": evaluate(SYSTEMS, CONTRASTS),
        "metrics-controlled": evaluate(CONTROLLED, CONTROLLED_CONTRASTS),
        "metrics-losses": evaluate(("decoupled-sft", *(name for name, _ in losses)), losses),
        "questions": over_seeds(SEEDED_SYSTEMS, between(SEEDED_SYSTEMS), "counts"),
        "metrics-cso": over_seeds(CSO_SYSTEMS, CSO_CONTRASTS, "counts", "counts-cso", "counts-cso-lora"),
        "metrics-strategy-test": over_seeds(STRATEGY_TESTED, tested, "strategy-test", strategy_test=True),
        "errors": judging.EvaluateErrors(errors, asked, test, **resampling),
        "error-rates": rates,
        "errors-corrected": corrected.CorrectErrors(errors, rates, asked, test, **resampling),
        "strategy-shares": scores.ShareStrategies(
            {seed: (rows.steps["counts"],) for seed, rows in by_seed.items()},
            LEANING,
            (LEANING[::-1], *((name, GOLD) for name in LEANING)),
            test,
            **resampling,
        ),  # fmt: skip
        "decoding": scores.SweepTemperatures(
            own.replies(PLANNERS), own.train, test, profile.generation.plan.top_p, **resampling
        ),
        "scoreboard": scoreboard.ScorePublished(
            esconv,
            failed,
            release,
            {name: inputs.files[name] for name in scoreboard.SETS},
            own.replies(SCOREBOARD_SYSTEMS),
            test,
            **resampling,
        ),  # fmt: skip
        "scoreboard-judged": judged_scoreboard.JudgePublished(
            own.labels,
            own.ratings,
            {name: inputs.files[name] for name in scoreboard.SETS},
            own.replies(SCOREBOARD_SYSTEMS),
            test,
            **resampling,
        ),  # fmt: skip
        "judged-offline": judging.JudgeOffline(judged, between(judged), test, own.labels, own.ratings, **resampling),
        "judged": judging.AskJudges(
            own.judge, judged, between(judged), own.steps["pairs"], own.train, test, profile.name, **resampling
        ),
        **why.studies(by_seed, between(why.STUDIED_PLANNERS)),
        **controls.controls(own),
    }
    needed = closure(found.values())
    for seed, rows in list(by_seed.items())[1:]:
        found |= {f"{name}-seed{seed}": step for name, step in rows.steps.items() if step.key in needed}
    return found


def names(table: Mapping[str, Step]) -> dict[str, str]:
    """Key -> name."""
    return {step.key: name for name, step in reversed(table.items())}
