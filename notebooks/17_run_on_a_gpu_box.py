# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 17 On a GPU box
#
# Everything in this book runs on two CPU cores with a small model.
# The same chapters are written for models of seven to nine billion parameters; this one says how to run them, what it will take, and what of that was tried where the book was made.
#
# :::{admonition} What was not run
# :class: warning
# No GPU and no weights of seven billion parameters were at hand.
# The parts were proven on what was: vLLM's CPU build with our small model, training in two processes over gloo, a real SLURM with one node, and models of the three architectures with random weights.
# Nothing below says how fast a GPU is; where a number is an estimate, it is called one.
# :::

# %% tags=["parameters", "hide-input"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.present import benchmarks, figures
from decoupled_esc.present.tables import plain
from decoupled_esc.workflow import open_chapter, planner
from decoupled_esc.workflow.profiles import load_profile
from decoupled_esc.workflow.stages import STAGES

book = open_chapter(globals())
for last in (book.result("questions"), book.result("metrics-cso"), book.result("metrics-strategy-test"), book.result("metrics-losses"), book.result("metrics-controlled"), book.result("decoding"), book.result("judged")):
    assert last.payload  # every other stage is behind one of these
results = {name: found for name in STAGES if (found := book.published.read(name) or book.runs.read(name)) is not None}
further = [found for session, name in book.whole() if session is not book and (found := session.published.read(name) or session.runs.read(name)) is not None]
figures.say(profile_name=book.label)

# %% [markdown]
# ## From a bare machine
#
# With Linux, an NVIDIA driver and conda:
#
# ```bash
# conda env create -f environment.yml && conda activate decoupled-esc
# export HF_TOKEN=...            # Llama and Gemma are gated: ask for access on their pages first
# hf download Qwen/Qwen2.5-7B-Instruct
# decoupled-esc plan --profile qwen2.5-7b --card "RTX 4090"
# decoupled-esc run --profile qwen2.5-7b
# ```
#
# Without conda, `make book PROFILE=qwen2.5-7b` makes a virtual environment; `pip install -e .[vllm]` adds vLLM, or `DECOUPLED_ESC_VLLM` names the `vllm` program of another environment.
# A stopped run goes on where it was; a missing token, a gated model and a machine without a GPU are told in one line each.
#
# A judge and the four roles of the search are servers: put a key into `OPENAI_API_KEY`, or the address of a server of your own into the profile.
#
# ### One card of 24 GB
#
# The profiles as they are: LoRA, one dialogue at a time.
# Training and generating take turns on the card.
#
# ### Four cards of 24 GB, as in the paper
#
# ```yaml
# several_gpus: {processes: 4, config: ddp}    # in the profile; batch must be a multiple of micro_batch x 4
# ```
#
# Each training then runs in four processes (`accelerate`), and ends as it would in one.
# `config: fsdp` or `config: zero2` spread what does not fit one card.
# To generate with four servers, start one on each card and name them:
#
# ```yaml
# generation:
#   vllm: {urls: ["http://127.0.0.1:8001/v1", "http://127.0.0.1:8002/v1", "http://127.0.0.1:8003/v1", "http://127.0.0.1:8004/v1"]}
# ```
#
# A dialogue's turns always go to the same server, whose cache holds what they share.
# A role of the search and a judge may have several servers too, which take turns:
#
# ```yaml
# search:
#   roles:
#     supporter: {model: my-model, base_url: ["http://127.0.0.1:8001/v1", "http://127.0.0.1:8002/v1"], in_flight: 64}
# ```
#
# ### One card of 80 GB
#
# ```yaml
# generation:
#   vllm: {options: ["--gpu-memory-utilization", "0.85"]}    # a server is started for each stage that generates, and stopped after it
# ```
#
# The base is loaded once, with planner and generator as two adapters on it; the planner's answers are held to the eight strategies (guided choice).
#
# ### Two cards of 80 GB: all weights
#
# CSO trains adapters, and all weights too; the profiles whose names end in `-full` do the latter, with its constants (Tables 13 and 14).
#
# ```bash
# decoupled-esc run --profile qwen2.5-7b-full metrics-cso    # or llama3.1-8b-full; gemma2-9b-full takes two cards of 96 GB
# ```
#
# Weights are held in float32, because steps as small as CSO's would be lost to rounding in bfloat16, and are spread over both cards (`config: fsdp`).
# Leave `generation.vllm` out there: vLLM's adapters want half precision.
# Such a profile is a few lines: `extends: qwen2.5-7b`, and what it has otherwise.
# One of your own can be made in the same way.
#
# ### A cluster
#
# ```bash
# pip install -e .[slurm]
# for p in qwen2.5-7b llama3.1-8b gemma2-9b; do decoupled-esc run --profile $p --cluster profiles/slurm & done; wait
# ```
#
# Each stage is a job that asks for its own GPU, memory and time; stages that don't need each other run at once, and so do the seeds of `more_seeds`.
# Put your account and partition into `profiles/slurm/config.yaml`.
#
# ## What the small run took
#
# The ledger is what every stage wrote of itself.

# %% tags=["hide-input"]
rows = planner.ledger(results)
groups = {
    "fine-tuning": lambda name: name.startswith("sft-"), "candidates and pairs": lambda name: name.startswith(("candidates", "pairs")),
    "preference optimisation": lambda name: name.split("-")[0] in ("dpo", "ipo", "simpo", "kto", "orpo"),
    "replies": lambda name: name.startswith("replies-") and "cso" not in name,
    "search and ESC-Pro": lambda name: name.startswith(("search", "esc-pro")), "CSO": lambda name: "cso" in name or name == "strategy-test",
}  # fmt: skip
taken, seen = {}, set()
for title, belongs in {**groups, "metrics, judges and counts": lambda name: True}.items():
    own = [row for row in rows if row["stage"] not in seen and belongs(row["stage"])]
    seen |= {row["stage"] for row in own}
    taken[title] = {
        "stages": f"{len(own)}", "minutes": f"{sum(row['seconds'] for row in own) / 60:.0f}",
        "tokens, millions": f"{sum(row['tokens'] or 0 for row in own) / 1e6:.1f}", "most memory, GiB": f"{max((row['mib'] for row in own), default=0) / 1024:.1f}",
    }
taken["all, one seed"] = {"stages": f"{len(rows)}", "minutes": f"{sum(row['seconds'] for row in rows) / 60:.0f}", "tokens, millions": f"{sum(row['tokens'] or 0 for row in rows) / 1e6:.1f}",
                "most memory, GiB": f"{max((row['mib'] for row in rows), default=0) / 1024:.1f}"}  # fmt: skip
if further:
    seeds = len(book.profile.more_seeds)
    taken["each further seed"] = {
        "stages": f"{len(further) / seeds:.0f}", "minutes": f"{sum(found.provenance['wall_seconds'] for found in further) / seeds / 60:.0f}",
        "tokens, millions": f"{sum(found.provenance['tokens'] or 0 for found in further) / seeds / 1e6:.1f}",
        "most memory, GiB": f"{max(found.provenance['peak_memory_mib'] for found in further) / 1024:.1f}",
    }  # fmt: skip
plain(pd.DataFrame(taken).T, f"The ledger of profile {book.label}: minutes of work, each stage on one thread beside another job.")

# %% [markdown]
# ## The plan for the small run, checked
#
# How good is arithmetic by tokens and operations?
# Take the rate of one training, *sft-vanilla*, plan all others by it, and look at what they took.

# %% tags=["hide-input"]
compared = {
    row["stage"]: {
        "operations, 10^12": f"{row['operations'] / 1e12:.0f}", "planned, minutes": f"{row['planned'] / 60:.1f}", "took, minutes": f"{row['took'] / 60:.1f}",
        "10^9 operations a second": f"{row['rate'] / 1e9:.0f}",
    }
    for row in planner.checked(results)
}  # fmt: skip
plain(pd.DataFrame(compared or {"–": {"planned, minutes": "nothing was trained"}}).T, f"Trainings as planned from one of them, and as they went; profile {book.label}; single runs, most beside another job.")

# %% [markdown]
# Trainings that read long dialogues with few targets, or that also measure divergence on validation dialogues, take longer than their operations say.
# A plan for a card that nobody has tried is not better than this.
#
# ## What the large ones will take: an estimate
#
# For each stage: tokens as counted by the small run on the same data, times a factor between the two vocabularies; operations a token, $2N$ to read and, for adapters, as much again to learn, twice as much for all weights; over the card's rate by its data sheet, times a share.
# Written tokens cost time for reading the weights once a step, for all replies that are written at once.

# %% tags=["hide-input"]
assumed = {
    "share of a card's rate": f"{100 * planner.SHARE:.0f}%", "tokens of a large vocabulary a token of ours": f"{planner.TOKENS:g}",
    "replies written at once": f"{planner.BATCH}", "tokens read a turn (the rest is cached)": f"{planner.READ_A_TURN}",
}  # fmt: skip
plain(pd.DataFrame({"assumed": assumed}), "What the estimate assumes.")

# %% tags=["hide-input"]
planned = {}
for name in ("qwen2.5-7b", "llama3.1-8b", "gemma2-9b", "qwen2.5-7b-full", "llama3.1-8b-full", "gemma2-9b-full"):
    for card in planner.CARDS.values():
        if name.endswith("-full") and card.gib < 80:
            continue
        whole = planner.total(planner.plan(load_profile(name), card, results))
        planned[f"{name}, {card.name}"] = {
            "tokens read, millions": f"{whole.read / 1e6:.0f}", "written, millions": f"{whole.written / 1e6:.1f}", "GPU-hours, one seed": f"{whole.hours:.1f}",
            "GiB": f"{whole.gib:.0f}", "fits": "yes" if whole.gib < 0.95 * card.gib else "NO", "dollars (judge and roles)": f"{whole.dollars:.2f}",
        }  # fmt: skip
plain(pd.DataFrame(planned).T, "Plans of the paper profiles by card (-full: on two of them, GiB on each): estimates, nothing measured; CSO's trainings as if ESC-Pro were as small as the small run's.")

# %% [markdown]
# Where a card does not *fit*, lower `data.window`, or take `config: fsdp` on several.
# To replace the assumed share, run one stage (`decoupled-esc run --profile qwen2.5-7b sft-planner`) and divide what `status` says it took by what the plan said.

# %% tags=["hide-input"]
lines = planner.table(planner.plan(load_profile("qwen2.5-7b"), planner.CARDS["RTX 4090"], results))
kept = [line for line in lines if line["stage"].startswith(("sft", "dpo", "candidates", "judged", "search", "all")) or line["stage"] == "replies-decoupled-dpo"]
plain(pd.DataFrame(kept).set_index("stage"), "The plan of qwen2.5-7b on one RTX 4090, some of its stages: estimates. All of them: decoupled-esc plan.")

# %% [markdown]
# ## vLLM against this process
#
# Both engines answered all test turns with the same small model on the same two cores, greedily.

# %% tags=["hide-input"]
served = benchmarks.load("vllm_serve")
lines = {
    "turns": f"{served['turns']:,}",
    "same reply, %": f"{100 * served['same_reply']:.1f}",
    "same strategy named, %": f"{100 * served['same_strategy']:.1f}",
    "transformers engine, tokens written a second": f"{served['transformers']['tokens_per_second']:.0f}",
    "vLLM on the CPU, tokens written a second": f"{served['vllm']['tokens_per_second']:.0f}",
    "vLLM asked one by one, tokens a second": f"{served['one_by_one']['tokens_per_second']:.0f}",
    "our client against one by one": f"{served['times']:.1f} times",
}
plain(pd.DataFrame({"": lines}), "Two engines on two CPU cores (bench/vllm_serve.py); single runs.")

# %% [markdown]
# What these numbers show is how far the two engines agree, and that a client which keeps many requests under way is worth having even where two cores do all the work.
# Of a GPU they say nothing.
#
# ## What was proven, and where
#
# | part | proven on | by |
# |---|---|---|
# | two adapters on one server, guided choice, seeds, ranks of strategies | vLLM's CPU build, our 1M-parameter model | `tests/test_vllm.py` |
# | a server that dies, never answers, or finds its port taken | scripted servers | `tests/test_vllm.py` |
# | several processes learn what one does (SFT and DPO) | two processes, gloo | `tests/test_launch.py` |
# | weights spread by FSDP 2, optimiser states by ZeRO-2, whole models and adapters | two processes, gloo, by torch's and DeepSpeed's own functions | `tests/test_sharded.py` |
# | CSO from a base that is loaded by name, adapters and all weights | our 1M-parameter model | `tests/test_pipeline.py` |
# | several servers of one model | scripted servers | `tests/test_client.py` |
# | chat templates, packed attention, capped scores | random models of the three architectures, tokenizers in each template's form | `tests/test_backbones.py` |
# | jobs on a cluster | SLURM 22.05 with one node | `DECOUPLED_ESC_SLURM=1 pytest tests/test_slurm.py` |
# | the configurations `fsdp` and `zero2` through accelerate, which knows them on GPUs alone; NCCL, FlexAttention at length, seven billion weights | not run | |
