# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 Supervised fine-tuning: one model or two
#
# A coupled model learns to write `[Strategy] reply` in one breath.
# A decoupled system splits the sentence in two: a {term}`planner` names the {term}`strategy <strategy>`, and a {term}`generator` writes the reply under it {cite}`zhang2025decoupledesc`.
# This chapter trains all three by supervised fine-tuning (SFT), from the same base model, on the same turns.
#
# What to look at: what each model is *shown*, which tokens are in its *loss*, and how its loss falls.

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from decoupled_esc import prompts
from decoupled_esc.corpus import Message, Turn
from decoupled_esc.present import drawings, figures
from decoupled_esc.present.tables import results_table
from decoupled_esc.experiments.run import open_book

book = open_book(globals())
data = book["data"]
base = book["base-model"]
trained = {
    "vanilla": book["sft-vanilla"],
    "planner": book["sft-planner"],
    "generator": book["sft-generator"],
}

# %% [markdown]
# ## DecoupledESC Figure 5: one model or two

# %% tags=["hide-input", "remove-output"]
drawings.show("fig_paradigms", drawings.paradigms())

# %% [markdown]
# ```{glue:figure} fig_paradigms
# :name: fig-paradigms
#
# A coupled and a decoupled system, after Figure 5 of {cite:t}`zhang2025decoupledesc`.
# Both are fine-tuned first, in this chapter; the pairs are those of [chapter 04](04_mine_preferences.ipynb).
# ```
#
# ## Two objectives
#
# Write $c_t$ for the dialogue before turn $t$, $s_t$ for the strategy and $a_t$ for the reply.
# The coupled model minimises the negative log-likelihood of both at once; the decoupled one gives each its own model and its own loss (Equations 3 and 4 of the paper):
#
# $$
# \begin{aligned}
# \mathcal{L}_{\text{vanilla}} &= -\mathbb{E}_{(c,s,a)\sim\mathcal{D}}\left[\log \pi(s, a \mid c)\right] \\
# \mathcal{L}_{\text{planner}} &= -\mathbb{E}_{(c,s)\sim\mathcal{D}}\left[\log \pi_{\text{SP}}(s \mid c)\right] \\
# \mathcal{L}_{\text{generator}} &= -\mathbb{E}_{(c,s,a)\sim\mathcal{D}}\left[\log \pi_{\text{RG}}(a \mid c, s)\right]
# \end{aligned}
# $$ (eq-sft)
#
# By the chain rule the first is the sum of the other two, if one model had to serve both.
# With equal contexts and equal weights, decoupling would change nothing about *what* is learned in SFT, only who learns it.
# Neither is equal, as the next sections show: the models see different contexts, and a mean over tokens weighs a long reply more than a short name.
# What {eq}`eq-sft` buys for the rest of the book is that one half can be corrected later without touching the other.

# %% [markdown]
# The chain rule in numbers, for a strategy of two tokens and a reply of four.
# A training's loss is the mean over the tokens in the loss, $-\frac{1}{|y|} \sum_k \log \pi(y_k \mid x, y_{<k})$, and a mean is not the sum of two means.

# %%
import torch
import turn_trees

# Log-probability of each token, given all that stands before it
of_strategy = torch.tensor([-1.6, -0.1])
of_reply = torch.tensor([-2.3, -0.9, -1.4, -0.4])
of_turn = torch.cat([of_strategy, of_reply])
one_turn = turn_trees.pack([turn_trees.Example("a turn", prompt=[0], answers=[[1, 2, 3, 4, 5, 6]])])
sft = turn_trees.Loss("sft")
total, _ = sft(of_turn.sum()[None], one_turn, torch.empty(0))
assert torch.isclose(total, -of_strategy.sum() - of_reply.sum())
assert torch.isclose(total / sft.items(one_turn), -of_turn.mean())
print(f"nats: coupled {total:.1f} = planner {-of_strategy.sum():.1f} + generator {-of_reply.sum():.1f}")
print(f"nats per token: coupled {-of_turn.mean():.2f}, planner {-of_strategy.mean():.2f}, generator {-of_reply.mean():.2f}")

# %% [markdown]
# ## What each model is shown
#
# The layouts below are built from the dialogue that chapter 01 quoted.
# Only the last line, after `target`, is in the loss; everything before it is {term}`context`.

# %% tags=["hide-input"]
*context, last = (Message(**message) for message in data.example.messages)
turn = Turn(data.example.id, data.example.id, tuple(context), last.strategy, last.text)
for role, layout in prompts.LAYOUTS.items():
    prompt = layout(turn)
    print(f"=== {role} ===")
    for speaker, content in prompt.messages:
        print(f"{speaker}: {content}")
    print(f"target: {prompt.target}\n")

# %% [markdown]
# Look at three differences.
# The vanilla model sees the supporter's earlier strategies, because its own past answers carry tags.
# The planner sees a transcript without tags, so it has to infer what has been tried.
# The generator is told the strategy, and is never asked to choose.
#
# The layouts follow the paper's description; the wording of the instructions is ours, and so is the order of what they say.
# One of them is not the paper's: `generator-trunk` says the strategy after the dialogue, not before it, so that a dialogue has to be read only once for all its turns ([chapter 15](15_train_each_turn_once.ipynb)).
# The profile decides which of the two forms is trained and sampled; this page shows profile {glue:text}`profile_name`, and there it is {glue:text}`generator_layout`.

# %% [markdown]
# ## The base model
#
# Under `smoke` and `laptop` it is one of the two small {term}`base models <base model>` that are shipped with this repository: networks of the Qwen2 architecture {cite}`qwen2024qwen25`, trained on open dialogue text, ESConv's training dialogues without tags included ([chapter 16](16_make_a_base_model.ipynb)).
# They have learned to talk a little, and have never been asked for a strategy.
# Under the large profiles the base is the published instruction-tuned model.

# %% tags=["hide-input"]
if base.kind != "hub":
    facts = {
        "name": base.name,
        "parameters": f"{base.parameters:,}",
        "vocabulary": f"{base.vocabulary:,}",
        f"perplexity on {base.held_out_dialogues} validation dialogues": f"{base.held_out['perplexity']:.1f}",
        "perplexity of guessing every token alike": f"{base.vocabulary:,}",
    }
else:
    facts = {"backbone": base.name, "revision": base.revision}
results_table(pd.DataFrame({"base model": facts}), f"The base model of profile {book.label}.")

# %% [markdown]
# For a small model the last two lines are the ones to compare: how far it has come from knowing nothing.

# %% [markdown]
# ## Training
#
# All three runs go through transformers' `Trainer`, whole dialogues at a time, and give what trl's `SFTTrainer` {cite}`vonwerra2020trl` gives; the profile says whether a low-rank adapter {cite}`hu2022lora` or all weights are trained.
# Dialogues that do not fit in `max_length` tokens lose their oldest messages, two at a time; the table counts the turns to which that happened.

# %% tags=["hide-input"]
def last_quarter(role):
    """Mean of the last quarter of the logged losses: a single one is a single batch."""
    losses = [step["loss"] for step in trained[role].steps]
    return np.mean(losses[-max(1, len(losses) // 4) :])


def summary(role):
    log, training = trained[role], getattr(book.profile.sft, role)
    return {
        "adapter": f"LoRA, rank {training.lora.rank}" if training.lora else "none, all weights",
        "trainable parameters": f"{log.trainable:,}",
        "turns": f"{log.turns:,}",
        "turns cut to max_length": f"{log.cut:,}",
        "layout": log.layout,
        "tokens, one sequence per turn": f"{log.unpacked_tokens:,}",
        "tokens read": f"{log.tokens:,}",
        "of these in the loss": f"{log.target_tokens:,}",
        "learning rate": f"{training.learning_rate:g}",
        "per step × epochs": f"{training.batch_size} {log.unit}{'s' * (training.batch_size > 1)} × {training.epochs}",
        "loss, first → mean of the last quarter": f"{log.steps[0]['loss']:.2f} → {last_quarter(role):.2f}",
        f"loss on {log.held_out_turns:,} validation turns": f"{log.held_out_loss:.2f}",
    }


results_table(pd.DataFrame({role: summary(role) for role in trained}), f"The three training runs, profile {book.label}.")

# %% tags=["hide-input"]
unpacked = {role: result.unpacked_tokens for role, result in trained.items()}
in_loss = {role: result.target_tokens for role, result in trained.items()}
target_length = in_loss["planner"] / trained["planner"].turns / book.profile.sft.planner.epochs
figures.glue_numbers(
    profile_name=book.label,
    n_turns=f"{trained['vanilla'].turns:,}",
    generator_layout=trained["generator"].layout,
    graded_vanilla=f"{100 * in_loss['vanilla'] / unpacked['vanilla']:.0f}",
    graded_planner=f"{100 * in_loss['planner'] / unpacked['planner']:.1f}",
    saved_planner=f"{unpacked['planner'] / trained['planner'].tokens:.1f}",
    planner_target=f"{target_length:.1f}",
)

# %% [markdown]
# Look at how little of a turn is in the loss: {glue:text}`graded_vanilla`% of its tokens for the vanilla model and {glue:text}`graded_planner`% for the planner, whose whole target is {glue:text}`planner_target` tokens long.
# The rest is context, and turn by turn it would be read again for every turn of the same dialogue.
# Here it is read once, which for the planner is {glue:text}`saved_planner` times less; [chapter 15](15_train_each_turn_once.ipynb) shows how, and that it changes no number.

# %% tags=["hide-input", "remove-output"]
logs = {role: result.steps for role, result in trained.items()}
n_turns = trained["vanilla"].turns
figures.show("fig_sft", figures.training_curves(logs, book.source(f"n = {n_turns:,} turns")))

# %% [markdown]
# ```{glue:figure} fig_sft
# :name: fig-sft
# :alt: Two line charts over tokens read. Left, the training loss of the vanilla model, the planner and the generator. Right, the learning rate rising briefly and then falling along a cosine.
#
# Training loss and learning rate of the three fine-tunings.
# Profile {glue:text}`profile_name`; n = {glue:text}`n_turns` training turns; single runs, so without interval.
# ```
#
# The three losses are not comparable with each other.
# They are means over different targets: the planner's few tokens are one choice among eight and their spelling, and once the spelling is learned its loss per token is small whatever it chooses.
# Compare a curve only with itself, and judge the systems by what they *say*, which is chapter 08.

# %% [markdown]
# ## Does a killed run end the same?
#
# A checkpoint holds weights, optimiser, scheduler and random state, and the order of the data follows from the seed.
# A test of this repository kills a training run at its first checkpoint, resumes it, and compares the weights with those of an uninterrupted run.

# %% tags=["hide-input"]
unseen = trained["planner"]
per_turn = unseen.held_out_loss * unseen.held_out_tokens / unseen.held_out_turns
figures.glue_numbers(planner_loss=f"{per_turn:.2f}", planner_seen=f"{last_quarter('planner') * target_length:.2f}")

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-02-read
#
# Which of the three models is shown the strategies of earlier turns, which is shown that of the turn in question, and which has to do without either?
# ````
#
# ````{solution} ex-02-read
# :class: dropdown
#
# The vanilla model sees earlier strategies, because they are tags in its own past answers.
# The generator is told the current one.
# The planner sees neither; it has to infer from a transcript what has been tried.
# ````
#
# ````{exercise} compute
# :label: ex-02-compute
#
# A planner that always answers with the training shares of the eight strategies has a loss, in nats per *turn*, of the entropy of these shares (on turns with the same shares).
# Compute it, and compare it with this page's planner on validation turns: {glue:text}`planner_loss` nats per turn.
#
# ```python
# import numpy as np
#
# counts = np.array([3060, 857, 1146, 1387, 2288, 2373, 989, 2663])  # DecoupledESC Table 6
# ```
# ````
#
# ````{solution} ex-02-compute
# :class: dropdown
#
# ```python
# share = counts / counts.sum()
# print(f"{-(share * np.log(share)).sum():.2f} nats; {np.log(8):.2f} if all were equally frequent")  # 1.98 nats; 2.08 if all were equally frequent
# ```
#
# Well above the entropy, a planner has not learned even the shares, or it has learned its training turns too well; well below it, it uses the context.
# On the turns of the last quarter of its training, the planner had {glue:text}`planner_seen`.
# Where turns are read more than once, training that gets far below validation is remembering.
# A difference of a few hundredths tells nothing.
# ````
#
# ````{exercise} change
# :label: ex-02-change
#
# Train the planner on four of `smoke`'s dialogues by a profile of your own and `decoupled-esc run --profile mine sft-planner`, and again with a thousandth of the learning rate.
# What do you expect of `held_out_loss`, in nats per token, in `runs/mine/sft-planner/result.json`?
#
# ```yaml
# # profiles/mine.yaml
# extends: smoke
# description: four dialogues, for an exercise
# data: {train_dialogues: 4, test_dialogues: 2}
# # the second time also:
# sft: {planner: {learning_rate: 2.0e-6}}
# ```
# ````
#
# ````{solution} ex-02-change
# :class: dropdown
#
# The second time it stays close to where training began (the first `loss` in `steps`): four steps of this size hardly move a weight, and the base model has never been asked for a strategy.
# The first time it falls to less than half of that, by four steps.
# What they teach is mostly the form of the answer, eight names and how they are spelled; which of them fits takes far more turns, and is what the compute exercise above measures.
# ````
