"""The two measurements of bench/gpu.py that need no more than a card: the same gradients, and training side by side."""

from __future__ import annotations

import gc
import importlib.util
import random
import resource
import statistics
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest import mock

import torch

from decoupled_esc import corpus, models, packing, prompts, train
from decoupled_esc.train import losses

SEED, WINDOW, REPEATS, BETA = 13, 4096, 3, 0.1
SHAPES = {  # hidden, layers, heads, key-value heads, feed-forward, vocabulary (None: the tokenizer's)
    "0.5B": (896, 24, 14, 2, 4864, 151936), "7B": (3584, 28, 28, 4, 18944, 152064), "tiny": (32, 2, 4, 2, 48, None),
    "qwen2": (896, 4, 14, 2, 2432, None), "llama": (1024, 4, 8, 2, 2816, None), "gemma2": (1024, 4, 4, 2, 2816, None),
}  # fmt: skip
DIALOGUES = {"0.5B": 16, "7B": 4, "tiny": 2}


def last_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"[:400]


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def measured(row: dict, name: str = ""):
    """Seconds and peak memory of what is inside; on a CPU the peak is the process's so far."""
    if gpu := torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    yield
    if gpu:
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row |= {f"{name}seconds": time.perf_counter() - started, f"{name}peak_mib": round(peak / 2**20)}


def made(shape: str, vocabulary: int, dtype: str, attention: str, architecture: str = "qwen2", spread: float = 0.02):
    """A causal language model with random weights sampled from SEED, the same for all who ask."""
    from transformers import AutoConfig, AutoModelForCausalLM

    packing.register_attention()
    hidden, layers, heads, key_heads, forward, own = SHAPES[shape]
    options = {"head_dim": 256 if hidden > 256 else 8, "query_pre_attn_scalar": 256 if hidden > 256 else 8,
               "attn_logit_softcapping": 2.0, "final_logit_softcapping": 30.0, "sliding_window": 2 * WINDOW}  # fmt: skip
    config = AutoConfig.for_model(
        architecture, vocab_size=own or vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=key_heads, intermediate_size=forward, max_position_embeddings=2 * WINDOW, initializer_range=spread,
        tie_word_embeddings=shape != "7B", pad_token_id=None, bos_token_id=None, eos_token_id=None, attention_dropout=0.0,
        **(options if architecture == "gemma2" else {}),
    )  # fmt: skip
    torch.manual_seed(SEED)
    with torch.device(device()):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention)


def material(count: int | None, tiny: bool) -> tuple[list, object]:
    """(pairs, tokenizer): one pair per turn of ``count`` sampled training dialogues, or of a median one and the longest."""
    dialogues = list(corpus.load("esconv", download=False).split("train"))
    if count is None:
        dialogues.sort(key=lambda dialogue: sum(len(said.text) for said in dialogue.utterances))
        dialogues = [dialogues[len(dialogues) // 2], dialogues[-1]][: 1 if tiny else 2]
    else:
        dialogues = random.Random(SEED).sample(dialogues, min(count, len(dialogues)))
    turns = [turn for dialogue in dialogues for turn in corpus.turns(dialogue)[: 3 if tiny else None]]
    draw = random.Random(SEED)  # of rejected answers only the length matters here
    pairs = [train.Pair(f"{turn.id}/0", turn, draw.choice(turns).reply) for turn in turns]
    return pairs, models.load_tokenizer(models.EMBEDDED / ("esc-nano" if tiny else "esc-base"))


def examples(pairs: list, tokenizer, task: str) -> list:
    """Token ids turn by turn, without our encoder; the chosen answer alone for SFT."""
    found = []
    for pair in pairs:
        asked, answer = prompts.render(prompts.generator_trunk(pair.turn), tokenizer)
        answers = [answer, pair.rejected + answer[len(pair.turn.reply) :]][: 1 if task == "sft" else 2]
        found.append(packing.Example(pair.id, prompts.ids(asked, tokenizer), [prompts.ids(a, tokenizer) for a in answers]))
    return found


# The same loss and gradients ----------------------------------------------------------------------------------------


def alone(model, example):
    """[answers] log-probabilities, one plain sequence after the other, from the definition."""
    found = []
    for answer in example.answers:
        row = torch.tensor([example.prompt + answer], device=model.device)
        logits = model(input_ids=row, logits_to_keep=len(answer) + 1, use_cache=False).logits[0, :-1].float()
        found.append(logits.log_softmax(-1).gather(1, row[0, -len(answer) :, None]).sum())
    return torch.stack(found)


def gradients(model, asked: list, passes: list, reference, packed: bool) -> tuple[float, list]:
    """The loss of all examples, DPO's where there is a reference, and its gradients; each example by itself, or packed."""
    model.zero_grad(set_to_none=True)
    total, at, targets = 0.0, 0, sum(len(answer) for example in asked for answer in example.answers)
    for example in asked[: 1 if packed else None]:
        logps = packing.logps_in_passes(model, passes) if packed else alone(model, example)
        if reference is None:
            loss = -logps.sum() / targets
        else:
            four = torch.cat([logps.view(-1, 2), reference[at : at + len(logps)].view(-1, 2)], 1).unbind(1)
            loss = losses.dpo(*four, BETA).sum() / len(asked)
        loss.backward()
        total, at = total + loss.item(), at + len(logps)
    return total, [parameter.grad.float() for parameter in model.parameters()]


def correctness(part, architecture: str, tiny: bool) -> None:
    pairs, tokenizer = material(None, tiny)
    # Fresh weights are so small that attention hardly matters: wider ones; bfloat16, so that all types start alike.
    model = made("tiny" if tiny else architecture, len(tokenizer), "bfloat16", packing.ATTENTION, architecture, 0.3 if tiny else 0.06).train()
    plain = "eager" if architecture == "gemma2" else "sdpa"  # transformers' sdpa leaves the soft cap out
    flex = "flex_attention"
    for which, dialogue in zip(("median", "longest"), dict.fromkeys(pair.turn.dialogue for pair in pairs), strict=False):
        for task in ("sft", "dpo"):
            asked = examples([pair for pair in pairs if pair.turn.dialogue == dialogue], tokenizer, task)
            passes = packing.split(packing.pack(asked), train.data.PASS * WINDOW)
            exact = reference = None
            for dtype in ("float32", "bfloat16", "autocast"):  # autocast: float32 weights; bfloat16: as LoRA on a large model
                if part.left < 5:
                    return part.save(stopped="out of time")
                for parameter in model.parameters():  # not the rotations' frequencies, which stay float32 in training
                    parameter.data = parameter.data.to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
                model.set_attn_implementation(plain)
                if task == "dpo" and reference is None:
                    with torch.no_grad():
                        found = torch.cat([alone(model, example) for example in asked])
                    reference = found + torch.linspace(-3, 3, len(found), device=found.device)  # no margin is 0
                read = partial(gradients, model, asked, passes, reference)
                about = {"dialogue": which, "task": task, "dtype": dtype, "turns": len(asked), "passes": len(passes)}
                about |= {"tokens": sum(map(len, passes)), "tokens_apart": sum(len(e.prompt) + len(a) for e in asked for a in e.answers)}
                with part.row(**about) as row, torch.autocast(device(), torch.bfloat16, enabled=dtype != "float32"):
                    with measured(row, "apart_"):
                        row["apart_loss"], own = read(packed=False)
                    exact = own if exact is None else exact
                    try:
                        model.set_attn_implementation(flex)
                        read(packed=True)  # compiled now, and measured below
                    except Exception as error:
                        part.save(flex_attention_missing=[*part.found.get("flex_attention_missing", []), {**about, "why": last_line(error)}])
                        model.set_attn_implementation(packing.ATTENTION)
                        flex = flex if device() == "cuda" else packing.ATTENTION  # which has no backward pass on a CPU
                    row["attention"] = model.config._attn_implementation
                    with measured(row, "packed_"):
                        row["packed_loss"], packed = read(packed=True)
                    # Both against one pass per turn in float32: packed may be no farther from it than bfloat16 itself is.
                    row |= {"packed_from_apart": distance(packed, own), "apart_error": distance(own, exact), "packed_error": distance(packed, exact)}
                    row["bound"] = 1e-4 if dtype == "float32" else 1.5 * row["apart_error"]
                    row |= {"same": row["packed_error"] <= row["bound"], "loss_difference": abs(row["packed_loss"] / row["apart_loss"] - 1)}
                    if dtype == "float32" and len(passes) == 1:  # a tree read as a plain sequence must be seen
                        model.set_attn_implementation(plain)
                        with mock.patch.object(packing, "attention", lambda depths, model: {}):
                            row["error_without_the_tree"] = distance(read(packed=True)[1], own)


def distance(found: list, expected: list) -> float:
    """The norm of the difference over the norm of what is expected, over all tensors."""
    apart = sum((a - b).square().sum().item() for a, b in zip(found, expected, strict=True))
    return (apart / sum(b.square().sum().item() for b in expected)) ** 0.5


# Training side by side ----------------------------------------------------------------------------------------------


def matrix_rate(size: int) -> float:
    """bf16 operations per second of a matrix product, the median of ten times five."""
    a, b = (torch.randn(size, size, device=device(), dtype=torch.bfloat16) for _ in "ab")
    found: list[dict] = [{} for _ in range(13)]
    for one in found:
        with measured(one):
            for _ in range(5):
                a @ b
    return 5 * 2 * size**3 / statistics.median(one["seconds"] for one in found[3:])


@contextmanager
def only_training():
    """What ``measured`` finds of ``Trainer.train`` inside; nobody writes checkpoints."""
    from transformers import Trainer

    found, original = {}, Trainer.train

    def timed(*arguments, **options):
        with measured(found):
            return original(*arguments, **options)

    with mock.patch.object(Trainer, "train", timed), mock.patch.object(Trainer, "_save_checkpoint", lambda *a, **k: None):
        yield found


def ours(model, task: str, pairs: list, tokenizer, out: Path) -> dict:
    layout, preference, before = prompts.generator_trunk, None, {"seconds": 0.0}
    if task == "dpo":
        sequences, preference = train.encode_pairs(pairs, layout, tokenizer, WINDOW), train.Preference(loss="dpo", beta=BETA)
    else:
        sequences = train.encode([pair.turn for pair in pairs], layout, tokenizer, WINDOW)
    training = train.Training(
        epochs=1, learning_rate=1e-5, batch_size=2, per_device_batch_size=1, schedule="constant", warmup_ratio=0.0,
        lora=train.Lora(rank=16, alpha=16, dropout=0.0), precision="bfloat16", checkpoint_every=10**9,
    )  # fmt: skip
    with only_training() as found:
        reference = None
        if preference:
            with measured(before):
                reference = train.reference_logps(model, sequences, "start", out, "bfloat16")
        log = train.fine_tune(model, tokenizer, sequences, training, out, seed=SEED, preference=preference, reference=reference)
    loss = statistics.fmean(step["loss"] for step in log.steps)
    found |= {"tokens": log.tokens, "target_tokens": log.target_tokens, "loss": loss}
    return found | {"seconds": found["seconds"] + before["seconds"], "reference_seconds": before["seconds"]}


def trl(model, task: str, pairs: list, tokenizer, out: Path, micro: int, checkpointing: bool, padding_free: bool = False) -> dict:
    """trl's trainer as it comes, one row per turn (32 a step), the same LoRA, rows of like length together for SFT."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    asked = examples(pairs, tokenizer, task)
    common = {
        "output_dir": str(out), "num_train_epochs": 1, "learning_rate": 1e-5, "lr_scheduler_type": "constant", "bf16": True,
        "per_device_train_batch_size": micro, "gradient_accumulation_steps": max(1, 32 // micro), "max_length": None,
        "gradient_checkpointing": checkpointing, "include_num_input_tokens_seen": "all",
        "use_cpu": not torch.cuda.is_available(), "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": SEED,
    }  # fmt: skip
    options = {"peft_config": LoraConfig(r=16, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
               "processing_class": tokenizer}  # fmt: skip
    if task == "sft":
        rows = [{"input_ids": e.prompt + e.answers[0], "labels": [-100] * len(e.prompt) + e.answers[0]} for e in asked]
        common |= {"padding_free": padding_free, "dataset_kwargs": {"skip_prepare_dataset": True}}
        common |= {} if padding_free else {"train_sampling_strategy": "group_by_length"}
        trainer = SFTTrainer(model, args=SFTConfig(packing=False, **common), train_dataset=Dataset.from_list(rows), **options)
    else:
        rows = [{"prompt_ids": e.prompt, "chosen_ids": e.answers[0], "rejected_ids": e.answers[1]} for e in asked]
        with mock.patch.object(DPOTrainer, "_prepare_dataset", lambda self, dataset, *rest: dataset):  # these are token ids
            trainer = DPOTrainer(model, args=DPOConfig(beta=BETA, **common), train_dataset=Dataset.from_list(rows), **options)
    with only_training() as found:
        done = trainer.train()
    return found | {"tokens": int(trainer.state.num_input_tokens_seen),
            "target_tokens": sum(len(answer) for e in asked for answer in e.answers), "loss": done.training_loss}  # fmt: skip


def training(part, size: str, tiny: bool) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    gpu = device() == "cuda"
    flash = gpu and importlib.util.find_spec("flash_attn") is not None
    pairs, tokenizer = material(DIALOGUES[size], tiny)
    rate = matrix_rate(8192 if gpu else 256)
    # trl's DPO has padding_free switched off for now; FlexAttention reads padding-free rows where there is no flash_attn.
    contenders = [("ours", "flex_attention" if gpu else "prefix_tree"), ("trl", "flash_attention_2" if flash else "sdpa")]
    contenders += [("trl-padding-free", "flash_attention_2" if flash else "flex_attention")] if gpu else []
    cases = [(task, *contender) for task in ("sft", "dpo") for contender in contenders if (task, contender[0]) != ("dpo", "trl-padding-free")]
    micro = dict.fromkeys(cases, 8)
    part.save(matrix_rate=rate, turns=len(pairs), shape=SHAPES[size], dialogues=DIALOGUES[size],
              tokenizer="esc-nano" if tiny else "esc-base", trl_dpo_padding_free="not offered by this trl")  # fmt: skip
    few = [pair for pair in pairs if pair.turn.dialogue in list(dict.fromkeys(p.turn.dialogue for p in pairs))[:3]]
    for repeat in range(0 if gpu else 1, (1 if tiny else REPEATS) + 1):  # 0: warm-up on three dialogues, for kernels and shapes
        for case in cases:
            task, contender, attention = case
            some = pairs if repeat else few
            if part.left < 10:
                return part.save(stopped="out of time")
            with part.row(task=task, contender=contender, attention=attention, repeat=repeat) as row:
                while "seconds" not in row:
                    row["micro_batch"], model = micro[case], None
                    model = made(size, len(tokenizer), "bfloat16" if gpu else "float32", attention)
                    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
                    weights, linear = sum(m.weight.numel() for m in linear), None
                    if size == "7B":  # for all of them
                        model.gradient_checkpointing_enable({"use_reentrant": False})
                    theirs = partial(trl, micro=micro[case], checkpointing=size == "7B", padding_free=contender != "trl")
                    try:
                        with tempfile.TemporaryDirectory() as scratch:
                            row |= (ours if contender == "ours" else theirs)(model, task, some, tokenizer, Path(scratch))
                    except torch.cuda.OutOfMemoryError:
                        micro[case] //= 2
                        if contender == "ours" or not micro[case]:
                            raise
                    del model
                    gc.collect()
                    torch.cuda.empty_cache()
                operations = (4 if task == "sft" else 6) * weights * row["tokens"]
                row |= {"useful_tokens_per_second": row["target_tokens"] / row["seconds"], "linear_weights": weights,
                        "share_of_matrix_rate": operations / row["seconds"] / rate}  # fmt: skip
            part.save(ratios=ratios(part.found["rows"]))


def ratios(rows: list[dict]) -> dict:
    """By task and contender: ours over theirs in useful tokens/s, repeat by repeat, and the median."""
    speed = {(r["task"], r["contender"], r["repeat"]): r.get("useful_tokens_per_second") for r in rows if r["repeat"]}
    found: dict = {}
    for (task, contender, repeat), theirs in speed.items():
        own = speed.get((task, "ours", repeat))
        if contender != "ours" and own and theirs:
            found.setdefault(f"{task} ours/{contender}", []).append(round(own / theirs, 2))
    return {name: {"each": each, "median": statistics.median(each)} for name, each in found.items()}
