"""The one table: every step of this book under a profile, by its readable name.

Systems are rows with fields (policy, decoding, loss, tuning); nothing takes a name apart.  Under the profile's other seeds the same
rows are built again, and those that something reads over seeds are named ``<name>-seed<number>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from decoupled_esc.experiments.agreement import MeasureAgreement, MeasureJudgedSpread
from decoupled_esc.experiments.cso import (
    ExtractPairs,
    GrowTrees,
    ReadPublishedPairs,
    SampleRandomPairs,
    SeedDialogues,
    TrainCSO,
)
from decoupled_esc.experiments.data import CountData, ScoreReleased
from decoupled_esc.experiments.inputs import Decoding, Inputs, Policy, Turns, base_of
from decoupled_esc.experiments.judging import (
    AskJudges,
    CountErrors,
    EvaluateErrors,
    JudgeOffline,
    MeasureEmpathyScale,
    MeasureErrorClassifier,
)  # fmt: skip
from decoupled_esc.experiments.labels import EmpathyRatings, ErrorLabels, LLMJudges, RewardModels
from decoupled_esc.experiments.preferences import MinePairs, SampleCandidates, TrainPreference
from decoupled_esc.experiments.profiles import Profile
from decoupled_esc.experiments.replies import Reply, ReplyArgmax, ReplyCoupled, ReplyDecoupled, ReplyGold, ReplyPrompted
from decoupled_esc.experiments.sampling import greedy
from decoupled_esc.experiments.scoreboard import SETS, ScorePublished
from decoupled_esc.experiments.scores import (
    AnswerStrategyTest,
    CountPerSeed,
    Evaluate,
    EvaluateSeeds,
    SweepTemperatures,
)
from decoupled_esc.experiments.sft import DescribeBase, FineTune, layout_of
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
    random: bool = False
    """Against random rejected turns (section 5.3)."""
    share: float = 1.0
    """Of the trees (Figure 4)."""
    lora: bool = False
    """With an adapter, where the rest trains all weights."""


CSO_RUNS = {
    "cso-sft": CSORun(None),
    **{f"cso-{loss}": CSORun(loss) for loss in LOSSES},
    "cso-random": CSORun("dpo", random=True),
    "cso-quarter": CSORun("dpo", share=0.25),
    "cso-half": CSORun("dpo", share=0.5),
    "cso-lora-sft": CSORun(None, lora=True),
    **{f"cso-lora-{loss}": CSORun(loss, lora=True) for loss in LOSSES},
}
CSO_SYSTEMS = ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo", "vanilla-base", *CSO_RUNS)
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


def between(systems) -> tuple[tuple[str, str], ...]:
    """The differences that are measured between ``systems``."""
    return tuple(pair for pair in (*CONTRASTS, ("gold-dpo", "gold-sft")) if set(pair) <= set(systems))


class Rows:
    """The steps that a profile trains and samples under one seed, by name."""

    def __init__(self, profile: Profile, inputs: Inputs, seed: int, first: Rows | None = None):
        """``first``: the rows of the profile's own seed, which has what is made once: trees and the pairs from them."""
        self.profile, self.inputs, self.seed = profile, inputs, seed
        data, generation = profile.data, profile.generation
        esconv = inputs.corpora["esconv"]
        self.train = Turns(esconv, "train", data.train_dialogues)
        self.validation = Turns(esconv, "validation")
        self.test = Turns(esconv, "test", data.test_dialogues)
        self.base = base_of(profile.backbone, profile.needs_gpu)
        engine = "transformers" if generation.vllm is None else "vllm"
        self.decoding = Decoding(data.max_length, generation.batch_tokens, engine, serving=generation.vllm)
        self.labels = ErrorLabels(
            esconv, inputs.corpora["failed_esconv"], inputs.files["decoupledesc_release"], profile.scale
        )
        self.ratings = EmpathyRatings(inputs.files["empathy_mental_health"], profile.scale)
        self.resampling = {"replicates": profile.bootstrap_replicates, "seed": seed}
        self.judge = profile.judge and LLMJudges(
            tuple(endpoint.model for endpoint in profile.judge.endpoints), profile.judge.protocol,
            endpoints=tuple(profile.judge.endpoints), mode=profile.judge.mode,
        )  # fmt: skip
        self.steps: dict[str, Step] = {}
        self._fine_tune()
        self._mine()
        self._prefer()
        self.searched = first.searched if first else self._search()
        self.random = first.random if first else self._random()
        self._train_cso()
        self._reply()
        self._count()

    def _fine_tune(self) -> None:
        sft, search = self.profile.sft, self.profile.search
        trainings = {role: getattr(sft, role) for role in ROLES} | {"seeker": search.seeker}
        for role, training in trainings.items():
            self.steps[f"sft-{role}"] = FineTune(
                **self._policy(), role=role, layout=layout_of(role, self.profile.generator_layout), turns=self.train,
                held_out=self.validation, training=training,
            )  # fmt: skip

    def _policy(self) -> dict:
        return {
            "base": self.base,
            "max_length": self.profile.data.max_length,
            "seed": self.seed,
            "launch": self.profile.launch,
        }

    def _mine(self) -> None:
        generation, samples = self.profile.generation, self.profile.mining.samples
        candidates = {}
        for role in ROLES:
            sampling, number = (generation.plan, 1) if role == "planner" else (generation.reply, samples)
            candidates[role] = SampleCandidates(
                self.steps[f"sft-{role}"], self.train, sampling, number, self.decoding, self.seed
            )
            self.steps[f"candidates-{role}"] = candidates[role]
        self.steps["pairs"] = MinePairs(
            **candidates, turns=self.train, labels=self.labels, ratings=self.ratings, judge=self.judge, profile=self.profile.name,
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
            training = (
                own.training
                if other is None
                else own.training.model_copy(update={"learning_rate": other.learning_rate})
            )
            self.steps[name] = TrainPreference(
                **self._policy(), start=self.steps[f"sft-{role}"], pairs=self.steps["pairs"], quadrant=quadrant, turns=self.train,
                held_out=self.validation, preference=(other or own).loss, training=training,
            )  # fmt: skip

    def _search(self) -> Step:
        profile, search = self.profile, self.profile.search
        reward = RewardModels(self.labels, self.ratings, self.train, self.seed)
        extes = self.inputs.files["extes"] if search.seeds == "extes" else None
        roles = search.roles and {kind: endpoint.model for kind, endpoint in sorted(search.roles.items())}
        self.steps["search"] = GrowTrees(
            SeedDialogues(self.train, extes, search.dialogues, search.max_gold_turns, self.seed),
            self.steps["sft-planner"], self.steps["sft-generator"], self.steps["sft-seeker"], reward, search.constants,
            profile.generation.reply, self.decoding, roles, self.seed, endpoints=search.roles,
        )  # fmt: skip
        searched = ExtractPairs(self.steps["search"], search.threshold, reward, **self.resampling)
        self.steps["esc-pro"] = searched
        if profile.cso.pairs == "searched":
            return searched
        self.steps["esc-pro-published"] = ReadPublishedPairs(self.inputs.files["esc_pro"])
        return self.steps["esc-pro-published"]

    def _random(self) -> Step:
        reply = self.profile.generation.reply
        self.steps["esc-pro-random"] = SampleRandomPairs(
            self.searched, self.steps["sft-generator"], reply, self.decoding, self.seed
        )
        return self.steps["esc-pro-random"]

    def _train_cso(self) -> None:
        cso = self.profile.cso
        held_out = Turns(self.validation.esconv, "validation", self.profile.data.test_dialogues or 40)
        for name, run in CSO_RUNS.items():
            tuning = cso.lora if run.lora else cso
            training = tuning and (tuning.sft if run.loss is None else tuning.training)
            preference = None
            if training and run.loss is not None:
                training = training.model_copy(update={"learning_rate": getattr(tuning.losses, run.loss).learning_rate})
                preference = getattr(tuning.losses, run.loss).loss
            self.steps[name] = TrainCSO(
                **self._policy(), start=self.steps["sft-vanilla"] if cso.start == "sft-vanilla" else None,
                pairs=self.random if run.random else self.searched, share=run.share, held_out=held_out, preference=preference,
                training=training,
            )  # fmt: skip

    def _reply(self) -> None:
        for name, step in {**self._coupled(), **self._decoupled()}.items():
            self.steps[f"replies-{name}"] = step

    def _asked(self) -> dict:
        reply = self.profile.generation.reply
        return {"base": self.base, "turns": self.test, "sampling": reply, "decoding": self.decoding, "seed": self.seed}

    def _coupled(self) -> dict[str, Reply]:
        asked, steps = self._asked(), self.steps
        policies = {"vanilla-base": None, "vanilla-sft": steps["sft-vanilla"], "vanilla-dpo": steps["dpo-vanilla"]}
        policies |= {f"vanilla-{name}": steps[f"dpo-vanilla-{name}"] for name in QUADRANTS}
        policies |= {name: steps[name] for name in CSO_RUNS}
        found: dict[str, Reply] = {name: ReplyCoupled(**asked, policy=policy) for name, policy in policies.items()}
        most_probable = asked | {"sampling": greedy(asked["sampling"])}
        for name in ("vanilla-sft", "vanilla-dpo"):
            found[f"{name}-argmax"] = ReplyCoupled(**most_probable, policy=policies[name])
        for name in PROMPTED:
            found[f"vanilla-{name}"] = ReplyPrompted(**asked, baseline=name.replace("-", "_"), esconv=self.test.esconv)
        return found

    def _decoupled(self) -> dict[str, Reply]:
        asked, layout = self._asked(), layout_of("generator", self.profile.generator_layout)
        policies: dict[str, tuple[Policy | None, Policy | None]] = {"base": (None, None)}
        policies |= {
            kind: (self.steps[f"{kind}-planner"], self.steps[f"{kind}-generator"]) for kind in ("sft", *LOSSES)
        }
        found: dict[str, Reply] = {}
        for kind, (planner, generator) in policies.items():
            found[f"decoupled-{kind}"] = ReplyDecoupled(
                **asked, planner=planner, generator=generator, plan=self.profile.generation.plan, layout=layout
            )
        for kind in ("sft", "dpo"):
            found[f"decoupled-{kind}-argmax"] = ReplyArgmax(**asked, sampled=found[f"decoupled-{kind}"])
            found[f"gold-{kind}"] = ReplyGold(**asked, generator=policies[kind][1], layout=layout)
        return found

    def replies(self, systems) -> dict[str, Reply]:
        """The steps that make the replies of ``systems``, by system."""
        return {name: self.steps[f"replies-{name}"] for name in systems}

    def _count(self) -> None:
        """What is counted under each seed, for scores over seeds."""
        cso = ("vanilla-base", *(name for name, run in CSO_RUNS.items() if not run.lora))
        lora = tuple(name for name, run in CSO_RUNS.items() if run.lora)
        for name, systems in {"counts": SEEDED_SYSTEMS, "counts-cso": cso, "counts-cso-lora": lora}.items():
            self.steps[name] = CountPerSeed(self.replies(systems), self.test)
        policies = {name: self.steps[f"replies-{name}"].policy for name in STRATEGY_TESTED}
        asked = self._asked()
        self.steps["strategy-test"] = AnswerStrategyTest(policies, **asked)
        self.steps["counts-errors"] = CountErrors(self.replies(ERROR_SYSTEMS), self.test, self.labels, self.seed)


def steps(profile: Profile, inputs: Inputs) -> dict[str, Step]:
    """Every step of the book under ``profile``, by name."""
    own = Rows(profile, inputs, profile.seed)
    by_seed = {str(profile.seed): own} | {str(seed): Rows(profile, inputs, seed, own) for seed in profile.other_seeds}
    esconv, failed = (inputs.corpora[name] for name in ("esconv", "failed_esconv"))
    release, test, resampling = inputs.files["decoupledesc_release"], own.test, own.resampling
    judged = own.replies(JUDGED_SYSTEMS)

    def over_seeds(systems, contrasts, *counts: str, strategy_test: bool = False) -> EvaluateSeeds:
        counted = {seed: tuple(rows.steps[name] for name in counts) for seed, rows in by_seed.items()}
        return EvaluateSeeds(counted, tuple(systems), tuple(contrasts), test, strategy_test, **resampling)

    tested = [pair for pair in CSO_CONTRASTS if set(pair) <= set(STRATEGY_TESTED)]
    losses = tuple((f"decoupled-{loss}", "decoupled-sft") for loss in LOSSES)
    errors = {seed: rows.steps["counts-errors"] for seed, rows in by_seed.items()}
    found = {
        "data": CountData(esconv, failed),
        "released": ScoreReleased(esconv, failed, release, **resampling),
        "error-classifier": MeasureErrorClassifier(own.labels, **resampling),
        "empathy-scale": MeasureEmpathyScale(own.ratings, esconv, failed, **resampling),
        "judgement-agreement": MeasureAgreement(
            *(inputs.files[name] for name in ("ieval", "empathic_judges", "mentalalign")), **resampling
        ),
        "judged-spread": MeasureJudgedSpread(inputs.files["mentalalign"], **resampling),
        "base-model": DescribeBase(own.base, own.validation),
        **own.steps,
        "metrics": Evaluate(own.replies(SYSTEMS), CONTRASTS, test, **resampling),
        "metrics-controlled": Evaluate(own.replies(CONTROLLED), CONTROLLED_CONTRASTS, test, **resampling),
        "metrics-losses": Evaluate(
            own.replies(("decoupled-sft", *(name for name, _ in losses))), losses, test, **resampling
        ),
        "questions": over_seeds(SEEDED_SYSTEMS, between(SEEDED_SYSTEMS), "counts"),
        "metrics-cso": over_seeds(CSO_SYSTEMS, CSO_CONTRASTS, "counts", "counts-cso", "counts-cso-lora"),
        "metrics-strategy-test": over_seeds(STRATEGY_TESTED, tested, "strategy-test", strategy_test=True),
        "errors": EvaluateErrors(errors, between(ERROR_SYSTEMS), test, **resampling),
        "decoding": SweepTemperatures(own.replies(PLANNERS), own.train, test, **resampling),
        "scoreboard": ScorePublished(
            esconv,
            failed,
            release,
            {name: inputs.files[name] for name in SETS},
            own.replies(SCOREBOARD_SYSTEMS),
            test,
            **resampling,
        ),
        "judged-offline": JudgeOffline(judged, between(JUDGED_SYSTEMS), test, own.labels, own.ratings, **resampling),
        "judged": AskJudges(
            own.judge, judged, between(JUDGED_SYSTEMS), own.steps["pairs"], own.train, test, profile.name, **resampling
        ),
    }
    needed = closure(found.values())
    for seed, rows in list(by_seed.items())[1:]:
        found |= {f"{name}-seed{seed}": step for name, step in rows.steps.items() if step.key in needed}
    return found


def names(table: Mapping[str, Step]) -> dict[str, str]:
    """Key -> name."""
    return {step.key: name for name, step in reversed(table.items())}
