"""The drop-in trainers against trl's own: the same rows, losses, rewards and gradients; test_reading has all architectures."""

from __future__ import annotations

import copy
import math
import os
import socket
from dataclasses import dataclass

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import TrainingArguments
from trl import DPOConfig, KTOConfig, SFTConfig
from trl import DPOTrainer as TrlDPO
from trl import KTOTrainer as TrlKTO
from trl import SFTTrainer as TrlSFT
from trl.experimental.cpo import CPOConfig
from trl.experimental.cpo import CPOTrainer as TrlCPO
from trl.experimental.orpo import ORPOConfig
from trl.experimental.orpo import ORPOTrainer as TrlORPO

from tree_cases import attending, off, one_by_one, plain_attention, rows, small, tokenizer
from turn_trees import CPOTrainer, DPOTrainer, KTOTrainer, ORPOTrainer, SFTTrainer, TreeSampler
from turn_trees.trainers import DropIn

LORA = LoraConfig(r=3, lora_alpha=6, init_lora_weights=False, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture
def options(tmp_path) -> dict:
    """Two steps of three rows an epoch, in the order of the rows; plain gradient descent, so that weights show gradients."""
    return {
        "output_dir": str(tmp_path), "num_train_epochs": 2, "per_device_train_batch_size": 3, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0, "train_sampling_strategy": "sequential",
        "logging_steps": 1, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True, "bf16": False,
        "include_num_input_tokens_seen": "all",
    }  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a training logged, and by how much it moved the weights."""

    logs: list[dict]
    moved: dict[str, torch.Tensor]

    def logged(self, name: str) -> list[float]:
        return [entry[name] for entry in self.logs]


def trained(trainer) -> Outcome:
    def weights():
        named = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad and ".ref." not in name}
        return {name: parameter.detach().clone() for name, parameter in named.items()}

    before = weights()
    trainer.train()
    moved = {name: after - before[name] for name, after in weights().items()}
    return Outcome([entry for entry in trainer.state.log_history if "loss" in entry], moved)


def assert_same(mine: Outcome, theirs: Outcome, *metrics: str) -> None:
    """The losses of all steps, and what they did to the weights."""
    assert len(mine.logs) == len(theirs.logs) == 4
    for name in ("loss", *metrics):
        assert mine.logged(name) == pytest.approx(theirs.logged(name), rel=1e-4, abs=1e-4), name
    assert mine.moved.keys() == theirs.moved.keys()
    whole = torch.cat([part.flatten() for part in theirs.moved.values()])
    apart = torch.cat([(mine.moved[name] - theirs.moved[name]).flatten() for name in theirs.moved])
    assert whole.norm() > 1e-3 and apart.norm() < 1e-3 * whole.norm()


def data(kind: str, form: str = "conversation") -> Dataset:
    return Dataset.from_list(rows(kind, form))


# Against trl --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen2", "gemma2"])
def test_fine_tuning_is_trls(options, kind):
    common = {"args": SFTConfig(**options), "train_dataset": data("sft"), "processing_class": tokenizer()}
    mine, theirs = SFTTrainer(small(kind), **common), TrlSFT(small(kind, plain_attention(kind)), **common)
    assert_same(trained(mine), trained(theirs))
    assert mine.state.num_input_tokens_seen < theirs.state.num_input_tokens_seen / 1.5


REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/margins")


@pytest.mark.parametrize(("kind", "loss"), [("qwen2", "sigmoid"), ("gemma2", "sigmoid"), ("qwen2", "ipo")])
def test_preference_optimisation_is_trls(options, kind, loss):
    args = DPOConfig(loss_type=[loss], **options)
    common = {"args": args, "train_dataset": data("pairs"), "processing_class": tokenizer()}
    mine = trained(DPOTrainer(small(kind), **common))
    theirs = small(kind, plain_attention(kind))
    theirs = trained(TrlDPO(theirs, ref_model=copy.deepcopy(theirs), **common))
    assert_same(mine, theirs, *REWARDS)
    assert mine.logged("loss")[0] == pytest.approx(math.log(2) if loss == "sigmoid" else 25, rel=1e-5)
    assert mine.logged("rewards/margins")[0] == pytest.approx(0, abs=1e-5)
    assert mine.logged("rewards/accuracies")[1:] == pytest.approx(theirs.logged("rewards/accuracies")[1:], abs=1e-3)


@pytest.mark.parametrize("how", ["new adapter", "adapter of before", "another reference"])
def test_the_reference_is_trls(options, how):
    """The base below a new adapter; an adapter of before as it starts; or whatever model is named."""
    common = {"args": DPOConfig(**options), "train_dataset": data("pairs"), "processing_class": tokenizer()}

    def ready() -> dict:
        torch.manual_seed(4)
        if how == "new adapter":
            return {"model": small("qwen2", "sdpa"), "peft_config": copy.deepcopy(LORA)}
        if how == "adapter of before":
            return {"model": get_peft_model(small("qwen2", "sdpa"), copy.deepcopy(LORA))}
        other = small("qwen2", "sdpa")
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.mul_(0.9)
        return {"model": small("qwen2", "sdpa"), "ref_model": other}

    mine, theirs = trained(DPOTrainer(**ready(), **common)), trained(TrlDPO(**ready(), **common))
    assert_same(mine, theirs, *REWARDS)
    assert (abs(mine.logged("rewards/margins")[0]) < 1e-5) == (how == "adapter of before")


class Tokenised:
    """trl's trainer on rows that hold token ids already, as its own preparation would leave them."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


class PlainKTO(Tokenised, TrlKTO):
    pass


def test_kto_is_trls_with_the_same_mismatched_answers(options):
    options |= {"per_device_train_batch_size": 6, "num_train_epochs": 4}
    weights = {"desirable_weight": 1.0, "undesirable_weight": 0.7}
    common = {"processing_class": tokenizer()}
    mine = KTOTrainer(small("qwen2"), args=KTOConfig(**options, **weights), train_dataset=data("pairs"), **common)
    single, examples = [], [row["example"] for row in mine.train_dataset]
    for example in examples:
        chosen, rejected, other = example.answers
        assert any(one.answers[0] == other and one.prompt != example.prompt for one in examples)
        both = {"prompt_ids": example.prompt, "KL_completion_ids": other}
        single += [
            both | {"completion_ids": chosen, "label": True},
            both | {"completion_ids": rejected, "label": False},
        ]
    options["per_device_train_batch_size"] = len(single)
    model = small("qwen2", "sdpa")
    theirs = PlainKTO(model, ref_model=copy.deepcopy(model), args=KTOConfig(**options, **weights), train_dataset=Dataset.from_list(single), **common)  # fmt: skip
    assert_same(trained(mine), trained(theirs), "rewards/chosen", "rewards/rejected")


class PlainORPO(TrlORPO):
    """The supervised term on the answer alone, where trl takes it on the prompt, too (see ``losses.orpo``)."""

    def concatenated_forward(self, model, batch):
        chosen, *rest, _ = super().concatenated_forward(model, batch)
        return chosen, *rest, -chosen.mean()


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_losses_without_a_reference_are_trls(options, name):
    options |= {"max_length": 512}
    if name == "simpo":
        config = CPOConfig(loss_type="simpo", cpo_alpha=0.0, beta=2.0, simpo_gamma=0.7, **options)
        own, trls = CPOTrainer, TrlCPO
    else:
        config, own, trls = ORPOConfig(beta=0.3, **options), ORPOTrainer, PlainORPO
    common = {"args": config, "train_dataset": data("pairs", "text"), "processing_class": tokenizer()}
    assert_same(trained(own(small("qwen2"), **common)), trained(trls(small("qwen2", "sdpa"), **common)))


@pytest.mark.parametrize("form", ["conversation", "text"])
@pytest.mark.parametrize("max_length", [None, 48])
def test_rows_are_trls(options, form, max_length):
    """Prompts, answers and where they are cut; who has no room for an answer is left out."""
    options |= {"max_length": max_length}
    common = {"args": SFTConfig(**options), "train_dataset": data("sft", form), "processing_class": tokenizer()}
    mine = SFTTrainer(small("qwen2"), **common).train_dataset
    theirs = TrlSFT(small("qwen2", "sdpa"), **common).train_dataset
    assert (len(mine) < len(rows("sft"))) == (max_length is not None) and len(mine) == len(theirs) > 0
    for row, trls in zip((row["example"] for row in mine), theirs, strict=True):
        assert row.prompt + row.answers[0] == trls["input_ids"]
        assert [label for label in trls["labels"] if label != -100] == row.answers[0]
    model = small("qwen2", "sdpa")
    common = {"args": DPOConfig(**options), "train_dataset": data("pairs", form), "processing_class": tokenizer()}
    theirs = TrlDPO(model, ref_model=copy.deepcopy(model), **common).train_dataset
    mine = DPOTrainer(small("qwen2"), **common).train_dataset
    assert len(mine) == len(theirs) > 0
    for row, trls in zip((row["example"] for row in mine), theirs, strict=True):
        assert row.prompt == trls["prompt_ids"]
        room = max_length and max_length - len(row.prompt)
        assert row.answers == [trls["chosen_ids"][:room], trls["rejected_ids"][:room]]


# What is ours alone -------------------------------------------------------------------------------------------------


def test_rows_of_a_conversation_come_together_and_are_read_once(options):
    """In random order of the conversations, as trl shuffles rows; memory is bounded by ``pass_tokens``, whatever the batch."""
    options |= {"train_sampling_strategy": "random", "num_train_epochs": 4, "per_device_train_batch_size": 6}
    found, reads = [], []
    for pass_tokens in (8192, 130):
        model = small("qwen2")
        model.register_forward_pre_hook(
            lambda _, args, kwargs: reads.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        common = {"args": SFTConfig(**options), "train_dataset": data("sft"), "processing_class": tokenizer()}
        found.append(trained(SFTTrainer(model, pass_tokens=pass_tokens, **common)))
        assert (max(reads) <= 130) == (pass_tokens == 130)
        reads.clear()
    assert_same(*found)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_sampler_gives_every_row_once_an_epoch(size):
    prompts = [[1, n % 4, *range(10, 10 + n)] for n in range(20)] + [[2, 9, 9]]
    sampler = TreeSampler(prompts, size, seed=3)
    epochs = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert sorted(epochs[-1]) == list(range(len(prompts))) and len(sampler) == len(prompts)
    assert epochs[0] == epochs[2] != epochs[1]
    assert max(map(len, sampler.groups)) == min(size, 5)
    for group in sampler.groups:
        assert len({prompts[n][1] for n in group if len(prompts[n]) > 5}) <= 1, "what shares little is apart"


def test_evaluation_is_the_mean_loss_of_the_unseen_rows(options):
    """Of preferences against the reference, too."""
    options |= {"per_device_eval_batch_size": 6, "eval_strategy": "epoch"}
    common = {"eval_dataset": data("sft"), "train_dataset": data("sft"), "processing_class": tokenizer()}
    trainer = SFTTrainer(small("qwen2"), args=SFTConfig(**options), **common)
    examples = [row["example"] for row in trainer.eval_dataset]
    with torch.no_grad():
        expected = -one_by_one(attending(trainer.model, "sdpa"), examples).sum().item()
    tokens = sum(len(example.answers[0]) for example in examples)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected / tokens, rel=1e-5)
    common = {"eval_dataset": data("pairs"), "train_dataset": data("pairs"), "processing_class": tokenizer()}
    trainer = DPOTrainer(small("qwen2"), args=DPOConfig(**options), **common)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(math.log(2), rel=1e-5)
    trainer.train()
    assert "eval_loss" in trainer.state.log_history[-2] and trainer.evaluate()["eval_loss"] < math.log(2) - 1e-4


def test_reference_logps_are_those_of_each_answer_alone(options):
    common = {"args": DPOConfig(**options), "train_dataset": data("pairs"), "processing_class": tokenizer()}
    trainer = DPOTrainer(small("qwen2"), pass_tokens=60, **common)
    with torch.no_grad():
        expected = one_by_one(small("qwen2", "sdpa"), [row["example"] for row in trainer.train_dataset])
    assert off(torch.tensor([row["reference"] for row in trainer.train_dataset]).flatten(), expected) < 1e-5


def test_dropout_is_off_for_preferences_unless_asked_for(options):
    def model():
        made = small("qwen2")
        mlp = made.model.layers[0].mlp
        mlp.down_proj = torch.nn.Sequential(mlp.down_proj, torch.nn.Dropout(0.5))
        return made

    common = {"train_dataset": data("pairs"), "processing_class": tokenizer()}
    for wanted, expected in ((True, 0.0), (False, 0.5)):
        trainer = DPOTrainer(model(), args=DPOConfig(disable_dropout=wanted, **options), **common)
        assert trainer.model.model.layers[0].mlp.down_proj[1].p == expected


def one_of_two(rank: int, port: int, options: dict) -> None:
    """A process of two, by gloo; the first leaves what was logged and the weights."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    common = {"args": DPOConfig(**options), "train_dataset": data("pairs"), "processing_class": tokenizer()}
    found = trained(DPOTrainer(small("qwen2"), pass_tokens=130, **common))
    if rank == 0:
        torch.save((found.logs, found.moved), f"{options['output_dir']}/found.pt")


def test_two_processes_learn_what_one_does(options, tmp_path):
    """The reference is shared out, too; and one of the two reads more passes than the other."""
    options["num_train_epochs"] = 4
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, options), nprocs=2)
    logs, moved = torch.load(tmp_path / "found.pt", weights_only=False)
    moved = {name.removeprefix("module."): parameter for name, parameter in moved.items()}
    args = DPOConfig(gradient_accumulation_steps=2, **options)
    whole = trained(DPOTrainer(small("qwen2"), args=args, train_dataset=data("pairs"), processing_class=tokenizer()))
    assert_same(Outcome(logs, moved), whole, *REWARDS)


def test_without_trl_any_training_arguments_will_do(options, tmp_path):
    """A folder in place of a model, the tokenizer beside it, trl's defaults."""
    model = small("qwen2")
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    common = {"train_dataset": rows("pairs")}
    found = trained(DPOTrainer(str(tmp_path / "model"), args=TrainingArguments(**options), **common))
    args = DPOConfig(**options)
    assert_same(found, trained(DPOTrainer(model, args=args, processing_class=tokenizer(), **common)))


@pytest.mark.parametrize(
    ("trainer", "config", "changed"),
    [
        (SFTTrainer, SFTConfig, {"packing": True}),
        (SFTTrainer, SFTConfig, {"assistant_only_loss": True}),
        (SFTTrainer, SFTConfig, {"completion_only_loss": False}),
        (SFTTrainer, SFTConfig, {"loss_type": "dft"}),
        (DPOTrainer, DPOConfig, {"loss_type": ["hinge"]}),
        (DPOTrainer, DPOConfig, {"loss_type": ["sigmoid", "ipo"]}),
        (DPOTrainer, DPOConfig, {"label_smoothing": 0.1}),
        (DPOTrainer, DPOConfig, {"use_weighting": True}),
        (DPOTrainer, DPOConfig, {"sync_ref_model": True}),
        (CPOTrainer, CPOConfig, {"cpo_alpha": 0.0}),  # loss_type is "sigmoid"
        (CPOTrainer, CPOConfig, {"loss_type": "simpo"}),  # cpo_alpha is 1
    ],
)
def test_what_would_be_learned_otherwise_is_refused_by_name(options, trainer: type[DropIn], config, changed):
    common = {"train_dataset": rows("pairs"), "processing_class": tokenizer()}
    names = "|".join(["loss_type", "cpo_alpha", *changed])
    with pytest.raises(ValueError, match=rf"({names})=.* is not supported, only "):
        trainer(small("qwen2"), args=config(**options, **changed), **common)


def test_a_mixture_of_experts_has_no_auxiliary_loss(options):
    model = small("qwen2")
    model.config.output_router_logits = False
    common = {"train_dataset": rows("sft"), "processing_class": tokenizer()}
    with pytest.raises(ValueError, match="auxiliary loss is not supported"):
        SFTTrainer(model, args=SFTConfig(**options), **common)
    SFTTrainer(model, args=SFTConfig(router_aux_loss_coef=0.0, **options), **common)


def test_a_missing_column_is_named(options):
    with pytest.raises(ValueError, match="^row 0 lacks completion; it has prompt, chosen, rejected$"):
        SFTTrainer(small("qwen2"), args=SFTConfig(**options), train_dataset=rows("pairs"), processing_class=tokenizer())


def test_kto_needs_a_second_prompt(options):
    with pytest.raises(ValueError, match="another prompt, and there is none"):
        alone = {"train_dataset": rows("pairs")[:1], "processing_class": tokenizer()}
        KTOTrainer(small("qwen2"), args=KTOConfig(**options), **alone)
