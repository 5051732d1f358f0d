# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Search trees, branch by branch
#
# The trees of [chapter 05](05_search_dialogues.ipynb): all as numbers, and the first 30 to open by a click, since a page of all weighs twice as much as a page should.
# `decoupled-esc run` leaves every one in the results of its search.
# A line is a round of the dialogue: strategy, mean reward $Q$, visits $N$ and what its own turn earned where that was judged, what the supporter says and the seeker answers.
# Rounds of the gold dialogue belong to ESConv and show numbers only.
#
# :::{admonition} Research output
# :class: research-output
# Both sides of these dialogues are outputs of small experimental models.
# Nobody said them to anybody, much is nonsense, and none of it is counselling.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.present import trees
from decoupled_esc.present.tables import results_table
from decoupled_esc.search.export import ExpandedNode
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing

book = open_book(globals())
searched = book["search"]
grown = () if isinstance(searched, Missing) else searched.rows
print(f"Profile {book.label}: {len(grown)} trees.")

# %% tags=["hide-input"]
spoken = {tree.id: [node for node in tree.nodes if isinstance(node, ExpandedNode)] for tree in grown}
lines = {
    tree.id: {
        "iterations": f"{tree.iterations}",
        "rounds of the gold dialogue": f"{sum(getattr(node, 'gold', False) for node in tree.nodes) - 1}",
        "expanded nodes": f"{len(spoken[tree.id])}",
        "terminal dialogues": f"{sum(node.ends for node in spoken[tree.id])}",
        "best Q of a model's turn": f"{max((node.value for node in spoken[tree.id]), default=0):.2f}",
    }
    for tree in grown
}
results_table(pd.DataFrame(lines or {"–": {"iterations": "no search"}}).T, f"The trees, profile {book.label}; counts and mean rewards, without intervals.")

# %% tags=["hide-input"]
by_strategy: dict[str, list[float]] = {}
for nodes in spoken.values():
    for node in nodes:
        by_strategy.setdefault(node.strategy, []).append(node.value)
lines = {name: {"rounds": f"{len(values):,}", "mean Q": f"{sum(values) / len(values):.2f}"} for name, values in sorted(by_strategy.items())}
results_table(pd.DataFrame(lines or {"–": {"rounds": "0"}}).T, f"What the search tried, by strategy; profile {book.label}; without intervals.")

# %% tags=["hide-input"]
trees.Explorer(grown[:30])
