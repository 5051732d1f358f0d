# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # DecoupledESC and CSO, re-run
#
# Somebody is having a hard time and writes about it; somebody else answers.
# Should the answer ask, reflect, reassure or suggest, and how should it be worded?
# Emotional Support Conversation is the study of such conversations, and of language models in the supporter's place.
# This book re-runs two papers on it, DecoupledESC {cite}`zhang2025decoupledesc` and CSO {cite}`zhao2025cso`, claim by claim, on two CPU cores.
# Nobody has shown that a reply of its models is safe or helpful for a person in need, and none is counselling ([more](what-this-book-is-not)).
#
# ## Which claims hold here?
#
# In each row: hollow what the papers report, in colour what we measured with small models and its 95% interval; right of the dotted line speaks for the claim, and the grey band is what chance makes on the papers' test set.

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
from decoupled_esc.experiments.run import open_book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import benchmarks, claims, cso_tables, figures, judge_tables, power, questions
from decoupled_esc.present.forest import Forest, marks
from decoupled_esc.present.tables import format_estimate

book = open_book(globals())
every, cso, controlled = book.everywhere("questions"), book.everywhere("metrics-cso"), book.everywhere("metrics-controlled")
errors, classifier = book.everywhere("errors"), book["error-classifier"]
asked, spread = every[book.backbone], book["judged-spread"]
seen = "" if isinstance(spread, Missing) else f"; {len(power.seen(spread, 'experts'))} of {len(list(power.printed()))} judged differences are large enough to be seen in 100 turns"
said = {name: judge_tables.answer_errors(one, classifier, "decoupled-dpo - decoupled-sft", "None", 1) for name, one in errors.items()}
bar = "" if isinstance(classifier, Missing) else f"the judge may be off by {classifier.difference_errors()['None']:.0f} points"
tunings = {one.backbone: cso_tables.tuning_of(one.profile) for one in (book, *book.beside)}
rows = questions.side_by_side({
    name: claims.rows(one, cso.get(name), controlled.get(name), errors.get(name), (said.get(name, ""), bar, f"not judged here{seen}"), tunings[name])
    for name, one in every.items()
})  # fmt: skip
board = Forest(rows, f"One or two measures for each main claim, {marks(rows)}. Profile {book.label}, {len(asked.seeds)} seed(s).{claims.counted_across(rows)}{book.caveats}")
further = {
    name: questions.decided(one, [] if name not in cso else cso_tables.claim_rows(cso[name], cso_tables.verdict_claims(cso[name].together, tunings[name])))
    for name, one in every.items()
}  # fmt: skip
rates_before, rates_after = benchmarks.bias_by_rate("smollm2-135m", "planner")
figures.glue_numbers(
    rates_before=f"{rates_before:.2f}", rates_after=", ".join(f"{b:.2f} after DPO at a rate of {rate:.0e}" for rate, b in rates_after.items()),
    profile_name=book.label, n_seeds=len(asked.seeds), rows=len(board.rows),
    supported=sum(row.answer == "supported" for row in board.rows), contradicted=sum(row.answer == "contradicted" for row in board.rows),
    undecided=sum(row.answer not in ("supported", "contradicted") for row in board.rows),
    decided=". ".join(f"{name}, {told}" if len(further) > 1 else told for name, told in further.items()), small=f"{book['base-model'].parameters / 1e6:.1f}" if book["base-model"].parameters else "–",
)  # fmt: skip
board

# %% [markdown]
# Two small models stand in for the papers' of seven billion parameters and more, which have not been run: one of {glue:text}`small` million made for this book, trained under {glue:text}`n_seeds` seeds; and, where it is shown, SmolLM2 with 135 million, published, trained under one seed on a quarter of the dialogues, which can show a trend and decide nothing.
# Of {glue:text}`rows` rows, {glue:text}`supported` are supported, {glue:text}`contradicted` contradicted, and {glue:text}`undecided` can't be decided with models of these sizes, this many training runs, or without judges that people have checked.
# A row is decided by one rule, with a correction for the number of rows in its table; [chapter 09](09_ask_rq1.ipynb) states it.
#
# The chapters ask for more measures, and under greedy decoding. Of all rows of chapters 09 to 11 and 13 there are decided, {glue:text}`decided`.
#
# ## Three things that the papers don't say

# %% tags=["hide-input", "remove-output"]
curves, published, judges, base = book["decoding"], book["scoreboard"], book["judgement-agreement"], book["base-model"]
biases = {"words alone": curves.sweeps["word planner"], "our planner, SFT": curves.sweeps["decoupled-sft"]}
sizes, kappas = {}, {}
if not isinstance(published, Missing):
    biases |= {"TransESC (published)": published.sweeps["TransESC"]} if "TransESC" in published.sweeps else {}
    PARAMETERS = {"vanilla-sft": base.parameters, "CauESC": 90e6, "TransESC": 90e6, "Qwen2.5-7B, SFT": 7.6e9, "Llama-3.1-8B, SFT": 8e9}
    levels = {system: scores["paper"]["F1"] for found in published.scores.values() for system, scores in found.systems.items()}
    sizes = {name.replace("vanilla-sft", "ours").removesuffix(", SFT"): (PARAMETERS[name], levels[name]) for name in PARAMETERS if name in levels and PARAMETERS[name]}
if not isinstance(judges, Missing) and not isinstance(judges.conversations, Missing):
    medians = {row.raters: row.each or row.kappa for row in judges.conversations.medians}
    kappas = {name.removesuffix("–expert") if name != "expert–expert" else "experts": kappa for name, kappa in medians.items()}
figures.show("fig_findings", claims.findings(biases, sizes, kappas, book.source("95% intervals; chapters 14, 18 and Judges")))


def at(system: str, temperature: float) -> str:
    """B of a sweep as text."""
    return format_estimate(next((row.B for row in biases.get(system, ()) if row.temperature == temperature), None), 2)


figures.glue_numbers(
    millions=f"{base.parameters / 1e6:.1f}" if base.parameters else "–",
    trans_argmax=at("TransESC (published)", 0.0), trans_one=at("TransESC (published)", 1.0), words_argmax=at("words alone", 0.0), words_one=at("words alone", 1.0),
    ours_f1=format_estimate(sizes["ours"][1] if "ours" in sizes else None), large=format_estimate(sizes["Llama-3.1-8B"][1] if "Llama-3.1-8B" in sizes else None),
    llms=" to ".join(f"{kappa:.2f}" for kappa in (min(llms), max(llms))) if (llms := [kappas[name].value for name in ("GPT-4o", "Claude", "Gemini") if name in kappas]) else "–",
    crowd=format_estimate(kappas.get("crowd"), 2), experts=format_estimate(kappas.get("experts"), 2),
)  # fmt: skip

# %% [markdown]
# ```{glue:figure} fig_findings
# :name: fig-findings
# :alt: Left, preference bias of three planners falls as the temperature rises; middle, F1 of words is almost flat from a few million to 8 billion parameters; right, quadratic kappa with experts of experts, language models and a crowd.
#
# Left: one set of weights, many biases. Middle: overlap with a reference over model size, 95% intervals. Right: agreement with experts on supportive conversations. Profile {glue:text}`profile_name`.
# ```
#
# 1. **Preference bias is decoding as much as it is a model.** TransESC, as published, goes from B {glue:text}`trans_argmax` to {glue:text}`trans_one` by sampling instead of argmax, and a regression on words from {glue:text}`words_argmax` to {glue:text}`words_one` ([chapters 14](14_measure_preference_bias.ipynb) and [18](18_compare_published_systems.ipynb)). Sampled, B hangs on DPO's learning rate as well: on validation turns SmolLM2's planner has B {glue:text}`rates_before` after SFT and, with the same pairs and loss, {glue:text}`rates_after` ([chapter 06](06_train_decoupled_dpo.ipynb); one training run each, no intervals). The paper's planner has a sixth to a fourteenth of the coupled model's rate, so that less bias by decoupling may be less bias by a lower rate ([chapter 10](10_ask_rq2.ipynb)).
# 2. **The text metrics hardly see a model's size.** Our {glue:text}`millions` million parameters have F1 {glue:text}`ours_f1`, Llama-3.1-8B {glue:text}`large` ([chapter 18](18_compare_published_systems.ipynb) has the paired difference; [chapter 14](14_measure_preference_bias.ipynb) has the same for strategies).
# 3. **Judges need judging.** Experts agree with one another at kappa {glue:text}`experts`, LLMs with a single expert at {glue:text}`llms`, a crowd at {glue:text}`crowd`; most claims about replies rest on judges ([Judges](92_read_judges.ipynb); of 200 conversations, where its first answer counts the 150 whose text is published).
#
# ## The two papers
#
# **DecoupledESC** {cite}`zhang2025decoupledesc` starts from an observation.
# Models fine-tuned on ESConv {cite}`liu2021esconv` lean on a few favourite {term}`strategies <strategy>`, and they repeat five {term}`psychological errors <psychological error>` that are also common in dialogues that failed to help.
# The authors blame the shape of the training signal: a {term}`preference pair` that mixes strategy and wording can't say which of the two was wrong, so a good strategy is punished for a poor sentence.
#
# Their remedy is to split the task.
# A {term}`planner` names the strategy and a {term}`generator` writes the reply under it; each is fine-tuned and then trained by {term}`DPO` on its own pairs, which {term}`IPM` mines from the fine-tuned models' mistakes (21,370 pairs of strategies, 11,887 pairs of replies).
# On Qwen2.5-7B and Llama-3.1-8B they report a lower {term}`preference bias <preference bias B>` and better replies than with one model for both tasks.
#
# **CSO** {cite}`zhao2025cso` keeps one model and makes better pairs by search.
# From 100 dialogues of ExTES {cite}`zheng2024extes` it grows trees of possible continuations with Monte Carlo tree search: four prompted models are the seeker, the supporter, a ranker of strategies and a reward model.
# Turns that score high and their low-scoring siblings become the pairs of {term}`ESC-Pro`: 423 dialogues and 8,157 rejected utterances.
#
# Training on these pairs turn by turn is compared with supervised fine-tuning on three backbones, with LoRA and with all weights.
# The paper reports a higher strategy F1 in all six comparisons and a lower preference bias in five, and it repeats the training with four other preference losses.

# %% tags=["hide-input", "remove-output"]
from decoupled_esc.present import drawings

counts, mined, pro = book["data"], book["pairs"], book["esc-pro"]
searched = None if isinstance(pro, Missing) else pro.pairs
drawings.show("fig_pipeline", drawings.pipeline(counts.dialogues, counts.turns["test"], mined.pairs, searched))

# %% [markdown]
# ```{glue:figure} fig_pipeline
# :name: fig-pipeline
#
# Both papers in one picture: what is made from what, and in which chapter. Profile {glue:text}`profile_name`; counts, without intervals.
# ```
#
# ## How to read a chapter
#
# A figure or table that a chapter re-runs appears twice: once with the values that the paper reports, once with the values measured here.
# Each measured value carries the name of the {term}`profile` that made it, and, unless it is a plain count, a 95% interval: from a {term}`bootstrap clustered by dialogue`, and where it is a mean over seeds, for other training runs as well.
# Each reported value that we checked carries a {term}`verdict`:
#
# | verdict | what it means |
# |---|---|
# | *exact* | a count or another number without sampling, which rounds to the paper's value |
# | *within the interval* | a sampled number whose interval contains the paper's value; a second sign shows the direction of the difference from a comparison row |
# | *same direction* | another number, but the difference from a comparison row has the paper's sign, and its interval excludes zero |
# | *opposite* | another number, and the difference from a comparison row has the other sign, and its interval excludes zero |
# | *undecided* | another number, and the difference from a comparison row may be zero here, or is printed as zero in the paper |
# | *within the paper's noise* | another number, and the paper's own difference is one that chance makes on a test set of its size |
# | *differs* | another number, and no comparison row decides |
# | *not comparable* | measured, but of another kind: a base model that follows no instruction, a row that the paper compares with such a base, or another test set |
# | *taken from the paper*, *changed* | a setting, which the profile of that backbone shares with the paper or, for the reason beside it, does not |
# | *not attempted* | we did not measure it, and the reason stands beside it |
#
# A verdict is about one value, made by one profile; with one seed, but for CSO's tables and the answers of chapters 09 to 12, which average over the seeds that they name.
# What an earlier printing said otherwise, and why, stands under [Changes](../book/changes.md).
# *Differs* is no accusation: small models, another judge or another sampling temperature change numbers too, and the text beside a table says what we know about the cause.
#
# Code is folded, but for short cells that show an idea on a small example and compare it with the library.
# Chapters 01 to 15 end on three exercises each, with solutions.
#
# (profiles)=
# ## Profiles: who made this number
#
# A {term}`profile` fixes everything that a run depends on: data, model, training, decoding and seed.
#
# | profile | what it runs | what it is for |
# |---|---|---|
# | `smoke` | [a model of one million parameters](16_make_a_base_model.ipynb), on a slice of the data | showing in minutes that every step works |
# | `laptop` | our larger base model, on the whole data, without a GPU; the chapters as printed here | learning, and looking at real trends in small |
# | `smollm2-135m` | SmolLM2-135M-Instruct with LoRA, on a quarter of the training data, without a GPU | a second backbone, beside ours where its results are published: RQ1 to RQ4 in chapters 08 to 12, and in 06, 14, 16, 19 and the report |
# | `smollm2-135m-served` | the same model untrained, behind a server on the same machine | an LLM as judge and in all roles of the search (chapter 05, the page on judges), once its results are published |
# | `qwen2.5-7b` | Qwen2.5-7B-Instruct with LoRA and the paper's settings | the paper's first backbone, on a GPU |
# | `llama3.1-8b` | Llama-3.1-8B-Instruct with LoRA and the paper's settings | the paper's second backbone, on a GPU |
# | `gemma2-9b` | Gemma-2-9B-it with LoRA and the settings of CSO | CSO's third backbone, on a GPU |
# | `qwen2.5-7b-full` and so on | the same, with all weights trained on ESC-Pro | CSO's other tuning, on two large GPUs |
#
# Every figure and table names its profile.
# The profiles for GPUs have not been run yet; what was not run, and why, stands in [chapter 17](17_run_on_a_gpu_box.ipynb) and, number by number, in the [report](90_report_reproduction.ipynb).
# What `smoke` prints is stamped as such and can't be mistaken for a result: its numbers say that the code runs, and nothing about either paper.
#
# ## Run it yourself
#
# ```bash
# make book   # run the chapters with the smoke profile and build this book
# make test   # run the tests
# make lab    # open the notebooks in JupyterLab
# .venv/bin/decoupled-esc score my-system.jsonl   # a system of your own beside those of the book (chapter 18)
# ```
#
# The first run downloads ESConv from its authors' repository, at a fixed commit and checked against a checksum.
# [Data and licences](../book/data_licences.md) lists everything that is fetched.
#
# ## Chapters
#
# | chapter | question |
# |---|---|
# | [01 Data](01_explore_data.ipynb) | What is in ESConv, and can the paper's split and tables be recovered? |
# | [02 Supervised fine-tuning](02_supervised_finetuning.ipynb) | How are the vanilla model, the planner and the generator trained? |
# | [03 Observations](03_observe_errors.ipynb) | Which mistakes do fine-tuned models make, how far can a judge of them be trusted, and does Table 3 follow from the replies that the authors released? |
# | [04 Mining preferences](04_mine_preferences.ipynb) | How do a model's own mistakes become preference pairs? |
# | [05 Searching dialogues](05_search_dialogues.ipynb) | What does a tree search over strategies prefer, and what is its data worth? |
# | [06 Decoupled DPO](06_train_decoupled_dpo.ipynb) | How are planner and generator taught by them, and with which loss? |
# | [07 Coupled DPO and prompting](07_train_vanilla_baselines.ipynb) | What does the same do to one model, which pairs harm it, and what can prompting do? |
# | [08 Evaluation](08_evaluate_systems.ipynb) | How good are their strategies and replies, and how sure can we be? |
# | [09 RQ1](09_ask_rq1.ipynb) | Does DPO help the coupled model? |
# | [10 RQ2](10_ask_rq2.ipynb) | Does decoupling help? |
# | [11 RQ3](11_ask_rq3.ipynb) | Does DPO help once the two are decoupled? |
# | [12 RQ4](12_ask_rq4.ipynb) | Does it make fewer psychological errors? |
# | [13 CSO](13_optimise_strategy_chains.ipynb) | Does training on searched preferences help, and how does it compare with DecoupledESC? |
# | [14 Preference bias](14_measure_preference_bias.ipynb) | What does B measure, and which conclusions survive another decoding? |
# | [15 Each turn once](15_train_each_turn_once.ipynb) | How can whole dialogues be trained on without reading a turn's context again, and what does it save? |
# | [16 A base model of our own](16_make_a_base_model.ipynb) | How is a small language model made on two CPU cores, and what does it know? |
# | [17 On a GPU box](17_run_on_a_gpu_box.ipynb) | How are these chapters run with models of seven billion parameters, and what will it take? |
# | [18 Published systems](18_compare_published_systems.ipynb) | Where do the replies that other papers published stand, by one code? |
# | [19 Why](19_ask_why.ipynb) | Is it the plans or the words, does a better plan give a better reply, is gold the only right strategy, where does B come from, is it the preference optimisation, and how small an effect could have been seen? |
# | [Reproduction report](90_report_reproduction.ipynb) | What is the status of every number of both papers? |
# | [Judges](92_read_judges.ipynb) (appendix) | What are judges worth beside experts, and beside a count of words? What is an LLM judge shown? |
# | [Search trees](93_open_trees.ipynb) (appendix) | What did the search try? |
# | [Replies side by side](94_explore_replies.ipynb) (appendix) | What does each system answer at the same turn, and under which strategy? |
#
# New words are explained in the [glossary](../book/glossary.md).
#
# (what-this-book-is-not)=
# ## What this book is not
#
# ```{important}
# This is the output of research, not counselling.
# The models here are trained to study a method; nobody has shown that they are safe or helpful for a person in need, and they must not be used in place of one.
# Please read [Ethics](../book/ethics.md) before you run or share them.
# ```
#
# If you are in distress yourself, you deserve a person who listens.
# If you or someone else may be in danger, contact your local emergency services.
# Otherwise a trusted crisis line, a doctor or somebody close to you is a good first step; one place to look for a line is findahelpline.com.
