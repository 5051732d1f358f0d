"""Weights spread over two processes by FSDP 2, and optimiser states by ZeRO-2, learn what whole ones do; over gloo.

accelerate shards on GPUs alone, so its configurations `fsdp` and `zero2` are not run here.  This does by torch's and
DeepSpeed's own functions what those have done to a model, with the packed forward pass and the loss of a training step.
DeepSpeed is no part of the usual installation: where it is absent, as in CI, its test is skipped.
"""

import os

import pytest
import torch
import torch.multiprocessing as processes
import turn_trees

from decoupled_esc import corpus, models, prompts, train

BASE = models.EMBEDDED / "esc-nano"
STEPS, WORLD = 3, 2
PASSES = 3
"""What every sequence is read in, the first again where there are fewer: as in training all read equally often."""


def sequences():
    dialogues = corpus.load("esconv", download=False).split("train")[: STEPS * WORLD]
    turns = [turn for dialogue in dialogues for turn in corpus.turns(dialogue)[:3]]
    return train.encode(turns, prompts.vanilla, models.load_tokenizer(BASE), 1024).packed


def optimiser(model):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def learn(model, steps, share: int) -> dict[str, torch.Tensor]:
    """Gradient descent over ``steps``, each a list of sequences that count one ``share``-th; returns the weights."""
    descent = optimiser(model)
    for batch in steps:
        for packed in batch:
            passes = turn_trees.split(packed, len(packed) * 3 // 4)
            passes += passes[:1] * (PASSES - len(passes))
            logps = turn_trees.logps_in_passes(model, passes)[: packed.answers]
            (-logps.sum() / len(packed.targets) / share).backward()
        descent.step()
        descent.zero_grad()
    return {
        name: value.full_tensor() if hasattr(value, "full_tensor") else value
        for name, value in model.state_dict().items()
    }


def one_of_two(rank: int, folder: str, by: str) -> None:
    """A process of two: all weights, and then an adapter; the first leaves what was learned."""
    import torch.distributed as distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    for adapter in (False, True):
        model = loaded(adapter)
        if by == "fsdp":
            mesh = init_device_mesh("cpu", (WORLD,))
            for module in [m for m in model.modules() if type(m).__name__ in model._no_split_modules]:
                fully_shard(module, mesh=mesh)
            fully_shard(model, mesh=mesh)
            # FSDP takes the mean over the processes
            weights = learn(model, [[packed] for packed in sequences()[rank::WORLD]], 1)
        else:
            weights = learn_by_deepspeed(model, sequences()[rank::WORLD])
        if rank == 0:
            torch.save(weights, f"{folder}/weights-{adapter}.pt")
    distributed.destroy_process_group()


def learn_by_deepspeed(model, own) -> dict[str, torch.Tensor]:
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True,
        "gradient_clipping": 0.0,
    }  # fmt: skip
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimiser(model), config=config)
    for packed in own:
        engine.backward(-turn_trees.answer_logps(engine, packed).sum() / len(packed.targets))
        engine.step()
    return {name: value.clone() for name, value in model.state_dict().items()}


def loaded(adapter: bool):
    torch.manual_seed(0)
    model = models.load(BASE, for_training=True)
    if adapter:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="gaussian")
        )
        model._no_split_modules = model.base_model.model._no_split_modules
    return model


@pytest.mark.parametrize("by", ["fsdp", "zero2"])
def test_sharded_weights_learn_what_whole_ones_do(tmp_path, by):
    if by == "zero2":
        pytest.importorskip("deepspeed")
    processes.spawn(one_of_two, (str(tmp_path), by), nprocs=WORLD)
    for adapter in (False, True):
        found, packed, model = torch.load(tmp_path / f"weights-{adapter}.pt"), sequences(), loaded(adapter)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        whole = learn(model, [packed[step : step + WORLD] for step in range(0, len(packed), WORLD)], WORLD)
        assert found.keys() == whole.keys()
        moved = max((whole[name] - before[name]).abs().max().item() for name in whole)
        apart = max((whole[name] - found[name]).abs().max().item() for name in whole)
        assert moved > 1e-3 and apart < 1e-4 * max(1.0, moved)
