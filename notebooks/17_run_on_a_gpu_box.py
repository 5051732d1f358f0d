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
# Everything in this book runs on two CPU cores with small models.
# The same chapters are written for models of seven to nine billion parameters; this one says how to run them, what it will take, and what of that was tried where the book was made.
#
# :::{admonition} What was not run
# :class: warning
# No GPU and no weights of seven billion parameters were at hand.
# The parts were proven on what was: vLLM's CPU build with our small model, training in two processes over gloo, a real SLURM with one node, and models of the three architectures with random weights.
# Nothing below says how fast a GPU is; where a number is an estimate, it is called one.
# :::

# %% tags=["parameters", "remove-cell"]
profile = "laptop"

# %% tags=["hide-input"]
import pandas as pd

from decoupled_esc.experiments import cost
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.experiments.run import open_book
from decoupled_esc.present import benchmarks, figures
from decoupled_esc.present.tables import results_table

book = open_book(globals())
# Every other step is behind one of these.
(book["questions"], book["metrics-cso"], book["metrics-strategy-test"], book["metrics-losses"], book["metrics-controlled"], book["decoding"], book["judged"])
found, first = cost.made(book), cost.one_seed(book.profile)
own = {name: one for name, one in found.items() if name in first}
figures.glue_numbers(profile_name=book.label)

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
# launch: {processes: 4, config: ddp}    # in the profile; batch_size must be a multiple of per_device_batch_size x 4
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
# Steps that don't need each other run at once, a card each; a profile with `launch` takes all cards for one step at a time.
# A role of the search and a judge may have several servers too, which take turns:
#
# ```yaml
# search:
#   roles:
#     supporter: {model: my-model, base_url: ["http://127.0.0.1:8001/v1", "http://127.0.0.1:8002/v1"], max_concurrency: 64}
# ```
#
# ### One card of 80 GB
#
# ```yaml
# generation:
#   vllm: {options: ["--gpu-memory-utilization", "0.85"]}    # a server is started for each step that generates, and stopped after it
# ```
#
# The base is loaded once, with planner and generator as two adapters on it; the planner answers freely, so that an answer that is no strategy shows.
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
# for p in qwen2.5-7b llama3.1-8b gemma2-9b; do decoupled-esc run --profile $p --cluster profiles/slurm/config.yaml & done; wait
# ```
#
# Each step is a job, submitted by submitit; steps that don't need each other run at once, and so do the seeds of `other_seeds`.
# `profiles/slurm/config.yaml` says what a job asks for: `steps` for all, `gpu_steps` on top for those that run a model.
# Put your account and partition there.
#
# ## What the small run took
#
# The ledger is the provenance of every step's result.

# %% tags=["hide-input"]
def taken(some, times=1) -> dict:
    spent = cost.ledger(some)
    return {
        "steps": f"{spent['steps'] / times:.0f}", "minutes": f"{spent['seconds'] / times / 60:.0f}",
        "tokens, millions": f"{spent['tokens'] / times / 1e6:.1f}", "most memory, GiB": f"{spent['mib'] / 1024:.1f}",
    }  # fmt: skip


lines = {title: taken(one for one in own.values() if cost.group_of(one.step) == title) for title in cost.GROUPS}
lines["all, one seed"] = taken(own.values())
further = [one for name, one in found.items() if name not in first]
if further:
    lines["each further seed"] = taken(further, len(book.profile.other_seeds))
results_table(pd.DataFrame(lines).T, f"The ledger of profile {book.label}: minutes of work, each step on one thread beside another.")

# %% [markdown]
# ## The plan for the small run, checked
#
# How good is arithmetic by tokens and operations?
# Take the rate of one training run, *sft-vanilla*, plan all others by it, and look at what they took.

# %% tags=["hide-input"]
compared = {
    name: {
        "operations, 10^12": f"{row['operations'] / 1e12:.0f}",
        "planned, minutes": f"{row['planned'] / 60:.1f}",
        "took, minutes": f"{row['took'] / 60:.1f}",
        "10^9 operations per second": f"{row['operations'] / row['took'] / 1e9:.0f}",
    }
    for name, row in cost.checked(own).items()
}
results_table(pd.DataFrame(compared).T, f"Training runs as planned from one of them, and as they went; profile {book.label}; single runs, most beside another step.")

# %% [markdown]
# Training runs that read long dialogues with few targets, or that also measure divergence on validation dialogues, take longer than their operations say.
# A plan for a card that nobody has tried is not better than this.
#
# ## What the large ones will take: an estimate
#
# For each step: tokens as counted by the small run on the same data, times a factor between the two vocabularies; operations a token, $2N$ to read and, for adapters, as much again to learn, twice as much for all weights; over the card's rate by its data sheet, times a share.
# Written tokens cost time for reading the weights once per step of decoding, for all replies that are written at once.

# %% tags=["hide-input"]
assumed = {
    "share of a card's rate": f"{100 * cost.SHARE:.0f}%", "tokens of a large vocabulary per token of ours": f"{cost.TOKENS:g}",
    "replies written at once": f"{cost.BATCH}", "tokens read per turn (the rest is cached)": f"{cost.READ_PER_TURN}",
}  # fmt: skip
results_table(pd.DataFrame({"assumed": assumed}), "What the estimate assumes.")

# %% tags=["hide-input"]
planned = {}
for name in ("qwen2.5-7b", "llama3.1-8b", "gemma2-9b", "qwen2.5-7b-full", "llama3.1-8b-full", "gemma2-9b-full"):
    for title, card in cost.CARDS.items():
        paper = load_profile(name)
        if cost.cards_of(paper) > 1 and card.gib < 80:
            continue
        whole = cost.total(cost.Plan(paper, card).lines(own))
        planned[f"{name}, {title}"] = {
            "tokens read, millions": f"{whole.read / 1e6:.0f}", "written, millions": f"{whole.written / 1e6:.1f}", "GPU-hours, one seed": f"{whole.hours:.1f}",
            "GiB": f"{whole.gib:.0f}", "fits": "yes" if whole.gib < 0.95 * card.gib else "NO", "dollars (judge and roles)": f"{whole.dollars:.2f}",
        }  # fmt: skip
results_table(pd.DataFrame(planned).T, "Plans of the paper profiles by card (-full: on two of them, GiB on each): estimates, nothing measured; CSO's training runs as if ESC-Pro were as small as the small run's.")

# %% [markdown]
# Where a card does not *fit*, lower `data.max_length`, or take `launch: {processes: 2, config: fsdp}` on several.
# To replace the assumed share, run one step (`decoupled-esc run --profile qwen2.5-7b sft-planner`) and divide the `wall_seconds` in its `result.json` by what the plan said.

# %% tags=["hide-input"]
lines = cost.table(cost.Plan(load_profile("qwen2.5-7b"), cost.CARDS["RTX 4090"]).lines(own))
groups = ("fine-tuning", "candidates and pairs", "preference optimisation")
kept = {name: row for name, row in lines.items() if name in ("search", "judged", "all") or cost.group_of(own[name].step) in groups}
results_table(pd.DataFrame(kept).T, "The plan of qwen2.5-7b on one RTX 4090, some of its steps: estimates. All of them: decoupled-esc plan.")

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
    "transformers engine, tokens written per second": f"{served['transformers']['tokens_per_second']:.0f}",
    "vLLM on the CPU, tokens written per second": f"{served['vllm']['tokens_per_second']:.0f}",
    "vLLM asked one by one, tokens per second": f"{served['one_by_one']['tokens_per_second']:.0f}",
    "our client against one by one": f"{served['times']:.1f} times",
}
results_table(pd.DataFrame({"": lines}), "Two engines on two CPU cores (bench/vllm_serve.py); single runs.")

# %% [markdown]
# What these numbers show is how far the two engines agree, and that a client which keeps many requests under way is worth having even where two cores do all the work.
# Of a GPU they say nothing.
#
# ## What was proven, and where
#
# | part | proven on | by |
# |---|---|---|
# | two adapters on one server, seeds, ranks of strategies | vLLM's CPU build, our 1M-parameter model | `tests/test_vllm.py` |
# | a server that dies, never answers, or finds its port taken | scripted servers | `tests/test_vllm.py` |
# | several processes learn what one does (SFT and DPO) | two processes, gloo | `tests/test_launch.py` |
# | weights spread by FSDP 2, optimiser states by ZeRO-2, whole models and adapters | two processes, gloo, by torch's and DeepSpeed's own functions | `tests/test_sharded.py` |
# | CSO from a base that is loaded by name, adapters and all weights | our 1M-parameter model | `tests/test_book_table.py` |
# | several servers of one model | scripted servers | `tests/test_client.py` |
# | chat templates, packed attention, capped scores | random models of the three architectures, tokenizers in each template's form | `tests/test_backbones.py` |
# | steps as jobs of a cluster | SLURM 22.05 with one node | `DECOUPLED_ESC_SLURM=1 pytest tests/test_slurm.py` |
# | the configurations `fsdp` and `zero2` through accelerate, which knows them on GPUs alone; NCCL, FlexAttention at length, seven billion weights | not run | |
