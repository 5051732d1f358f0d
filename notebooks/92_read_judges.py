# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Judges: what they are asked
#
# Figures 15 to 20 of DecoupledESC {cite}`zhang2025decoupledesc` show the prompts of its LLM judge.
# Here are ours: the tasks and the scales follow the paper, the wording is our own, and the text below is printed by the very functions that ask.
# The conversation in the examples is invented.
#
# :::{admonition} Research output
# :class: research-output
# A judge's score is a number that a language model wrote about a text.
# It is no assessment of a person and no measure of whether somebody was helped.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.corpus import Message, Turn
from decoupled_esc.evaluate import judges
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import figures
from decoupled_esc.present.tables import results_table

book = open_book(globals())
data = book["data"]
blank = data.blank_turns["test"] / data.turns["test"]
figures.glue_numbers(profile_name=book.label, blank=f"{100 * blank:.0f}")
context = (Message("seeker", "I lost my job on Friday. I haven't told anyone, and I can't sleep."),)
turn = Turn("invented/00", "invented/00", context, "Reflection of feelings", "That is a lot to carry alone. What worries you most at night?")
good = Reply("a", turn, "Reflection of feelings", "It sounds lonely to keep such news to yourself.")
poor = Reply("b", turn, "Providing Suggestions", "Cheer up! Have you tried several job boards at once?")
PAPER = judges.Protocol(turns=100, gold="shown", calls="each", context="last", repeats=1, pairs=False)


def show(request) -> None:
    """Print a request as the judge gets it."""
    for role, content in request.messages:
        print(f"--- {role} ---\n{content.rstrip()}\n")


# %% [markdown]
# ## Four scores (DecoupledESC Table 8)
#
# The {term}`Likert judge` is asked once per dimension, is shown the seeker's last words and the human reference, and answers with one number.
# This is the question about empathy; the other three differ in the scale alone.

# %% tags=["hide-input"]
show(judges.likert(good, judges.DIMENSIONS[2], PAPER))

# %% tags=["hide-input"]
results_table(
    pd.DataFrame({d.name: dict(enumerate(d.levels)) for d in judges.DIMENSIONS}),
    "What each score stands for, after Table 8 of DecoupledESC, in our words.",
)

# %% [markdown]
# The protocol of the paper has weak points, and each can be turned off in a profile's `judge` section:
#
# * a human reference beside the one to be scored pulls the score towards likeness (`gold: hidden`);
# * {glue:text}`blank`% of the test turns follow a blank message, and then the judge sees nothing that was said (`context: whole`; scores without these turns are always computed beside the others);
# * 100 turns leave wide intervals (`turns: null` takes all);
# * four questions cost four times the money of one (`calls: joint`), which may or may not change the answers;
# * one answer says nothing about how steady the judge is (`repeats: 2`);
# * a score of a single reply is coarser than a choice between two (`pairs: true`, always asked in both orders; a win is one in both).
#
# ## The choice between two replies

# %% tags=["hide-input"]
show(judges.choice(good, poor, judges.DIMENSIONS[2], PAPER))

# %% [markdown]
# ## The five errors
#
# This is our version of the question that gave the labels of [chapter 03](03_observe_errors.ipynb).

# %% tags=["hide-input"]
show(judges.error(poor, PAPER))

# %% [markdown]
# ## The filter of preference pairs
#
# Inferential Preference Mining keeps a pair if the chosen reply has none of three errors and the rejected one has one of them.
# The judge is asked for both replies at once, and neither the words nor the place tell which is to be chosen.

# %% tags=["hide-input"]
show(judges.filter_pair(good, poor, PAPER))
print("would be kept if the first is called None and the second Early Emotion Shift:", judges.kept("None", "Early Emotion Shift"))

# %% [markdown]
# ## Which judges this profile has

# %% tags=["hide-input"]
judged = book["judged"]
found = judged
if not isinstance(judged, Missing):
    protocol = ", ".join(f"{key}: {value}" for key, value in judged.protocol.model_dump().items())
    found = pd.DataFrame(
        {
            judge: {
                "protocol": protocol, "turns": judged.turns, "of them after a blank message": judged.after_blank,
                "answers that could not be read": sum(sum(counts.values()) for counts in said.unread.values()),
            }
            for judge, said in judged.judges.items()
        }
    ).T
results_table(found, f"LLM judges of profile {book.label}.")

# %% [markdown]
# An LLM judge was not asked for the numbers in this book where this table names none: the paper's judge is a paid service.
# The code is the same for a paid one and for a server of one's own, and is tested against a server that misbehaves on purpose and against a real one.
# Every answer is kept in `runs/answers.sqlite` under the sha256 of its question, so that a stopped or repeated run pays for nothing twice.
