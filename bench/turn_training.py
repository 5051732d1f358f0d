"""Training turn by turn, packed and unpacked: this library, trl's own trainers and LLaMA-Factory, side by side.

    python bench/turn_training.py                 # everything, about 40 minutes on two cores; can be interrupted
    python bench/turn_training.py --only growth   # what has this word in its name

Every measurement is a process of its own, one after the other, on two threads, with the same data (dialogues sampled from
the whole training split), the same weights at the start, AdamW on all weights in float32, no dropout, and about as many turns
an optimiser step: two dialogues packed, 32 turns otherwise (in micro-batches of 8).  Measured is the training, whole
optimiser steps and the reference pass included; imports, reading and tokenising the data are not, for any of them.
Beside a contender that takes minutes, ours takes seconds: it is measured three times, and the median is kept.

Measurements are kept one by one in build/bench/turn_training.jsonl; a finished run writes results/bench/turn_training.json.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench"
STATE = WORK / "turn_training.jsonl"
RESULT = ROOT / "results" / "bench" / "turn_training.json"

THREADS, SEED, DIALOGUES, REPEATS = 2, 13, 16, 3
WINDOW = CONTEXT = 4096  # longer than any prompt: nobody cuts, so all read the same
VOCABULARY = 4096
HIDDEN = {"1.4M": 128, "4.5M": 256}  # four layers, four heads, three times as wide in between
BATCH = {"packed": 2, "apart": 32}  # dialogues; turns or pairs
MICRO_BATCH = {"packed": 1, "apart": 8}
RATE, BETA = 1e-4, 0.1

TASKS = {"sft-planner": "planner", "dpo-planner": "planner", "dpo-generator": "generator-trunk"}
ENVIRONMENT = {
    "OMP_NUM_THREADS": str(THREADS), "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false",
    # Large blocks stay with the process: a third less time on a CPU, for whoever trains.
    "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 << 30),
}  # fmt: skip


def cases() -> list[dict]:
    """What is measured.  Contenders of one task and size stand next to each other, so that they see the same machine."""

    def case(group, task, size, contender, dialogues=DIALOGUES) -> dict:
        return {"group": group, "task": task, "size": size, "contender": contender, "dialogues": dialogues}

    found = []
    for size in HIDDEN:
        for contender in ("packed", "trl", "trl-by-length", "llamafactory", "llamafactory-by-length"):
            found.append(case("side-by-side", "sft-planner", size, contender))
        for task in ("dpo-planner", "dpo-generator"):
            found += [case("side-by-side", task, size, contender) for contender in ("packed", "trl")]
    found += [case("scoring", "score", "1.4M", contender, None) for contender in ("packed", "apart")]
    return found + [case("growth", "sft-planner", "4.5M", "packed", dialogues) for dialogues in (64, 256, 1024)]


# Material -----------------------------------------------------------------------------------------------------------


def shape(size: str):
    from decoupled_esc import models

    hidden = HIDDEN[size]
    return models.Shape(
        vocabulary=VOCABULARY, hidden=hidden, layers=4, heads=4, feed_forward=3 * hidden, context=CONTEXT
    )


def folder(size: str) -> Path:
    """Weights and tokenizer of ``size``, made once, read by every contender."""
    from decoupled_esc import corpus, models

    made = WORK / f"model-{size}"
    if not (made / "model.safetensors").exists():
        train = corpus.load("esconv").split("train")
        tokenizer = models.train_tokenizer((m.text for d in train for m in corpus.chat_form(d)), VOCABULARY)
        models.create(shape(size), tokenizer, SEED).save_pretrained(made)
        tokenizer.save_pretrained(made)
    return made


def dialogues(split: str, count: int | None) -> list:
    from decoupled_esc import corpus

    found = list(corpus.load("esconv").split(split))
    return found if count is None else random.Random(SEED).sample(found, count)


def material(task: str, count: int | None) -> tuple[list, list]:
    """(turns, pairs) of ``count`` training dialogues.  Rejected answers are sampled: only their length matters here."""
    from decoupled_esc import corpus, taxonomy, train

    turns = [turn for dialogue in dialogues("train", count) for turn in corpus.turns(dialogue)]
    draw = random.Random(SEED)
    if task == "dpo-planner":
        rejected = [draw.choice([s for s in taxonomy.STRATEGIES if s != turn.strategy]) for turn in turns]
    else:
        rejected = [draw.choice(turns).reply for _ in turns]
    return turns, [train.Pair(f"{turn.id}/0", turn, answer) for turn, answer in zip(turns, rejected, strict=True)]


# Contenders: each returns seconds, loss (mean of the epoch), tokens (read, padding included) and target_tokens --------


def packed(task: str, size: str, count: int | None) -> dict:
    from datasets import Dataset  # noqa: F401 (fine_tune imports these, and imports are nobody's training time)
    from peft import PeftModel  # noqa: F401
    from trl import SFTConfig, SFTTrainer  # noqa: F401

    from decoupled_esc import models, prompts, train

    model, tokenizer = models.load(folder(size), for_training=True), models.load_tokenizer(folder(size))
    turns, pairs = material(task, count)
    started = time.perf_counter()
    preference = None
    if task.startswith("dpo"):
        sequences = train.encode_pairs(pairs, prompts.LAYOUTS[TASKS[task]], tokenizer, WINDOW)
        preference = train.Preference(loss="dpo", beta=BETA)
    else:
        sequences = train.encode(turns, prompts.LAYOUTS[TASKS[task]], tokenizer, WINDOW)
    encoding = time.perf_counter() - started
    training = train.Training(
        epochs=1, learning_rate=RATE, batch_size=BATCH["packed"], per_device_batch_size=MICRO_BATCH["packed"], schedule="constant",
        warmup_ratio=0.0, lora=None, precision="float32", checkpoint_every=10**9,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        reference = train.reference_logps(model, sequences, "start", Path(out)) if preference else None
        of_reference = time.perf_counter() - started
        log = train.fine_tune(
            model, tokenizer, sequences, training, Path(out), seed=SEED, preference=preference, reference=reference
        )
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds, "reference_seconds": of_reference, "encoding_seconds": encoding,
        "tokens": log.tokens, "tokens_apart": log.unpacked_tokens, "target_tokens": log.target_tokens,
        "turns": len(turns), "loss": sum(step["loss"] for step in log.steps) / len(log.steps),
    }  # fmt: skip


def trl(task: str, size: str, count: int | None, by_length: bool = False) -> dict:
    """trl's trainer as it comes, but for float32, no gradient checkpointing and no truncation."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    from decoupled_esc import models, prompts

    tokenizer = models.load_tokenizer(folder(size))
    model = models.load(folder(size))
    model.set_attn_implementation("sdpa")
    turns, pairs = material(task, count)
    layout = prompts.LAYOUTS[TASKS[task]]
    targets = sum(len(prompts.ids(prompts.render(layout(turn), tokenizer)[1], tokenizer)) for turn in turns)
    with tempfile.TemporaryDirectory() as out:
        common = {
            "output_dir": out, "num_train_epochs": 1, "learning_rate": RATE, "lr_scheduler_type": "constant",
            "per_device_train_batch_size": MICRO_BATCH["apart"],
            "gradient_accumulation_steps": BATCH["apart"] // MICRO_BATCH["apart"],
            "bf16": False, "use_cpu": True, "gradient_checkpointing": False, "max_length": None,
            "include_num_input_tokens_seen": "all", "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
            "seed": SEED, "train_sampling_strategy": "group_by_length" if by_length else "random",
        }  # fmt: skip
        if task.startswith("sft"):
            rows = []
            for turn in turns:
                asked, answer = (prompts.ids(part, tokenizer) for part in prompts.render(layout(turn), tokenizer))
                rows.append({"input_ids": asked + answer, "labels": [-100] * len(asked) + answer})
            config = SFTConfig(packing=False, dataset_kwargs={"skip_prepare_dataset": True}, **common)
            trainer = SFTTrainer(model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        else:
            rows = []
            for pair in pairs:
                asked, answer = prompts.render(layout(pair.turn), tokenizer)
                end = answer[len(layout(pair.turn).target) :]
                rows.append({"prompt": asked, "chosen": answer, "rejected": pair.rejected + end})
            targets += sum(len(prompts.ids(row["rejected"], tokenizer)) for row in rows)
            config = DPOConfig(beta=BETA, **common)
            trainer = DPOTrainer(model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        started = time.perf_counter()
        done = trainer.train()
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds, "tokens": int(trainer.state.num_input_tokens_seen), "target_tokens": targets,
        "turns": len(turns), "loss": done.training_loss,
    }  # fmt: skip


def llamafactory(task: str, size: str, count: int | None, by_length: bool = False) -> dict:
    import llamafactory as contender  # the file beside this one

    from decoupled_esc import models, prompts

    tokenizer = models.load_tokenizer(folder(size))
    turns, _ = material(task, count)
    asked = [prompts.LAYOUTS[TASKS[task]](turn) for turn in turns]
    rows = [{"messages": prompt.chat(), "target": prompt.target} for prompt in asked]
    with tempfile.TemporaryDirectory() as out:
        done = contender.sft(
            contender.install(WORK / "llamafactory"), folder(size), rows, Path(out), batch=BATCH["apart"],
            micro_batch=MICRO_BATCH["apart"], learning_rate=RATE, window=WINDOW, threads=THREADS, by_length=by_length,
        )  # fmt: skip
    targets = sum(len(prompts.ids(prompts.render(prompt, tokenizer)[1], tokenizer)) for prompt in asked)
    return {**done, "target_tokens": targets, "turns": len(turns)}


def score(size: str, contender: str) -> dict:
    """Log-probabilities of the eight names for every turn of the test split."""
    import torch
    import turn_trees

    from decoupled_esc import corpus, models, prompts, taxonomy
    from decoupled_esc.generate.local import TransformersEngine

    model, tokenizer = models.load(folder(size)), models.load_tokenizer(folder(size))
    end = prompts.ids(models.END, tokenizer)
    names = [prompts.ids(name, tokenizer) + end for name in taxonomy.STRATEGIES]
    asked = [[prompts.planner(turn) for turn in corpus.turns(dialogue)] for dialogue in dialogues("test", None)]

    def before(prompt) -> list[int]:
        return prompts.ids(
            tokenizer.apply_chat_template(prompt.chat(), add_generation_prompt=True, tokenize=False), tokenizer
        )

    total, read, started = 0.0, 0, time.perf_counter()
    if contender == "packed":
        engine = TransformersEngine(model, tokenizer, batch_tokens=4096)
        for _, scores in engine.score_choices([prompt for group in asked for prompt in group], taxonomy.STRATEGIES):
            total += float(scores.sum())
    else:  # each name after each prompt is a sequence of its own, the eight of a turn in one padded batch
        width = max(map(len, names))
        for prompt in (prompt for group in asked for prompt in group):
            rows = torch.tensor([before(prompt) + name + [0] * (width - len(name)) for name in names])
            read += rows.numel()
            with torch.inference_mode():
                logits = model(input_ids=rows, logits_to_keep=width + 1, use_cache=False).logits
            logps = torch.log_softmax(logits.float(), -1)
            total += sum(logps[n, k, token].item() for n, name in enumerate(names) for k, token in enumerate(name))
    seconds = time.perf_counter() - started
    if contender == "packed":
        read = sum(len(turn_trees.pack([turn_trees.Example(p.id, before(p), names) for p in group])) for group in asked)
    turns = sum(map(len, asked))
    return {"seconds": seconds, "tokens": read, "turns": turns, "loss": -total / turns / 8}


def measure(case: dict) -> dict:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(THREADS)
    task, size, count, contender = case["task"], case["size"], case["dialogues"], case["contender"]
    if task == "score":
        done = score(size, contender)
    elif contender == "packed":
        repeats = REPEATS if case["group"] == "side-by-side" else 1
        done = sorted((packed(task, size, count) for _ in range(repeats)), key=lambda one: one["seconds"])[repeats // 2]
    else:
        name, _, by_length = contender.partition("-")
        done = {"trl": trl, "llamafactory": llamafactory}[name](task, size, count, bool(by_length))
    done.setdefault("peak_bytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return done


# The layouts, counted over the whole training split -------------------------------------------------------------------


def ideal() -> dict:
    """Tokens of the whole training split, apart and packed, and one dialogue's tree for the book to draw."""
    from decoupled_esc import corpus, models, prompts, train

    tokenizer = models.load_tokenizer(folder("4.5M"))
    found = {}
    drawn = min(dialogues("train", 64), key=lambda d: (len(corpus.turns(d)), d.id))  # short, so that it can be drawn
    for name, layout in prompts.LAYOUTS.items():
        turns, pairs = material("dpo-planner" if name == "planner" else "dpo", None)
        for kind, sequences in (
            ("sft", train.encode(turns, layout, tokenizer, WINDOW)),
            ("dpo", train.encode_pairs(pairs, layout, tokenizer, WINDOW)),
        ):
            found[f"{kind}-{name}"] = {
                "tokens": sequences.tokens, "tokens_apart": sequences.unpacked_tokens,
                "target_tokens": sequences.target_tokens, "turns": len(turns),
                "longest": max(map(len, sequences.packed)),
            }  # fmt: skip
        one = train.encode(corpus.turns(drawn), layout, tokenizer, WINDOW).packed[0]
        found[f"sft-{name}"]["example"] = {
            "dialogue": drawn.id,
            "turns": len(corpus.turns(drawn)),
            "depths": one.depths,
            "predictors": one.predict_positions,
        }
    return found


def provenance() -> dict:
    from decoupled_esc import corpus

    found = corpus.load("esconv")
    packages = ("torch", "transformers", "trl", "peft", "accelerate")
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "",
    )
    return {
        "date": datetime.date.today().isoformat(),
        "data": {"corpus": found.name, "digest": found.digest},
        "hardware": {"cpu": cpu or platform.processor(), "threads": THREADS},
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
        "llamafactory": "0.9.5, in an environment of its own (bench/llamafactory.py)",
        "commit": subprocess.check_output(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, text=True).strip(),
        "command": "python bench/turn_training.py",
        "settings": {
            "seed": SEED, "dialogues": DIALOGUES, "repeats_packed": REPEATS, "window": WINDOW, "vocabulary": VOCABULARY, "hidden": HIDDEN,
            "batch": BATCH, "micro_batch": MICRO_BATCH, "learning_rate": RATE, "beta": BETA,
        },
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", help="measure only what has this word in its name")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(json.loads(arguments.case))))
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    if arguments.again:
        STATE.unlink(missing_ok=True)
    done = [json.loads(line) for line in STATE.read_text().splitlines()] if STATE.exists() else []
    for size in HIDDEN:
        folder(size)
    for case in cases():
        name = " ".join(str(value) for value in case.values())
        if arguments.only not in name or any(case.items() <= row.items() for row in done):
            continue
        print(name, end=" ... ", flush=True)
        command = [sys.executable, __file__, "--case", json.dumps(case)]
        run = subprocess.run(command, capture_output=True, text=True, env=os.environ | ENVIRONMENT)
        if run.returncode:
            print("failed\n" + run.stderr[-3000:])
            return 1
        done.append(case | json.loads(run.stdout.splitlines()[-1]))
        with STATE.open("a") as out:
            out.write(json.dumps(done[-1]) + "\n")
        print(f"{done[-1]['seconds']:.1f} s, {done[-1]['peak_bytes'] / 2**20:,.0f} MiB", flush=True)
    missing = [case for case in cases() if not any(case.items() <= row.items() for row in done)]
    if missing:
        print(f"{len(missing)} measurements are missing; nothing was written")
        return 0
    ordered = [next(row for row in done if case.items() <= row.items()) for case in cases()]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    found = {"provenance": provenance(), "measurements": ordered, "training_split": ideal()}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {RESULT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
