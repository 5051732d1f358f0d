# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # All search trees
#
# The trees of [chapter 05](05_search_dialogues.ipynb), branch by branch: click to open.
# A line is a round of the dialogue: strategy, mean reward $Q$ and visits $N$, what the supporter says and the seeker answers.
# Rounds of the gold dialogue belong to ESConv and show numbers only.
#
# :::{admonition} Research output
# :class: research-output
# Both sides of these talks were written by small experimental models.
# Nobody said them to anybody, much is nonsense, and none of it is counselling.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.present import trees
from decoupled_esc.present.tables import plain
from decoupled_esc.workflow import open_chapter

book = open_chapter(globals())
searched = book.result("search")
print(f"Profile {book.label}: {len(searched.rows)} trees.")

# %% tags=["hide-input"]
spoken = {tree["id"]: [node for node in tree["nodes"] if "visits" in node and not node["gold"]] for tree in searched.rows}
lines = {
    tree["id"]: {
        "iterations": f"{tree['iterations']}",
        "rounds of the gold dialogue": f"{sum(bool(node.get('gold')) for node in tree['nodes']) - 1}",
        "rounds spoken out": f"{len(spoken[tree['id']])}",
        "talks that ended": f"{sum(node['ends'] for node in spoken[tree['id']])}",
        "best Q of a model's turn": f"{max((node['value'] for node in spoken[tree['id']]), default=0):.2f}",
    }
    for tree in searched.rows
}
plain(pd.DataFrame(lines or {"–": {"iterations": "no search"}}).T, f"The trees, profile {book.label}; counts and mean rewards, without intervals.")

# %% tags=["hide-input"]
by_strategy: dict[str, list[float]] = {}
for nodes in spoken.values():
    for node in nodes:
        by_strategy.setdefault(node["strategy"], []).append(node["value"])
lines = {name: {"rounds": f"{len(values):,}", "mean Q": f"{sum(values) / len(values):.2f}"} for name, values in sorted(by_strategy.items())}
plain(pd.DataFrame(lines or {"–": {"rounds": "0"}}).T, f"What the search tried, by strategy; profile {book.label}; without intervals.")

# %% tags=["hide-input"]
trees.Explorer(searched.rows)
