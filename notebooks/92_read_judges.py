# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Judges: what they are worth, and what they are asked
#
# Most claims about supportive replies are a judge's, and a judge is a claim as well: that it sees what people see.
# This page checks judges against people, our own among them, and then prints what an LLM judge is asked.
#
# :::{admonition} Research output
# :class: research-output
# A judge's score is a number that a language model wrote about a text.
# It is no assessment of a person and no measure of whether somebody was helped.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.corpus import Message, Turn
from decoupled_esc.evaluate import judges
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import figures, judge_tables, power
from decoupled_esc.present.tables import format_estimate, results_table

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
# ## The answer
#
# Experts agree with one another at a median {term}`kappa <Cohen's kappa>` of {glue:text}`experts_here`; with each expert alone the best LLM ({glue:text}`llm`) agrees at {glue:text}`llm_here`, a crowd at {glue:text}`crowd_here`, and **a {term}`learned judge` of ours that runs on a laptop at {glue:text}`learned_here`**, on the {glue:text}`conversations` conversations whose text is published.
# A count of words reaches {glue:text}`length_here`.
# Ours has an advantage: it has learned from the experts' ratings of other conversations of the same sample.
# With the experts' median it agrees at {glue:text}`learned_kappa`; our aim was 0.40: **{glue:text}`aim_kappa`**.
# The median hides that it sees what a reply does and not whether that was right: {glue:text}`highest` on {glue:text}`highest_dimension`, {glue:text}`lowest` on {glue:text}`lowest_dimension`.
#
# What one person prefers is harder.
# On chats of a bot from which it has learned nothing, the judge that chooses its features inside iEval is right in {glue:text}`inside_bot` per cent of the pairs, {glue:text}`inside_gap` points from a count of words: it **{glue:text}`inside_beats` length**, and to beat it was our aim.
# With features chosen on experts' ratings it is {glue:text}`outside_bot`, {glue:text}`outside_gap` points from length; but that choice was made after the first result was known, so it is a lead and no proof.
# Over bots the latter's interval is {glue:text}`outside_over_bots`: for a further writer it **{glue:text}`outside_beats_over_bots` length**.
# No claim in this book rests on that judge.

# %% tags=["hide-input"]
agreed, learned = book["judgement-agreement"], book["learned-judges"]
agreement, preferences = (agreed, agreed) if isinstance(agreed, Missing) else (agreed.conversations, agreed.preferences)
inside, outside = judge_tables.learned_rows(learned)
by_rater = {} if isinstance(learned, Missing) else {row.raters: row for row in learned.ratings.medians}
mine = by_rater["learned judge–expert"].kappa if by_rater else None
with_each = {raters.removesuffix("–expert"): row.each for raters, row in by_rater.items()}
best_llm = max(("GPT-4o", "Claude", "Gemini"), key=lambda name: with_each[name].value) if by_rater else "–"
in_text = {name: format_estimate(with_each.get(rater), 2) for name, rater in {"experts": "expert", "llm": best_llm, "crowd": "crowd", "learned": "learned judge", "length": "length alone"}.items()}
over_bots = outside and outside.over_writers()
single = [] if isinstance(learned, Missing) else [row for row in learned.ratings.rows if row.raters == "learned judge–expert" and row.kappa]
worst, best_of = (min(single, key=lambda row: row.kappa.value), max(single, key=lambda row: row.kappa.value)) if single else (None, None)
by_model, readings = judge_tables.with_model(learned), book["judged-conversations"]
figures.glue_numbers(
    read_conversations="–" if isinstance(readings, Missing) else f"{readings.conversations:,}", model_kappa=format_estimate(by_rater[judge_tables.MODEL_READS].kappa if judge_tables.MODEL_READS in by_rater else None, 2),
    model_person=format_estimate(by_model and by_model.by_person), model_bot=format_estimate(by_model and by_model.new_writer), model_gap=format_estimate(by_model and by_model.new_over_length, sign="+"),
)  # fmt: skip
figures.glue_numbers(
    **{f"{name}_here": text for name, text in in_text.items()}, llm=best_llm, conversations="–" if isinstance(learned, Missing) else learned.conversations,
    learned_kappa=format_estimate(mine, 2), aim_kappa="not measured" if mine is None else "met" if mine.value >= 0.4 else "not met",
    lowest=format_estimate(worst and worst.kappa, 2), lowest_dimension=f"{worst.dimension.replace('_', ' ')} ({worst.sample})" if worst else "–",
    highest=format_estimate(best_of and best_of.kappa, 2), highest_dimension=f"{best_of.dimension.replace('_', ' ')} ({best_of.sample})" if best_of else "–",
    outside_bot=format_estimate(outside and outside.new_writer), outside_gap=format_estimate(outside and outside.new_over_length, sign="+"),
    outside_over_bots=format_estimate(over_bots, sign="+"), outside_beats_over_bots=judge_tables.beats_length(over_bots),
)  # fmt: skip
results_table(
    judge_tables.learned_worth(learned, preferences, book.served("llm-judges")),
    "What judges are worth. Left: quadratic kappa with the experts' median (between experts: mean over pairs) and with each expert alone, and rank correlation; medians over dimensions, 95% intervals over conversations; ours has learned from other conversations. "
    "Right: how often the chat is picked that a person preferred, in per cent, ties counting half, 95% intervals over people; *new*: nothing was learned from these people, nor from this bot (mean over four).",
)

# %% [markdown]
# People pick the longer chat as often as the last row says; a judge that picks it more often leans on length more than they do.
# The learned judge scores each chat alone, so it has no bias to a position: it picks the same one whichever is shown first.
# In iEval a chat's place is its bot's name, so how often the earlier one is picked, by people as by judges, can't be told from which bot it is.

# %% [markdown]
# ## What published judges are worth
#
# Before a judge is believed, it should be compared with experts.
# Three published sets of judgements allow it: experts, crowds and three LLMs on 200 supportive conversations {cite}`kumar2025empathic`, experts and four LLMs on replies by nine models and by a person to 1,000 posts {cite}`badawi2025trust`, and 240 people who each chatted with four bots in two situations and ranked them {cite}`svikhnushina2022ieval`.

# %% tags=["hide-input"]
results_table(
    judge_tables.published_agreement(agreed),
    "Agreement with experts: quadratic kappa with their median (between experts: mean over pairs) and with each expert alone, and Spearman's rank "
    "correlation; medians over dimensions with 95% intervals over conversations or posts.",
)

# %% tags=["hide-input", "remove-output"]
figures.show("fig_published_judges", figures.published_judges(agreement, preferences, f"published judgements, no model of ours; {book.label}"))
medians = {} if isinstance(agreement, Missing) else {row.raters: row for row in agreement.medians}
replies = () if isinstance(agreed, Missing) or isinstance(agreed.replies, Missing) else agreed.replies.medians
rules = {} if isinstance(preferences, Missing) else {rule.rule: rule for rule in preferences.rules}
length = rules.get("more words by the bot")
figures.glue_numbers(
    experts=format_estimate(medians["expert–expert"].kappa if medians else None, 2),
    crowd=format_estimate(medians["crowd–expert"].each if medians else None, 2),
    gemini=format_estimate(medians["Gemini–expert"].each if medians else None, 2),
    on_replies=f"{min(row.kappa.value for row in replies):.2f} to {max(row.kappa.value for row in replies):.2f}" if replies else "–",
    longer=format_estimate(length and length.accuracy), longer_without=format_estimate(length and length.without_best),
    best=preferences.best if rules else "–", untied=f"{preferences.untied:,}" if rules else "–",
    left_out="–" if not replies else f"{sum(agreed.replies.left_out.values()):,}",
)

# %% [markdown]
# ```{glue:figure} fig_published_judges
# :name: fig-published-judges
# :alt: Left, quadratic kappa with experts on 21 dimensions for experts, three LLMs and crowds; right, how often five simple rules pick the chat that a person preferred.
#
# Left: agreement with experts on each of 21 dimensions (50 conversations each). Right: how often a rule picks the chat that a person preferred, ties counting half; {glue:text}`untied` pairs, 95% intervals over people.
# ```
#
# Experts agree with one another moderately (kappa {glue:text}`experts`), the best LLM agrees with a single expert about as well ({glue:text}`gemini`), and a crowd far less ({glue:text}`crowd`): a judge's worth is bounded by its labels, and it differs more between dimensions than between judges.
# On the replies to posts four LLMs reach only {glue:text}`on_replies` with the one expert rating that is published of each, so what a judge is worth on one set of texts is no promise for another; {glue:text}`left_out` ratings are left out there, because they are empty, off the scale or of another post.
# That the bot with more words wins in {glue:text}`longer` per cent of the pairs says less than it seems: without the pairs of {glue:text}`best`, the bot that people liked best and that wrote most, it is {glue:text}`longer_without` per cent, so a learned judge has to beat length on bots that it does not know.
#
# ## What can be learned from people's judgements?
#
# Two small judges learn from these judgements: one which of two chats a person preferred (a Bradley–Terry model, logistic regression on the difference between two chats), one how experts rated a conversation (ridge regression).
# They read a reply's length, its different words, its relevance (cosine of its sentence embedding {cite}`reimers2019sentence` with that of the message before), the levels of the empathy scale of [chapter 03](03_observe_errors.ipynb), a few counts, and the embedding itself.
# A second judge of each kind may also read what SmolLM2-135M-Instruct {cite}`allal2025smollm2`, as it is, makes of the conversation: how likely it finds the replies, and its last hidden states over them (six minutes on one core for all {glue:text}`read_conversations` conversations).
# It is chosen like the first, among more groups; that is a third way to choose, so that its numbers say whether such features help and no more: {glue:text}`model_person` per cent on new people, {glue:text}`model_bot` on a new bot ({glue:text}`model_gap` points from length), and kappa {glue:text}`model_kappa` with the experts' median.
# Nothing is gained by them, at this size of a model.
#
# How many of these groups a judge reads is chosen in two ways: by cross-validation inside what it learns from, or on the experts' ratings of other writers' conversations, which hold nothing of iEval; the answer above is the latter's.
# One thing about them is not new to the test: the list of groups was settled after single features had been looked at on all pairs.

# %% tags=["hide-input"]
results_table(
    judge_tables.learned_by_writer(learned),
    "How often a judge picks the chat that a person preferred, in per cent, on the pairs with one bot, having learned from the other three and from other people; differences from length alone are paired; 95% intervals over people.",
)

# %% tags=["hide-input"]
results_table(
    judge_tables.learned_agreement(learned),
    "Quadratic kappa with the experts' median (between experts: mean over pairs) on the three samples whose conversations are published, 95% intervals over conversations; the learned judge has learned from other conversations of the same sample.",
)

# %% tags=["hide-input"]
chosen = {} if isinstance(learned, Missing) else learned.preferences.chosen
figures.glue_numbers(
    learned_people=format_estimate(inside and inside.by_person), inside_bot=format_estimate(inside and inside.new_writer),
    inside_gap=format_estimate(inside and inside.new_over_length, sign="+"), inside_beats=judge_tables.beats_length(inside and inside.new_over_length),
    outside_people=format_estimate(outside and outside.by_person),
    best_gap=format_estimate(outside.by_writer_over_length[preferences.best] if outside and rules else None, sign="+"),
    reads_outside=next((reads for name, reads in chosen.items() if name.startswith("learned judge")), "–"),
    reads_inside="; ".join(f"without {bot}: {reads}" for bot, reads in chosen.items() if not bot.startswith("learned judge")) or "–",
)  # fmt: skip

# %% [markdown]
# A judge that is better than a count of words for every writer would be so for each of the four.
# With {glue:text}`best`, the bot that people liked best and that wrote most, the difference is {glue:text}`best_gap`.
#
# On people from whom it has not learned, the judge that chooses inside iEval is right in {glue:text}`learned_people` per cent of the pairs.
# That is the easy test: it has seen the same four bots.
# On a bot that it does not know it is right in {glue:text}`inside_bot`, {glue:text}`inside_gap` points from length alone: it {glue:text}`inside_beats` a count of words.
# It read ({glue:text}`reads_inside`).
# The one whose groups were chosen on experts' ratings ({glue:text}`reads_outside`) is right in {glue:text}`outside_people` for new people and {glue:text}`outside_bot` for a new bot.
#
# ## Can the papers' judged differences be seen at all? (DecoupledESC Table 3, Figure 6)
#
# DecoupledESC's judge gave each system one score from 0 to 5 at 100 turns.
# Whether a difference between two systems can be seen so depends on how much their scores differ from turn to turn.
# The published ratings of the paper's own two backbones, at the same posts, tell: the table has the spread of that difference by rater, and what 100 such pairs find in four cases of five (two-sided test at 5%).

# %% tags=["hide-input"]
spread = book["judged-spread"]
results_table(
    power.table(spread),
    "Replies of the papers' two backbones to the same posts: differences with 95% intervals over posts, medians over seven dimensions, ratings 1 to 5; last column on the paper's scale.",
)

# %% tags=["hide-input", "remove-output"]
figures.show("fig_detectable", power.figure(spread, book.source("no model of ours: the paper's Table 3 and published ratings", counted=True)))
absent = isinstance(spread, Missing)
bars = {} if absent else {rater: power.detectable(spread, rater) for rater in power.raters(spread)}
beyond = [] if absent else power.seen(spread, "experts")
mine = {} if absent else {row.rater: row.difference for row in spread.spreads if row.dimension == "Empathy"}
figures.glue_numbers(
    smallest=f"{min(bars.values()):.2f}" if bars else "–", largest=f"{max(bars.values()):.2f}" if bars else "–",
    judged=len(list(power.printed())), beyond="–" if absent else len(beyond),
    beyond_fluency="–" if absent else sum(row[2] == "Flu" for row in beyond),
    beyond_all="–" if absent else len(power.seen(spread, max(bars, key=bars.get))),
    experts_gap=format_estimate(mine.get("experts"), 2, sign="+"), claude_gap=format_estimate(mine.get("Claude"), 2, sign="+"),
    largest_empathy=f"{max(abs(row[3]) for row in power.printed() if row[2] == 'Emp'):.2f}", largest_help=f"{max(abs(row[3]) for row in power.printed() if row[2] == 'Hel'):.2f}",
    sharp=f"{100 * power.smallest_detectable(1.0, 400):.0f}", dull=f"{100 * power.smallest_detectable(1.0, 20):.0f}",
)  # fmt: skip

# %% [markdown]
# ```{glue:figure} fig_detectable
# :name: fig-detectable
# :alt: The judged differences of DecoupledESC's Table 3 by dimension, most of them inside a shaded band of differences too small to be seen with 100 ratings.
#
# Judged differences of the paper's Table 3. Inside the shade a design of 100 turns is more likely to miss a true difference of that size, or to show it by chance: dark for the rater with the least spread, light for the one with the most.
# ```
#
# With these spreads 100 turns see a difference of {glue:text}`smallest` to {glue:text}`largest` points.
# Of the {glue:text}`judged` judged differences of Table 3 (DPO against SFT, and decoupled against coupled; [chapter 19](19_ask_why.ipynb) counts those from Base and of Table 5 too), {glue:text}`beyond` are as large as that for experts and {glue:text}`beyond_all` for the rater with the most spread; {glue:text}`beyond_fluency` of the {glue:text}`beyond` are of fluency.
# The largest difference in empathy is {glue:text}`largest_empathy`, the largest in helpfulness {glue:text}`largest_help`.
# A difference inside the shade may be real all the same; 100 ratings can't tell.
# That replies to posts stand for replies in conversations is an assumption.
# Some LLM judges also stretch differences: experts rate the empathy of Llama's replies {glue:text}`experts_gap` points higher than that of Qwen's, Claude {glue:text}`claude_gap`.
#
# In Figure 6, 20 raters compared 20 replies of each system.
# If the 20 raters were independent, 400 choices would see a lead (win minus lose) of {glue:text}`sharp` points; if they always agreed, only the 20 replies would count, and it would take a lead of {glue:text}`dull`.
#
# ## A small LLM as a judge
#
# The papers' judges are large models behind a paid service.
# Here the same client puts questions of the same kind to the smallest model that follows instructions, SmolLM2-135M-Instruct behind a server on two CPU cores (profile `smollm2-135m-served`).
# It rates the conversations that experts rated and whose text is published, one dimension at a time and on the experts' scales; it labels replies that DecoupledESC released, as many of each of GPT's labels; and it scores replies of that backbone's systems.
# A judge that answers by chance has a kappa near 0 with experts and with GPT.
# A rating that could not be read is missing; where there are any, another row takes the middle of the scale for it.

# %% tags=["hide-input"]
small, scored = book.served("llm-judges"), book.served("judged")
results_table(
    judge_tables.llm_judges(small),
    "What an LLM judge is worth. With experts: quadratic kappa with their median and with each alone, rank correlation; medians over dimensions, 95% intervals over conversations. With GPT: unweighted kappa over six labels, 95% intervals over dialogues.",
)

# %% tags=["hide-input"]
answers = {} if isinstance(small, Missing) else {f"conversations, {question}": one for worth in small.judges.values() for question, one in worth.answers.items()}
answers |= {} if isinstance(scored, Missing) else {f"replies of systems, {question}": one for said in scored.judges.values() for question, one in said.answers.items()}
results_table(judge_tables.readable_answers(answers), "What could be read of its answers, by question.")

# %% tags=["hide-input"]
results_table(judge_tables.judge_scores(scored), "What it says of the systems, 0 to 5; 95% intervals by dialogue. What such scores are worth, the tables above say.")

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
#
# ## What an LLM judge is asked
#
# Figures 15 to 20 of DecoupledESC {cite}`zhang2025decoupledesc` show the prompts of its LLM judge.
# Here are ours: the tasks and the scales follow the paper, the wording is our own, and the text below is printed by the very functions that ask.
# The conversation in the examples is invented.
#
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
# Both sides of mined pairs (DecoupledESC Table 2) are always scored without the human reference, which is the chosen reply itself.
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
