# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 09 RQ1: does DPO help the coupled model?
#
# The paper's claim in one sentence: Vanilla-DPO replies better than Vanilla-SFT by an LLM judge's scores, but does not reliably reduce preference bias or choose strategies better {cite}`zhang2025decoupledesc`.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models; nothing here is counselling.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import benchmarks, figures, questions
from decoupled_esc.present.forest import Forest, in_words, marks
from decoupled_esc.present.tables import results_table

book = open_book(globals())
every = book.everywhere("questions")
asked = every[book.backbone]
seeds = ", ".join(str(seed) for seed in asked.seeds)
n_turns = f"{asked.together.details['vanilla-sft'].turns:,}"
figures.glue_numbers(profile_name=book.label, seeds=seeds, n_seeds=len(asked.seeds))

# %% [markdown]
# ## The answer
#
# {glue:text}`answer`

# %% tags=["hide-input"]
sampled, best = questions.tables(every, "RQ1")
bias = next(row for row in sampled if row.key == "B")
greedy = next((row for row in best if row.key == "Q"), bias)
smol_before, smol_rates = benchmarks.bias_by_rate("smollm2-135m", "vanilla")
figures.glue_numbers(
    smol_before=f"{smol_before:.2f}", smol_rates=", ".join(f"{b:.2f} at {rate:.0e}" for rate, b in smol_rates.items()),
    answer=in_words(sampled), rule=questions.rule(asked, len(every) > 1), backbone=book.backbone, best=questions.answers(best),
    b=questions.numbers([bias])["ours"].item(), b_answer=bias.answer, greedy_q=questions.numbers([greedy])["ours"].item(), greedy_q_answer=questions.numbers([greedy])["answer"].item(),
)  # fmt: skip
Forest(sampled, f"Vanilla-DPO minus Vanilla-SFT, sampled as in DecoupledESC Table 3; {marks(sampled)}. Profile {book.label}, seed(s) {seeds}, {n_turns} replies per system.{book.caveats}")

# %% [markdown]
# For {term}`preference bias B` as the paper measures it, the difference is {glue:text}`b` on {glue:text}`backbone`; that DPO lowers it: **{glue:text}`b_answer`**.
# By greedy decoding, of {glue:text}`backbone` alone: {glue:text}`best`, where the largest difference of the strategies is {glue:text}`greedy_q` of macro F1 ({glue:text}`greedy_q_answer`).
#
# The paper's claim has two parts.
# That strategies do not reliably get better is what its own two backbones show, and a row *contradicted*, or with a *trend against* an improvement, agrees with it.
# That replies get better rests on a judge's scores, which are not in this picture ([chapter 08](08_evaluate_systems.ipynb) says whether this profile has a judge); BLEU, F1 and ROUGE reward likeness to what one person said, and BLEU can rise because replies grow longer.
#
# Much hangs on the learning rate: [chapter 06](06_train_decoupled_dpo.ipynb) shows the search on validation dialogues, without intervals, in which preference bias changes much with the rate.
# The claim that strategies don't get better is easily "confirmed" by a rate that is too large.
# The first backbone has the best of three rates; SmolLM2 has the share of its SFT rate that the paper's Table 7 takes, on validation turns B of its coupled model is, from {glue:text}`smol_before` after SFT, {glue:text}`smol_rates`.
#
# What would change our mind: an LLM judge's scores under three seeds; pairs mined with a judge that agrees with GPT or with people; the same under the large backbones.
#
# ## The same in numbers, and by greedy decoding
#
# The paper has no numbers of greedy decoding.

# %% tags=["hide-input"]
Forest(best, f"Vanilla-DPO minus Vanilla-SFT, greedy decoding and argmax; the paper's columns are sampled. Profile {book.label}, seed(s) {seeds}.")

# %% tags=["hide-cell"]
results_table(questions.numbers(sampled), f"Vanilla-DPO minus Vanilla-SFT, sampled at T = 0.7; {n_turns} replies per system; profile {book.label}; 95% intervals.{book.caveats}")

# %% tags=["hide-cell"]
results_table(questions.numbers(best), f"Vanilla-DPO minus Vanilla-SFT, greedy decoding and argmax (the paper's columns are sampled); profile {book.label}; 95% intervals.")

# %% [markdown]
# ## How it is decided
#
# All systems answer the same test turns; those of profile {glue:text}`profile_name` were trained and sampled under {glue:text}`n_seeds` seed(s): {glue:text}`seeds`.
# *Ours* is the mean of the differences under them, with a 95% interval for other dialogues and other training runs: the variance between dialogues and the variance between trainings are added, each at its own degrees of freedom {cite}`graybill1980confidence`, so that three trainings that differ much have a wide one.
#
# {glue:text}`rule`

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-09-read
#
# When is a row *supported*, and why can it be *not decided* although its interval excludes zero?
# ````
#
# ````{solution} ex-09-read
# :class: dropdown
#
# If the p-value, corrected for the number of rows in its table, is at most 0.05, and the difference has the claim's sign under every one of at least three seeds.
# An interval that just excludes zero belongs to an uncorrected p-value just below 0.05, which the correction takes above it; or one seed has the other sign.
# ````
#
# ````{exercise} compute
# :label: ex-09-compute
#
# Three rows have the p-values 0.010, 0.020 and 0.030.
# Correct them after Holm by hand, and after Bonferroni: which rows are decided at 0.05?
#
# ```python
# import numpy as np
# from statsmodels.stats.multitest import multipletests
#
# p = np.array([0.010, 0.020, 0.030])  # smallest first
# ```
# ````
#
# ````{solution} ex-09-compute
# :class: dropdown
#
# ```python
# holm = np.maximum.accumulate(p * np.array([3, 2, 1]))  # the smallest times their number, the next times one less; never falling
# bonferroni = 3 * p
# print("Holm", holm.round(3).tolist(), "Bonferroni", bonferroni.round(3).tolist())  # Holm [0.03, 0.04, 0.04] Bonferroni [0.03, 0.06, 0.09]
# assert np.allclose(holm, multipletests(p, method="holm")[1])
# ```
#
# All three after Holm, one after Bonferroni; both keep the chance of any wrong decision below 5%.
# ````
#
# ````{exercise} change
# :label: ex-09-change
#
# The rule of this book is `answer`.
# Change the estimates under the three seeds and see what it says: one of them below zero, and one of them left out.
#
# ```python
# from decoupled_esc.evaluate import Estimate
# from decoupled_esc.present.questions import answer
#
# together = Estimate(0.5, low=0.2, high=0.8, p=0.01)
# print(answer(1, together, single=(0.4, 0.6, 0.5)))  # supported
# ```
# ````
#
# ````{solution} ex-09-change
# :class: dropdown
#
# ```python
# print(answer(1, together, single=(0.4, 0.6, -0.1)))  # not decided
# print(answer(1, together, single=(0.4, 0.6)))  # trend for, 2 seeds
# print(answer(-1, together, single=(0.4, 0.6, 0.5)))  # contradicted
# ```
#
# One seed that goes the other way is enough to leave a claim open, and two seeds are too few to decide it.
# ````
