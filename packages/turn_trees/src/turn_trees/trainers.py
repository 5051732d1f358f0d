"""transformers' Trainer on forests, and on it trl's trainers: the same arguments, columns, loss and gradients.

A row is what it is for trl, ``{prompt, completion}`` or ``{prompt, chosen, rejected}``, text or conversations, and a
batch is as many rows.  What differs: rows that share a beginning come in the same batch, and the reference's
log-probabilities are computed once, before the first step.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from torch.utils.data import Sampler
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, set_seed

from turn_trees.attention import frozen_logps, logps_in_passes, use_tree_attention
from turn_trees.losses import Loss
from turn_trees.trees import Example, common_prefix, join, pack, split

SUPPORTED = {  # settings of trl's that would change what is learned, with the values that are the same here
    "alpha": (0.0,), "assistant_only_loss": (False,), "chat_template_path": (None,), "completion_only_loss": (None, True),
    "cpo_alpha": (0.0,), "eos_token": (None,), "f_divergence_type": ("reverse_kl",), "label_smoothing": (0.0,),
    "ld_alpha": (None,), "loss_weights": (None, [1.0]), "packing": (False,), "sync_ref_model": (False,),
    "truncation_mode": ("keep_start",), "use_weighting": (False,),
}  # fmt: skip
SETTINGS = {  # what a Loss has -> what trl calls it
    "beta": "beta", "gamma": "simpo_gamma", "chosen_weight": "desirable_weight", "rejected_weight": "undesirable_weight",
}  # fmt: skip


@dataclass
class TreeCollator:
    """One forest of all rows of a batch, and the passes of at most ``pass_tokens`` that it is read in.

    A row holds ``example``, an Example, to be packed with all of the batch; or ``packed``, a whole tree, each of which adds
    ``pass_tokens`` to what a pass may hold.  ``reference`` is what the reference thinks of each of its answers, if asked.
    """

    pass_tokens: int

    def __call__(self, rows: Sequence[dict]) -> dict:
        whole = "packed" in rows[0]
        forest = join(row["packed"] for row in rows) if whole else pack([row["example"] for row in rows])
        passes = split(forest, self.pass_tokens * (len(rows) if whole else 1))
        read = torch.tensor([[token for packed in passes for token in packed.tokens]])  # for the trainer to count
        reference = torch.tensor([logp for row in rows for logp in row["reference"]])
        return {"input_ids": read, "forest": forest, "passes": passes, "reference": reference}


class TreeTrainer(Trainer):
    """Learns ``loss`` of the rows of :class:`TreeCollator`, averaged over the items of an optimiser step."""

    loss_is_scaled_for_ga = True  # ours is a share of the whole optimiser step's mean

    def __init__(self, *args, loss: Loss, **options):
        super().__init__(*args, **options)
        self.loss, self.pair_metrics = loss, defaultdict(list)
        self._signature_columns = ["example", "packed", "reference"]  # which transformers leaves in the data

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        items = torch.tensor(sum(self.loss.items(batch["forest"]) for batch in batches), device=device)
        return batches, self.accelerator.gather(items).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        forest, passes = inputs["forest"], inputs["passes"]
        if self.accelerator.num_processes > 1:  # processes that share weights read equally often
            most = self.accelerator.gather(torch.tensor(len(passes), device=self.args.device)).max()
            passes = passes + passes[:1] * (int(most) - len(passes))
        logps = logps_in_passes(model, passes)[: forest.answers]
        total, metrics = self.loss(logps, forest, inputs["reference"])
        if num_items_in_batch is None:  # evaluation, a batch at a time
            return total / self.loss.items(forest)
        for name, values in metrics.items():  # a value a pair: the log's mean weighs pairs, not micro-batches
            self.pair_metrics[name].extend(gather_object(values.tolist()))
        # Devices average their gradients, and each of them divides by the items of all.
        return total / num_items_in_batch * self.accelerator.num_processes

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None

    def log(self, logs, start_time=None):
        super().log(logs | {name: sum(found) / len(found) for name, found in self.pair_metrics.items()}, start_time)
        self.pair_metrics.clear()


def encode(row: dict, columns: Sequence[str], tokenizer, max_length: int | None) -> tuple[list[int], list[list[int]]]:
    """Token ids of a row's prompt and of the answers in ``columns``, as trl has them, cut at ``max_length``."""
    prompt, answers, end = row["prompt"], [row[column] for column in columns], tokenizer.eos_token
    if isinstance(prompt, str):
        answers = [answer if answer.endswith(end) else answer + end for answer in answers]
        asked, *whole = (tokenizer(text)["input_ids"] for text in [prompt, *(prompt + answer for answer in answers)])
    else:
        options = {"tools": row.get("tools"), "return_dict": True, **(row.get("chat_template_kwargs") or {})}
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **options)["input_ids"]
        whole = [tokenizer.apply_chat_template(prompt + answer, **options)["input_ids"] for answer in answers]
    start = min(common_prefix(asked, one) for one in whole)
    return whole[0][:start], [one[start:max_length] for one in whole]


def with_mismatched(examples: Sequence[Example], seed: int, max_length: int | None) -> list[Example]:
    """Each with a third answer, for KTO's reference point: the chosen one of another prompt, sampled at random."""
    if len({tuple(example.prompt) for example in examples}) < 2:
        raise ValueError("KTO compares with the answer to another prompt, and there is none")
    made, sampler = [], random.Random(seed)
    for own in examples:
        while (other := sampler.choice(examples)).prompt == own.prompt:
            pass
        third = other.answers[0][: max_length and max_length - len(own.prompt)]
        made.append(Example(own.id, own.prompt, [*own.answers, third]))
    return made


class TreeSampler(Sampler[int]):
    """Groups of at most ``size`` rows in random order; in a group each prompt shares half or more with the one before."""

    def __init__(self, prompts: Sequence[list[int]], size: int, seed: int):
        self.groups, self.seed, self.epoch, before = [[]], seed, 0, []
        for n in sorted(range(len(prompts)), key=lambda n: prompts[n]):
            if len(self.groups[-1]) == size or 2 * common_prefix(before, prompts[n]) < min(
                len(before), len(prompts[n])
            ):
                self.groups.append([])
            self.groups[-1].append(n)
            before = prompts[n]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self.groups))

    def __iter__(self) -> Iterator[int]:
        shuffled = random.Random(f"{self.seed} {self.epoch}").sample(self.groups, len(self.groups))
        return (n for group in shuffled for n in group)


class DropIn(TreeTrainer):
    """``args``: trl's configuration of the same name, or any TrainingArguments.  ``pass_tokens``: what is read at once.

    The reference is ``ref_model``, or the policy as it starts, without an adapter that is made of ``peft_config``.
    """

    kinds: dict[str, str] = {}  # trl's ``loss_type`` -> the name of a Loss
    columns: tuple[str, ...] = ("chosen", "rejected")

    def __init__(
        self, model, *, args, train_dataset, eval_dataset=None, processing_class=None, ref_model=None, peft_config=None,
        pass_tokens: int = 8192, **options,
    ):  # fmt: skip
        for name, values in SUPPORTED.items():
            if (value := getattr(args, name, values[0])) not in values:
                raise ValueError(f"{name}={value!r} is not supported, only {values[0]!r}")
        set_seed(args.seed)
        if isinstance(model, str):
            chosen = {"dtype": "float32"} | (getattr(args, "model_init_kwargs", None) or {})
            model = AutoModelForCausalLM.from_pretrained(model, **chosen)
        if hasattr(model.config, "output_router_logits") and getattr(args, "router_aux_loss_coef", None) != 0.0:
            raise ValueError("the routers' auxiliary loss is not supported, only router_aux_loss_coef=0.0")
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        tokenizer = processing_class or AutoTokenizer.from_pretrained(model.config._name_or_path)
        loss = self._loss(args)
        if loss.name != "sft" and getattr(args, "disable_dropout", True):
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
        train, unseen = (self._rows(rows or (), loss, tokenizer, args) for rows in (train_dataset, eval_dataset))
        super().__init__(model, args, TreeCollator(pass_tokens), train, unseen or None, tokenizer, loss=loss, **options)
        for one in filter(None, (model, ref_model)):
            use_tree_attention(one, args.device.type)
        if loss.has_reference:
            with model.disable_adapter() if peft_config is not None else nullcontext():
                self._refer(ref_model.to(args.device) if ref_model else model, [*train, *unseen], pass_tokens)

    def _loss(self, args) -> Loss:
        kind = getattr(args, "loss_type", None) or next(iter(self.kinds))
        kind = "+".join(kind) if isinstance(kind, list) else kind  # trl adds up several
        if kind not in self.kinds:
            raise ValueError(f"loss_type={kind!r} is not supported, only {' or '.join(map(repr, self.kinds))}")
        return Loss(
            self.kinds[kind], **{own: getattr(args, name) for own, name in SETTINGS.items() if hasattr(args, name)}
        )

    def _rows(self, dataset: Iterable[dict], loss: Loss, tokenizer, args) -> list[dict]:
        """What the collator takes; rows whose prompt fills ``max_length`` are left out, as trl leaves them out."""
        max_length, examples = getattr(args, "max_length", None), []
        for n, row in enumerate(dataset):
            if missing := {"prompt", *self.columns} - row.keys():
                raise ValueError(f"row {n} lacks {', '.join(sorted(missing))}; it has {', '.join(row)}")
            prompt, answers = encode(row, self.columns, tokenizer, max_length)
            examples += [Example(str(n), prompt, answers)] if all(answers) else []
        if loss.name == "kto" and examples:
            examples = with_mismatched(examples, args.seed, max_length)
        return [{"example": example, "reference": []} for example in examples]

    def _refer(self, model, rows: list[dict], pass_tokens: int) -> None:
        """Write the log-probabilities of the reference into ``rows``; several processes share the work."""
        precision, found = "bfloat16" if self.args.bf16 else "float32", []
        sampler = TreeSampler([row["example"].prompt for row in rows], self.args.train_batch_size, 0)
        for group in sampler.groups[self.args.process_index :: self.args.world_size]:
            passes = split(pack([rows[n]["example"] for n in group]), pass_tokens)
            found += zip(group, frozen_logps(model, passes, precision).view(len(group), -1).tolist(), strict=True)
        for n, logps in gather_object(found):
            rows[n]["reference"] = logps

    def _get_train_sampler(self, train_dataset=None):
        if self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(train_dataset)
        prompts = [row["example"].prompt for row in self.train_dataset]
        return TreeSampler(prompts, self.args.train_batch_size, self.args.seed)


class SFTTrainer(DropIn):
    kinds, columns = {"nll": "sft", "chunked_nll": "sft"}, ("completion",)


class DPOTrainer(DropIn):
    kinds = {"sigmoid": "dpo", "ipo": "ipo"}


class KTOTrainer(DropIn):
    kinds = {"kto": "kto"}


class CPOTrainer(DropIn):
    kinds = {"simpo": "simpo"}


class ORPOTrainer(DropIn):
    kinds = {"orpo": "orpo"}
