"""How a language model reads the replies of a conversation: how likely it finds them, and its hidden states over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

MOST_TOKENS = 2048
"""Of a conversation; what comes later is not read."""


def spans(said: Sequence[str], tokenizer) -> tuple[str, list[tuple[int, int]]]:
    """``said`` (messages in turn, the person's first) in the chat template, and where in that text each reply begins and ends."""

    def text(messages: Sequence[dict], **more) -> str:
        return tokenizer.apply_chat_template([{"role": "system", "content": ""}, *messages], tokenize=False, **more)

    chat = [{"role": ("user", "assistant")[k % 2], "content": one} for k, one in enumerate(said)]
    places = []
    for k in range(1, len(chat), 2):
        start = len(text(chat[:k], add_generation_prompt=True))
        places.append((start, start + len(said[k])))
    return text(chat), places


def readings(model, tokenizer, conversations: Sequence[Sequence[str]]) -> Iterator[tuple[int, float, np.ndarray]]:
    """For each conversation (tokens read, mean log-probability per token of its replies in nats, mean hidden state [width] over them).

    ``model``: causal, in the precision that it was loaded in.  A reply's tokens are those inside its text; the end of turn is none.
    """
    import torch

    model.eval()
    for said in conversations:
        text, places = spans(said, tokenizer)
        found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets, ids = np.array(found["offset_mapping"][:MOST_TOKENS]), found["input_ids"][:MOST_TOKENS]
        own = np.zeros(len(ids), dtype=bool)
        for start, end in places:
            own |= (offsets[:, 0] >= start) & (offsets[:, 1] <= end) & (offsets[:, 1] > offsets[:, 0])
        at = torch.from_numpy(np.flatnonzero(own))
        row = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            hidden = model.base_model(input_ids=row, use_cache=False).last_hidden_state[0]
            logits = model.get_output_embeddings()(hidden[at - 1]).float()
            logps = torch.log_softmax(logits, -1).gather(1, row[0, at, None])
        yield len(ids), float(logps.mean()), hidden[at].float().mean(0).cpu().numpy()
