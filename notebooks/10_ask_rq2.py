# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 RQ2: does decoupling help?
#
# The paper's claim in one sentence: decoupled models beat their coupled counterparts on nearly every metric, after SFT and after DPO, with less preference bias and better replies {cite}`zhang2025decoupledesc`.
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
after_dpo, after_sft, best = questions.tables(every, "RQ2")
bias, best_bias = (next(row for row in rows if row.key == "B") for rows in (after_dpo, best))
ours = questions.numbers
(planner_before, planner), (coupled_before, coupled) = (benchmarks.bias_by_rate("smollm2-135m", role) for role in ("planner", "vanilla"))
figures.glue_numbers(
    equal_rates="; ".join(f"at {rate:.0e} {b:.2f} (planner) and {coupled[rate]:.2f} (coupled)" for rate, b in planner.items() if rate in coupled),
    before_rates=f"{planner_before:.2f} and {coupled_before:.2f}",
    answer=in_words(after_dpo), rule=questions.rule(asked, len(every) > 1), backbone=book.backbone, sft=in_words(after_sft),
    argmax=questions.answers(best), b=ours([bias])["ours"].item(), b_answer=bias.answer,
    b_best=ours([best_bias])["ours"].item(), b_best_answer=best_bias.answer,
)  # fmt: skip
Forest(after_dpo, f"Decoupled-DPO minus Vanilla-DPO, sampled as in DecoupledESC Table 3; {marks(after_dpo)}. Profile {book.label}, seed(s) {seeds}, {n_turns} replies per system.{book.caveats}")

# %% [markdown]
# After SFT: {glue:text}`sft`
# After DPO by greedy decoding, of {glue:text}`backbone` alone: {glue:text}`argmax`.
# Distinct-1 counts different words within a reply, so that it falls as replies grow longer ([chapter 08](08_evaluate_systems.ipynb) has their lengths); on one of the paper's two backbones, Llama, it falls as well.
# On {glue:text}`backbone` {term}`preference bias B` differs by {glue:text}`b` sampled (**{glue:text}`b_answer`**) and by {glue:text}`b_best` greedy (**{glue:text}`b_best_answer`**).
#
# Each side has a learning rate of its own ([chapter 06](06_train_decoupled_dpo.ipynb)).
# The first backbone's were searched on validation dialogues; at the decoupled models' rate its coupled one would collapse, and the comparison be decided by that alone.
# SmolLM2's are the shares of the SFT rate that Table 7 takes, where the coupled model's is six or fourteen times the planner's; here it is ten times.
# At equal rates B was, on validation turns, {glue:text}`equal_rates`, from {glue:text}`before_rates` after SFT (one training run each, no intervals; the planner's on all those turns, the coupled model's on 40 dialogues).
# **So most of what SmolLM2 shows in the figure may be the two rates, and Table 3 can't tell the two apart either.**
# Two more things are unequal, in the paper as well: the decoupled system has twice the trained weights (with adapters, two of them on one backbone), and its planner may be sampled more evenly because it prints a name on its own.
# [Chapter 14](14_measure_preference_bias.ipynb) takes the second apart.
#
# What would change our mind: raters, or a judge that agrees with them; a coupled model of twice the size; the large backbones.
#
# ## After SFT, and by greedy decoding

# %% tags=["hide-input"]
Forest(after_sft, f"Decoupled-SFT minus Vanilla-SFT, sampled at T = 0.7. Profile {book.label}, seed(s) {seeds}, {n_turns} replies per system.{book.caveats}")

# %% tags=["hide-input"]
Forest(best, f"Decoupled-DPO minus Vanilla-DPO, greedy decoding and argmax; the paper's columns are sampled. Profile {book.label}, seed(s) {seeds}.")

# %% tags=["hide-cell"]
results_table(ours(after_dpo), f"Decoupled-DPO minus Vanilla-DPO, sampled at T = 0.7; {n_turns} replies per system; profile {book.label}; 95% intervals.{book.caveats}")

# %% tags=["hide-cell"]
results_table(ours(after_sft), f"Decoupled-SFT minus Vanilla-SFT, sampled at T = 0.7; {n_turns} replies per system; profile {book.label}; 95% intervals.{book.caveats}")

# %% tags=["hide-cell"]
results_table(ours(best), f"Decoupled-DPO minus Vanilla-DPO, greedy decoding and argmax (the paper's columns are sampled); profile {book.label}; 95% intervals.")

# %% [markdown]
# ## Human evaluation (DecoupledESC Figure 6)
#
# In the paper, 20 students of psychology compared 20 replies of each system.
# We ran no human evaluation.
# `decoupled-esc human-eval export runs/study --profile laptop --systems decoupled-dpo vanilla-dpo` writes the forms for such a study: blinded, balanced, with attention items, to be filled in offline; `human-eval report runs/study` reads the answers and gives win, tie and lose with intervals, and how far raters agree.
# Where the profile has an LLM judge, it compares the same two systems in both orders ([chapter 08](what-a-judge-says)); its choices are a judge's, and are never shown as raters'.

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
# :label: ex-10-read
#
# Which two things besides the decoupling itself differ between the systems that this chapter compares?
# Which of them does a later chapter take apart?
# ````
#
# ````{solution} ex-10-read
# :class: dropdown
#
# The decoupled system has twice the weights, and its planner may be sampled more evenly because it prints a name on its own.
# [Chapter 14](14_measure_preference_bias.ipynb) takes the second apart, by following planners over all temperatures.
# ````
#
# ````{exercise} compute
# :label: ex-10-compute
#
# Two systems answered the same eight dialogues, of which some are harder than others for both.
# Give 95% intervals of either mean score and of their difference.
#
# ```python
# import numpy as np
# from decoupled_esc.evaluate.bootstrap import bootstrap, cluster_weights
#
# coupled = np.array([12.0, 25.0, 18.0, 31.0, 9.0, 22.0, 15.0, 28.0])  # a score per dialogue, all equally long
# decoupled = coupled + np.array([2.0, 1.0, 3.0, 2.0, 1.0, 3.0, 2.0, 2.0])
# times = cluster_weights(8, replicates=2000, seed=13)
# ```
# ````
#
# ````{solution} ex-10-compute
# :class: dropdown
#
# ```python
# one, other = (bootstrap(times, lambda weights, of=of: weights @ of / 8) for of in (coupled, decoupled))
# for name, found in (("coupled", one), ("decoupled", other), ("difference", other - one)):
#     e = found.estimate()
#     print(f"{name} {e.value:.1f} ({e.low:.1f} to {e.high:.1f})")
# # coupled 20.0 (15.1 to 24.9)
# # decoupled 22.0 (17.0 to 27.0)
# # difference 2.0 (1.5 to 2.5)
# ```
#
# The intervals of the two systems overlap almost wholly, and the difference is far from zero: both were resampled with the *same* dialogues, so that their difficulty cancels.
# Overlapping intervals of two systems say little about their difference.
# ````
#
# ````{exercise} change
# :label: ex-10-change
#
# Take the pairing away: resample the dialogues of the second system with another seed.
# What happens to the difference's interval, and to its middle?
# ````
#
# ````{solution} ex-10-change
# :class: dropdown
#
# ```python
# unpaired = bootstrap(cluster_weights(8, replicates=2000, seed=14), lambda weights: weights @ decoupled / 8)
# e = (unpaired - one).estimate()
# print(f"difference {e.value:.1f} ({e.low:.1f} to {e.high:.1f})")  # difference 2.0 (-5.1 to 8.9)
# ```
#
# The value stays, and the interval becomes many times wider and includes zero: as if each system had answered dialogues of its own.
# ````
