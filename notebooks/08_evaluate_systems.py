# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 08 Evaluation: how good, and how sure
#
# Six systems answer every test turn: the {term}`vanilla` and the {term}`decoupled` paradigm, each as a base model, after supervised fine-tuning, and after preference optimisation; and the trained ones answer a second time, with greedy decoding (after preference optimisation in [chapter 10](10_ask_rq2.ipynb)).
# Where a caption names no seeds, the models are those of the profile's first seed.
# This chapter scores the model outputs, sets the scores beside the rows of Table 3 {cite}`zhang2025decoupledesc`, and puts an interval around every one.
# The prompting baselines of the same table are in [chapter 07](07_train_vanilla_baselines.ipynb).
#
# :::{admonition} Research output
# :class: research-output
# The replies on this page were written by experimental models.
# They are shown so that a reader can see what the numbers are made of; they are not counselling, and some are nonsense.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import display

from decoupled_esc import taxonomy
from decoupled_esc.evaluate import SINGLE_METRICS, strategy
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import backbones, figures, judge_tables, replication
from decoupled_esc.present.tables import format_estimate, format_scores, results_table

book = open_book(globals())
replies = {
    "vanilla-base": book["replies-vanilla-base"],
    "vanilla-sft": book["replies-vanilla-sft"],
    "vanilla-sft-argmax": book["replies-vanilla-sft-argmax"],
    "vanilla-dpo": book["replies-vanilla-dpo"],
    "decoupled-base": book["replies-decoupled-base"],
    "decoupled-sft": book["replies-decoupled-sft"],
    "decoupled-sft-argmax": book["replies-decoupled-sft-argmax"],
    "decoupled-dpo": book["replies-decoupled-dpo"],
}
measured = book["metrics"]
judged = book["judged"]
n_turns = measured.details["vanilla-sft"].turns
n_dialogues = measured.details["vanilla-sft"].dialogues
figures.glue_numbers(profile_name=book.label, n_turns=f"{n_turns:,}", n_dialogues=n_dialogues, replicates=f"{measured.replicates:,}")

# %% [markdown]
# ## Model outputs
#
# Replies are sampled as in the paper, at T = 0.7 and top-p 0.95, one per turn, but with a seed.
# The vanilla model's strategy is read from its tag; the planner's from its whole answer.
# Case, brackets and a closing full stop are forgiven; any other answer that is not one of the eight names is *invalid*: it is counted and not repaired.
# Where a plan is invalid, the generator still has to answer: it is told *Others*, and the plan stays invalid.
#
# The two systems named *argmax* have the same weights and never sample: replies are decoded greedily, and the planner takes the argmax of the eight names.

# %% tags=["hide-input"]
outputs = {
    name: {
        "replies": f"{found.turns:,}",
        "without a valid strategy": f"{found.invalid / found.turns:.0%}",
        "empty": found.empty,
        "cut at the token limit": found.unfinished,
        "mean tokens": f"{np.mean([row.tokens for row in found.rows]):.1f}",
    }
    for name, found in replies.items()
}
results_table(pd.DataFrame(outputs), f"What the systems printed, profile {book.label}.")

# %% [markdown]
# "Base" means two things here.
# In the paper it is an instruction-tuned model that has not seen ESConv.
# Under a profile with [a small model of our own](16_make_a_base_model.ipynb), it is a network that has read open dialogue text, ESConv's training dialogues among it, and has seen neither a tag nor an instruction.
# It writes in ESConv's manner and can hardly name a strategy; its row stands for no model of the paper, and numbers about its strategies are left out where too few answers name one.
#
# Here are the first replies of each trained system.
# They are the models' own words; what the seeker had written is not repeated here.

# %% tags=["hide-input"]
shown = [
    {"turn": row.id, "system": name, "strategy": row.strategy or "(invalid)", "reply": row.reply[:110]}
    for name in ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo")
    for row in replies[name].rows[1:4]
]
results_table(pd.DataFrame(shown).set_index("turn"), f"Generated replies, research output; profile {book.label}.")

# %% [markdown]
# ## DecoupledESC Table 3: Base, SFT and DPO
#
# The automatic metrics compare each reply with the one that a person wrote; the strategy metrics compare the strategies.
# They are computed in the variant named `paper`, which follows how Table 3 was made: Distinct, BLEU, F1 and ROUGE-L are taken reply by reply and averaged.
# Brackets hold 95% intervals from a {term}`bootstrap clustered by dialogue` with {glue:text}`replicates` replicates: percentiles, except that for B the replicates are first moved onto the estimate, because resampling inflates B.
# With few dialogues such intervals are too narrow rather than too wide.
# Two verdicts stand in each cell, one against each of the paper's backbones.
# Where a number misses the paper's, the verdict asks a weaker question: is the difference from the row before, SFT from Base or DPO from SFT, on the paper's side of zero?
# Where it agrees, a second sign answers that question as well.
# A difference of the paper that chance makes on its 1,792 turns has no side, and a base model that follows no instruction is no row to compare with.

# %% [markdown]
# Such an interval in a few lines, for the accuracy of a planner on six dialogues.
# A replicate holds six of them, sampled with replacement, with all their turns.

# %%
from decoupled_esc.evaluate.bootstrap import bootstrap, cluster_weights

# Per dialogue: as gold, and all
hits, turns = np.array([9, 2, 7, 3, 8, 1]), np.array([14, 12, 16, 10, 15, 11])
# How often each replicate holds each dialogue
times = cluster_weights(6, replicates=2000, seed=13)
accuracies = []
for row in times:
    dialogues = np.repeat(np.arange(6), row)
    accuracies.append(hits[dialogues].sum() / turns[dialogues].sum())
low, high = np.quantile(accuracies, (0.025, 0.975))
library = bootstrap(times, lambda weights: (weights @ hits) / (weights @ turns)).estimate()
assert np.allclose(
    (library.value, library.low, library.high), (hits.sum() / turns.sum(), low, high)
)
print(f"{library.value:.2f}, 95% interval {low:.2f} to {high:.2f}")

# %% tags=["hide-input"]
note = " ".join(book.profile.deviations)
every = {name: one.together for name, one in book.everywhere("questions").items()} | book.everywhere("metrics")
vanilla = replication.table_3(measured, judged, "vanilla", book.label, note)
vanilla.beside(book.backbone, backbones.tables_3(book.beside, every, "vanilla"))

# %% tags=["hide-input"]
decoupled = replication.table_3(measured, judged, "decoupled", book.label, note)
decoupled.beside(book.backbone, backbones.tables_3(book.beside, every, "decoupled"))

# %% tags=["hide-input"]
counted, directions = (
    pd.Series(vanilla.counts(by)).add(pd.Series(decoupled.counts(by)), fill_value=0).astype(int) for by in ("status", "direction")
)
gain = measured.contrasts["decoupled-sft - decoupled-base"]["paper"]["F1"]
split = measured.contrasts["decoupled-sft - vanilla-sft"]["standard"]
same = measured.contrasts["decoupled-sft - vanilla-sft"]["paper"]
valid = {name: replication.valid_answers(measured, name) for name in measured.details}
figures.glue_numbers(
    cells=int(counted.sum()), verdicts=", ".join(f"{count} {status}" for status, count in counted.items()),
    directions=", ".join(f"{count} {status}" for status, count in directions.items()) or "none",
    f1_gain=format_estimate(gain), split_f1=format_estimate(same["F1"]), split_q=format_estimate(split["Q"]),
    valid_vanilla=f"{valid['vanilla-sft']:,}", valid_decoupled=f"{valid['decoupled-sft']:,}",
)

# %% [markdown]
# Sampled at T = 0.7, the same model names another strategy the next time, and Q and B move with it.
# Q_W, Q and B are therefore expectations: from a model's scores of the eight strategies at every turn (a coupled model's: of the eight tags) they are sampled 50 times, with the paper's temperature and top-p, and the metrics averaged.
# The papers report one sample.
# Here is ours, of the answers that were printed, beside the expectation.

# %% tags=["hide-input"]
columns = {**{key: f"{key}, expected" for key in SINGLE_METRICS}, **{key: f"{metric}, one sample" for metric, key in SINGLE_METRICS.items()}}
sampled = ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo")
single = pd.DataFrame({name: format_scores(measured.systems[name]["paper"], list(columns)) for name in sampled}).T.rename(columns=columns)
results_table(single, f"Strategy metrics over 50 samples and of the one that was printed, profile {book.label}; 95% intervals.")

# %% [markdown]
# Of {glue:text}`cells` cells: {glue:text}`verdicts`.
# Directions of differences from the row before, those of numbers that agree among them: {glue:text}`directions`.
# Fine-tuning changes the decoupled system's F1 by {glue:text}`f1_gain` points.
# Decoupling, after SFT, changes F1 by {glue:text}`split_f1`, and macro F1 of strategies by {glue:text}`split_q` when an invalid answer counts as a miss.
# Read an interval that contains zero as "this run can't tell".
# Read none of it as a statement about the paper where the profile is `smoke`: it shows that every step works.
#
# ## Sampled and greedy (columns of DecoupledESC Table 3)
#
# The paper samples its replies, and so do the tables above.
# Here are the same weights under greedy decoding, in every column that needs no judge, beside the paper's two SFT rows.

# %% tags=["hide-input"]
results_table(replication.decoding(measured, "vanilla"), f"The vanilla model after SFT, two ways to decode it; profile {book.label}; 95% intervals.")

# %% tags=["hide-input"]
results_table(replication.decoding(measured, "decoupled"), f"The decoupled system after SFT, two ways to decode it; profile {book.label}; 95% intervals.")

# %% tags=["hide-input"]
changed = {p: measured.contrasts[f"{p}-sft-argmax - {p}-sft"]["paper"] for p in ("vanilla", "decoupled")}
figures.glue_numbers(
    vanilla_b=format_estimate(changed["vanilla"]["B"], 2), decoupled_b=format_estimate(changed["decoupled"]["B"], 2),
    vanilla_b1=format_estimate(changed["vanilla"]["B-1"]), decoupled_b1=format_estimate(changed["decoupled"]["B-1"]),
    vanilla_q=format_estimate(changed["vanilla"]["Q"]), decoupled_q=format_estimate(changed["decoupled"]["Q"]),
)

# %% [markdown]
# From sampling to greedy decoding, {term}`preference bias B` changes by {glue:text}`vanilla_b` (vanilla) and {glue:text}`decoupled_b` (decoupled), macro F1 of strategies by {glue:text}`vanilla_q` and {glue:text}`decoupled_q`, and BLEU-1 by {glue:text}`vanilla_b1` and {glue:text}`decoupled_b1`.
# No weight has changed.
# Whoever compares two numbers of this kind has to know that both were decoded alike.
#
# The other thing to look at is the distance between the paper's columns and ours, and to hold it against the difference in size.
# These metrics count words and names that are the same as a person's, and which of them are common can be learned without understanding much.
#
# (what-a-judge-says)=
# ## What a judge says (columns of DecoupledESC Table 3)
#
# Four columns of Table 3 are scores by an LLM: {term}`fluency, professionalism, empathy and helpfulness <Likert judge>`, 0 to 5.
# They are asked for where the profile has a judge ([what it is shown](92_read_judges.ipynb)), and stand in the tables above only if the paper's judge gave them.
# Where it was asked under another protocol than the paper's, the caption says so, and no cell is compared.
# No score of another judge, and none of the offline judges of [chapter 03](03_observe_errors.ipynb), is put in their place.
# In profile {glue:text}`profile` an LLM judge {glue:text}`llm_judge`.

# %% tags=["hide-input"]
asked = not isinstance(judged, Missing)
figures.glue_numbers(profile=book.label, llm_judge="was asked; this is what it said" if asked else "was not asked")
for said, caption in (
    (judge_tables.judge_scores, "Mean scores by LLM judges, 0 to 5"),
    (judge_tables.judge_errors, "Share of each psychological error by LLM judges, in per cent"),
    (judge_tables.judge_pairs, "Pairs of systems by LLM judges, each in both orders, in per cent"),
    (judge_tables.judge_agreement, "Agreement: a judge with itself, in both orders, and with other judges; quadratically weighted kappa"),
):
    if asked:
        display(results_table(said(judged), f"{caption}; profile {book.label}; 95% intervals."))

# %% [markdown]
# ## The same numbers as a picture
#
# Look at the width of the intervals before you look at the order of the dots.

# %% tags=["hide-input", "remove-output"]
NAMES = {
    "vanilla-sft": "vanilla, sampled", "vanilla-sft-argmax": "vanilla, argmax",
    "decoupled-sft": "decoupled, sampled", "decoupled-sft-argmax": "decoupled, argmax",
}  # fmt: skip
LABELS = {"B": "preference bias B", "Q_W": "weighted F1", "Q": "macro F1"}
values = {
    label: {NAMES[name]: measured.systems[name]["standard"][key] for name in NAMES} for key, label in LABELS.items()
}
figures.show("fig_strategy_metrics", figures.estimates(values, book.source(f"n = {n_turns:,} turns, 95% intervals")))

# %% [markdown]
# ```{glue:figure} fig_strategy_metrics
# :name: fig-strategy-metrics
# :alt: Three panels with points and intervals for the fine-tuned systems. Preference bias, weighted F1 and macro F1 for the vanilla model and the planner, each sampled and by argmax.
#
# Strategy metrics after SFT (variant `standard`: an invalid answer is a miss for both F1, and left out of B), with 95% intervals.
# Profile {glue:text}`profile_name`; n = {glue:text}`n_turns` turns of {glue:text}`n_dialogues` dialogues, of which {glue:text}`valid_vanilla` (vanilla) and {glue:text}`valid_decoupled` (decoupled, sampled) have a valid answer when sampled.
# ```
#
# Lines come in pairs of the same weights, sampled and by argmax.
# Any difference within a pair is made by decoding alone, so a comparison of {term}`preference bias B` between systems that decode differently compares decoders.

# %% [markdown]
# ## DecoupledESC Figure 3: which strategies each system prefers
#
# Diamonds mark how often the human references use a strategy on the same turns.

# %% tags=["hide-input", "remove-output"]
shares = {label: measured.details[name].distribution for name, label in NAMES.items()}
figures.show("fig_strategies", figures.strategy_distributions(shares, measured.gold_distribution, book.source(f"n = {n_turns:,} turns")))

# %% tags=["hide-input", "remove-output"]
TRAINED = {
    f"{paradigm}, {title}": f"{paradigm}-{method}"
    for paradigm in ("vanilla", "decoupled")
    for method, title in (("base", "Base"), ("sft", "SFT"), ("dpo", "DPO"))
}
by_training = replication.strategy_distributions(measured, TRAINED)
figures.show("fig_strategies_trained", figures.strategy_distributions(by_training, measured.gold_distribution, book.source(f"n = {n_turns:,} turns"), columns=3))

# %% tags=["hide-input"]
off = {
    label: 50 * np.abs(np.array(share) - np.array(measured.gold_distribution)).sum() for label, share in shares.items()
}
closest, farthest = min(off, key=off.get), max(off, key=off.get)
figures.glue_numbers(closest=closest, farthest=farthest, off_closest=f"{off[closest]:.0f}", off_farthest=f"{off[farthest]:.0f}")

# %% [markdown]
# ```{glue:figure} fig_strategies
# :name: fig-strategies
# :alt: Four bar charts of the share of eight strategies, for the vanilla model and the planner, each sampled and by argmax, with diamonds for the gold shares.
#
# Strategy distribution of the fine-tuned systems against the gold annotation, after Figure 3 of {cite:t}`zhang2025decoupledesc`.
# Profile {glue:text}`profile_name`; n = {glue:text}`n_turns` turns; invalid answers left out; shares without intervals.
# ```
#
# The shares of the *{glue:text}`closest`* system lie closest to the gold: {glue:text}`off_closest`% of its turns would have to change strategy to match.
# For *{glue:text}`farthest`* it is {glue:text}`off_farthest`%.
#
# ```{glue:figure} fig_strategies_trained
# :name: fig-strategies-trained
# :alt: Six bar charts of the share of eight strategies, for the vanilla and the decoupled paradigm as a base model, after SFT and after DPO, with diamonds for the gold shares.
#
# The paper's Figure 3 shows Base, SFT and DPO; here are both paradigms, sampled as in the paper.
# Profile {glue:text}`profile_name`; n = {glue:text}`n_turns` turns; invalid answers left out; a system with fewer than 30 valid answers has no bars; shares without intervals.
# ```
#
# That Vanilla-DPO leans on *Question*, which the paper reads off this figure, is asked in [chapter 07](07_train_vanilla_baselines.ipynb).
# Matching the shares is not the same as choosing well, which the next picture shows.

# %% tags=["hide-input", "remove-output"]
matrices = {NAMES[name]: np.array(measured.details[name].confusion) for name in ("vanilla-sft", "decoupled-sft")}
figures.show("fig_confusion", figures.confusion(matrices, book.source(f"n = {n_turns:,} turns")))

# %% [markdown]
# ```{glue:figure} fig_confusion
# :name: fig-confusion
# :alt: Two heat maps of gold against predicted strategies in per cent of each gold row, for the vanilla model and the decoupled planner. A good planner would be dark on the diagonal.
#
# Where each gold strategy ends up, in per cent of its turns.
# Profile {glue:text}`profile_name`; n = {glue:text}`n_turns` turns; invalid answers left out; counts, without intervals.
# ```
#
# A good planner is dark on the diagonal.
# Columns that are dark from top to bottom are favourites: predicted whatever the context asks for.

# %% [markdown]
# ## How preference bias is computed
#
# Let $w_{ij}$ count the turns with prediction $i$ and gold $j$.
# {cite:t}`kang2024bias` read each error as a match that strategy $i$ won against $j$, and give every strategy a strength $p_i$ by iterating
#
# $$
# p_i \leftarrow \frac{\sum_{j \neq i} w_{ij}\, p_j / (p_i + p_j)}{\sum_{j \neq i} w_{ji} / (p_i + p_j)},
# \qquad \mathcal{B} = \sqrt{\frac{1}{8}\sum_{i=1}^{8} (p_i - \bar p)^2}, \qquad \sum_i p_i = 8 .
# $$ (eq-bias)

# %%
# Turns by prediction (rows) and gold strategy (columns), without a preference ...
w = np.full((8, 8), 4.0)
# ... but for the first strategy: predicted three times as often, whatever is gold
w[0] = 12.0
p = np.ones(8)
for _ in range(strategy.PAPER_SWEEPS):
    for i in range(8):
        others = [j for j in range(8) if j != i]
        won = sum(w[i, j] * p[j] / (p[i] + p[j]) for j in others)
        lost = sum(w[j, i] / (p[i] + p[j]) for j in others)
        p[i] = won / lost
    p /= np.exp(np.log(p).mean())
p *= 8 / p.sum()
assert np.allclose(p, strategy.preference(w, "paper")) and np.isclose(p.std(), strategy.bias(w, "paper"))
print(f"strengths {p[0]:.2f} and, seven times, {p[1]:.2f}: B = {p.std():.2f}")

# %% [markdown]
# Hits do not enter, as $j = i$ is left out: B is 0 exactly where each strategy is predicted as often as it is gold, right or wrong ([chapter 14](14_measure_preference_bias.ipynb)).
# This is a Bradley–Terry model {cite}`newman2023rankings`, and {eq}`eq-bias` has two ends worth knowing.
# With endless data, a predictor without favourites has $\mathcal{B} = 0$; on a real test set noise alone makes it positive, the more so the fewer the turns.
# One that always predicts the same strategy has all strength on one: $\mathcal{B} = \sqrt{7} \approx 2.65$, the largest value there is for eight strategies.
# CSO's tables print 2.65 for several fine-tuned models {cite}`zhao2025cso`: at that bound, the number no longer tells how often the favourite was wrongly chosen.
#
# How much noise alone makes can be simulated: a predictor that samples each strategy with its gold share, whatever the turn, has no preference beyond the human references' own.
# Here is its mean $\mathcal{B}$ for several numbers of turns.

# %% tags=["hide-input"]
sizes = {"a ninth of the test split": 200, "a third of it": 600, "the paper's test split": replication.PAPER_TURNS}
chance = {
    what: {"turns": f"{turns:,}", "mean B of chance": f"{strategy.bias_of_chance(measured.gold_distribution, turns, 1000, book.profile.seed):.2f}"}
    for what, turns in sizes.items()
}  # fmt: skip
figures.glue_numbers(chance_paper=chance["the paper's test split"]["mean B of chance"])
results_table(pd.DataFrame(chance).T, f"Preference bias that noise alone makes, 1,000 samples each; gold shares of profile {book.label}.")

# %% [markdown]
# So a $\mathcal{B}$ counted on few turns can't be set beside one counted on many, and the tables above never do so.
# And on the paper's own test split, where chance makes {glue:text}`chance_paper`, reported values as low as 0.15 {cite}`zhang2025decoupledesc` have little room left to fall.
#
# The variant `paper` stops after 20 sweeps; the variant `standard` goes on until nothing changes.

# %% tags=["hide-input"]
METRICS = ("D-1", "D-2", "B-1", "B-2", "F1", "R-L", "Q_W", "Q", "B")
both = pd.DataFrame({variant: format_scores(measured.systems["decoupled-sft"][variant], METRICS) for variant in ("paper", "standard")})
results_table(both, f"One system (decoupled SFT), two ways to compute each metric; profile {book.label}.")

# %% tags=["hide-input"]
system = measured.systems["decoupled-sft"]
figures.glue_numbers(distinct_paper=f"{system['paper']['D-1'].value:.0f}", distinct_standard=f"{system['standard']['D-1'].value:.0f}")

# %% [markdown]
# The same replies have a Distinct-1 of {glue:text}`distinct_paper` when it is taken within each reply and averaged, and of {glue:text}`distinct_standard` when it is taken over all replies at once.
# Both are in use under one name.
# Whoever compares papers should ask which.

# %% [markdown]
# ## Strategy by strategy
#
# A macro average hides which strategies are never chosen, and a strength $p_i$ says which are chosen too often.

# %% tags=["hide-input"]
details = measured.details["decoupled-sft"]
by_strategy = pd.DataFrame({
    "gold share, %": 100 * np.array(measured.gold_distribution),
    "predicted share, %": 100 * np.array(details.distribution),
    "F1": details.strategy_f1["standard"],
    "strength p": details.preference["paper"],
}, index=list(taxonomy.STRATEGIES))  # fmt: skip
results_table(by_strategy, f"Decoupled SFT, sampled, {valid['decoupled-sft']:,} valid answers; profile {book.label}.", "{:.1f}")

# %% [markdown]
# A strength of 1 is neither favoured nor avoided; 0 is a strategy that was missed and never wrongly predicted.

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-08-read
#
# Invalid answers can be dropped or counted as wrong; `paper` drops them and `standard` counts them.
# Which of B, Q and Q_W can this choice change, and in which direction?
# ````
#
# ````{solution} ex-08-read
# :class: dropdown
#
# B is computed from valid predictions in both variants, so it can't change for this reason.
# Q can only fall when invalid answers count: each adds a miss to its gold strategy and takes nothing from the others.
# Q_W can move either way, because the turns that come back also change the weights: if the strategies that are predicted well are those whose answers were dropped, it rises.
# ````
#
# ````{exercise} compute
# :label: ex-08-compute
#
# How large a B does noise alone make on 200 turns, and how large on 1,800, if all strategies are equally frequent?
# By which factor do you expect the two to differ?
#
# ```python
# from decoupled_esc.evaluate.strategy import bias_of_chance
#
# shares = [1 / 8] * 8
# ```
# ````
#
# ````{solution} ex-08-compute
# :class: dropdown
#
# ```python
# few, many = (bias_of_chance(shares, turns, replicates=1000, seed=13) for turns in (200, 1800))
# print(f"{few:.2f} and {many:.2f}")  # 0.27 and 0.08
# assert 2.7 < few / many < 3.5
# ```
#
# About by three, the square root of nine: with nine times the turns, shares vary a third as much.
# Neither predictor prefers anything.
# ````
#
# ````{exercise} change
# :label: ex-08-change
#
# In the cell with the bootstrap of six dialogues above, resample turns as if they were independent: every turn a cluster of its own.
# Does the interval become wider or narrower, and which of the two is honest?
#
# ```python
# import numpy as np
# from decoupled_esc.evaluate.bootstrap import bootstrap, cluster_weights
#
# hits, turns = np.array([9, 2, 7, 3, 8, 1]), np.array([14, 12, 16, 10, 15, 11])
# single = np.concatenate([np.arange(n) < h for h, n in zip(hits, turns)])  # turn by turn: was the strategy gold?
# ```
# ````
#
# ````{solution} ex-08-change
# :class: dropdown
#
# ```python
# def width(right, out_of):
#     times = cluster_weights(len(right), replicates=2000, seed=13)
#     found = bootstrap(times, lambda weights: (weights @ right) / (weights @ out_of)).estimate()
#     return found.high - found.low
#
#
# print(f"by dialogue {width(hits, turns):.2f}, by turn {width(single, np.ones(len(single))):.2f}")  # by dialogue 0.30, by turn 0.22
# ```
#
# Narrower, and too narrow: some dialogues go well and others badly, so that six of them tell less than 78 independent turns would.
# ````
