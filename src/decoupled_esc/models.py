"""The embedded model, and loading any backbone with or without an adapter.

The embedded model has the Qwen2 architecture, so that every tool that loads Qwen2.5 loads it; its tokenizer is a
byte-level BPE with the ChatML template that Qwen2.5 uses.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import turn_trees
from pydantic import BaseModel, PositiveInt, StringConstraints

from decoupled_esc import packaged
from decoupled_esc.errors import KnownError
from decoupled_esc.files import file_digest

PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


EMBEDDED = Path(__file__).parents[2] / "data"
"""Where the weights lie that are shipped with this repository, a folder each."""


class ModelUnavailable(KnownError, RuntimeError):
    """Weights that can't be had from here, or are damaged; says what to do."""


@dataclass(frozen=True)
class Weights:
    """A causal language model: weights, and an adapter on them."""

    source: str | Path
    """A folder, or a name on the hub."""
    revision: str | None = None
    """Of the hub's model."""
    dtype: str = "float32"
    adapter: Path | None = None
    """The folder of a LoRA adapter on them."""

    @property
    def identity(self) -> str:
        """What names the weights: their digest, or the hub's name and revision."""
        if self.adapter is not None:
            return weights_digest(self.adapter)
        return weights_digest(Path(self.source)) if Path(self.source).is_dir() else f"{self.source}@{self.revision}"


class Shape(BaseModel, extra="forbid", frozen=True):
    """The shape of a small Qwen2 made from scratch."""

    vocabulary: PositiveInt
    hidden: PositiveInt
    layers: PositiveInt
    heads: PositiveInt
    feed_forward: PositiveInt
    context: PositiveInt


class EmbeddedModel(BaseModel, extra="forbid", frozen=True):
    """A small base model that is shipped with this repository; its model card and recipe lie beside the weights."""

    kind: Literal["embedded"]
    name: Literal["esc-nano", "esc-base"]

    @property
    def folder(self) -> Path:
        """Where its weights and tokenizer lie."""
        return EMBEDDED / self.name

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of ``weights`` and ``tokenizer``."""
        return {"weights": weights_digest(self.folder), "tokenizer": file_digest(self.folder / "tokenizer.json")}

    @property
    def weights(self) -> Weights:
        """What is loaded."""
        return Weights(self.folder)


class HubModel(BaseModel, extra="forbid", frozen=True):
    """A published backbone, pinned to a revision."""

    kind: Literal["hub"]
    name: Annotated[str, StringConstraints(min_length=1)]
    revision: Annotated[str, StringConstraints(min_length=1)]
    dtype: Literal["bfloat16", "float16", "float32"]

    @property
    def weights(self) -> Weights:
        """What is loaded."""
        return Weights(self.name, self.revision, self.dtype)


class PackagedModel(BaseModel, extra="forbid", frozen=True):
    """A published backbone in 4 bits that a Python package ships; `data/registry.json` has its package and digests."""

    kind: Literal["package"]
    name: Literal["smollm2-135m"]
    dtype: Literal["bfloat16", "float32"] = "bfloat16"

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of ``weights`` and ``tokenizer``, as the registry has them; nothing need be here."""
        return packaged.digests(self.name)

    @property
    def weights(self) -> Weights:
        """What is loaded.  Raises CorpusError where the package was not fetched."""
        return Weights(packaged.folder(self.name), dtype=self.dtype)


Backbone = EmbeddedModel | HubModel | PackagedModel


def weights_of(base: Weights, policy: Path | None, start: Path | None = None) -> Weights:
    """What a training left in folder ``policy``: a whole model, or an adapter on ``base``; None is ``base`` itself.

    ``start`` is the policy that the training began with: where that is a whole model, an adapter lies on it.
    """
    if policy is None:
        return base
    if not is_adapter(policy):
        return Weights(policy, dtype=base.dtype)
    if start is not None and not is_adapter(start):
        return Weights(start, dtype=base.dtype, adapter=policy)
    return Weights(base.source, base.revision, base.dtype, policy)


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds a LoRA adapter and no whole model."""
    return (folder / "adapter_config.json").exists()


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
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
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
    """A Qwen2 causal language model of ``shape`` with fresh float32 weights sampled from ``seed``."""
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
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Qwen2ForCausalLM._from_config(config, attn_implementation=turn_trees.ATTENTION)


def load_tokenizer(weights: Weights | str | Path):
    """The tokenizer saved beside ``weights`` (a path or hub name stands for float32 weights there)."""
    from transformers import AutoTokenizer

    weights = weights if isinstance(weights, Weights) else Weights(weights)
    with _explained(weights.source):
        tokenizer = AutoTokenizer.from_pretrained(weights.source, revision=weights.revision, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@contextmanager
def _explained(source: str | Path) -> Iterator[None]:
    """Turns what a hub says when it refuses, or a damaged file, into a sentence with the remedy."""
    from huggingface_hub import errors
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise ModelUnavailable(
            f"{source}: damaged weights ({error}); delete them, and make or fetch them again"
        ) from None
    except OSError as error:
        causes, cause = [error], error
        while (cause := cause.__cause__ or cause.__context__) is not None and cause not in causes:
            causes.append(cause)

        def is_(*of: type) -> bool:
            return any(isinstance(one, of) for one in causes)

        if is_(errors.GatedRepoError) or "gated repo" in str(error):
            remedy = (
                "is gated: ask for access on its page at huggingface.co, make a token that may read it, and put the "
                "token into HF_TOKEN (or run `hf auth login`)"
            )
        elif is_(errors.RepositoryNotFoundError):
            remedy = "was not found: is its name right, and may the token in HF_TOKEN read it?"
        elif is_(
            errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, errors.HfHubHTTPError, ConnectionError
        ) or "couldn't connect" in str(error):
            remedy = (
                "could not be fetched, and is not in the local cache: on a machine with a network run "
                f"`hf download {source}`, or take a profile whose model is shipped (smoke, laptop)"
            )
        else:
            raise
        raise ModelUnavailable(f"{source} {remedy}") from None


def load(weights: Weights | str | Path, *, for_training: bool = False):
    """The causal language model of ``weights``, on the GPU where there is one; a path stands for float32 weights there.

    ``for_training`` leaves an adapter free to be trained on, and takes FlexAttention on a GPU.
    Raises ModelUnavailable for what is absent or damaged.
    """
    import torch
    from transformers import AutoModelForCausalLM

    weights = weights if isinstance(weights, Weights) else Weights(weights)
    gpu = torch.cuda.is_available()
    with _explained(weights.source):
        model = AutoModelForCausalLM.from_pretrained(
            weights.source,
            revision=weights.revision,
            dtype=getattr(torch, weights.dtype),
            attn_implementation="flex_attention" if gpu and for_training else turn_trees.ATTENTION,
            trust_remote_code=False,
        )
    if weights.adapter is not None:
        from peft import PeftModel

        with _explained(weights.adapter):
            # Read as training reads it: autocast takes an adapter in the precision of the base.
            options = {"is_trainable": for_training, "autocast_adapter_dtype": for_training}
            model = PeftModel.from_pretrained(model, weights.adapter, **options)
    return model.to("cuda" if gpu else "cpu").eval()


def copy(weights: Weights, folder: Path) -> None:
    """Leaves ``weights`` in ``folder`` as a training would that changed nothing: adapter, or model and tokenizer."""
    if weights.adapter is not None:
        shutil.copytree(weights.adapter, folder, dirs_exist_ok=True)
        return
    for part in (load(weights), load_tokenizer(weights)):
        part.save_pretrained(folder)


def weights_digest(folder: Path) -> str:
    """sha256 (hex) over the safetensors files of ``folder``, in name order: the identity of a trained policy."""
    sha = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelUnavailable(f"{folder} holds no safetensors file; make the policy again")
    for file in files:
        sha.update(file.name.encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()


def be_repeatable() -> None:
    """Same bytes out on the same CPU: deterministic kernels, and one thread, as sums in another order give other bytes.

    Steps side by side fill the cores.  On a GPU some kernels have no deterministic form; they are used all the same,
    and torch warns.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar each for loading and saving a few megabytes
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a tenth of the time, for what nothing reads
