"""Packed training is plain training: the same losses, rewards and weights as trl's own trainers, one row an answer.

trl is given every turn (or pair) as a sequence of its own, all those of one optimiser step as one padded batch.
"""

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from turn_trees import Loss

from decoupled_esc import models, prompts, taxonomy, train
from decoupled_esc.corpus import BLANK, OPENING, Dialogue, Message, Turn, tagged, turns
from decoupled_esc.prompts import ids, render
from decoupled_esc.train import trainer

SHAPE = models.Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=4096)
STEPS = 4
FULL = train.Training(
    epochs=STEPS, learning_rate=1e-3, batch_size=2, per_device_batch_size=2, schedule="cosine", warmup_ratio=0.0,
    lora=None, precision="float32", checkpoint_every=100,
)  # fmt: skip
LORA = train.Lora(rank=4, alpha=8, dropout=0.3)
MAX_LENGTH = 4096

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def two(dialogues) -> list[Dialogue]:
    """One in which the supporter speaks first, and one in which the supporter speaks twice in a row."""
    return [dialogues[0], dialogues[22]]


@pytest.fixture(scope="module")
def asked(two) -> list[Turn]:
    first, second = ([t for t in turns(d)[:3]] for d in two)
    assert first[0].context[0].text == OPENING and second[1].context[-1].text == BLANK
    return [*first, *second]


@pytest.fixture(scope="module")
def folder(tokenizer, asked, tmp_path_factory) -> Path:
    """A base model (``base``) whose attention matters, and an adapter fine-tuned on it with dropout (``policy``)."""
    folder, model = tmp_path_factory.mktemp("model"), models.create(SHAPE, tokenizer, seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            # Fresh weights are so small that a token hardly depends on what it attends to.
            parameter.mul_(8 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    sequences = train.encode(asked, prompts.generator_trunk, tokenizer, MAX_LENGTH)
    training = FULL.model_copy(update={"lora": LORA, "epochs": 8, "learning_rate": 1e-2})
    train.fine_tune(model, tokenizer, sequences, training, folder, seed=1)
    return folder


def load(folder: Path, kind: str):
    """The policy that training starts from: all weights of the base, or the fine-tuned adapter on it."""
    adapter = folder / "policy" if kind == "lora" else None
    return models.load(models.Weights(folder / "base", adapter=adapter), for_training=True)


def trained(model) -> dict[str, torch.Tensor]:
    """The weights that are trained; trl keeps its reference as a second adapter, which is not one of them."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad and ".ref." not in name}
    return {name: p.detach().cpu().clone() for name, p in named.items()}


def plain(turn: Turn, name: str, tokenizer, *others: str) -> tuple[list[int], list[list[int]]]:
    """(prompt, its answers) in a layout, from the definition."""
    prompt = prompts.LAYOUTS[name](turn)
    question, answer = render(prompt, tokenizer)
    answers = [answer, *(render(replace(prompt, target=other), tokenizer)[1] for other in others)]
    return ids(question, tokenizer), [ids(text, tokenizer) for text in answers]


# Against trl ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a training logged, and the weights it trained as they were and as they became."""

    steps: list[dict]
    start: dict[str, torch.Tensor]
    end: dict[str, torch.Tensor]

    def logged(self, *names: str) -> list[float]:
        return [step[name] for step in self.steps for name in names]


def ours(model, tokenizer, sequences: train.Sequences, training=FULL, *, batch=None, micro=None, **options) -> Outcome:
    """All of ``sequences`` in a step, unless told otherwise, so that the shuffle can't matter."""
    start, batch = trained(model), batch or len(sequences)
    training = training.model_copy(update={"batch_size": batch, "per_device_batch_size": micro or batch})
    with tempfile.TemporaryDirectory() as scratch:
        log = train.fine_tune(model, tokenizer, sequences, training, Path(scratch), seed=1, **options)
    return Outcome(list(log.steps), start, trained(model))


def theirs(trainer_class, config_class, model, tokenizer, rows, training=FULL, *, batch=None, **options) -> Outcome:
    """trl's trainer on ``rows`` in their order."""
    start, data = trained(model), Dataset.from_list(rows)
    with tempfile.TemporaryDirectory() as scratch:
        config = config_class(
            output_dir=scratch,
            num_train_epochs=training.epochs,
            learning_rate=training.learning_rate,
            lr_scheduler_type=training.schedule,
            per_device_train_batch_size=batch or len(rows),
            train_sampling_strategy="sequential",
            bf16=False,
            use_cpu=not torch.cuda.is_available(),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            gradient_checkpointing=False,
            **{"max_length": None, **options},
        )
        trainer = trainer_class(model=model, args=config, train_dataset=data, processing_class=tokenizer)
        trainer.train()
    return Outcome([step for step in trainer.state.log_history if "loss" in step], start, trained(trainer.model))


def assert_same(a: Outcome, b: Outcome, steps: int = STEPS, **tolerance: float) -> None:
    """The losses of all steps, and what they did to the weights.

    A gradient is the same to float32's rounding (1e-6 of a tensor's norm, as turn_trees' tests show), but AdamW divides
    it by its own size: the few entries that are no larger than that rounding are moved by noise, as far as any other.
    """
    assert len(a.steps) == len(b.steps) == steps
    assert a.logged("learning_rate") == pytest.approx(b.logged("learning_rate"))
    assert a.logged("loss") == pytest.approx(b.logged("loss"), **tolerance)
    for name, start in b.start.items():
        assert torch.equal(a.start[name], start)
        update, apart = b.end[name] - start, a.end[name] - b.end[name]
        assert update.abs().max() > 1e-3, name
        assert apart.abs().flatten().quantile(0.95) < 1e-6, name
        assert apart.norm() < 1e-2 * update.norm(), name


def rows(name: str, asked: list[Turn], tokenizer) -> list[dict]:
    made = []
    for turn in asked:
        question, (answer,) = plain(turn, name, tokenizer)
        made.append({"input_ids": question + answer, "labels": [-100] * len(question) + answer})
    return made


def plain_sft(model, tokenizer, rows: list[dict], training=FULL, **options) -> Outcome:
    prepared = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    return theirs(SFTTrainer, SFTConfig, model, tokenizer, rows, training, **prepared, **options)


@pytest.mark.parametrize(
    ("name", "unit", "micro"), [("vanilla", "dialogue", None), ("generator-trunk", "dialogue", None), ("generator", "turn", 2)]
)  # fmt: skip
def test_fine_tuning_is_trls(tokenizer, asked, folder, name, unit, micro):
    sequences = train.encode(asked, prompts.LAYOUTS[name], tokenizer, MAX_LENGTH, unit)
    trls = plain_sft(load(folder, "full"), tokenizer, rows(name, asked, tokenizer))
    assert_same(ours(load(folder, "full"), tokenizer, sequences, micro=micro), trls, rel=1e-5)


def test_fine_tuning_is_trls_over_epochs_of_several_steps(tokenizer, two, folder):
    """A dialogue a step, in the order of the packed run: which one it was is known by its length."""
    of = [turns(d)[:3] for d in two]
    sequences = train.encode([t for asked in of for t in asked], prompts.vanilla, tokenizer, MAX_LENGTH)
    training = FULL.model_copy(update={"epochs": 3})
    mine = ours(load(folder, "full"), tokenizer, sequences, training, batch=1)
    seen = [0, *mine.logged("tokens")]
    lengths = [len(packed) for packed in sequences.packed]
    order = [lengths.index(after - before) for before, after in zip(seen, seen[1:], strict=False)]
    assert sorted(order) == [0, 0, 0, 1, 1, 1]
    one_epoch = [row for n in order for row in rows("vanilla", of[n], tokenizer)]
    trls = plain_sft(load(folder, "full"), tokenizer, one_epoch, training.model_copy(update={"epochs": 1}), batch=3)
    assert_same(mine, trls, steps=6, rel=1e-5)


def preferred(name: str, asked: list[Turn]) -> list[train.Pair]:
    """One pair of every other turn, two of the rest; what is rejected was said elsewhere."""
    pairs = []
    for n, turn in enumerate(asked):
        for k in range(1 + n % 2):
            strategy = [s for s in taxonomy.STRATEGIES if s != turn.strategy][k]
            reply = asked[(n + k + 1) % len(asked)].reply
            text = {"planner": strategy, "vanilla": tagged(Message("supporter", reply, strategy))}.get(name, reply)
            pairs.append(train.Pair(f"{turn.id}#{k}", turn, text))
    return pairs


@pytest.fixture(scope="module")
def pairs(asked):
    """layout's name -> three pairs of two turns of the first dialogue, one pair of the second's blank turn."""
    return lambda name: preferred(name, [*asked[:2], asked[4]])


def answered(name: str, pair: train.Pair, tokenizer) -> dict[str, list[int]]:
    """A pair as trl has it, in token ids."""
    question, (chosen, rejected) = plain(pair.turn, name, tokenizer, pair.rejected)
    return {"prompt_ids": question, "chosen_ids": chosen, "rejected_ids": rejected}


class PlainDPO(DPOTrainer):
    """On rows that hold token ids already, as its own preparation would leave them."""

    def _prepare_dataset(self, dataset, *args):
        return dataset


TRLS_REWARDS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies")
REWARDS = ("reward_chosen", "reward_rejected", "accuracy")
# An answer's log-probability is some -300 nats, which float32 knows to 3e-5; a reward is a tenth of two such.
NEARLY = {"rel": 1e-5, "abs": 1e-5}
REWARD = {"rel": 1e-5, "abs": 3e-5}


@pytest.mark.parametrize(
    ("loss", "kind", "name"),
    [("dpo", "full", "vanilla"), ("dpo", "lora", "planner"), ("ipo", "lora", "generator-trunk")],
)
def test_preference_optimisation_is_trls(tokenizer, pairs, folder, tmp_path, loss, kind, name):
    loss_type, at_first = {"dpo": ("sigmoid", math.log(2)), "ipo": ("ipo", 25)}[loss]
    sequences = train.encode_pairs(pairs(name), prompts.LAYOUTS[name], tokenizer, MAX_LENGTH)
    reference = train.reference_logps(load(folder, kind), sequences, kind, tmp_path)
    preference = train.Preference(loss=loss, beta=0.1)
    mine = ours(load(folder, kind), tokenizer, sequences, preference=preference, reference=reference)
    assert mine.logged("loss")[0] == pytest.approx(at_first, rel=2e-6)
    assert mine.logged("reward_chosen", "reward_rejected")[:2] == pytest.approx([0, 0], abs=5e-6)
    plain_rows = [answered(name, pair, tokenizer) for pair in pairs(name)]
    # trl's reference is its own: the base as it was loaded, or a frozen copy of the fine-tuned adapter.
    options = {"beta": 0.1, "loss_type": loss_type}
    trls = theirs(PlainDPO, DPOConfig, load(folder, kind), tokenizer, plain_rows, **options)
    assert_same(mine, trls, **NEARLY)
    # Before the first step accuracy is decided by rounding.
    assert mine.logged(*REWARDS)[3:] == pytest.approx(trls.logged(*TRLS_REWARDS)[3:], **REWARD)
    assert min(map(abs, mine.logged("reward_rejected")[1:])) > 1e-3


def test_constants_are_those_of_the_trainers_loss():
    """turn_trees' tests compare KTO, SimPO and ORPO with trl."""
    kto = train.Preference(loss="kto", beta=0.1, chosen_weight=1.0, rejected_weight=0.7)
    assert trainer._loss(kto) == Loss("kto", beta=0.1, chosen_weight=1.0, rejected_weight=0.7)
    assert trainer._loss(train.Preference(loss="simpo", beta=2.0, gamma=0.7)) == Loss("simpo", beta=2.0, gamma=0.7)


def test_logged_rewards_do_not_depend_on_the_micro_batch(tokenizer, pairs, folder, tmp_path):
    sequences = train.encode_pairs(pairs("planner"), prompts.planner, tokenizer, MAX_LENGTH)
    assert len({packed.answers for packed in sequences.packed}) > 1
    options = {
        "preference": train.Preference(loss="dpo", beta=0.1),
        "reference": train.reference_logps(load(folder, "full"), sequences, "full", tmp_path),
    }
    whole, parts = (ours(load(folder, "full"), tokenizer, sequences, micro=micro, **options) for micro in (2, 1))
    assert_same(whole, parts, **NEARLY)
    assert whole.logged(*REWARDS)[3:] == pytest.approx(parts.logged(*REWARDS)[3:], **REWARD)


