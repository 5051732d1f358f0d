"""What several test files stand on."""

import pytest

from decoupled_esc import models
from decoupled_esc.corpus import read_raw
from decoupled_esc.corpus.split import MANIFEST


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer of 400 entries, trained on the miniature corpus."""
    dialogues, _ = read_raw(MANIFEST.parent / "miniature" / "ESConv.json", "miniature")
    return models.train_tokenizer((u.text for d in dialogues for u in d.utterances), 400)
