# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 15 Training each turn without reading it twice
#
# Every {term}`turn` of a dialogue is a training example of its own: the whole dialogue so far, then the supporter's reply.
# Written out like that, a dialogue of fourteen turns is read fourteen times, a little further each time; a {term}`preference pair` reads it twice over, and once more for the {term}`reference`.
# This is how trl, LLaMA-Factory and the papers' own code train, and it is most of their work.
#
# This chapter lays the turns of a dialogue out as one tree, reads it once, and gets the same loss, the same gradient and the same weights.
# The code is a package of its own, `turn_trees` (`packages/turn_trees` in this repository), which a script for trl can use by a change of two lines.
#
# What to look at: where the repetition comes from, why leaving it out is exact, what it saves by count, and what it saves on the clock.

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

import turn_trees

from decoupled_esc import models
from decoupled_esc.present import benchmarks, figures
from decoupled_esc.present.growing_tree import GrowingTree
from decoupled_esc.present.tables import results_table
from decoupled_esc.experiments.run import open_book

book = open_book(globals())
data = book["data"]
bench = benchmarks.load("turn_training")
split, measured = bench["training_split"], bench["measurements"]
hardware = f"{bench['provenance']['hardware']['threads']} CPU threads, float32, not a profile's run"

# %% [markdown]
# ## What is read twice
#
# Let a dialogue have turns $1, \dots, n$ with contexts of $c_1 < c_2 < \dots < c_n$ tokens, answers of which $a_1, \dots, a_n$ are read (all but the last token, which is only asked for), and between them the short end of the prompt, $e_k$: the marks that hand the word to the supporter, and in one layout the strategy.
# One sequence per turn reads $\sum_k (c_k + e_k + a_k)$ tokens, which grows with the square of the dialogue's length.
# But context $k$ is the beginning of context $k+1$, so that all of them together hold no more than $c_n$ different places; with the answers beside them it is
#
# $$
# c_n + \sum_{k=1}^{n} (e_k + a_k),
# $$ (eq-packed)
#
# since $e_k$ is what the next prompt does not share.

# %% [markdown]
# Counted by hand for three turns, a number standing for a token: a tree holds every beginning of a sequence once.

# %%
# 90 hands the word to the supporter
prompts = [[1, 2, 90], [1, 2, 3, 4, 90], [1, 2, 3, 4, 5, 6, 7, 90]]
answers = [[30, 31], [40, 41, 42], [50, 51]]
sequences = [prompt + answer[:-1] for prompt, answer in zip(prompts, answers)]
beginnings = {
    tuple(sequence[:end]) for sequence in sequences for end in range(1, len(sequence) + 1)
}
three_turns = turn_trees.pack(
    [turn_trees.Example(f"turn {n}", p, [a]) for n, (p, a) in enumerate(zip(prompts, answers))]
)
assert len(three_turns) == len(beginnings) == 7 + sum(1 + len(answer) - 1 for answer in answers)
print(f"{sum(map(len, sequences))} tokens turn by turn, {len(beginnings)} in one tree")

# %% [markdown]
# The table counts both for the whole training split, each turn once for supervised fine-tuning (SFT) and with one pair for {term}`DPO`.

# %% tags=["hide-input"]
names = {"vanilla": "vanilla", "planner": "planner", "generator": "generator, as in the paper", "generator-trunk": "generator, trunk"}
rows = {}
for layout, name in names.items():
    for kind in ("sft", "dpo"):
        count = split[f"{kind}-{layout}"]
        rows[f"{name}, {kind.upper()}"] = {
            "tokens, one sequence per answer": f"{count['tokens_apart']:,}",
            "tokens, one tree per dialogue": f"{count['tokens']:,}",
            "ratio": f"{count['tokens_apart'] / count['tokens']:.1f}",
            "longest tree": f"{count['longest']:,}",
        }
results_table(
    pd.DataFrame(rows).T,
    f"Tokens of one pass over the {split['sft-planner']['turns']:,} training turns. "
    "The pairs' rejected answers are sampled at random and matter by their length alone.",
)

# %% tags=["hide-input"]
figures.glue_numbers(
    ratio_vanilla=f"{split['sft-vanilla']['tokens_apart'] / split['sft-vanilla']['tokens']:.1f}",
    ratio_planner=f"{split['sft-planner']['tokens_apart'] / split['sft-planner']['tokens']:.1f}",
    ratio_paper=f"{split['sft-generator']['tokens_apart'] / split['sft-generator']['tokens']:.1f}",
    ratio_trunk=f"{split['sft-generator-trunk']['tokens_apart'] / split['sft-generator-trunk']['tokens']:.1f}",
    ratio_dpo=f"{split['dpo-planner']['tokens_apart'] / split['dpo-planner']['tokens']:.1f}",
)

# %% [markdown]
# For SFT the vanilla layout takes {glue:text}`ratio_vanilla` times fewer tokens and the planner's {glue:text}`ratio_planner`; for DPO, where the two answers of a pair share the context as well, the planner's takes {glue:text}`ratio_dpo` times fewer.
#
# The longest tree is the price of a window: the turns of a dialogue that does not fit are each cut at another message, so they share their instruction alone.
# Such a tree is read in several passes of at most two windows each, with the same loss and gradient, so that memory is bounded by the window and not by the dialogue.
#
# The generator is the exception.
# The paper names the strategy in the system message, *before* the dialogue, so two turns have a common beginning only where they use the same strategy; a tree finds even that, and the ratio is {glue:text}`ratio_paper`.
# The form called {term}`trunk` says the same sentence after the dialogue instead and reaches {glue:text}`ratio_trunk`.
# It is a deviation from the paper: the model is asked the same thing in another place.
# The profile decides: `generator_layout: trunk` in `smoke` and `laptop`; `paper`, turn by turn and in batches of 32 as published, in the profiles of the published backbones.

# %% [markdown]
# ## A tree of prefixes, in one row
#
# Take the four messages that chapter 01 quoted, cut to a few words, with words for tokens and the planner's task: after the seeker has spoken, name a strategy.
# There are two turns, so two prompts and two targets.

# %% tags=["hide-input"]
first, second, third, fourth = data.example.messages
figures.glue_numbers(example_id=data.example.id)


def words(message, count=None):
    return [f"{message['role']}:", *message["text"].split()[:count]]


dialogue = [*words(first), *words(second, 4), *words(third, 6)]
asks = len(words(first))
prompts = {"turn 1": [*dialogue[:asks], "→"], "turn 2": [*dialogue, "→"]}
targets = {"turn 1": [*second["strategy"].split(), "■"], "turn 2": [*fourth["strategy"].split(), "■"]}
vocabulary = sorted({word for turn in prompts for word in prompts[turn] + targets[turn]})
number = {word: index for index, word in enumerate(vocabulary)}
examples = [
    turn_trees.Example(turn, [number[w] for w in prompts[turn]], [[number[w] for w in targets[turn]]]) for turn in prompts
]
tree = turn_trees.pack(examples)
apart = sum(len(e.prompt) + len(e.answers[0]) - 1 for e in examples)
print("in one row:", " ".join(vocabulary[token] for token in tree.tokens))
print("position:  ", " ".join(str(depth) for depth in tree.depths))
print(f"{len(tree)} tokens in place of {apart}")

# %% tags=["hide-input"]
GrowingTree(
    examples, vocabulary,
    "A line of words, the dialogue, grows from left to right; from it a branch goes down after the seeker's first message, and "
    "another ends the line: an arrow and the strategy that is to be named there.",
)

# %% [markdown]
# The tree as it grows: the first turn brings its prompt and its strategy, the second only what it adds; ■, which ends an answer, is asked for and never read.
# From a full dot a token of a strategy is predicted.
# Point at the drawing, or touch it, to see it grow again.
#
# Read the positions above: where a number falls back, a branch ends and the next one goes on from a place further left.
# Nothing else has to be kept.
# A token's descendants are the tokens behind it that stand deeper, up to the first that does not, and a token attends to its ancestors alone.

# %% tags=["hide-input", "remove-output"]
figures.show(
    "fig_tree",
    figures.tree_of_words(
        [vocabulary[token] for token in tree.tokens], tree.depths, tree.predict_positions, book.source("two turns of one dialogue")
    ),
)

# %% [markdown]
# ```{glue:figure} fig_tree
# :name: fig-tree
# :alt: A square grid with one row and one column for each word of a short dialogue. The lower triangle is filled, except where a row belongs to another branch than its column; the rows that predict a strategy are darker.
#
# What each token attends to, filled; in the darker rows the next token is in the loss.
# A {term}`tail`, `→` and the strategy after it, sees the dialogue up to its turn and itself; nothing sees it.
# Words of dialogue {glue:text}`example_id` {cite}`liu2021esconv`, a word in place of a token.
# ```
#
# A transformer knows order from positions, and what to read from its attention mask.
# Both are, for every token of the tree, what they were in the token's own sequence; so its hidden state is the same, and so is every log-probability read from it.
# That is the whole argument, and it needs no property of dialogues: any set of prompts can be packed, and what they do not share costs what it did before.

# %% [markdown]
# ## The same numbers
#
# A small network with random weights shows it.
# It reads the tree once, and then each turn by itself.

# %% tags=["hide-input"]
import torch

torch.set_num_threads(1)
tokenizer = models.train_tokenizer([message["text"] for message in data.example.messages], 300)
shape = models.Shape(vocabulary=300, hidden=64, layers=2, heads=4, feed_forward=128, context=64)
model = models.create(shape, tokenizer, seed=1)
together = turn_trees.answer_logps(model, tree)
alone = torch.cat([turn_trees.answer_logps(model, turn_trees.pack([example])) for example in examples])


def gradient(logps):
    grads = torch.autograd.grad(logps.sum(), list(model.parameters()))
    return torch.cat([grad.flatten() for grad in grads])


of_tree, of_turns = gradient(together), gradient(alone)
for example, one, other in zip(examples, together.tolist(), alone.tolist(), strict=True):
    print(f"log-probability of the strategy of {example.id}: {one:.3f} in the tree, {other:.3f} alone")
print("gradients agree to one part in 100,000:", bool((of_tree - of_turns).norm() < 1e-5 * of_turns.norm()))

# %% [markdown]
# Tests of this repository hold the library to this for all layouts, with batches of several dialogues, blank seeker turns and dialogues that the supporter opens, against trl's own trainers: loss and gradient, the weights after several optimiser steps, DPO rewards, and the scores of the eight strategies.
#
# What packing does change is batch composition.
# An optimiser step takes whole dialogues, two of them with about 28 turns where the paper has 32 turns sampled from anywhere.
# The loss is averaged over the same kind of thing, and a turn weighs what it weighed; but turns of one dialogue are more alike than turns of different ones, so a step's gradient is somewhat noisier.

# %% [markdown]
# ## A real dialogue
#
# The same picture for a dialogue of {glue:text}`example_turns` turns, in the four layouts, with the tokenizer of the benchmark below.

# %% tags=["hide-input", "remove-output"]
depths = {names[layout].replace("generator, ", "generator,\n"): split[f"sft-{layout}"]["example"]["depths"] for layout in names}
figures.show("fig_masks", figures.masks(depths, f"one dialogue of the training split; {hardware}"))
one = split["sft-planner"]["example"]
figures.glue_numbers(example_dialogue=one["dialogue"], example_turns=one["turns"])

# %% [markdown]
# ```{glue:figure} fig_masks
# :name: fig-masks
# :alt: Four square attention masks of growing size. Vanilla is a plain filled triangle. The planner is a triangle with narrow steps. The generator as in the paper falls into several separate triangles. The generator in trunk form has one triangle with wider tails.
#
# Attention masks of dialogue {glue:text}`example_dialogue` in the four layouts, drawn to scale.
# White is what is never computed together.
# ```
#
# The *vanilla* layout needs no tails at all: the supporter's earlier answers stand in the context exactly as they were learned, so the trunk holds every target.
# In the paper's generator layout each strategy grows a trunk of its own.
#
# White inside the triangle is not only masked.
# On a CPU attention goes through the row in chunks of queries and takes along no keys but their ancestors'; on a GPU the same mask is given to FlexAttention, which skips its empty blocks.
# So time and memory grow with what is filled.

# %% [markdown]
# ## Preference losses on the same tree
#
# A pair adds one tail: the rejected answer grows from the same place as the chosen one.
# Everything a preference loss needs is then the log-probability of each tail, for the policy with gradient and for the reference without.
# With $r_\theta(a) = \log \pi_\theta(a \mid c) - \log \pi_\text{ref}(a \mid c)$ and answers $a_w$ (chosen) and $a_l$ (rejected):
#
# $$
# \begin{aligned}
# \mathcal{L}_{\text{DPO}} &= -\log \sigma\left(\beta\,[r_\theta(a_w) - r_\theta(a_l)]\right) \\
# \mathcal{L}_{\text{IPO}} &= \left(\bar r_\theta(a_w) - \bar r_\theta(a_l) - \tfrac{1}{2\beta}\right)^2 \\
# \mathcal{L}_{\text{SimPO}} &= -\log \sigma\left(\beta\,[\bar\ell_\theta(a_w) - \bar\ell_\theta(a_l)] - \gamma\right)
# \end{aligned}
# $$ (eq-preference)
#
# A bar divides by the answer's length (IPO per token as in trl; its authors take sums), and $\ell_\theta$ is the policy's log-probability alone {cite}`rafailov2023dpo,azar2024ipo,meng2024simpo`.
# KTO {cite}`ethayarajh2024kto` and ORPO {cite}`hong2024orpo` are there in the same form.
# KTO has a third tail, an answer to some other turn, sampled at random, from which it estimates how far the policy has moved.
#
# The reference never changes, so its log-probabilities are computed once, on the same trees, and kept on disk.
# Before the first step policy and reference are the same, so every reward must be 0 and the DPO loss $\ln 2 \approx 0.693$.
# Training checks that and refuses to start otherwise; the usual way to fail is an adapter trained on a fine-tuned adapter, compared with the bare backbone.

# %% [markdown]
# ## On the clock
#
# Counting tokens is not timing.
# The benchmark `bench/turn_training.py` trains the same weights on the same dialogues with this library, with trl's own trainers and with LLaMA-Factory in an environment of its own.
# It times whole optimiser steps and the reference pass, and leaves out reading and tokenising for all.

# %% tags=["hide-input"]
titles = {"sft-planner": "SFT, planner", "dpo-planner": "DPO, planner", "dpo-generator": "DPO, generator (trunk)", "score": "eight strategies scored"}
labels = {
    "packed": "this library, packed",
    "trl": "trl",
    "trl-by-length": "trl, rows of similar length together",
    "llamafactory": "LLaMA-Factory",
    "llamafactory-by-length": "LLaMA-Factory, rows of similar length together",
    "apart": "each name as a sequence of its own",
}
table = [
    {
        "parameters": row["size"],
        "task": titles[row["task"]],
        "by": labels[row["contender"]],
        "seconds": f"{row['seconds']:.1f}",
        "tokens read, padding included": f"{row['tokens']:,}",
        "targets per second": f"{row['target_tokens'] / row['seconds']:,.0f}" if "target_tokens" in row else "",
        "peak memory (GiB)": f"{row['peak_bytes'] / 2**30:.1f}",
    }
    for size in ("1.4M", "4.5M")
    for task in titles
    for row in measured
    if row["group"] != "growth" and row["size"] == size and row["task"] == task
]
some = next(row for row in measured if row["group"] == "side-by-side")
repeats = bench["provenance"]["settings"]["repeats_packed"]
results_table(
    pd.DataFrame(table).set_index("parameters"),
    f"One pass over the {some['turns']} turns of {some['dialogues']} training dialogues sampled at random, and over the "
    f"{next(r for r in measured if r['group'] == 'scoring')['turns']:,} test turns for the scores ({hardware}). "
    f"Single runs on a machine with neighbours, whose speed varies by a third; the packed ones the median of {repeats}. "
    "Targets are the learned tokens; memory is the process's, about half a GiB of it the libraries.",
)

# %% tags=["hide-input", "remove-output"]
bars = []
for size in ("1.4M", "4.5M"):
    for task in titles:
        cases = [row for row in measured if row["group"] != "growth" and row["size"] == size and row["task"] == task]
        ours = [row for row in cases if row["contender"] == "packed"]
        for row in cases:
            if row not in ours:
                bars.append({
                    "name": f"{titles[task]}, {size}",
                    "contender": labels[row["contender"]].replace("rows of similar length together", "by length"),
                    "ratio": benchmarks.ratio(measured, row["contender"], group=row["group"], task=task, size=size),
                    "ideal": ours[0].get("tokens_apart", row["tokens"]) / ours[0]["tokens"],
                })
figures.show("fig_speed", figures.speed_ratios(bars, hardware))

# %% [markdown]
# ```{glue:figure} fig_speed
# :name: fig-speed
# :alt: Horizontal bars, one for each task, model size and contender, with the number of times that packed training is faster; a black line in each marks the ratio of tokens.
#
# How many times longer the same pass takes elsewhere.
# The black line is the ratio of tokens without padding: what the repetition alone explains.
# ```
#
# A bar may be longer than its line for three reasons.
# The contenders pad the short rows of a batch to its longest, which putting similar lengths together mostly avoids.
# They run the output layer, or a fused form of it, over every token they read, where the tree asks it only for the targets.
# And trl computes the reference anew in every step, with a second copy of the model.
# It is shorter than its line where attention and the optimiser, which packing does not save, take their share.
#
# The weights here are random and the rejected answers sampled, since neither changes the time; what packing does to what is *learned* is nothing, by the tests above.
# A GPU was not at hand: the ratios there, for backbones of half a billion and seven billion parameters, are not measured.

# %% [markdown]
# ## Linear in the data
#
# A tree is never longer than one dialogue, so an epoch over more dialogues takes more time and no more memory.

# %% tags=["hide-input", "remove-output"]
grown = [row for row in measured if row["group"] == "growth"]
figures.show("fig_growth", figures.growth({f"{titles['sft-planner']}, {grown[0]['size']}": grown}, hardware))
figures.glue_numbers(
    growth_dialogues=f"{grown[-1]['dialogues']:,}",
    growth_size=grown[-1]["size"].replace("M", " million"),
    growth_minutes=f"{grown[-1]['seconds'] / 60:.1f}",
    growth_memory=f"{grown[-1]['peak_bytes'] / grown[0]['peak_bytes']:.2f}",
    growth_times=f"{grown[-1]['dialogues'] / grown[0]['dialogues']:.0f}",
)

# %% [markdown]
# ```{glue:figure} fig_growth
# :name: fig-growth
# :alt: Two charts over 64, 256 and 1,024 dialogues. Left, the time of an epoch lies on a straight line through the origin. Right, peak memory stays nearly level.
#
# Time and peak memory of one packed epoch of the planner's SFT.
# The thin line is the straight line through zero and the last point.
# ```
#
# {glue:text}`growth_dialogues` dialogues, nearly the whole training split, take {glue:text}`growth_minutes` minutes with {glue:text}`growth_size` parameters; with {glue:text}`growth_times` times the dialogues, memory is {glue:text}`growth_memory` times what it was.
# Some of that is the packed data, which is held in memory, and some the longest dialogue, which a larger sample is more likely to hold.
# That is what makes the `laptop` profile possible.

# %% [markdown]
# ## Sampling and scoring
#
# The same tree serves after training.
# To score the eight strategies at every turn, each prompt gets eight tails.
# To write replies, the model reads the dialogue once, and all its turns then continue side by side from that one cache, each seeing its own past and its own words.
# Each turn has random numbers of its own, so a reply does not depend on which other turns were sampled with it.

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-15-read
#
# Why does a tree save so little in the paper's generator layout, and what does the *trunk* form change?
# ````
#
# ````{solution} ex-15-read
# :class: dropdown
#
# The paper names the strategy in the system message, before the dialogue, so that two turns have a common beginning only where they use the same strategy.
# The trunk form says the same sentence after the dialogue: the dialogue is then a common beginning of all its turns.
# It is a deviation from the paper, as the model is asked the same thing in another place.
# ````
#
# ````{exercise} compute
# :label: ex-15-compute
#
# A dialogue has 14 turns; each adds 40 tokens to the context and has an answer of 5 tokens, of which the last is not read.
# Before each answer stands one token that gives the supporter the word.
# How many tokens are read turn by turn, and how many in one tree?
#
# ```python
# import turn_trees
#
# turns, added, answer = 14, 40, 5
# ```
# ````
#
# ````{solution} ex-15-compute
# :class: dropdown
#
# ```python
# apart = sum(added * k + 1 + answer - 1 for k in range(1, turns + 1))
# together = added * turns + turns * (1 + answer - 1)
# print(apart, together, f"{apart / together:.1f} times")  # 4270 630 6.8 times
#
# dialogue = list(range(added * turns))
# examples = [
#     turn_trees.Example(f"turn {k}", [*dialogue[: added * k], -1], [[-2 - k] * answer]) for k in range(1, turns + 1)
# ]
# assert len(turn_trees.pack(examples)) == together
# ```
#
# The first grows with the square of the number of turns, the second in proportion to it.
# ````
#
# ````{exercise} change
# :label: ex-15-change
#
# In the cell of three turns above, put the number of a strategy before each prompt, 60, 61 and 62, as the paper's generator does.
# How many tokens does the tree have now? And if two of the turns use the same strategy?
# ````
#
# ````{solution} ex-15-change
# :class: dropdown
#
# ```python
# import turn_trees
#
# prompts = [[1, 2, 90], [1, 2, 3, 4, 90], [1, 2, 3, 4, 5, 6, 7, 90]]
# answers = [[30, 31], [40, 41, 42], [50, 51]]
# for strategies in ((60, 61, 62), (60, 61, 61)):
#     examples = [
#         turn_trees.Example(str(n), [first, *prompt], [answer])
#         for n, (first, prompt, answer) in enumerate(zip(strategies, prompts, answers))
#     ]
#     apart = sum(len(example.prompt) + len(example.answers[0]) - 1 for example in examples)
#     print(apart, len(turn_trees.pack(examples)))
# # 23 23
# # 23 18
# ```
#
# As many as turn by turn: nothing is shared.
# Where two turns use the same strategy, the later one finds the earlier one's beginning in the tree.
# ````
