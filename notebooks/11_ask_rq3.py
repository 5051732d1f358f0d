# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 RQ3: does DPO help once the two are decoupled?
#
# The paper's claim in one sentence: in the decoupled setting DPO improves on SFT in preference bias, strategy choice and judged quality, and the generator improves even when the gold strategy is given {cite}`zhang2025decoupledesc`.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models; nothing here is counselling.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import figures, questions, replication
from decoupled_esc.present.forest import Forest, in_words, marks
from decoupled_esc.present.tables import format_scores, results_table

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
sampled, best = questions.tables(every, "RQ3")
bias, best_bias = (next(row for row in rows if row.key == "B") for rows in (sampled, best))
ours = questions.numbers
figures.glue_numbers(
    answer=in_words(sampled), rule=questions.rule(asked, len(every) > 1), backbone=book.backbone, best=questions.answers(best),
    b=ours([bias])["ours"].item(), b_answer=bias.answer, b_best=ours([best_bias])["ours"].item(), b_best_answer=best_bias.answer,
    **{name: ours([row])["ours"].item() for name, rows in (("qw", sampled), ("qw_best", best)) for row in rows if row.key == "Q_W"},
)  # fmt: skip
Forest(sampled, f"Decoupled-DPO minus Decoupled-SFT, sampled as in DecoupledESC Table 3; {marks(sampled)}. Profile {book.label}, seed(s) {seeds}, {n_turns} replies per system.{book.caveats}")

# %% [markdown]
# By greedy decoding, of {glue:text}`backbone` alone: {glue:text}`best`.
# There {term}`preference bias B` changes by {glue:text}`b` sampled (**{glue:text}`b_answer`**) and by {glue:text}`b_best` greedy (**{glue:text}`b_best_answer`**).
#
# Sampled and greedy answers can point in different directions because DPO also changes how sure a planner is, and sampling turns sureness into bias.
# Weighted F1 of the strategies is an example: {glue:text}`qw` sampled, {glue:text}`qw_best` greedy.
#
# The learning rate decides as well: [chapter 06](06_train_decoupled_dpo.ipynb) has, on validation turns, B of SmolLM2's planner after DPO at three rates, below and above what it is after SFT.
# Whether SP-DPO does more than change the bias is asked in [chapter 19](is-it-the-preference), against re-weighted strategies that need no preference at all, and so is whether longer replies carry the gain in F1.
#
# What would change our mind: judge's scores for Table 4; the same pairs, but the rates of Table 7 on the backbones of the paper.
#
# ## Greedy decoding, and all numbers

# %% tags=["hide-input"]
Forest(best, f"Decoupled-DPO minus Decoupled-SFT, greedy decoding and argmax; the paper's columns are sampled. Profile {book.label}, seed(s) {seeds}.")

# %% tags=["hide-cell"]
results_table(ours(sampled), f"Decoupled-DPO minus Decoupled-SFT, sampled at T = 0.7; {n_turns} replies per system; profile {book.label}; 95% intervals.{book.caveats}")

# %% tags=["hide-cell"]
results_table(ours(best), f"Decoupled-DPO minus Decoupled-SFT, greedy decoding and argmax (the paper's columns are sampled); profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Is the gain larger than in the coupled model?
#
# The paper says that DPO brings more once the two are decoupled.
# Here are both gains side by side, for the metrics of the strategies.

# %% tags=["hide-input"]
together = asked.together.contrasts
gains = pd.DataFrame(
    {
        f"{name}, {title}": format_scores(found.together.contrasts[contrast]["paper"], ("Q_W", "Q", "B"))
        for name, found in every.items() for title, contrast in (
            ("coupled, sampled", "vanilla-dpo - vanilla-sft"), ("decoupled, sampled", "decoupled-dpo - decoupled-sft"),
            ("coupled, greedy", "vanilla-dpo-argmax - vanilla-sft-argmax"), ("decoupled, greedy", "decoupled-dpo-argmax - decoupled-sft-argmax"),
        ) if contrast in found.together.contrasts
    }
).T  # fmt: skip
results_table(gains, f"What DPO adds to SFT, profile {book.label}, seed(s) {seeds}; {n_turns} replies per system; 95% intervals.{book.caveats}")

# %% [markdown]
# Neither backbone has an interval of sampled strategy F1 in which DPO gains; that the decoupled system's bias falls where the coupled one's does not is a trend at most, and at unequal learning rates ([chapter 10](10_ask_rq2.ipynb)).

# %% [markdown]
# ## DecoupledESC Table 4: the generator under the gold strategy

# %% tags=["hide-input"]
judged = book["judged"]
table_4 = replication.table_4(judged, book.label)
table_4

# %% [markdown]
# The paper has a judge's scores alone here.
# What can be computed without a judge, over the seeds:

# %% tags=["hide-input"]
KEYS = ("D-1", "B-1", "F1", "R-L")
gold = pd.DataFrame(
    {
        "SFT": format_scores(asked.together.systems["gold-sft"]["paper"], KEYS),
        "DPO": format_scores(asked.together.systems["gold-dpo"]["paper"], KEYS),
        "DPO minus SFT": format_scores(together["gold-dpo - gold-sft"]["paper"], KEYS),
    }
).T
results_table(gold, f"The generator under the gold strategy, profile {book.label}, seed(s) {seeds}; {n_turns} replies per system; 95% intervals.")

# %% [markdown]
# ## How it is decided
#
# All systems answer the same test turns; those of profile {glue:text}`profile_name` were trained and sampled under {glue:text}`n_seeds` seed(s): {glue:text}`seeds`.
# *Ours* is the mean of the differences under them, with a 95% interval for other dialogues and other training runs ([chapter 09](09_ask_rq1.ipynb) says how).
#
# {glue:text}`rule`

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-11-read
#
# Why can sampled and greedy decoding give different answers to the question of this chapter, with the same weights?
# ````
#
# ````{solution} ex-11-read
# :class: dropdown
#
# DPO also changes how sure a planner is.
# Greedy decoding asks only which strategy is the most probable; sampling also turns sureness into bias.
# ````
#
# ````{exercise} compute
# :label: ex-11-compute
#
# Three trainings give the differences 0.4, 0.6 and 0.5, and the dialogues vary so little that they can be left out.
# Give the 95% interval for other trainings, and compare it with the library.
#
# ```python
# import numpy as np
# from scipy.stats import t
# from decoupled_esc.evaluate.bootstrap import Resampled, over_trainings
#
# single = np.array([0.4, 0.6, 0.5])
# ```
# ````
#
# ````{solution} ex-11-compute
# :class: dropdown
#
# ```python
# margin = t.ppf(0.975, len(single) - 1) * single.std(ddof=1) / np.sqrt(len(single))
# print(f"{single.mean():.2f} ± {margin:.2f}")  # 0.50 ± 0.25
# found = over_trainings([Resampled(value, np.full(100, value)) for value in single])  # every replicate is the same
# assert np.allclose((found.low, found.high), (single.mean() - margin, single.mean() + margin))
# ```
#
# Three trainings have two degrees of freedom, and $t$ is 4.3 in place of 1.96.
# ````
#
# ````{exercise} change
# :label: ex-11-change
#
# Add two trainings that agree with the others, 0.4 and 0.6.
# By how much does the interval shrink, and for which two reasons?
# ````
#
# ````{solution} ex-11-change
# :class: dropdown
#
# ```python
# single = np.array([0.4, 0.6, 0.5, 0.4, 0.6])
# margin = t.ppf(0.975, len(single) - 1) * single.std(ddof=1) / np.sqrt(len(single))
# print(f"{single.mean():.2f} ± {margin:.2f}")  # 0.50 ± 0.12
# ```
#
# By half: $\sqrt{5}$ in place of $\sqrt{3}$, and a $t$ of 2.8 in place of 4.3.
# The spread between trainings is as large as it was.
# ````
