# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 Searching dialogues: MCTS and ESC-Pro
#
# A corpus holds one reply to each turn, and not what would have come of another.
# Chain-of-Strategy Optimization {cite}`zhao2025cso` makes the others up: around each gold dialogue a tree of alternatives is grown by Monte Carlo tree search, with four models as supporter, seeker, adviser on strategies, and reward.
# What the search values becomes the preferred side of turn-level pairs, and what it does not value the rejected side.
#
# :::{admonition} Research output
# :class: research-output
# All turns on this page that are not from ESConv are outputs of small experimental models, the *seeker's* too: nobody said them, and some are nonsense.
# They are not counselling.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from decoupled_esc import taxonomy
from decoupled_esc.present import benchmarks, cso_tables, drawings, figures, judge_tables, stepper, trees
from decoupled_esc.present.tables import format_estimate, results_table
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing

book = open_book(globals())
searched, pro = book["search"], book["esc-pro"]
missing = next((one.reason for one in (searched, pro) if isinstance(one, Missing)), None)
grown = () if missing else searched.rows
figures.glue_numbers(profile_name=book.label, missing=missing or "nothing")
if missing:
    print(f"Not searched: {missing}.")

# %% [markdown]
# ## The algorithm (CSO Figure 2)

# %% tags=["hide-input", "remove-output"]
drawings.show("fig_phases", drawings.search_phases())

# %% [markdown]
# ```{glue:figure} fig_phases
# :name: fig-phases
#
# One iteration of the search in four phases, after Figure 2 of {cite:t}`zhao2025cso`; full circles and thick lines are what the phase is about.
# ```
#
# A node is a round of the dialogue: what the supporter says under a strategy, and what the seeker answers.
# An iteration goes down from the root to the child with the largest
#
# $$
# \text{PUCB} = Q + c \, P \, \frac{\sqrt{N_{\text{parent}}}}{1 + N} ,
# $$ (eq-pucb)
#
# where $Q$ is the mean reward seen below a node, $N$ the number of visits, and $P$ a softmax over what the adviser gives the eight strategies.
# The leaf that is reached is expanded and gets a child for each strategy; the most promising child is followed greedily for a few rounds; and each supporter's turn on the way earns
#
# $$
# r = \frac{E + I + H + \alpha S}{3 + \alpha} + b ,
# $$ (eq-reward)
#
# from scores between 0 and 4 for empathy, information, humanity and the fit of the strategy, with $\alpha = 7$.
# The mean of the path's rewards goes up to the root.
# The gold dialogue is a path of the tree from the start.
# In CSO its nodes have the best reward there is and a hundred visits, and the leaf's own turn earns nothing: $Q$ is the mean of what follows a turn.
# With small models it finds next to nothing: few branches are worth as much as the gold path's fixed $Q$, and what follows a turn says little of the turn.
# A profile with `own_turn` judges every turn that is said; with `gold_value: null` the gold dialogue earns what its own turns earn, as if one simulation had gone through it.
#
# `decoupled_esc.search.tree` is this and nothing more: it says what it wants to be told, and takes answers in any order.
# There is no model, no network and no clock in it, so that the same answers always give the same tree.

# %% tags=["hide-input"]
constants = pd.DataFrame({"value": {name.replace("_", " "): "none" if value is None else f"{value:g}" for name, value in ({} if missing else vars(searched.constants)).items()}})
constants = constants if len(constants) else pd.DataFrame({"value": {"–": "not searched"}})
results_table(constants, f"Constants of the search, profile {book.label}; the profile's file says where they differ from CSO's, and why.")

# %% [markdown]
# One choice, by hand: a child that was never visited wins against a good one while $c P \sqrt{N}$ is large.

# %%
from decoupled_esc.search.tree import Node, pucb

chosen = {"exploration": 6.0, "strategy_weight": 7.0, "bias": -1.5}
chosen |= {"own_turn": True, "gold_value": None, "gold_visits": 1}
hand = book.profile.search.constants.model_copy(update=chosen)
root = Node("r", None, 1.0, visits=9)
tried = Node("r.0", None, 0.5, value=0.8, visits=8, parent=root)
untried = Node("r.1", None, 0.2, value=0.0, visits=0, parent=root)
assert np.isclose(pucb(tried, hand), 0.8 + 6 * 0.5 * 3 / 9)
assert np.isclose(pucb(untried, hand), 0 + 6 * 0.2 * 3 / 1)
print(f"tried {pucb(tried, hand):.2f}, untried {pucb(untried, hand):.2f}")

# %% [markdown]
# And one iteration from its rewards to the root: {eq}`eq-reward` of each judged turn, their mean $r$, and on the way up $Q \leftarrow (QN + r) / (N + 1)$ and $N \leftarrow N + 1$.

# %%
from decoupled_esc.corpus import Message
from decoupled_esc.search.tree import Quality, SeekerTurn, Tree

said = Message("seeker", "I failed my exam.")
gold = (said, Message("supporter", "That must hurt.", "Reflection of feelings"))
once = hand.model_copy(update={"max_iterations": 1, "rollout": 0})
tree = Tree(gold, taxonomy.STRATEGIES, once)
scores = {"the gold turn": Quality(3, 2, 4, 3), "another turn": Quality(1, 2, 2, 1)}
rewards, over = iter(scores.values()), SeekerTurn("Well.", False)
while not tree.finished:
    for task in tree.ask():
        answers = {"strategies": [0.0] * 8, "supporter": "Never mind.", "seeker": over}
        tree.tell(task.id, next(rewards) if task.kind == "reward" else answers[task.kind])
first, second = ((e + i + h + 7 * s) / (3 + 7) - 1.5 for e, i, h, s in scores.values())
assert np.isclose(tree.root.value, (first * 1 + second) / (1 + 1)) and tree.root.visits == 2
print(f"rewards {first:.1f} and {second:.1f}; Q = {tree.root.value:.2f}, N = {tree.root.visits}")

# %% [markdown]
# The same algorithm, step by step, on a made-up dialogue of three rounds and three strategies: Question (Qu), Reflection of feelings (RF) and Providing Suggestions (PS).
# Its adviser always likes questions best, and its rewards prefer reflection first and suggestions last.
# Go through the steps with the buttons, the slider or the arrow keys: a leaf is selected by PUCB, expanded and rolled out, and the mean reward is backed up.
# Look at when the search leaves the strategy that the adviser likes.

# %% tags=["hide-input"]
stepper.search()

# %% [markdown]
# ## The four roles
#
# CSO asks an LLM behind a server for all four roles; a profile with a `roles` section does the same, with instructions of our own (`decoupled_esc.search.roles`), answers as JSON, and the end of a dialogue as a field of it.
# Without such a section the profile's own models have the roles: the fine-tuned generator is the supporter, the planner's probabilities are the adviser's, a model fine-tuned on what seekers said in ESConv is the seeker, and the offline judges of [chapter 03](03_observe_errors.ipynb) are the reward.
# The seeker learns every answer that people gave, the last one too, and that a conversation is over only where the supporter had the last word.
# A reply's scores are then its percentiles among human references under the same strategy, times four; information and humanity, which these reward models don't see, are left out of {eq}`eq-reward`, whose denominator is then $1 + \alpha$; and $b$ is {glue:text}`own_bias` here, where CSO has $-3$ for an LLM's scores.
#
# What that can show: that the search, its data and the training from them work, and where they lead when the roles are weak.
# What it can't show: that a search by good models finds better dialogues.
# Whether a seeker would feel better was not measured, and the reward models are worth no more than the classifiers behind them.

# %% tags=["hide-input"]
seeker = book["sft-seeker"]
pairs = 0 if missing else pro.pairs
lines = {
    **({"trees": "0"} if missing else cso_tables.search_size(searched, pro)),
    "seeker, nats per token on unseen conversations": "behind a server" if isinstance(seeker, Missing) else f"{seeker.held_out_loss:.2f}",
}
results_table(pd.DataFrame({"": lines}), f"The search, profile {book.label}; roles: {'none' if missing else searched.roles}.")

# %% [markdown]
# A role that gives nothing usable is asked again, three times in all; then the branch is closed with the reason, and the tree goes on elsewhere.
# Every iteration ends, and there is a largest number of them: no answer, however bad, can keep a search going.

# %% tags=["hide-input"]
reasons = ({} if missing else searched.failures) or {"no branch was closed for want of an answer": 0}
results_table(pd.DataFrame({"answers": {why: f"{count:,}" for why, count in reasons.items()}}), f"Why answers could not be used, profile {book.label}.")

# %% [markdown]
# ## One tree
#
# The smallest tree with a terminal dialogue beside the gold one, or the smallest of all where none did.

# %% tags=["hide-input", "remove-output"]
if grown:
    tree = trees.readable(grown)
    shown = trees.drawing(tree, book.source(f"dialogue {tree.id}, {tree.iterations} iterations"))
else:
    shown = figures.nothing_here(missing, book.source("no search"))
figures.show("fig_tree", shown)

# %% [markdown]
# ```{glue:figure} fig_tree
# :name: fig-search-tree
# :alt: A search tree from left to right. Each circle is a round of the dialogue with the abbreviation of its strategy and its number of visits; colour is its mean reward, and a thick rim marks the gold dialogue.
#
# A search tree: the expanded nodes, with strategy and visits; colour is $Q$, a thick rim the gold dialogue.
# Profile {glue:text}`profile_name`; counts, without intervals.
# ```
#
# Look at where branches leave the gold path, and how soon they end.
# All trees can be opened, branch by branch, on a [page of their own](93_open_trees.ipynb).
#
# ## ESC-Pro: CSO Table 5
#
# A path is *valid* if every node on it has $Q > 0.5$ (the paper, Eq. 5), or, in the released code, if its end has $Q \ge 0.5$ and two visits.
# The nodes of valid paths are preferred, and their siblings with $Q \le 0.5$ rejected.
# Training takes the second reading, as the authors' data do.
#
# Under `own_turn` these readings say which paths are valid, wherever they end (a conversation need not be over; the longest paths are taken), and the rewards of the two turns themselves tell a pair apart: preferred above 0.5, rejected at most that.
# Then no pair is inverted by construction, and the question is whether another judge sees the difference too (below).

# %% tags=["hide-input"]
stats = {} if missing else pro.statistics
readings = pd.DataFrame(
    {
        {"paper": "as the paper says", "released": "as the released code does"}[name]: {
            "dialogues": f"{s.dialogues:,}",
            "preferred turns, each once": f"{s.turns:,}",
            "pairs": f"{s.pairs:,}",
            "pairs whose preferred turn is a human reference": f"{s.pairs_of_gold:,}",
            "pairs whose preferred turn was searched, %": "–" if s.searched is None else f"{100 * s.searched:.0f}",
            "pairs whose preferred turn is worth no more than the rejected one": f"{s.inverted:,}",
        }
        for name, s in stats.items()
    } or {"–": {"pairs": "not searched"}}
)
results_table(readings, f"Two readings of what is valid, profile {book.label}.")

# %% tags=["hide-input"]
cso_tables.table_5(pro, book.profile.search.seeds, book.label) if not missing else results_table(pd.DataFrame({"Table 5": {"–": "not searched"}}), f"Table 5, profile {book.label}.")

# %% [markdown]
# CSO's 100 seeds became 423 dialogues.
# Numbers of pairs and dialogues depend on the iterations of a tree, on how often the seeker ends a conversation, and on how many of a model's turns the reward models put above half of the human references.
#
# ## CSO Figures 3 and 9: strategies by stage

# %% tags=["hide-input", "remove-output"]
for key, name in (("fig_pro_stages", "preferred"), ("fig_seed_stages", "seeds")):
    counts = np.array(getattr(pro.by_stage, name)) if not missing else np.zeros((6, 8))
    source = book.source(f"{int(counts.sum()):,} turns")
    enough = counts.sum(axis=1).min() > 0
    figures.show(key, figures.strategy_by_stage(counts, source) if enough else figures.nothing_here(missing or "too few turns for six stages", source))

# %% [markdown]
# ```{glue:figure} fig_pro_stages
# :name: fig-pro-stages
# :alt: Stacked bars of the share of eight strategies at each of six stages in the preferred dialogues.
#
# Strategies of the preferred dialogues by stage, after Figure 3 of {cite:t}`zhao2025cso`; profile {glue:text}`profile_name`; counts, without intervals.
# ```
#
# ```{glue:figure} fig_seed_stages
# :name: fig-seed-stages
# :alt: Stacked bars of the share of eight strategies at each of six stages in the seed dialogues.
#
# Strategies of the seed dialogues by stage, after Figure 9 of {cite:t}`zhao2025cso`; profile {glue:text}`profile_name`; counts, without intervals.
# ```
#
# The paper reads from its two figures that ESC-Pro is more diverse than its seeds.
# How far ours can be depends on the share of pairs whose preferred turn was searched (the table of the two readings).

# %% tags=["hide-input"]
kinds = {} if missing else vars(pro.strategies)
sides = {side: {s.abbreviation: f"{100 * count / max(1, sum(counts)):.1f}" for s, count in zip(taxonomy.ESCONV, counts, strict=True)} for side, counts in kinds.items()}
results_table(pd.DataFrame(sides or {"–": {"strategies": "not searched"}}), f"Strategies of preferred turns (each once) and of rejected ones, per cent; profile {book.label}.")

# %% [markdown]
# A strategy with a larger share on the rejected side is one that the training will be taught to avoid: as in [chapter 04](04_mine_preferences.ipynb), part of the lesson is one of frequencies, and a strategy that is hardly ever preferred may be unlearned altogether.
#
# ## Are the preferred turns better? (CSO Tables 1 and 6)
#
# CSO had human raters.
# Here are the reward models of the search, on each pair's own turns, and a judge that did not reward it: a classifier that learned from GPT's labels of replies at test dialogues, which no tree, pair or model has seen.

# %% tags=["hide-input"]
quality = None if missing else pro.quality
if quality:
    rows = {**quality.systems, "preferred minus rejected": quality.contrasts["preferred - rejected"]}
    shown = pd.DataFrame({name: {key: format_estimate(e, 2) for key, e in row.items()} for name, row in rows.items()}).T
else:
    shown = pd.DataFrame({"pairs": {"–": "none to judge"}})
if quality:
    gap, weight = quality.contrasts["preferred - rejected"], book.profile.search.constants.strategy_weight
    share = 100 * weight * gap["strategy"].value / (gap["empathy"].value + weight * gap["strategy"].value)
figures.glue_numbers(
    own_bias=f"{book.profile.search.constants.bias:g}", strategy_share=f"{share:.0f}" if quality else "–",
    other_gap="–" if missing or not pro.other else format_estimate(pro.other.contrasts["preferred - rejected"]["no error"]),
)  # fmt: skip
results_table(shown, f"The reward of a turn, and the scores that it is made of (0 to 4, percentiles among human references), by the reward models of the search; {0 if missing else pro.pairs:,} pairs, profile {book.label}; 95% intervals by seed dialogue.")

# %% tags=["hide-input"]
other = None if missing else pro.other
if other:
    rows = {**other.systems, "preferred minus rejected": other.contrasts["preferred - rejected"]}
    shown = pd.DataFrame({name: {key: format_estimate(e, 1) for key, e in row.items()} for name, row in rows.items()}).T
else:
    shown = pd.DataFrame({"pairs": {"–": "none to judge"}})
results_table(shown, f"Probabilities, per cent, by a judge that did not reward the search: {'none' if missing else pro.other_judge}; {0 if missing else pro.pairs:,} pairs, profile {book.label}; 95% intervals by seed dialogue.")

# %% [markdown]
# Where a pair is told apart by the rewards of its turns, the first table must show a difference: it is how the pairs were made.
# Of the difference in reward the fit of the strategy makes {glue:text}`strategy_share`%: these pairs teach a choice of strategy more than a better reply.
# By the other judge the preferred turns differ from the rejected ones by {glue:text}`other_gap` points of *no error*.
# Whether a searched turn is better than the human one at its place was not measured.
# The second one need not.
# Where it shows none, the pairs teach what the reward models like and nothing that another judge would miss.
# Where pairs are told apart by $Q$, a difference near zero is no error: a node's reward comes from what follows it, and the gold path is preferred whatever the reward models give it.
#
# ## Several searches
#
# One search is one sample of dialogues and of random numbers.
# The searches below have other seed dialogues, planners and supporters; [chapter 13](13_optimise_strategy_chains.ipynb) trains on them by turns.

# %% tags=["hide-input"]
compared = {} if missing else book["searches"].searches
seconds = None if missing else book.stored("search").provenance["wall_seconds"]
lines = {
    f"seed {seed}": {
        "pairs": f"{one.pairs:,}",
        "searched, %": "–" if one.searched is None else f"{100 * one.searched:.0f}",
        "reward, preferred minus rejected": "–" if one.reward is None else format_estimate(one.reward, 2),
        "no error (other judge), points": "–" if one.other is None else format_estimate(one.other, 1),
        "answers of the roles per pair": f"{one.calls / one.pairs:.0f}" if one.pairs else "–",
    }
    for seed, one in compared.items()
}
if seconds and pairs:
    print(f"The first search took {seconds / 60:.0f} minutes, {seconds / pairs:.1f} seconds per pair (other jobs beside it).")
results_table(pd.DataFrame(lines or {"–": {"pairs": "not searched"}}).T, f"Searches by seed, profile {book.label}; 95% intervals by seed dialogue.")

# %% tags=["hide-input"]
examples = [
    {"preferred": f"[{e.preferred_strategy}] {e.preferred}", "rejected": f"[{e.rejected_strategy}] {e.rejected}", "pair": e.id}
    for e in (() if missing else pro.examples)
]
results_table(pd.DataFrame(examples or [{"preferred": "–", "rejected": "no pair with two turns of models", "pair": "–"}]).set_index("pair"),
      f"Pairs whose two sides were both written by models, the first few by id; research output; profile {book.label}.")  # fmt: skip

# %% [markdown]
# ## The same search with an LLM in all four roles
#
# CSO's roles are an LLM's.
# Profile `smollm2-135m-served` gives all four to SmolLM2-135M-Instruct behind a real server on the same two cores: a small model, asked as a large one would be.
# The server holds every answer to the form that was asked for, so what can't be read is mostly what was cut at the limit of tokens; whether what can be read means anything, the rewards and the pairs have to show.
# An answer that can't be read is asked for again, and so is a question that got none; after that a supporter or a seeker closes its branch, a reward is left out of its mean, and an adviser counts as one without a preference.

# %% tags=["hide-input"]
llm, llm_pairs, llm_made = book.served("search"), book.served("esc-pro"), book.served_stored("search")
unasked = next((one for one in (llm, llm_pairs) if isinstance(one, Missing)), None)
if unasked is None:
    asked_in_all = sum(one.calls for one in llm.answers.values())
    took = {"calls of the server": f"{asked_in_all:,}", "seconds of the last run": f"{llm_made.provenance['wall_seconds']:,.0f}"}
    share = {"branches closed or answers left out, by reason": "; ".join(f"{why}: {n}" for why, n in llm.failures.items()) or "none"}
    unasked = pd.DataFrame({"": {**cso_tables.search_size(llm, llm_pairs), **took, **share}})
results_table(unasked, "The search with one LLM in all four roles, behind a server on two CPU cores; single run, other jobs may have run beside it.")

# %% tags=["hide-input"]
results_table(judge_tables.readable_answers(llm if isinstance(llm, Missing) else llm.answers), "What could be read of its answers, by role; the adviser's role is named strategies.")

# %% [markdown]
# ## Toxicity (CSO Table 7)
#
# CSO used a paid service.
# The classifier here is alt-profanity-check, which knows profanity only.

# %% tags=["hide-input"]
results_table(cso_tables.table_7(pro) if not missing else pd.DataFrame({"profanity": {"–": "not searched"}}),
      f"Mean scores by part, the paper's and ours: two instruments, not to be compared with each other; profile {book.label}; 95% intervals.")  # fmt: skip

# %% [markdown]
# ## Many trees at once
#
# A search by servers is slow for one reason: it waits.
# All trees are grown side by side, with everything that one iteration can ask at once in flight together; a tree never waits for another.
# Each answer is written down before its tree is told, so that a killed search goes on where it was.

# %% tags=["hide-input"]
bench = benchmarks.load("search")
schedule, resume = bench["schedule"], bench["resume"]
lines = {
    "trees": f"{schedule['trees']}",
    "calls, each of 200 ms": f"{schedule['calls']:,}",
    "one call after the other, s": f"{schedule['seconds_one_by_one']:.0f}",
    "side by side, s": f"{schedule['seconds']:.1f}",
    "times faster": f"{schedule['times']:.1f}",
    "identical trees": "yes" if schedule["identical"] else "NO",
    "killed at a random moment and resumed": f"{resume['kills']} times, identical trees {resume['identical']} times",
}
results_table(pd.DataFrame({"": lines}), "The schedule against one call after the other, in a made-up world (bench/search.py); single runs.")

# %% tags=["hide-input"]
several = bench["at-once"]["by_simulations_at_once"]
results_table(pd.DataFrame({f"{n} at once": {"seconds": f"{s['seconds']:.1f}", "nodes shared with one at a time, %": f"{100 * s['nodes_shared_with_one_at_a_time']:.0f}"} for n, s in several.items()}),
      "Several simulations of one tree at once (counted where they pass, after WU-UCT): faster, and another tree; single runs.")  # fmt: skip

# %% [markdown]
# ## The files
#
# `decoupled-esc run --profile laptop esc-pro` leaves `pairs.jsonl`, `gold.jsonl` and `sft.jsonl` in `runs/laptop/esc-pro/`, with their whole text, and the search's logs in `runs/laptop/search/logs/`.
# What is committed with this book are numbers and our models' turns.
# `decoupled_esc.corpus.extes` reads ExTES, with its fifteen strategies merged into CSO's eight (Table 8), and the published ESC-Pro.
# Neither can be had from a fixed address, so nothing here was computed from them: with a copy of yours, `search: {seeds: extes}` in a profile grows the trees around ExTES, and `cso: {pairs: published}` trains on the published pairs.

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-05-read
#
# Under CSO's own constants, of what is $Q$ the mean, and why can a pair be *inverted*?
# What does `own_turn` change?
# ````
#
# ````{solution} ex-05-read
# :class: dropdown
#
# $Q$ is the mean reward of what follows a turn, and the gold path has the best value there is whatever its turns are worth; a node on a valid path may be worth no more than the sibling that is rejected for it.
# Under `own_turn` every turn is judged itself, and a pair is told apart by the rewards of its own two turns.
# ````
#
# ````{exercise} compute
# :label: ex-05-compute
#
# Take the two children of the PUCB cell above: $Q = 0.8$, $P = 0.5$, $N = 8$ against $Q = 0$, $P = 0.2$, $N = 0$, under a parent with nine visits.
# From which $c$ on is the untried one chosen?
#
# ```python
# from math import sqrt
#
# tried, untried = dict(q=0.8, p=0.5, n=8), dict(q=0.0, p=0.2, n=0)
# ```
# ````
#
# ````{solution} ex-05-compute
# :class: dropdown
#
# ```python
# def bonus(p, n, **_):
#     return p * sqrt(9) / (1 + n)
#
#
# c = (tried["q"] - untried["q"]) / (bonus(**untried) - bonus(**tried))
# print(f"from c = {c:.2f} on")  # from c = 1.85 on
# assert untried["q"] + 2 * bonus(**untried) > tried["q"] + 2 * bonus(**tried)
# assert untried["q"] + 1 * bonus(**untried) < tried["q"] + 1 * bonus(**tried)
# ```
#
# CSO's $c = 1$ would go on with what is known to be good; the `laptop` profile's 6 tries the other first.
# ````
#
# ````{exercise} change
# :label: ex-05-change
#
# Here is a world in which each strategy earns the same wherever it is used, grown for twenty iterations.
# Take the bonus away, $c = 0$: how many strategies are still tried as a first answer, and what does that do to the pairs?
#
# ```python
# from decoupled_esc import taxonomy
# from decoupled_esc.corpus import Message
# from decoupled_esc.search.tree import Constants, Quality, SeekerTurn, Tree
#
# gold = (Message("seeker", "I failed my exam."), Message("supporter", "That must hurt.", "Reflection of feelings"))
#
#
# def tried_first(c):
#     tree = Tree(gold, taxonomy.STRATEGIES, Constants(
#         exploration=c, prior_temperature=1.0, strategy_weight=7.0, bias=-1.5, rollout=0, own_turn=True, gold_value=None, gold_visits=1,
#         min_iterations=20, max_iterations=20, max_terminal_nodes=25, max_depth=4, parallel_simulations=1,
#     ))
#     while not tree.finished:
#         for task in tree.ask():
#             worth = 2.5 - taxonomy.STRATEGIES.index(task.history[-1].strategy or "Question") / 8  # the first strategies earn most
#             tree.tell(task.id, {
#                 "strategies": [0.0] * 8, "supporter": "…", "seeker": SeekerTurn("…", False), "reward": Quality(None, None, None, worth),
#             }[task.kind])
#     return sum(child.reply is not None for child in tree.root.children)
#
#
# print(tried_first(6.0))  # 8
# ```
# ````
#
# ````{solution} ex-05-change
# :class: dropdown
#
# ```python
# print(tried_first(0.0))  # 1
# ```
#
# With $c = 0$ PUCB is $Q$ alone.
# A child that was never visited has $Q = 0$ and is not chosen while another has a positive $Q$, whatever its prior: the search stays with the gold turn, which was there from the start, although two strategies earn more here.
# No sibling is tried, so that there is nothing to pair.
# ````
