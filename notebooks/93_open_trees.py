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
from decoupled_esc.present import trees
from decoupled_esc.workflow import open_chapter

book = open_chapter(globals())
searched = book.result("search")
print(f"Profile {book.label}: {len(searched.rows)} trees.")

# %% tags=["hide-input"]
trees.Explorer(searched.rows)
