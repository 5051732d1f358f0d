"""What the tests stand on: forests from their definition, small models of six architectures, and each answer read alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache

import pytest
import torch
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import turn_trees
from turn_trees import Example, attention, join, pack

BOUND = 1e-5
"""What float32 may differ by, relative."""

torch.set_num_threads(1)


# Trees from the definition ------------------------------------------------------------------------------------------


def parents(depths: Sequence[int]) -> list[int | None]:
    """The token above each: the last before it that is one less deep."""
    return [max(j for j in range(i) if depths[j] == depth - 1) if depth else None for i, depth in enumerate(depths)]


def path(depths: Sequence[int], index: int) -> list[int]:
    """A token and all above it, from the root down."""
    above, line = parents(depths), [index]
    while above[line[0]] is not None:
        line.insert(0, above[line[0]])
    return line


def ancestors(depths: Sequence[int]) -> torch.Tensor:
    """Bool [L, L]: which key is the query itself or above it."""
    mask = torch.zeros(len(depths), len(depths), dtype=torch.bool)
    for index in range(len(depths)):
        mask[index, path(depths, index)] = True
    return mask


def cut_examples(vocabulary: int = 3, answers: int = 3, least: int = 0) -> st.SearchStrategy[list[Example]]:
    """Prompts and answers cut from a few short texts: much is shared, much is a beginning of something else."""
    some = st.lists(st.integers(0, vocabulary - 1), min_size=1, max_size=9)

    @st.composite
    def several(draw) -> list[Example]:
        texts = draw(st.lists(some, min_size=1, max_size=3))
        made = []
        for n in range(draw(st.integers(1, 6))):
            text = draw(st.sampled_from(texts))
            cut = draw(st.integers(1, len(text)))
            goes_on = [st.just(text[cut:])] if text[cut:] else []
            answer = st.one_of(*goes_on, some)
            made.append(Example(f"d/{n}", text[:cut], draw(st.lists(answer, min_size=least, max_size=answers))))
        return made

    return several()


def conversation(turns: int = 4, answers: int = 2, first: int = 3) -> list[Example]:
    """The turns of a conversation of token ids from ``first`` on: a message of 7 tokens more for each, a mark at its end."""
    said = list(range(first, first + 7 * turns))
    return [
        Example(
            f"{first}/{n}", [1, *said[: 7 * n + 7], 2], [[5 + n + k, 9, 4 + k][: 1 + k + n % 2] for k in range(answers)]
        )
        for n in range(turns)
    ]


# Models -------------------------------------------------------------------------------------------------------------

VOCABULARY = 320
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 4096, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GROUPED = SMALL | {"num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}  # fmt: skip
CONFIGS = {
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "llama": lambda: LlamaConfig(rope_parameters=LLAMA3, tie_word_embeddings=True, **GROUPED),
    "gemma2": lambda: Gemma2Config(head_dim=8, attn_logit_softcapping=0.5, final_logit_softcapping=3.0, query_pre_attn_scalar=8, sliding_window=4096, **GROUPED),
    "mistral": lambda: MistralConfig(sliding_window=2048, **GROUPED),
    "phi3": lambda: Phi3Config(**GROUPED),
    "gpt_neox": lambda: GPTNeoXConfig(**SMALL),
}  # fmt: skip


def plain_attention(kind: str) -> str:
    """transformers' own attention of an architecture; its sdpa leaves Gemma 2's cap out."""
    return "eager" if kind == "gemma2" else "sdpa"


def small(kind: str, implementation: str = turn_trees.ATTENTION):
    """A model with random weights, the same for all who ask, in evaluation mode."""
    made = AutoModelForCausalLM.from_config(CONFIGS[kind](), attn_implementation=implementation)
    return shaken(made.float())


def shaken(model):
    """``model`` with large random weights: attention that is spread over few tokens, and far from uniform answers."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if "norm" in name else 0.25 * noise)
    return model.eval()


def attending(model, implementation: str):
    """A copy of ``model`` with another of transformers' attentions."""
    other = copy.deepcopy(model)
    other.set_attn_implementation(implementation)
    return other


# Each answer alone --------------------------------------------------------------------------------------------------


def one_by_one(model, examples: Sequence[Example]) -> torch.Tensor:
    """What ``answer_logps`` is to give, from the definition: every answer alone in a plain sequence of its own."""
    logps = []
    for example in examples:
        for answer in example.answers:
            sequence = torch.tensor([example.prompt + answer])
            distribution = torch.log_softmax(model(input_ids=sequence).logits[0].float(), -1)
            at = torch.arange(len(example.prompt) - 1, sequence.shape[1] - 1)
            logps.append(distribution[at, sequence[0, at + 1]].sum())
    return torch.stack(logps)


def off(value: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative difference; below 1, absolute."""
    return ((value - expected).abs() / expected.abs().clamp(min=1)).max().item()


def gradients(model, logps: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the answers' log-probabilities, weighted unlike each other, some up and some down."""
    weights = torch.randn(len(logps), generator=torch.Generator().manual_seed(5))
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad((weights * logps).sum(), named.values()), strict=True))


def check(model, plain, trees: Sequence[Sequence[Example]], chunk: int | None = None) -> None:
    """``model`` on the forest of ``trees``, one tree each, is ``plain`` on every answer alone: values and gradients."""
    forest = join([pack(tree) for tree in trees])
    with pytest.MonkeyPatch.context() as patch:
        if chunk:
            patch.setattr(attention, "CHUNK", chunk)
        logps = turn_trees.answer_logps(model, forest)
    expected = one_by_one(plain, [example for tree in trees for example in tree])
    assert logps.shape == expected.shape and logps.dtype == torch.float32
    assert off(logps, expected) <= BOUND
    mine, theirs = gradients(model, logps), gradients(plain, expected)
    assert mine.keys() == theirs.keys() and mine
    norm = torch.stack([g.norm() for g in theirs.values()]).norm()
    assert torch.stack([(mine[name] - theirs[name]).norm() for name in theirs]).norm() <= BOUND * norm
    for name, gradient in theirs.items():
        # What hardly matters has but rounding noise for a gradient: where a query has one key, it is all there is.
        assert (mine[name] - gradient).norm() <= BOUND * max(gradient.norm(), norm / 10), name


# Text ---------------------------------------------------------------------------------------------------------------

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 entries with the ChatML template."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer, base.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=marks, initial_alphabet=alphabet, show_progress=False
    )
    base.train_from_iterator((text for talk in TALKS for text in talk), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=base, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )


TALKS = (
    ("Hello there.", "Hi! How are you today?", "Not well, I lost my keys.", "Where did you see them last?",
     "On the kitchen table.", "Then let us look there together."),
    ("My cat is ill.", "I am sorry. Since when?", "Since Monday morning.", "Does she eat at all?", "A little.", "That is a good sign."),
)  # fmt: skip
"""User and assistant by turns."""


def rows(kind: str, form: str = "conversation") -> list[dict]:
    """A row for each of the assistant's turns, as trl has them: ``kind`` "sft" or "pairs", ``form`` "conversation" or "text"."""
    made = []
    for t, talk in enumerate(TALKS):
        for n in range(1, len(talk), 2):
            said = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(talk)]
            answers = (
                {"completion": talk[n]} if kind == "sft" else {"chosen": talk[n], "rejected": TALKS[1 - t][(n + 2) % 6]}
            )
            if form == "text":
                made.append({"prompt": "\n".join(talk[:n]) + "\n", **answers})
            else:
                answer = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
                made.append({"prompt": said[:n], **answer})
    return made
