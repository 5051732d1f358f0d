# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 Chain-of-Strategy Optimization
#
# With the pairs of [chapter 05](05_search_dialogues.ipynb) a *coupled* model is trained to prefer the turns that the search valued {cite}`zhao2025cso`.
# The claim, in one sentence: training on searched preferences gives more accurate and less biased strategies than fine-tuning on the preferred turns alone, whichever preference loss is taken.
#
# :::{admonition} Research output
# :class: research-output
# The models trained here are experiments with a method.
# They are not counselling, and must not be used as such.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.corpus.windows import LONGEST, SHORTEST
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import benchmarks, cso_tables, figures, questions
from decoupled_esc.present.tables import results_table

book = open_book(globals())
found, found_windows, windows = book["metrics-cso"], book["metrics-strategy-test"], book["strategy-test"]
measured, prompted = found.together, book["metrics"]
how = book.profile.cso
tuning = "full" if how.training.lora is None else "lora"
seeds = ", ".join(str(seed) for seed in found.seeds)
figures.glue_numbers(
    profile_name=book.label, seeds=seeds, n_seeds=len(found.seeds), tuned={"full": "all weights", "lora": "adapters"}[tuning],
    n_windows=f"{windows.windows:,}", n_each=max(windows.strategies.values(), default=0), shortest=SHORTEST, longest=LONGEST,
    start={"sft-vanilla": "the fine-tuned coupled model of chapter 02", "base-model": "the base model"}[how.start],
)  # fmt: skip

# %% [markdown]
# ## What was trained
#
# Each model starts from {glue:text}`start`, under each of {glue:text}`n_seeds` seed(s) ({glue:text}`seeds`) from that seed's own.
# The trees were searched once, under the first seed: ESC-Pro is a data set, and what differs between seeds is what was trained on it.
# The table shows the training runs of the first seed.

# %% tags=["hide-input"]
policies = {
    "SFT": book["cso-sft"], "DPO": book["cso-dpo"], "IPO": book["cso-ipo"], "SimPO": book["cso-simpo"],
    "KTO": book["cso-kto"], "ORPO": book["cso-orpo"], "DPO, random rejected": book["cso-random"],
    "DPO, a quarter of the trees": book["cso-quarter"], "DPO, half of the trees": book["cso-half"],
    "SFT, adapter": book["cso-lora-sft"], "DPO, adapter": book["cso-lora-dpo"], "IPO, adapter": book["cso-lora-ipo"],
    "SimPO, adapter": book["cso-lora-simpo"], "KTO, adapter": book["cso-lora-kto"], "ORPO, adapter": book["cso-lora-orpo"],
}  # fmt: skip
STEPS = {
    "SFT": "cso-sft", "DPO": "cso-dpo", "IPO": "cso-ipo", "SimPO": "cso-simpo", "KTO": "cso-kto", "ORPO": "cso-orpo",
    "DPO, random rejected": "cso-random", "DPO, a quarter of the trees": "cso-quarter", "DPO, half of the trees": "cso-half",
    "SFT, adapter": "cso-lora-sft", "DPO, adapter": "cso-lora-dpo", "IPO, adapter": "cso-lora-ipo", "SimPO, adapter": "cso-lora-simpo",
    "KTO, adapter": "cso-lora-kto", "ORPO, adapter": "cso-lora-orpo",
}  # fmt: skip


def line(name: str) -> dict:
    run = policies[name]
    if isinstance(run, Missing):
        return {"loss": f"not attempted: {run.reason}"}
    loss = run.loss
    return {
        "pairs": f"{run.pairs:,}" if run.pairs else "–",
        "preferred turns": f"{run.turns:,}",
        "loss": "sft" if loss is None else f"{loss.loss} beta {loss.beta:g}" + (f" gamma {loss.gamma:g}" if loss.gamma else ""),
        "learning rate": f"{run.learning_rate:g}",
        "weights trained": f"{run.trainable:,}",
        "KL from the start, nats per token": f"{run.divergence:.4f}",
        "gold answer, nats per token": f"{run.held_out_loss_before:.3f} → {run.held_out_loss:.3f}",
        "minutes (other jobs beside it)": f"{book.stored(STEPS[name]).provenance['wall_seconds'] / 60:.1f}",
    }


results_table(pd.DataFrame({name: line(name) for name in policies}).T.fillna("–"), f"Training on ESC-Pro, profile {book.label}.")

# %% [markdown]
# Read the tables below with the column KL in mind: a model that hardly moved can't differ much from where it started.
#
# CSO's learning rates belong to large models.
# For the small one, rates of DPO were tried on 40 validation dialogues, and the one with the best macro F1 was taken, for all losses, and for adapters likewise where the profile trains both; the other constants were not searched.
# The rates of SFT were not searched either, and how much bias SFT adds may depend on them.
# The search leaves far fewer pairs than the mining of [chapter 04](04_mine_preferences.ipynb), and so far fewer steps: at the rate that suits the coupled model of [chapter 07](07_train_vanilla_baselines.ipynb) next to nothing was learned.

# %% tags=["hide-input"]
tried = sorted((entry for entry in benchmarks.load("preference_search") if entry["role"] in ("cso", *["cso-lora"] * (how.lora is not None))), key=lambda entry: (entry["role"], entry["learning_rate"]))
lines = {"before": next(entry["before"] for entry in tried if "before" in entry)}
lines |= {f"DPO at {entry['learning_rate']:.0e}{', adapter' * (entry['role'] == 'cso-lora')}": {**entry["after"], "KL": entry["divergence"]} for entry in tried}
results_table(pd.DataFrame({name: {key: f"{value:.3g}" for key, value in line.items()} for name, line in lines.items()}).T.fillna("–"),
      "CSO-DPO: settings tried on 40 validation dialogues, sampled (profile laptop; bench/preference_search.py).")  # fmt: skip

# %% [markdown]
# What one rate does to five losses says little about the losses.
#
# All tables below give means over the seeds, with 95% intervals for other dialogues and other training runs ([chapter 09](09_ask_rq1.ipynb) says how); the prompted rows of CSO Table 2 are of one seed.

# %% tags=["hide-input"]
if book.stored("sft-vanilla").provenance.get("remade"):
    print(
        "Not all models of this chapter and of chapters 02 to 08 were trained on one machine, though with the same code, data and seeds: where a training run stands in "
        "two places, as all weights at the test turns and at the strategy test set, its two models may differ in how a processor rounds (chapter 14 shows by how much)."
    )

# %% [markdown]
# ## CSO Table 2

# %% tags=["hide-input"]
cso_tables.table_2(measured, prompted, tuning, book.label)

# %% [markdown]
# Levels can't be equal: CSO tests on other dialogues with other strategies, so no level has a verdict.
# What compares is the sign of CSO minus SFT.
#
# ## CSO Table 4: are searched rejections better than random ones?
#
# The paper's rows are of adapters; ours train {glue:text}`tuned`.

# %% tags=["hide-input"]
cso_tables.table_4(measured, book.label)

# %% [markdown]
# ## CSO Tables 9 to 11: five losses

# %% tags=["hide-input"]
cso_tables.losses(measured, "cso/table-9", tuning, book.label)

# %% tags=["hide-input"]
cso_tables.losses(measured, "cso/table-10", tuning, book.label)

# %% tags=["hide-input"]
cso_tables.losses(measured, "cso/table-11", tuning, book.label)

# %% [markdown]
# Ours are the same numbers in the three tables; the paper's backbones differ.
# Note how little the paper's three backbones agree on which loss is best.
#
# ## CSO Figure 4: how much data?

# %% tags=["hide-input", "remove-output"]
amounts = {"start": "vanilla-sft" if how.start == "sft-vanilla" else "vanilla-base", "a quarter": "cso-quarter", "half": "cso-half", "all trees": "cso-dpo", "SFT on all": "cso-sft"}
shown = {
    {"Q": "macro F1 (Q)", "Q_W": "weighted F1 (Q_W)", "B": "bias (B)"}[key]: {name: measured.systems[system]["paper"][key] for name, system in amounts.items()}
    for key in ("Q", "Q_W", "B")
}
details = measured.details["cso-dpo"]
figures.show("fig_volume", figures.estimates(shown, book.source(f"n = {details.turns:,} replies over {len(found.seeds)} seed(s), 95% intervals")))

# %% [markdown]
# ```{glue:figure} fig_volume
# :name: fig-volume
# :alt: Macro F1, weighted F1 and preference bias with intervals after CSO-DPO on no, a quarter, half and all of the trees, and after fine-tuning on all.
#
# CSO-DPO with more and more of the trees, after Figure 4 of {cite:t}`zhao2025cso`; profile {glue:text}`profile_name`, 95% intervals.
# ```
#
# ## A strategy test set
#
# CSO tests on ExTES, and on a {term}`strategy test set` that it made after {cite:t}`kang2024bias` and does not describe; which number is from which set it does not say.
# The examples that Kang et al. published show the form: short windows of conversations.
# Ours are taken from the same test dialogues as everything here: {glue:text}`shortest` to {glue:text}`longest` utterances from anywhere in a conversation, the last of them the seeker's, and the supporter's next turn is asked for.
# Of each strategy there are as many windows as of the rarest, {glue:text}`n_each`, and {glue:text}`n_windows` in all.
# That they are evenly spread is our choice, to see what a system does under strategies that are rare in whole dialogues; CSO's can't be, since its macro and weighted F1 differ, and on an evenly spread set they hardly would.
# All models here were trained on whole dialogues, and read conversations now whose beginning they do not see.

# %% tags=["hide-input"]
named = {"vanilla-sft": "Vanilla-SFT", "cso-sft": "CSO-SFT", "cso-dpo": "CSO-DPO", "cso-lora-sft": "CSO-SFT, adapter", "cso-lora-dpo": "CSO-DPO, adapter"}
results_table(
    cso_tables.two_tests(measured, found_windows.together).rename(index=named),
    f"The same models at the test turns and at the strategy test set, mean over seed(s) {seeds}, profile {book.label}; 95% intervals.",
)

# %% tags=["hide-input"]
claims = cso_tables.with_adapters(cso_tables.MAIN_CLAIMS, measured)
before = {
    "CSO-DPO has a higher macro F1 than Vanilla-SFT": ("cso-dpo - vanilla-sft", "Q", 1),
    "CSO-DPO has a lower bias than Vanilla-SFT": ("cso-dpo - vanilla-sft", "B", -1),
}
results_table(cso_tables.claims(found_windows, claims | before), f"CSO's claims at the strategy test set, seed(s) {seeds}, profile {book.label}; 95% intervals.")

# %% [markdown]
# A strategy sampled evenly from the eight would have a macro F1 of 12.5 on such a set.
# Bias B at the test turns stands in the tables above and not beside this one: it depends on how many turns there are.
# The verdict below is on the test turns.
# Where the two sets disagree, the reason may be the strategies' share, the missing beginnings, or chance: the windows are fewer.
#
# ## CSO and DecoupledESC side by side
#
# The comparison that neither paper makes: the same base, the same test turns, the same decoding.

# %% tags=["hide-input", "remove-output"]
both = {"Vanilla-SFT": "vanilla-sft", "Vanilla-DPO": "vanilla-dpo", "CSO-SFT": "cso-sft", "CSO-DPO": "cso-dpo", "Decoupled-SFT": "decoupled-sft", "Decoupled-DPO": "decoupled-dpo"}
shown = {
    {"Q": "macro F1 (Q)", "B": "bias (B)", "R-L": "ROUGE-L"}[key]: {name: measured.systems[system]["paper"][key] for name, system in both.items()}
    for key in ("Q", "B", "R-L")
}
figures.show("fig_both_papers", figures.estimates(shown, book.source(f"n = {details.turns:,} replies over {len(found.seeds)} seed(s), 95% intervals")))

# %% [markdown]
# ```{glue:figure} fig_both_papers
# :name: fig-both-papers
# :alt: Macro F1, preference bias and ROUGE-L with intervals for six systems of the two papers.
#
# Both papers' systems on the same test turns; profile {glue:text}`profile_name`, 95% intervals.
# ```

# %% tags=["hide-input"]
asked = {
    "cso-dpo - cso-sft": "CSO's main claim: is preference training better than fine-tuning on what was preferred?",
    "cso-dpo - vanilla-sft": "is it better than fine-tuning on ESConv alone?",
    "cso-sft - vanilla-sft": "and is SFT on ESC-Pro?",
    "cso-dpo - cso-random": "are searched rejections better than random ones?",
    "cso-dpo - vanilla-dpo": "search against mining, both coupled",
    "cso-dpo - decoupled-dpo": "CSO against DecoupledESC",
}
if "cso-lora-dpo" in measured.systems:
    asked |= {
        "cso-lora-dpo - cso-lora-sft": "the main claim, with adapters", "cso-lora-dpo - vanilla-sft": "with adapters, is it better than fine-tuning on ESConv alone?",
        "cso-lora-sft - vanilla-sft": "and is SFT on ESC-Pro, with adapters?",
        "cso-lora-dpo - cso-dpo": "adapters against all weights",
    }  # fmt: skip
results_table(cso_tables.differences(measured, asked), f"Paired differences on the same test turns, mean over seed(s) {seeds}, profile {book.label}; 95% intervals.")

# %% [markdown]
# Less bias than after SFT on ESC-Pro is not less bias than before ESC-Pro.
# Where SFT adds bias and CSO-DPO adds little, CSO-DPO wins by having moved less: look at the rows against fine-tuning on ESConv alone, and at the column KL above.
#
# ## Verdict

# %% tags=["hide-input"]
figures.glue_numbers(rule=questions.rule(found))
results_table(cso_tables.claims(found, cso_tables.verdict_claims(measured)), f"CSO's claims, seed(s) {seeds}, profile {book.label}; 95% intervals.")

# %% [markdown]
# {glue:text}`rule`
#
# All seeds learn from the same searched pairs, so that nothing here says what another search would have given.
# And what was searched here was searched by small models with weak judges as reward models, so that an answer against the claim is no answer about a search by good ones.
#
# What would change our mind: the same chapter with roles played by an LLM (a `roles` section in the profile), more trees, and searches under several seeds.
#
# Not run here: CSO's human evaluation (CSO Tables 3 and 6), and its own test sets, whose strategies are those of ExTES.
