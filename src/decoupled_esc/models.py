"""The embedded model, and loading any backbone with or without an adapter.

The embedded model has the Qwen2 architecture, so that every tool that loads Qwen2.5 loads it; its tokenizer is a
byte-level BPE with the ChatML template that Qwen2.5 uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from decoupled_esc import packing

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


EMBEDDED = Path(__file__).parents[2] / "data"
"""Where the weights lie that are shipped with this repository, a folder each."""


class Shape(BaseModel):
    """The shape of a small Qwen2 made from scratch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    feed_forward: int
    context: int


class EmbeddedModel(BaseModel):
    """A small base model that is shipped with this repository; its model card and recipe lie beside the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["embedded"]
    name: Literal["esc-nano", "esc-base"]

    @property
    def folder(self) -> Path:
        """Where its weights and tokenizer lie."""
        return EMBEDDED / self.name


class HubModel(BaseModel):
    """A published backbone, pinned to a revision."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["hub"]
    name: str
    revision: str
    dtype: Literal["bfloat16", "float16", "float32"]


Backbone = EmbeddedModel | HubModel


def train_tokenizer(texts: Iterable[str], vocabulary: int):
    """A byte-level BPE tokenizer with ``vocabulary`` entries and the ChatML template.

    ``texts`` must come from training dialogues only.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    tokenizer = Tokenizer(models.BPE())
    # Qwen2's own: AutoTokenizer sets these for any Qwen2 model, whatever was saved, and would split text differently.
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def create(shape: Shape, tokenizer, seed: int):
    """A Qwen2 causal language model of ``shape`` with fresh float32 weights drawn from ``seed``."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    packing.register_attention()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM._from_config(config, attn_implementation=packing.ATTENTION)


def load_tokenizer(source: str | Path, revision: str | None = None):
    """The tokenizer saved beside the weights at ``source`` (a folder or a hub name)."""
    from transformers import AutoTokenizer

    with _explained(source):
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class ModelUnavailable(RuntimeError):
    """Weights that can't be had from here; says what to do."""


@contextmanager
def _explained(source: str | Path) -> Iterator[None]:
    """Turns what a hub says when it refuses into a sentence with the remedy."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except OSError as error:
        causes, cause = [error], error
        while (cause := cause.__cause__ or cause.__context__) is not None and cause not in causes:
            causes.append(cause)
        kinds = tuple(type(one) for one in causes)

        def is_(*of: type) -> bool:
            return any(issubclass(kind, of) for kind in kinds)

        if is_(GatedRepoError) or "gated repo" in str(error):
            raise ModelUnavailable(
                f"{source} is gated: ask for access on its page at huggingface.co, make a token that may read it, and put the token "
                "into HF_TOKEN (or run `hf auth login`)"
            ) from None
        if is_(RepositoryNotFoundError):
            raise ModelUnavailable(f"{source} was not found: is its name right, and may the token in HF_TOKEN read it?") from None
        if is_(OfflineModeIsEnabled, LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) or "couldn't connect" in str(error):
            raise ModelUnavailable(
                f"{source} could not be fetched, and is not in the local cache: on a machine with a network run `hf download {source}`, "
                "or take a profile whose model is shipped (smoke, laptop)"
            ) from None
        raise


def load(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    adapter: Path | None = None,
    for_training: bool = False,
):
    """The causal language model at ``source``, on the GPU where there is one, with an optional LoRA adapter.

    ``for_training`` leaves the adapter free to be trained on, and takes FlexAttention on a GPU.
    """
    import torch
    from transformers import AutoModelForCausalLM

    packing.register_attention()
    gpu = torch.cuda.is_available()
    attention = "flex_attention" if gpu and for_training else packing.ATTENTION
    with _explained(source):
        model = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=getattr(torch, dtype), attn_implementation=attention, trust_remote_code=False
        )
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter, is_trainable=for_training)
    return model.to("cuda" if gpu else "cpu").eval()


def weights_digest(folder: Path) -> str:
    """sha256 (hex) over the safetensors files of ``folder``, in name order: the identity of a trained policy."""
    sha = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no safetensors file")
    for file in files:
        sha.update(file.name.encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()
