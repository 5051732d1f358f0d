"""vLLM's server against the transformers engine: speed and agreement on the test turns, and our client against one request at a time.

    DECOUPLED_ESC_VLLM=/path/to/vllm python bench/vllm_serve.py --policy runs/laptop/sft-vanilla/policy

The policy is a whole model (full fine-tuning), decoded greedily.  Results are in results/bench/vllm_serve.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from decoupled_esc import corpus, models, prompts
from decoupled_esc.experiments.run import ROOT, surroundings
from decoupled_esc.files import write_atomically
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.generate.vllm import Server, Serving, VLLMEngine

OUT = ROOT / "results" / "bench" / "vllm_serve.json"
ONE_BY_ONE = 40
"""Turns that are asked one after the other; all of them would take an hour."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--max-length", type=int, default=2048)
    options = parser.parse_args()
    turns = [turn for dialogue in corpus.load("esconv").split("test") for turn in corpus.turns(dialogue)]
    tokenizer, sampling = (
        models.load_tokenizer(options.policy),
        Sampling(temperature=0.0, top_p=1.0, max_new_tokens=128),
    )
    local = TransformersEngine(models.load(options.policy), tokenizer, batch_tokens=8192)
    asked = [
        prompts.fit(turn, prompts.vanilla, local.count, options.max_length - sampling.max_new_tokens)[0]
        for turn in turns
    ]
    serving = Serving(options=("--enforce-eager", "--gpu-memory-utilization", "0.3"))

    def timed(engine, some) -> tuple[dict, dict]:
        begun = time.perf_counter()
        found = {one.id: one for batch in engine.complete(some, sampling, seed=13, purpose="bench") for one in batch}
        seconds, tokens = time.perf_counter() - begun, sum(one.tokens for one in found.values())
        return found, {"seconds": round(seconds, 1), "tokens": tokens, "tokens_per_second": round(tokens / seconds, 1)}

    ours, here = timed(local, asked)
    print("transformers", here, flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(
            models.Weights(options.policy),
            Path(folder) / "vllm.log",
            adapters={},
            max_length=options.max_length,
            seed=13,
            serving=serving,
        ) as server,
    ):
        # One by one first: after all turns it would find every prompt in the server's cache.  One request wakes the server.
        timed(VLLMEngine([server.url], "base", tokenizer, serving), asked[-1:])
        _, slowly = timed(
            VLLMEngine([server.url], "base", tokenizer, serving.model_copy(update={"max_concurrency": 1})),
            asked[:ONE_BY_ONE],
        )
        print("one by one", slowly, flush=True)
        theirs, there = timed(VLLMEngine([server.url], "base", tokenizer, serving), asked)
        print("vLLM", there, flush=True)
    where = surroundings()
    found = {
        "turns": len(asked),
        "same_reply": sum(ours[id].text == theirs[id].text for id in ours) / len(ours),
        "same_strategy": sum(prompts.parse_tagged(ours[id].text)[0] == prompts.parse_tagged(theirs[id].text)[0] for id in ours) / len(ours),
        "transformers": here,
        "vllm": there,
        "one_by_one": slowly,
        "times": round(there["tokens_per_second"] / slowly["tokens_per_second"], 1),
        "hardware": where["hardware"], "date": where["date"], "commit": where["commit"],
    }  # fmt: skip
    write_atomically(OUT, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
