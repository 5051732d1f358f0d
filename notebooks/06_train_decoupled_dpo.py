# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 Decoupled DPO: two models, each taught by its own mistakes
#
# With the pairs of [chapter 04](04_mine_preferences.ipynb), planner and generator are trained further, each on its own kind {cite}`zhang2025decoupledesc`.
# Direct preference optimisation {cite}`rafailov2023dpo` needs no reward model: with the fine-tuned model as {term}`reference` $\pi_{\text{ref}}$, it minimises
#
# $$
# \mathcal{L} = -\log \sigma\Bigl(\underbrace{\beta \log\frac{\pi(y_c \mid x)}{\pi_{\text{ref}}(y_c \mid x)}}_{\text{reward of the chosen}} - \underbrace{\beta \log\frac{\pi(y_r \mid x)}{\pi_{\text{ref}}(y_r \mid x)}}_{\text{reward of the rejected}}\Bigr) .
# $$ (eq-dpo)
#
# For the planner $y$ is the name of a strategy, for the generator a reply under the gold strategy.
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

from decoupled_esc.present import benchmarks, figures, sliders
from decoupled_esc.present.tables import format_estimate, results_table
from decoupled_esc.experiments.run import open_book

book = open_book(globals())
trained = {"planner": book["dpo-planner"], "generator": book["dpo-generator"]}
made = {role: book.stored(f"dpo-{role}").provenance for role in trained}
figures.glue_numbers(profile_name=book.label)

# %% [markdown]
# One pair, with the log-probabilities of its two answers.
# Before the first step the policy is its reference; then it has moved by one nat on each side.

# %%
import math
import torch
from turn_trees.losses import dpo

# Log-probabilities of the chosen answer and of the rejected one
beta, reference = 0.2, torch.tensor([-12.0, -9.0])
policy = reference.clone().requires_grad_()
at_start = dpo(policy[0], policy[1], *reference, beta=beta)
assert math.isclose(at_start.item(), math.log(2), rel_tol=1e-6)
at_start.backward()
# Descent raises the chosen, lowers the rejected
assert torch.allclose(policy.grad, torch.tensor([-beta / 2, beta / 2]))
moved = dpo(reference[0] + 1, reference[1] - 1, *reference, beta=beta)
assert math.isclose(moved.item(), math.log(1 + math.exp(-beta * (1 + 1))), rel_tol=1e-6)
print(f"loss {at_start.item():.3f} before, {moved.item():.3f} after; gradient {policy.grad[0]:.1f} and {policy.grad[1]:.1f}")

# %% [markdown]
# ## What beta does
#
# $\beta$ says how strongly departures from the reference are penalised.
# Move the slider: with a small $\beta$ the loss keeps falling over a long way, so the policy may move far for one pair; with a large one it is content soon.

# %% tags=["hide-input"]
sliders.dpo_loss(book.source("a formula, no data", counted=True))

# %% [markdown]
# ## What was trained

# %% tags=["hide-input"]
def line(result, provenance, rate: float) -> dict:
    last = result.steps[-1] if result.steps else {}
    return {
        "pairs": f"{result.pairs:,}",
        "loss": f"{result.loss.loss}, beta {result.loss.beta:g}",
        "learning rate": f"{rate:g}",
        "preference accuracy at the end, %": f"{100 * last['accuracy']:.0f}" if "accuracy" in last else "–",
        "KL from the reference, nats per token": f"{result.divergence:.3f}",
        "gold answer, nats per token": f"{result.held_out_loss_before:.3f} → {result.held_out_loss:.3f}",
        "minutes (other jobs beside it)": f"{provenance['wall_seconds'] / 60:.1f}",
        "peak memory, GiB": f"{provenance['peak_memory_mib'] / 1024:.1f}",
    }


results_table(pd.DataFrame({f"SP-DPO ({name})" if name == "planner" else f"RG-DPO ({name})": line(r, made[name], getattr(book.profile.preference, name).training.learning_rate) for name, r in trained.items()}).T, f"Preference optimisation of planner and generator, profile {book.label}.")

# %% [markdown]
# Two columns tell what the loss does not.
# The {term}`KL divergence` from the reference says how far the policy moved, measured along the human references of unseen validation dialogues; and the nats of the gold answer say whether it has become better or worse at predicting them.
# DPO promises neither: it is content if the rejected answer falls faster than the chosen one.
# The accuracy is of training pairs: near 50% a model hardly learns to tell them apart, and near 100% it may have learned what need not be quality, such as the length of a reply ([chapter 04](04_mine_preferences.ipynb)).
#
# ## Rewards, margins, accuracy

# %% tags=["hide-input", "remove-output"]
figures.show("fig_dpo_curves", figures.preference_curves(trained, book.source("mean over the pairs of the steps between two logs")))

# %% [markdown]
# ```{glue:figure} fig_dpo_curves
# :name: fig-dpo-curves
# :alt: Four panels over training steps for planner and generator. Rewards of chosen and rejected answers, the margin between them, the share of pairs whose chosen answer has the higher reward, and an estimate of the divergence from the reference.
#
# Preference optimisation of the planner and the generator.  Profile {glue:text}`profile_name`; training pairs, without intervals.
# ```
#
# At the first step every reward is 0 and the loss ln 2, because the policy is its reference; the program stops if it is not.
# Look at the dotted lines: the rejected answers were sampled from the reference, so a falling reward is also a rising divergence from it.
# The last panel says it in nats, as $-r_l / \beta$; it is an estimate on samples that the mining has selected, and too high where these are what the policy learned to leave.
# The exact divergence at the end, on dialogues that nothing was mined from, stands in the table above.
# Look at the solid lines: where the reward of the chosen answer falls below 0, training has made even the human reference less probable than before.
#
# ## How the settings were found
#
# The paper's learning rates (Table 7, between 5e-8 and 7e-7) belong to adapters on large models.
# For the first backbone, rates were tried on validation dialogues; nothing here was chosen on the test set.
# Of four rates the planner took the one with the best macro F1 when sampled, as the paper decodes, and the generator the one with the best unigram F1; the coupled model of [chapter 07](07_train_vanilla_baselines.ipynb) took, of three, the one with the best macro F1.
# Compare each with its first line, the fine-tuned model: for this planner no rate improves the F1 of the sampled plans, and by argmax another rate would have been chosen.
# The coupled model collapses at a learning rate that planner and generator bear well; without this search, that would have passed for a finding about coupling.
#
# SmolLM2's rates were not chosen by its lines: they are the shares of the SFT rate of 5e-4 that Table 7 takes, 0.06 for coupled model and generator, 0.006 for the planner: 3e-5 and 3e-6.
# The lines say what other rates would have shown: {term}`B <preference bias B>` of its sampled plans, {glue:text}`smol_before` after SFT, is {glue:text}`smol_b`; of the coupled model, {glue:text}`coupled_before` after SFT, it is {glue:text}`coupled_b`.
# **For sampled plans the learning rate decides whether DPO lowers or raises preference bias**, with the same pairs and the same loss: one training run each, without intervals. By argmax the planner's is lower at the two smaller rates.

# %% tags=["hide-input"]
searches = {"": "preference_search", "SmolLM2-135M, ": "preference_search-smollm2-135m"}
found = {name: sorted(benchmarks.load(file), key=lambda entry: entry["learning_rate"]) for name, file in searches.items()}
searched = {}
for role in ("planner", "generator", "vanilla"):
    lines = {}
    for name, entries in found.items():
        own = [entry for entry in entries if entry["role"] == role]
        lines[f"{name}SFT, before"] = next(entry["before"] for entry in own if "before" in entry)
        lines |= {f"{name}DPO at {entry['learning_rate']:.0e}": {**entry["after"], "KL": entry["divergence"]} for entry in own}
    searched[role] = pd.DataFrame({name: {key: f"{value:.3g}" for key, value in line.items()} for name, line in lines.items()}).T
for name, role in (("smol", "planner"), ("coupled", "vanilla")):
    before, after = benchmarks.bias_by_rate("smollm2-135m", role)
    figures.glue_numbers(**{f"{name}_before": f"{before:.2f}", f"{name}_b": ", ".join(f"{b:.2f} at {rate:.0e}" for rate, b in after.items())})
results_table(searched["planner"], "Planner: settings tried on all validation turns (profiles laptop and smollm2-135m, seed 13).")

# %% tags=["hide-input"]
results_table(searched["generator"], "Generator: settings tried on 40 validation dialogues, under the gold strategy (profiles laptop and smollm2-135m, seed 13).")

# %% tags=["hide-input"]
results_table(searched["vanilla"], "Coupled model: settings tried on 40 validation dialogues, sampled (profiles laptop and smollm2-135m, seed 13).")

# %% [markdown]
# `python bench/preference_search.py` made these lines and makes them again, with `--profile smollm2-135m` those of SmolLM2.
#
# ## Five losses
#
# The paper leaves IPO, SimPO and KTO to later work, and [CSO](90_report_reproduction.ipynb) compares five losses for a coupled model.
# In a profile the loss is one line; here are all five for the decoupled system, with the same pairs and one choice of constants each.

# %% tags=["hide-input"]
measured = book["metrics-losses"]
KEYS = ("D-1", "B-1", "F1", "R-L", "Q_W", "Q", "B")
losses = pd.DataFrame(
    {
        name.removeprefix("decoupled-").upper(): {key: format_estimate(scores["paper"][key], 2 if key == "B" else 1) for key in KEYS}
        for name, scores in measured.systems.items()
    }
).T
results_table(losses, f"The decoupled system after each preference loss, sampled as in the paper; profile {book.label}; 95% intervals.")

# %% tags=["hide-input"]
moved = {
    loss.upper(): {
        role: f"{result.divergence:.3f}"
        for role, result in {"planner": planner, "generator": generator}.items()
    }
    for loss, planner, generator in (
        ("dpo", trained["planner"], trained["generator"]),
        ("ipo", book["ipo-planner"], book["ipo-generator"]),
        ("simpo", book["simpo-planner"], book["simpo-generator"]),
        ("kto", book["kto-planner"], book["kto-generator"]),
        ("orpo", book["orpo-planner"], book["orpo-generator"]),
    )
}
results_table(pd.DataFrame(moved).T, f"KL from the fine-tuned model after each loss, nats per token; profile {book.label}.")

# %% [markdown]
# A loss that moved the models little can't have changed much, for better or worse; so the second table has to be read with the first.
# The constants were not searched for each loss, and no ranking of the losses follows.
#
# What the decoupled system is worth after DPO is asked in [chapter 10](10_ask_rq2.ipynb) to [chapter 12](12_ask_rq4.ipynb).

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-06-read
#
# In the curves above, what does it mean if the solid line (chosen) falls below 0, and how can the loss fall all the same?
# ````
#
# ````{solution} ex-06-read
# :class: dropdown
#
# The human reference has then become less probable than it was under the reference model.
# The loss sees only the margin: it falls as long as the rejected answer loses more than the chosen one.
# ````
#
# ````{exercise} compute
# :label: ex-06-compute
#
# After some training the chosen answer has lost 5 nats against the reference, and the rejected one 8.
# What is the DPO loss at $\beta = 0.2$, and does the next step raise or lower the chosen answer?
#
# ```python
# import torch
# from turn_trees.losses import dpo
#
# reference = torch.tensor([-12.0, -9.0])  # chosen, rejected
# policy = torch.tensor([-12.0 - 5, -9.0 - 8], requires_grad=True)
# ```
# ````
#
# ````{solution} ex-06-compute
# :class: dropdown
#
# ```python
# loss = dpo(policy[0], policy[1], *reference, beta=0.2)
# loss.backward()
# print(f"loss {loss.item():.3f}, gradient {policy.grad[0]:.3f} and {policy.grad[1]:.3f}")  # loss 0.437, gradient -0.071 and 0.071
# ```
#
# Less than $\ln 2 \approx 0.693$, although the chosen answer is worse off than before training.
# The gradient still asks for more of the chosen and less of the rejected, to equal parts, and for less of both than at the start, where it was 0.1.
# What the weights make of it is another matter: both answers share them.
# ````
#
# ````{exercise} change
# :label: ex-06-change
#
# In the cell of one pair above, take ten times the $\beta$.
# Say first which of the four numbers that it prints change, and which way; the last assertions hold for any $\beta$.
# ````
#
# ````{solution} ex-06-change
# :class: dropdown
#
# ```python
# import torch
# from turn_trees.losses import dpo
#
# reference = torch.tensor([-12.0, -9.0])
# policy = reference.clone().requires_grad_()
# at_start = dpo(policy[0], policy[1], *reference, beta=2.0)
# at_start.backward()
# moved = dpo(reference[0] + 1, reference[1] - 1, *reference, beta=2.0)
# print(f"loss {at_start.item():.3f} before, {moved.item():.3f} after; gradient {policy.grad[0]:.1f} and {policy.grad[1]:.1f}")
# # loss 0.693 before, 0.018 after; gradient -1.0 and 1.0
# ```
#
# The loss before is $\ln 2$ for any $\beta$.
# The gradient is ten times as large, and after a move of one nat on each side next to nothing is left of the loss: with a large $\beta$ a small departure from the reference is enough.
# ````
