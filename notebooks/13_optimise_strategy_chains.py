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

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.corpus.windows import LONGEST, SHORTEST
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import benchmarks, cso_tables, figures, questions
from decoupled_esc.present.forest import Forest, in_words, marks
from decoupled_esc.present.tables import format_estimate, results_table

book = open_book(globals())
every = book.everywhere("metrics-cso")
found, found_windows, windows = every[book.backbone], book["metrics-strategy-test"], book["strategy-test"]
measured, prompted = found.together, book["metrics"]
how = book.profile.cso
tuning = cso_tables.tuning_of(book.profile)
tunings = {one.backbone: cso_tables.tuning_of(one.profile) for one in (book, *book.beside)}
seeds = ", ".join(str(seed) for seed in found.seeds)
figures.glue_numbers(
    profile_name=book.label, seeds=seeds, n_seeds=len(found.seeds), tuned={"full": "all weights", "lora": "adapters"}[tuning],
    n_windows=f"{windows.windows:,}", n_each=max(windows.strategies.values(), default=0), shortest=SHORTEST, longest=LONGEST,
    start={"sft-vanilla": "the fine-tuned coupled model of chapter 02", "base-model": "the base model"}[how.start],
)  # fmt: skip

# %% [markdown]
# ## The answer
#
# {glue:text}`answer`
#
# That is against SFT on ESC-Pro, as in the paper.
# Against fine-tuning on ESConv alone, which is no row of the paper's, CSO-DPO changes macro F1 by {glue:text}`alone_q` and bias by {glue:text}`alone_b`{glue:text}`with_adapters`, and SFT on ESC-Pro by {glue:text}`sft_q` and {glue:text}`sft_b`.
# Where SFT on ESC-Pro makes the model worse and CSO-DPO makes it less worse, its advantage over that SFT need not be a gain.

# %% tags=["hide-input"]
verdict = questions.side_by_side({name: cso_tables.claim_rows(one, cso_tables.verdict_claims(one.together, tunings[name])) for name, one in every.items()})


def change(contrast: str, key: str) -> str:
    """A paired difference of this profile's systems as text."""
    told = measured.contrasts.get(contrast, {}).get("paper", {})
    return format_estimate(told.get(key), 2 if key == "B" else 1, "+")


also = f" (with adapters {change('cso-lora-dpo - vanilla-sft', 'Q')} and {change('cso-lora-dpo - vanilla-sft', 'B')})"
figures.glue_numbers(
    answer=in_words(verdict), rule=questions.rule(found, len(every) > 1), with_adapters=also if "cso-lora-dpo - vanilla-sft" in measured.contrasts else "",
    **{
        f"{name}_{key.lower()}": change(contrast, key)
        for name, contrast in (("alone", "cso-dpo - vanilla-sft"), ("sft", "cso-sft - vanilla-sft"), ("both", "cso-dpo - decoupled-dpo"))
        for key in ("Q", "B")
    },
    rouge="; ".join(f"{name} {change(contrast, 'R-L')}" for name, contrast in {"all weights": "cso-dpo - cso-sft", "adapters": "cso-lora-dpo - cso-lora-sft"}.items() if contrast in measured.contrasts),
    kinds="; ".join(f"against {kind} pairs {change(f'cso-dpo - cso-{name}', 'Q')}" for name, kind in {"random": "random", "gold": "gold", "mined": "mined"}.items() if f"cso-dpo - cso-{name}" in measured.contrasts) or "–",
)  # fmt: skip
adapters = "".join(f" {one.backbone} is trained with adapters alone." for one in book.beside if one.backbone in every and one.profile.cso.training.lora)
Forest(verdict, f"CSO's claims at the test turns; {marks(verdict)}. Profile {book.label}, seed(s) {seeds}.{adapters}")

# %% tags=["hide-cell"]
results_table(questions.numbers(verdict), f"CSO's claims, seed(s) {seeds}, profile {book.label}; 95% intervals.")

# %% [markdown]
# {glue:text}`rule`
#
# A seed's training and its search vary together, so that these intervals do not say which of the two matters more.
# What was searched here was searched by small models with weak judges as reward models, so that an answer against the claim is no answer about a search by good ones.
#
# What would change our mind: the same chapter with roles played by an LLM (a `roles` section in the profile), and more trees.
#
# Not run here: CSO's human evaluation (CSO Tables 3 and 6), and its own test sets, whose strategies are those of ExTES.

# %% [markdown]
# ## What was trained
#
# Each model starts from {glue:text}`start`, under each of {glue:text}`n_seeds` seed(s) ({glue:text}`seeds`) from that seed's own.
# Where a profile has several searches, the seeds take their turn of them: seed $i$ learns from search $i$ mod their number, so that intervals are for other searches as well, at no cost in training.
# Beside the searched pairs stand three others: *random*, the same preferred turns, pair by pair, against a reply under a strategy sampled at random; *gold*, as many pairs (where there are) of the same trees in which a person's turn is preferred to what models said in its place, whatever any judge gives them; and *mined*, as many of DecoupledESC's pairs for the coupled model ([chapter 04](04_mine_preferences.ipynb)), of whole dialogues.
# KTO takes no pairs: they are split, and an answer that several of them share counts once, as CSO's appendix G says.
# The table shows the training runs of the first seed.

# %% tags=["hide-input"]
policies = {
    "SFT": book["cso-sft"], "DPO": book["cso-dpo"], "IPO": book["cso-ipo"], "SimPO": book["cso-simpo"],
    "KTO": book["cso-kto"], "ORPO": book["cso-orpo"], "DPO, random rejected": book["cso-random"],
    "DPO, gold pairs": book["cso-gold"], "DPO, mined pairs": book["cso-mined"],
    "DPO, a quarter of the trees": book["cso-quarter"], "DPO, half of the trees": book["cso-half"],
    "SFT, adapter": book["cso-lora-sft"], "DPO, adapter": book["cso-lora-dpo"], "IPO, adapter": book["cso-lora-ipo"],
    "SimPO, adapter": book["cso-lora-simpo"], "KTO, adapter": book["cso-lora-kto"], "ORPO, adapter": book["cso-lora-orpo"],
    "DPO, random rejected, adapter": book["cso-lora-random"], "DPO, a quarter of the trees, adapter": book["cso-lora-quarter"],
    "DPO, half of the trees, adapter": book["cso-lora-half"],
}  # fmt: skip
STEPS = {
    "SFT": "cso-sft", "DPO": "cso-dpo", "IPO": "cso-ipo", "SimPO": "cso-simpo", "KTO": "cso-kto", "ORPO": "cso-orpo",
    "DPO, random rejected": "cso-random", "DPO, gold pairs": "cso-gold", "DPO, mined pairs": "cso-mined", "DPO, a quarter of the trees": "cso-quarter", "DPO, half of the trees": "cso-half",
    "SFT, adapter": "cso-lora-sft", "DPO, adapter": "cso-lora-dpo", "IPO, adapter": "cso-lora-ipo", "SimPO, adapter": "cso-lora-simpo",
    "KTO, adapter": "cso-lora-kto", "ORPO, adapter": "cso-lora-orpo", "DPO, random rejected, adapter": "cso-lora-random",
    "DPO, a quarter of the trees, adapter": "cso-lora-quarter", "DPO, half of the trees, adapter": "cso-lora-half",
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
# The search leaves fewer pairs than the mining of [chapter 04](04_mine_preferences.ipynb), and so fewer steps, which is why the rate is not that of the coupled model of [chapter 07](07_train_vanilla_baselines.ipynb).

# %% tags=["hide-input"]
tried = sorted((entry for entry in benchmarks.load("preference_search") if entry["role"] in ("cso", *["cso-lora"] * (how.lora is not None))), key=lambda entry: (entry["role"], entry["learning_rate"]))
lines = {"before": next(entry["before"] for entry in tried if "before" in entry)}
lines |= {f"DPO at {entry['learning_rate']:.0e}{', adapter' * (entry['role'] == 'cso-lora')}": {**entry["after"], "KL": entry["divergence"]} for entry in tried}
results_table(pd.DataFrame({name: {key: f"{value:.3g}" for key, value in line.items()} for name, line in lines.items()}).T.fillna("–"),
      "CSO-DPO: settings tried on 40 validation dialogues, sampled (profile laptop; bench/preference_search.py).")  # fmt: skip

# %% [markdown]
# What one rate does to five losses says little about the losses.
#
# The tables below give means over the seeds, with 95% intervals for other dialogues and other training runs ([chapter 09](09_ask_rq1.ipynb) says how).
# Some rows are of one seed, and each caption names them: IPO, SimPO, KTO and ORPO, parts of the trees, random rejected turns with adapters, and the prompted rows of CSO Table 2.
# Their intervals know other dialogues alone, so that they look surer than they are, and a row of three seeds beside one of one seed is another mean.

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
# The paper's rows are of adapters; first ours of {glue:text}`tuned`, and then of adapters where the profile trains both.

# %% tags=["hide-input"]
cso_tables.table_4(measured, tuning, book.label)

# %% tags=["hide-input"]
cso_tables.table_4(measured, "lora", book.label) if len(cso_tables.tunings(measured, tuning)) > 1 else results_table(Missing("the profile trains CSO in one way"), "CSO Table 4 in the other tuning.")

# %% [markdown]
# ## CSO Tables 9 to 11: five losses

# %% tags=["hide-input"]
cso_tables.losses(measured, "cso/table-9", tuning, book.label)

# %% tags=["hide-cell"]
cso_tables.losses(measured, "cso/table-10", tuning, book.label)

# %% tags=["hide-cell"]
cso_tables.losses(measured, "cso/table-11", tuning, book.label)

# %% [markdown]
# Ours are the same numbers in the three tables; the paper's backbones differ, and two of the tables are folded.
# Note how little the paper's three backbones agree on which loss is best.
#
# In ROUGE-L the paper's CSO gains over SFT nearly everywhere, and ours does not: CSO-DPO minus SFT on ESC-Pro is {glue:text}`rouge`.
# Most cells of these tables with the *opposite* direction are of ROUGE-L, and of rows of one seed.

# %% [markdown]
# ### One of the five: IPO
#
# DPO is never content: a larger margin $m$ between the two log-ratios always lowers its loss.
# IPO {cite}`azar2024ipo` has a target, $(m - \frac{1}{2\beta})^2$, and pushes back beyond it.

# %%
import torch
from turn_trees.losses import dpo, ipo

# Log-ratio of the chosen minus that of the rejected
beta, margin = 0.1, torch.tensor([0.0, 5.0, 10.0], requires_grad=True)
nothing = torch.zeros(3)
pushes = {}
for name, loss in (("IPO", ipo), ("DPO", dpo)):
    by_margin = loss(margin, nothing, nothing, nothing, beta=beta)
    (pushes[name],) = torch.autograd.grad(by_margin.sum(), margin)
    if name == "IPO":
        assert torch.allclose(by_margin, (margin - 1 / (2 * beta)) ** 2)
assert (pushes["DPO"] < 0).all() and pushes["IPO"].sign().tolist() == [-1, 0, 1]
print("; ".join(f"slope of {name} at margins 0, 5, 10: {', '.join(f'{x:+.2f}' for x in of)}" for name, of in pushes.items()))

# %% [markdown]
# ## CSO Figure 4: how much data?

# %% tags=["hide-input", "remove-output"]
volumes = cso_tables.volumes(measured, tuning, "vanilla-sft" if how.start == "sft-vanilla" else "vanilla-base")
details = measured.details["cso-dpo"]
source = book.source(f"n = {details.turns:,} replies over {len(found.seeds)} seed(s), 95% intervals")
figures.show("fig_volume", cso_tables.over_volume(volumes, source, *cso_tables.printed_volumes()))

# %% [markdown]
# ```{glue:figure} fig_volume
# :name: fig-volume
# :alt: Above, hollow marks of the paper's macro F1, weighted F1 and preference bias without CSO and after all of it, for three backbones, and dashed lines for SFT. Below, our lines with intervals over the share of the trees, for CSO-DPO with all weights and with adapters, and dashed lines for fine-tuning on all trees.
#
# Figure 4 of {cite:t}`zhao2025cso`. Above, what the paper prints of it, with adapters: both ends of its lines and dashed SFT (Table 2), and in grey the 200 to 300 dialogues with which it passes SFT (section 5.4).
# Below, CSO-DPO with more and more of our trees, with all weights and with adapters where the profile trains both, and dashed SFT on all of them; profile {glue:text}`profile_name`, 95% intervals.
# The test sets differ: compare on which side of its dashed line a mark lies, and no heights.
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
claims = cso_tables.tuned(cso_tables.MAIN_CLAIMS, found_windows.together, tuning)
before = {
    "CSO-DPO has a higher macro F1 than Vanilla-SFT": ("cso-dpo - vanilla-sft", "Q", 1),
    "CSO-DPO has a lower bias than Vanilla-SFT": ("cso-dpo - vanilla-sft", "B", -1),
}
results_table(questions.numbers(cso_tables.claim_rows(found_windows, claims | before)), f"CSO's claims at the strategy test set, seed(s) {seeds}, profile {book.label}; 95% intervals.")

# %% [markdown]
# A strategy sampled evenly from the eight would have a macro F1 of 12.5 on such a set, so that a model near it has learned little about which strategy a moment asks for.
# Bias B at the test turns stands in the tables above and not beside this one: it depends on how many turns there are.
# The verdict above is on the test turns, with a correction for more rows: the same difference can be decided in one table and not in the other.
# Where the differences disagree, the reason may be the strategies' share, the missing beginnings, or chance: the windows are fewer.
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
# CSO-DPO against Decoupled-DPO is {glue:text}`both_q` points of macro F1 and {glue:text}`both_b` of bias.
# Where SFT adds bias and CSO-DPO adds less, CSO-DPO wins by having moved less: look at the rows against fine-tuning on ESConv alone, and at the column KL above.
#
# ## What kind of pairs?
#
# The same start, loss and rate on four kinds of pairs.
# If searched pairs taught more than pairs as such, the first row would differ from the others; if any pairs do, all differ from where they started and not from each other.
# In macro F1 searched pairs are {glue:text}`kinds`: where these intervals hold 0, no more is shown than that pairs of any kind do it ([chapter 19](19_ask_why.ipynb), study 5).

# %% tags=["hide-input"]
kinds = {"searched": "cso-dpo", "random rejected": "cso-random", "gold preferred": "cso-gold", "mined": "cso-mined"}
asked_of = {f"{system} - vanilla-sft": f"{kind} pairs against fine-tuning on ESConv alone" for kind, system in kinds.items()}
asked_of |= {f"cso-dpo - {system}": f"searched pairs against {kind} ones" for kind, system in kinds.items() if kind != "searched"}
there = {name: question for name, question in asked_of.items() if name in measured.contrasts}
results_table(cso_tables.differences(measured, there), f"CSO-DPO by kind of pairs, mean over seed(s) {seeds}, profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-13-read
#
# CSO-DPO has less bias than CSO-SFT.
# Why is that not yet the claim that training on searched pairs makes a model less biased?
# ````
#
# ````{solution} ex-13-read
# :class: dropdown
#
# Fine-tuning on ESC-Pro may itself add bias; a model that moved less then wins by having moved less.
# The comparison with the model before ESC-Pro (the rows against fine-tuning on ESConv alone) and the column KL tell the two apart.
# ````
#
# ````{exercise} compute
# :label: ex-13-compute
#
# A chosen answer of ten tokens has a log-probability of −20 under the policy, and a rejected one of four tokens −12.
# Which of the two do sums prefer, and which does SimPO? What is its loss at $\beta = 2$, $\gamma = 0.5$?
#
# ```python
# import math
# import torch
# from turn_trees.losses import simpo
#
# chosen, rejected = -20 / 10, -12 / 4  # per token
# ```
# ````
#
# ````{solution} ex-13-compute
# :class: dropdown
#
# ```python
# by_hand = -math.log(1 / (1 + math.exp(-(2 * (chosen - rejected) - 0.5))))
# library = simpo(torch.tensor(chosen), torch.tensor(rejected), beta=2.0, gamma=0.5).item()
# print(f"{by_hand:.3f}")  # 0.201
# assert math.isclose(by_hand, library, rel_tol=1e-5)
# ```
#
# The sum prefers the short one, the mean per token the longer one, which is the chosen.
# SimPO has no reference, so that nothing but the answers' own length keeps short ones from winning.
# ````
#
# ````{exercise} change
# :label: ex-13-change
#
# In the IPO cell above, halve $\beta$.
# Where does the slope change its sign now, and which assertion has to be changed with it?
# ````
#
# ````{solution} ex-13-change
# :class: dropdown
#
# ```python
# import torch
# from turn_trees.losses import ipo
#
# margin = torch.tensor([0.0, 5.0, 10.0], requires_grad=True)
# nothing = torch.zeros(3)
# ipo(margin, nothing, nothing, nothing, beta=0.05).sum().backward()
# print(margin.grad.tolist())  # [-20.0, -10.0, 0.0]
# ```
#
# At a margin of 10, since the target is $1 / 2\beta$: the signs are now −1, −1 and 0.
# A small $\beta$ lets the policy go further from its reference, as in DPO.
# ````
