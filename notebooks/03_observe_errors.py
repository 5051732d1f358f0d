# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 Observations: the errors that fine-tuning leaves
#
# DecoupledESC starts from an observation: models fine-tuned on good conversations still make the mistakes that are found in failed ones, among people {cite}`zhang2025decoupledesc`; it calls them {term}`psychological errors <psychological error>`.
# The authors released the replies of their two SFT models and what GPT said of each.
# This chapter regenerates Figure 2 from them, asks how far such labels can be trusted, and scores the released replies again to see whether Table 3 comes out.
# Then it builds two judges that need no server, says what they are worth, and turns them on our own models.
#
# :::{admonition} Research output
# :class: research-output
# The numbers on this page are about replies of experimental models, and about conversations that went badly.
# They describe texts, and no person; none of this is counselling.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from decoupled_esc import taxonomy
from decoupled_esc.evaluate.errors import LABELS, RepeatedLabels
from decoupled_esc.evaluate.offline import LabelValidity
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import figures, judge_tables, replication
from decoupled_esc.present.tables import format_estimate, format_scores, results_table

book = open_book(globals())
released = book["released"]
missing = isinstance(released, Missing)
figures.glue_numbers(profile_name=book.label)

# %% [markdown]
# ## The answer
#
# **By GPT's labels the paper's observation holds**: it saw no error in {glue:text}`none_people`% of the replies by people whose conversations had failed, in {glue:text}`none_qwen`% of Qwen's and {glue:text}`none_llama`% of Llama's.
#
# **What the judges are worth:** GPT agrees with itself at a kappa of {glue:text}`kappa`, in the {glue:text}`pairs` replies that it labelled twice; our classifier agrees with GPT at {glue:text}`dialogue_kappa` on new dialogues and at {glue:text}`writer_kappa` on writers that it does not know, which our models are.
# What people would say of these errors nobody has published.
#
# **So little can be said of our models' errors.**
# Corrected for what the classifier gets wrong, in two ways, the decoupled and the vanilla model after SFT differ by both in {glue:text}`told`.
#
# ## Five ways to fail
#
# The names are the paper's (appendix A.2); definitions and examples are ours.
# In each example somebody has just written: *"I lost my job on Friday. I haven't told anyone, and I can't sleep."*

# %% tags=["hide-input"]
EXAMPLES = {
    "Strategy Mismatch": "Have you tried searching on several job boards at once?",
    "Lack of Empathy": "OK. Which kind of job was it?",
    "Early Emotion Shift": "Cheer up, in a month you will laugh about this!",
    "Template Response": "I'm here for you. Things will get better.",
    "Emotion Misread": "You sound really angry with your boss.",
}
defined = pd.DataFrame(
    {error.name: {"what goes wrong": error.meaning, "example (invented)": EXAMPLES[error.name]} for error in taxonomy.PSYCHOLOGICAL_ERRORS}
)
results_table(defined.T, "The five psychological errors, in our words.")

# %% [markdown]
# Several of them could be said of one reply, and the judge had to choose one.
# A question about the job is a mismatch here and might be welcome three turns later: four of the five can't be seen without the conversation.
#
# ## What was released
#
# The files hold a reply, the seeker's last words and a label, and no ids.
# A model's reply is matched to the turn with the same words of the seeker, and a person's reply to the turn with the same reply.
# Where several turns share the words, such as the blank message that stands between two utterances of a supporter, the rows are matched by order, so that neighbours stay neighbours.
# Nothing of the text is committed here, because the files carry no licence; without them this chapter says so.

# %% tags=["hide-input"]
SHORT = {"qwen-sft": "Qwen", "llama-sft": "Llama"}
NAMES = {"failed": "people in FailedESConv", "qwen-sft": "Qwen2.5-7B after SFT", "llama-sft": "Llama-3.1-8B after SFT"}
shown = released if missing else pd.DataFrame(
    {
        NAMES[source]: {"replies": f"{found.replies:,}", "dialogues": found.dialogues, "label is none of the six": found.unplaced}
        for source, found in released.errors.items()
    }
).T
results_table(shown, "Replies with labels by GPT, released by the authors of DecoupledESC.")

# %% [markdown]
# ## DecoupledESC Figure 2: how often each error was seen
#
# *None* means that the judge found nothing wrong.
# Look at how little is left for it.

# %% tags=["hide-input", "remove-output"]
if missing:
    figure = figures.nothing_here(released.reason, book.source("nothing counted"))
    figures.glue_numbers(none_people="–", none_qwen="–", none_llama="–", none_models="–", lack_people="–", lack_qwen="–", lack_llama="–")
else:
    shares = {NAMES[source]: found.shares for source, found in released.errors.items()}
    count = sum(found.replies - found.unplaced for found in released.errors.values())
    figure = figures.shares(shares, book.source(f"n = {count:,} labels by GPT, 95% intervals", counted=True))
    people, qwen, llama = shares.values()
    figures.glue_numbers(
        none_models=f"{(qwen['None'].value + llama['None'].value) / 2:.0f}",
        none_people=format_estimate(people["None"]), none_qwen=format_estimate(qwen["None"]), none_llama=format_estimate(llama["None"]),
        lack_people=format_estimate(people["Lack of Empathy"]), lack_qwen=format_estimate(qwen["Lack of Empathy"]), lack_llama=format_estimate(llama["Lack of Empathy"]),
    )  # fmt: skip
figures.show("fig_errors", figure)

# %% [markdown]
# ```{glue:figure} fig_errors
# :name: fig-errors
# :alt: Bars of the share of replies with each of five psychological errors and with none, for people in FailedESConv and for two fine-tuned models.
#
# Figure 2 of {cite:t}`zhang2025decoupledesc`, from the labels that the authors released, with 95% intervals by dialogue.
# Profile {glue:text}`profile_name`; the labels are GPT's and the replies are the authors' models'; nothing here was computed by a model of ours.
# ```
#
# No error was seen in {glue:text}`none_people`% of the replies by people whose conversations had failed, in {glue:text}`none_qwen`% of Qwen's and {glue:text}`none_llama`% of Llama's.
# The paper's text puts the mean of the two models at about 20% (27% less 7 points, section 6.2); here it is {glue:text}`none_models`%.
# Lack of empathy is {glue:text}`lack_people`% among these people, {glue:text}`lack_qwen`% with Qwen and {glue:text}`lack_llama`% with Llama.
# So the models differ less from failed supporters than one would hope, which is what the paper's Observation 1 says.
# They show less lack of empathy and misread fewer feelings; mismatched strategies and template responses are not rarer with them.
# These shares are as GPT judged and can't be corrected for its errors: that would take labels by people, and none are published.
#
# ## How far can the labels be trusted?
#
# Some replies occur twice: the same words, after the same words of the seeker, under the same strategy.
# Going by what the files hold, the judge was asked the same question twice.

# %% [markdown]
# How often two labels are equal says little where one label is common.
# {term}`Cohen's kappa` takes off the agreement $p_e$ that two judges would reach by chance, each with its own shares of labels: $\kappa = (p_o - p_e) / (1 - p_e)$.

# %%
from decoupled_esc.evaluate.agreement import weighted_kappa

# An error or none: rows the first label, columns the second, of 100 replies
table = np.array([[40, 10], [5, 45]])
share = table / table.sum()
observed, by_chance = np.trace(share), share.sum(axis=1) @ share.sum(axis=0)
by_hand = (observed - by_chance) / (1 - by_chance)
first, second = (np.repeat(side.ravel(), table.ravel()).tolist() for side in np.indices((2, 2)))
library = weighted_kappa(
    first, second, range(table.sum()), labels=(0, 1), weights=None, replicates=100, seed=1
)
assert np.isclose(by_hand, library.value)
print(f"equal {observed:.2f}, by chance {by_chance:.2f}, kappa {by_hand:.2f}")

# %% [markdown]
# Now the judge of the released labels.

# %% tags=["hide-input"]
repeats = RepeatedLabels(0, 0, 0, None, None) if missing else released.repeats
equal, kappa = format_estimate(repeats.equal, 0), format_estimate(repeats.kappa, 2)
figures.glue_numbers(pairs=repeats.pairs, openings=repeats.openings, after_blank=repeats.after_blank, equal=equal, kappa=kappa)
twice = {"pairs": repeats.pairs, "equal labels (%)": equal, "Cohen's kappa": kappa}
results_table(pd.DataFrame({"the same reply, labelled twice": twice}).T, "The judge against itself; 95% intervals over pairs.")

# %% [markdown]
# In {glue:text}`pairs` such pairs the labels are equal in {glue:text}`equal`%; {term}`Cohen's kappa` is {glue:text}`kappa`.
# Few pairs make wide intervals, and these are no fair sample: {glue:text}`openings` of them answer the first message of a dialogue, and {glue:text}`after_blank` the blank message between two utterances of a supporter, behind which the conversations differ.
# We don't know whether the judge was shown more than the files hold.
# If it was not, any number that is built on single labels, the filter of the preference pairs among them, is less certain than it looks.
#
# ## DecoupledESC Table 3 again, from the authors' own replies
#
# Two rows of Table 3 belong to the released replies.
# Scoring them with our code tests that code, and our reading of how the table was made.

# %% tags=["hide-input"]
if missing:
    table = results_table(released, "Table 3's Vanilla-SFT rows from the released replies.")
    figures.glue_numbers(agreeing="–", cells="–", largest="–", largest_row="–", largest_column="–")
else:
    table = replication.released_table_3(released.scores["all"], book.label)
    difference, row, column = replication.largest_difference(table)
    figures.glue_numbers(
        agreeing=table.counts().get("within the interval", 0), cells=sum(cell.measured is not None for cell in table.cells()),
        largest=f"{difference:.2f}", largest_row=row.split("/")[0], largest_column=column,
    )  # fmt: skip
table

# %% [markdown]
# Of {glue:text}`cells` cells, {glue:text}`agreeing` lie within the interval.
# The largest difference is {glue:text}`largest` ({glue:text}`largest_column`, {glue:text}`largest_row`).
# The paper fixed no seed and sampled one reply per turn, so these need not be the very replies that it scored.
#
# Some replies were matched by the seeker's words alone, and the others by their order too.
# The others are of two kinds: after a blank message a reply is a supporter's second in a row, and the rest are openings and short exchanges, in which everybody says much the same.

# %% tags=["hide-input"]
KEYS = ("D-1", "B-1", "F1", "R-L", "Q_W", "Q", "B")
by_match = released if missing else pd.DataFrame(
    {
        f"{SHORT[source]}: {how}": {"turns": f"{scores.details[source].turns:,}", **format_scores(scores.systems[source]["paper"], KEYS)}
        for source in SHORT
        for how, scores in released.scores.items()
    }
).T
results_table(by_match, f"The released replies by how they were matched, variant paper; 95% intervals; profile {book.label}.")

# %% [markdown]
# Kinds of turns differ so much that no row says whether the matching by order is right.
# A comparison with chance does: the same replies, matched at random among the turns that follow the same words.

# %% tags=["hide-input"]
if missing:
    against_chance = released
    figures.glue_numbers(by_order="–", order_f1_qwen="–", order_f1_llama="–")
else:
    matched = released.order_against_chance
    gained = {source: matched.contrasts[f"{source} - {source} at random"]["paper"] for source in SHORT}
    against_chance = pd.DataFrame({SHORT[source]: format_scores(difference, KEYS[1:]) for source, difference in gained.items()}).T
    figures.glue_numbers(
        by_order=f"{matched.details['qwen-sft'].turns:,}",
        order_f1_qwen=format_estimate(gained["qwen-sft"]["F1"]), order_f1_llama=format_estimate(gained["llama-sft"]["F1"]),
    )  # fmt: skip
results_table(against_chance, "Matched by order minus matched at random, on the turns that were matched by order; variant paper; paired 95% intervals.")

# %% [markdown]
# On these {glue:text}`by_order` turns, order gains {glue:text}`order_f1_qwen` points of F1 with Qwen and {glue:text}`order_f1_llama` with Llama over one random matching.
# Where an interval contains zero, this test can't tell order from chance; and since the turns are less than a quarter of all, the scores on all turns depend little on it.
#
# The textbook variants of the same metrics are in the table below; which variant is meant matters more than which model.

# %% tags=["hide-input"]
variants = released if missing else pd.DataFrame(
    {
        f"{SHORT[source]}: {variant}": format_scores(released.scores["all"].systems[source][variant], KEYS)
        for source in SHORT
        for variant in ("paper", "standard")
    }
).T
results_table(variants, f"The released replies on all turns, two ways to compute each metric; 95% intervals; profile {book.label}.")

# %% [markdown]
# ## DecoupledESC Figure 3 for the paper's models
#
# Which strategies the two models prefer; [chapter 08](08_evaluate_systems.ipynb) draws the same for ours.

# %% tags=["hide-input", "remove-output"]
if missing:
    figure = figures.nothing_here(released.reason, book.source("nothing counted"))
    figures.glue_numbers(off_qwen="–", off_llama="–")
else:
    whole = released.scores["all"]
    gold = whole.gold_distribution
    share = {NAMES[source]: whole.details[source].distribution for source in SHORT}
    off = [50 * np.abs(np.array(own) - np.array(gold)).sum() for own in share.values()]
    figures.glue_numbers(off_qwen=f"{off[0]:.0f}", off_llama=f"{off[1]:.0f}")
    source = book.source(f"n = {whole.details['qwen-sft'].turns:,} turns", counted=True)
    figure = figures.strategy_distributions(share, gold, source)
figures.show("fig_released_strategies", figure)

# %% [markdown]
# ```{glue:figure} fig_released_strategies
# :name: fig-released-strategies
# :alt: Two bar charts of the share of eight strategies, for the authors' fine-tuned Qwen and Llama models, with diamonds for the gold shares.
#
# Strategy distribution of the authors' two SFT models against the gold annotation, after Figure 3 of {cite:t}`zhang2025decoupledesc`.
# Profile {glue:text}`profile_name`; shares without intervals.
# ```
#
# {glue:text}`off_qwen`% of Qwen's turns and {glue:text}`off_llama`% of Llama's would have to change strategy to match the human reference's shares.
# Both ask questions and give suggestions more often than the human reference.
#
# ## A judge without a server
#
# To see the same picture for our own models, somebody has to judge their replies.
# Where no LLM does, a classifier stands in: logistic regression on the words of the reply, the seeker's last words, the strategy, and a few counts such as the length and the turn, trained in seconds on the labels above.
# It is called *error classifier* here, never by GPT's name, and its first duty is to say how good it is.
#
# Two judges are made in this way, and what separates them is what they learn from.
# The one of this chapter, and of [RQ4](12_ask_rq4.ipynb), learns from all labels, two thirds of which belong to replies at test dialogues; a reply is judged by a fold that has seen no label at its dialogue.
# The one that mines pairs and rewards the search shapes our models, so it must know nothing of the test: it learns from the labels of FailedESConv alone, and has its own section below.
#
# "New dialogues": it has learned from none of that dialogue's labels.
# For replies that were matched to their turns by order the dialogue is a guess, so they are also shown apart.
# "New writers" is harder: it has learned neither from the dialogue nor from the writer, Qwen, Llama or people, and so has to score an unseen system.
# That is its task with our models.

# %% tags=["hide-input"]
classifier = book["error-classifier"]
unjudged = isinstance(classifier, Missing)
if unjudged:
    worth = classifier
else:
    def scored(found: LabelValidity) -> dict:
        return {
            "replies": f"{found.replies:,}", "accuracy, %": format_estimate(found.accuracy), "macro F1": format_estimate(found.macro_f1),
            "Cohen's kappa": format_estimate(found.kappa, 2),
        }  # fmt: skip

    PARTS = {**NAMES, "sure": "turn known by the words", "guessed": "turn guessed by order"}
    rows = {f"always {classifier.majority.label}": scored(classifier.majority)}
    for by_part, title in ((classifier.unseen_dialogues, "new dialogues"), (classifier.unseen_writers, "new dialogues by new writers")):
        rows[title] = scored(by_part["all"])
        rows |= {f"{title}: {PARTS[part]}": scored(found) for part, found in by_part.items() if part != "all"}
    worth = pd.DataFrame(rows).T
results_table(worth, "The error classifier against GPT's labels; 95% intervals by dialogue.")

# %% tags=["hide-input"]
if unjudged:
    figures.glue_numbers(worth=f"Its worth is not measured here: {classifier.reason}.", dialogue_kappa="–", writer_kappa="–")
else:
    dialogues, writers = ({part: format_estimate(found.kappa, 2) for part, found in by_part.items()} for by_part in (classifier.unseen_dialogues, classifier.unseen_writers))
    figures.glue_numbers(
        worth=f"On new dialogues it agrees with the labels at a kappa of {dialogues['all']}, where the turn is known by the words at "
        f"{dialogues['sure']}; on new writers at {writers['all']}, and {writers['failed']} for people whose conversations failed.",
        dialogue_kappa=dialogues["all"], writer_kappa=writers["all"],
    )  # fmt: skip

# %% [markdown]
# {glue:text}`worth`
# For orientation: the judge that gave the labels agrees with itself at {glue:text}`kappa`.
# That is no ceiling, since a predictor of its most frequent answer could agree with a single answer more often than two answers do with one another.
# We had aimed at 0.45 on new dialogues and did not get there; fine-tuning the small language model of this book for the task did worse than the words in a trial, which is not repeated here.
#
# For a share of errors it does not matter which replies are misjudged, as long as the mistakes cancel.
# The next table says how far they do: the share that the classifier predicts for a writer that it does not know, and the share by GPT's labels.

# %% tags=["hide-input"]
if unjudged:
    off_by = classifier
    figures.glue_numbers(gaps="How far its shares are off is not measured here.")
else:
    by_writer = {NAMES[source]: found for source, found in classifier.shares.items()}
    by_writer |= {" minus ".join(NAMES[source] for source in pair.split(" - ")): found for pair, found in classifier.differences.items()}
    off_by = pd.DataFrame(
        {name: {label: f"{share.predicted:.0f} ({share.labelled:.0f})" for label, share in found.items()} for name, found in by_writer.items()}
    ).T
    shares, differences = ([share for found in by.values() for share in found.values()] for by in (classifier.shares, classifier.differences))
    strange, known = (max(abs(getattr(share, by) - share.labelled) for share in differences) for by in ("predicted", "known"))
    figures.glue_numbers(
        gaps=f"A share is off by up to {max(abs(share.predicted - share.labelled) for share in shares):.0f} points, and a difference between two writers that it does not know by up to {strange:.0f}; "
        f"even between writers that it has learned from, a difference is off by up to {known:.0f}."
    )
results_table(off_by, "Predicted share of each error in per cent for writers that the classifier does not know, and, in brackets, the share by GPT's labels.")

# %% [markdown]
# {glue:text}`gaps`
# Our systems are writers that it does not know, so the first of these two errors of a difference is the one that counts ([chapter 12](12_ask_rq4.ipynb) shows it for each error).
# The intervals below come from resampling dialogues and know nothing of this: a difference has to be larger than both.
#
# ## The judge that shapes our models
#
# A judge that selects preference pairs ([chapter 04](04_mine_preferences.ipynb)) or rewards a search ([chapter 05](05_search_dialogues.ipynb)) teaches what it knows.
# It therefore learns from no label of a reply at a test or validation dialogue; of the public labels that leaves GPT's of the people in FailedESConv.
# The two models' labelled replies at the test dialogues are then a fair test: other dialogues, other writers, and nothing of them was learned from.

# %% tags=["hide-input"]
if unjudged:
    fair = one_by_one = classifier
    figures.glue_numbers(training_worth=f"Its worth is not measured here: {classifier.reason}.")
else:
    training = classifier.training
    fair = pd.DataFrame({NAMES.get(part, "both models"): scored(found) for part, found in training.by_source.items()}).T
    TITLES = {"any": "any error", "any of three": "any of the three that a response pair is mined by"}
    one_by_one = pd.DataFrame(
        {
            TITLES.get(name, name): {
                "replies": f"{training.by_source['all'].replies:,}", "by the labels": f"{found.labelled:,}", "by the judge": f"{found.guessed:,}",
                "Cohen's kappa": format_estimate(found.kappa, 2),
            }
            for name, found in training.errors.items()
        }
    ).T  # fmt: skip
    whole, three = training.by_source["all"], training.errors["any of three"]
    figures.glue_numbers(
        training_worth=f"Having learned from {classifier.learned_from}, it agrees with the labels of {whole.replies:,} replies at the test dialogues at a kappa of {format_estimate(whole.kappa, 2)}; "
        f"on whether a reply has one of the three errors that make a response pair, at {format_estimate(three.kappa, 2)}."
    )
results_table(fair, "The judge that shapes our models against GPT's labels of replies at the test dialogues; 95% intervals by dialogue.")

# %% tags=["hide-input"]
results_table(one_by_one, "The same, asked for each error whether a reply has it; 95% intervals by dialogue.")

# %% [markdown]
# {glue:text}`training_worth`
# A kappa of 0 is what chance gives, and pairs that this judge selects are labelled no better than this.
# One thing about it is not new to the test: that a judge should look at words, and at which, was settled on all labels, before the two judges were parted.
#
# ## DecoupledESC Figure 2 for our models
#
# The share of an error is the mean of its predicted probability over all test turns.
# The same is shown for the human reference at these turns.

# %% tags=["hide-input", "remove-output"]
judged = book["judged-offline"]
by_classifier = judged if isinstance(judged, Missing) else judged.errors
OURS = {"gold": "human reference (gold)", "vanilla-sft": "vanilla after SFT", "decoupled-sft": "decoupled after SFT"}
if isinstance(by_classifier, Missing):
    figure = figures.nothing_here(by_classifier.reason, book.source("nothing counted"))
    figures.glue_numbers(learned="nothing", own_errors="Nothing was judged here.")
else:
    own = {title: by_classifier.systems[name] for name, title in OURS.items()}
    count = f"n = {judged.turns:,} turns, 95% intervals, by the error classifier ({by_classifier.learned_from})"
    figure = figures.shares(own, book.source(count))
    against = {name: format_estimate(by_classifier.contrasts[f"{name} - gold"]["Template Response"]) for name in ("vanilla-sft", "decoupled-sft")}
    between = by_classifier.contrasts["decoupled-sft - vanilla-sft"]
    mismatch = {name: format_estimate(own[OURS[name]]["Strategy Mismatch"]) for name in ("gold", "vanilla-sft")}
    figures.glue_numbers(
        learned=by_classifier.learned_from,
        own_errors=f"Of the human references, {mismatch['gold']}% are called a strategy mismatch; of the vanilla model's, {mismatch['vanilla-sft']}%. "
        f"Template responses differ from the human reference by {against['vanilla-sft']} points (vanilla) and {against['decoupled-sft']} (decoupled). "
        f"Between decoupled and vanilla, strategy mismatch differs by {format_estimate(between['Strategy Mismatch'])} points and None by {format_estimate(between['None'])}.",
    )  # fmt: skip
figures.show("fig_own_errors", figure)

# %% [markdown]
# ```{glue:figure} fig_own_errors
# :name: fig-own-errors
# :alt: Bars of the share of replies with each of five psychological errors and with none, for the human references and for the two fine-tuned systems of this profile, as judged by the offline error classifier.
#
# After Figure 2 of {cite:t}`zhang2025decoupledesc`, for this profile's systems and for the human reference, by the error classifier, which learned from {glue:text}`learned`; 95% intervals by dialogue.
# Profile {glue:text}`profile_name`.  Not to be set beside the figure above: another judge made it.
# ```
#
# {glue:text}`own_errors`
#
# Start with the human references: these replies were good enough to be the gold of this data set.
# Where a judge finds as much fault with them as with a small model, it does not measure what we would like to know.
# What GPT would have said of the gold replies was not released.
# And hold every difference against the classifier's own error above.
#
# ### As judged and corrected
#
# [Chapter 12](12_ask_rq4.ipynb) corrects shares for what the classifier was measured to get wrong, in two ways that assume different things of it, and says how far each is to be believed: a difference counts only where both give the same answer.

# %% tags=["hide-input"]
over_seeds, fixed = book["errors"], book["errors-corrected"]
seeds = "–" if isinstance(over_seeds, Missing) else ", ".join(map(str, over_seeds.seeds))
systems = {"vanilla after SFT": "vanilla-sft", "decoupled after SFT": "decoupled-sft"}
between = {"decoupled minus vanilla": "decoupled-sft - vanilla-sft"}
told = judge_tables.decided(over_seeds, fixed, *between.values())
figures.glue_numbers(told="nothing, as it is not measured here" if told is None else f"{len(told)} of {len(LABELS)} shares" + f" ({', '.join(told)})" * bool(told))
parts = [judge_tables.corrected_errors(over_seeds, fixed, titles) for titles in (systems, between)]
results_table(
    next((part for part in parts if isinstance(part, Missing)), None) or pd.concat(parts),
    f"Share of each error after SFT as judged and corrected, in per cent, and the difference in points; seed(s) {seeds}, profile {book.label}; 95% intervals over dialogues of systems and of labels. 'nothing': nothing can be said; 'impossible': below 0 or above 100.",
)

# %% [markdown]
# Of the human reference nothing corrected can be said: the labelled people are those of conversations that failed, and no label covers these.
#
# ## A scale of empathy
#
# Of the four things that the paper's judge scores, public human labels exist for one.
# {cite:t}`sharma2020empathy` had replies on Reddit rated for three {term}`mechanisms of empathy`, each from 0 to 2: emotional reactions, interpretations, explorations.
# For fluency, professionalism and helpfulness there are none, and the book invents none: without an LLM judge these stay empty.
#
# The scale is logistic regression again, on the words of the reply.
# Here is how it does on posts that it has not seen.

# %% tags=["hide-input"]
scale = book["empathy-scale"]
unscaled = isinstance(scale, Missing)
on_posts = scale if unscaled else pd.DataFrame(
    {
        mechanism: {
            "ratings 0 / 1 / 2": " / ".join(f"{count:,}" for count in found.ratings),
            "accuracy, %": format_estimate(found.accuracy),
            "most frequent level, %": f"{found.majority:.1f}",
            "weighted kappa": format_estimate(found.kappa, 2),
            "rank correlation": format_estimate(found.rank_correlation, 2),
        }
        for mechanism, found in scale.posts.items()
    }
).T
results_table(on_posts, "The empathy scale on posts it has not seen, against people's ratings; 95% intervals by post.")

# %% [markdown]
# That was Reddit.
# Seekers can say whether it holds in a conversation, because they rated their supporters: after the conversation for empathy, and during it for the last few messages (in the raw form of the corpora only, which we have of FailedESConv).
# Beside the scale stands a measure that takes no training, the number of words.
# The conversations of FailedESConv are the low end: there the scale should be lower.

# %% tags=["hide-input"]
MEASURES = ("emotional reactions", "interpretations", "explorations", "all three", "words")
if unscaled:
    on_seekers = scale
    figures.glue_numbers(seekers=f"What it is worth in conversations is not measured here: {scale.reason}.")
else:
    seekers = scale.seekers
    esconv, failed, during = seekers.dialogues["esconv"], seekers.dialogues["failed_esconv"], seekers.feedback["failed_esconv"]
    after_esconv, after_failed, in_failed = (
        {measure: format_estimate(found.correlations[measure], 2) for measure in MEASURES} for found in (esconv, failed, during)
    )
    on_seekers = pd.DataFrame(
        {
            measure: {
                "mean, ESConv": format_estimate(seekers.means["esconv"][measure], 2),
                "mean, FailedESConv": format_estimate(seekers.means["failed_esconv"][measure], 2),
                "ESConv higher, %": format_estimate(seekers.higher[measure], 0),
                "rating after the conversation, ESConv": after_esconv[measure],
                "the same, FailedESConv": after_failed[measure],
                "ratings during the conversation, FailedESConv": in_failed[measure],
            }
            for measure in MEASURES
        }
    ).T
    high_esconv, high_failed = (f"{100 * sum(found.ratings[2:]) / sum(found.ratings):.0f}" for found in (esconv, failed))
    figures.glue_numbers(
        seekers=f"Over {sum(esconv.ratings):,} conversations of ESConv, the sum of the three goes with the seeker's rating at {after_esconv['all three']}, "
        f"and the number of words at {after_esconv['words']}. Little could be seen there: {high_esconv}% of the ratings are 3 or more. "
        f"In FailedESConv, with {sum(failed.ratings)} ratings of which {high_failed}% are that high, it is {after_failed['all three']} and "
        f"{after_failed['words']}, and with the {sum(during.ratings):,} ratings during these conversations "
        f"{in_failed['all three']} and {in_failed['words']}. "
        f"A random conversation of ESConv has a higher sum than one of FailedESConv {format_estimate(seekers.higher['all three'], 0)}% of the time, "
        f"and longer messages {format_estimate(seekers.higher['words'], 0)}% of the time."
    )  # fmt: skip
results_table(on_seekers, "The empathy scale on the human references against what their seekers said; Spearman's correlations, 95% intervals by dialogue.")

# %% [markdown]
# {glue:text}`seekers`
#
# Length separates the two corpora so well that it may have been a reason to set a conversation aside, so it is no fair rival there.
# Where the scale's intervals touch zero or lie no higher than those of a word count, it has not been shown to know what the person felt.
# We keep it as a description of what a reply contains, and draw no conclusion from it about how anybody was helped.
# Whether an LLM's empathy score does better against the same ratings was not tested in the papers, nor here.

# %% tags=["hide-input"]
by_scale = judged if isinstance(judged, Missing) else judged.empathy
levels, source = by_scale, "nothing"
if not isinstance(by_scale, Missing):
    source = by_scale.learned_from
    levels = pd.DataFrame(
        {
            OURS.get(name, name): {measure: format_estimate(found[measure], 2) for measure in MEASURES[:-1]}
            for name, found in by_scale.systems.items()
        }
    ).T
results_table(levels, f"Mean levels (0 to 2 each) of the three mechanisms by the empathy scale, which learned from {source}; profile {book.label}; 95% intervals.")

# %% [markdown]
# The human references at the same turns are the first row.
# A model above them says more of the words that the scale has learned to call empathic.

# %% [markdown]
# ## Exercises
#
# ````{exercise} read
# :label: ex-03-read
#
# Why is an interval by dialogue not enough to say that one of our systems makes fewer errors than another?
# What else does a difference have to exceed?
# ````
#
# ````{solution} ex-03-read
# :class: dropdown
#
# The interval says how the share would vary over other dialogues, judged by the same classifier.
# It knows nothing of the classifier's own mistakes, which need not cancel between two systems; how large they are for writers that it has not learned from is measured above, and a difference has to exceed that too.
# ````
#
# ````{exercise} compute
# :label: ex-03-compute
#
# A judge calls every reply faultless, and 90 of 100 are.
# How often is it right, and what is its kappa?
#
# ```python
# import numpy as np
#
# table = np.array([[0, 0], [10, 90]])  # rows: the judge (error, none); columns: the labels
# share = table / table.sum()
# ```
# ````
#
# ````{solution} ex-03-compute
# :class: dropdown
#
# ```python
# observed, by_chance = np.trace(share), share.sum(axis=1) @ share.sum(axis=0)
# print(f"right {observed:.2f}, kappa {(observed - by_chance) / (1 - by_chance):.2f}")  # right 0.90, kappa 0.00
# ```
#
# A judge that does not look at the reply agrees just as often as chance would have it.
# ````
#
# ````{exercise} change
# :label: ex-03-change
#
# In the cell with the table of 100 replies above, leave the agreement at 0.85 and make errors rare, `[[5, 10], [5, 80]]`.
# Does kappa rise or fall? Say why, then run the cell.
# ````
#
# ````{solution} ex-03-change
# :class: dropdown
#
# It falls, from 0.70 to 0.32: with a common label two judges agree often by chance, here in 78 of 100 replies, and less is left to be earned.
#
# ```python
# import numpy as np
#
# share = np.array([[5, 10], [5, 80]]) / 100
# observed, by_chance = np.trace(share), share.sum(axis=1) @ share.sum(axis=0)
# print(f"equal {observed:.2f}, by chance {by_chance:.2f}, kappa {(observed - by_chance) / (1 - by_chance):.2f}")  # equal 0.85, by chance 0.78, kappa 0.32
# ```
#
# So kappas can be compared only between tasks whose labels are about equally frequent.
# ````
