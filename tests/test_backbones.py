"""The paper's backbones in small: their architectures with random weights, and their forms of chat template."""

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config
from turn_trees import ATTENTION, Example, pack

from decoupled_esc import models, prompts
from decoupled_esc.corpus import Message, Turn
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.prompts import ids, render

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}  # fmt: skip
CONFIGS = {
    "qwen2.5": lambda size: Qwen2Config(vocab_size=size, **SMALL),
    "llama3.1": lambda size: LlamaConfig(
        vocab_size=size, rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                          "original_max_position_embeddings": 512}, **SMALL),
    "smollm2": lambda size: LlamaConfig(vocab_size=size, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e5}, **SMALL),
    "gemma2": lambda size: Gemma2Config(
        vocab_size=size, head_dim=8, attn_logit_softcapping=0.5, final_logit_softcapping=3.0, query_pre_attn_scalar=8, sliding_window=4096, **SMALL),
}  # fmt: skip
# In the form of the published templates, in our words.
TEMPLATES = {
    "qwen2.5": models.CHAT_TEMPLATE,
    "llama3.1": (
        "{{ '<|begin_of_text|>' }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "smollm2": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nI am a model of my own<|im_end|>\n' }}{% endif %}"
        + models.CHAT_TEMPLATE
    ),
    "gemma2": (
        "{{ '<bos>' }}{% if messages[0]['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Roles must alternate') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' "
        "+ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
}
MARKS = {
    "qwen2.5": [],
    "smollm2": [],
    "llama3.1": ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma2": ["<bos>", "<start_of_turn>", "<end_of_turn>"],
}
END = {"qwen2.5": models.END, "smollm2": models.END, "llama3.1": "<|eot_id|>", "gemma2": "<end_of_turn>"}
KINDS = pytest.mark.parametrize("kind", list(CONFIGS))

CONTEXT = (
    Message("seeker", "I lost my job."), Message("supporter", "I'm sorry. When?", "Question"), Message("seeker", " "),
    Message("supporter", "That is hard.", "Reflection of feelings"), Message("seeker", "Last week."),
)  # fmt: skip
TURN = Turn("d/0/05", "d/0", CONTEXT, "Providing Suggestions", "Would you like to make a list?")


@pytest.fixture(scope="module")
def tokenizers():
    base = models.load_tokenizer(models.EMBEDDED / "esc-nano")
    found = {}
    for kind, template in TEMPLATES.items():
        own = PreTrainedTokenizerFast(tokenizer_object=base.backend_tokenizer, eos_token=END[kind] if kind != "qwen2.5" else base.eos_token, pad_token=base.pad_token,
                                      chat_template=template, clean_up_tokenization_spaces=False)  # fmt: skip
        own.add_special_tokens({"additional_special_tokens": MARKS[kind]})
        found[kind] = own
    return found


def model(kind: str, size: int, attention: str = ATTENTION):
    torch.manual_seed(7)
    made = AutoModelForCausalLM.from_config(CONFIGS[kind](size), attn_implementation=attention).eval()
    with torch.no_grad():  # enough for attention to matter, and for a cap to bite
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return made


@KINDS
@pytest.mark.parametrize("layout", list(prompts.LAYOUTS))
def test_every_layout_fits_every_template(tokenizers, kind, layout):
    prompt = prompts.LAYOUTS[layout](TURN)
    asked, answer = render(prompt, tokenizers[kind])
    assert answer == prompt.target + END[kind]
    for role, content in prompt.messages:
        assert content.strip() in asked, f"{role} is not shown"
    assert "of my own" not in asked, "our prompts bring a system message, so the template adds none"
    assert asked.endswith({"llama3.1": "<|end_header_id|>\n\n", "gemma2": "<start_of_turn>model\n"}.get(kind, "assistant\n"))


@KINDS
def test_what_is_learned_is_the_answer_and_its_end_alone(tokenizers, kind):
    tokenizer = tokenizers[kind]
    asked, answer = (ids(text, tokenizer) for text in render(prompts.vanilla(TURN), tokenizer))
    packed = pack([Example(TURN.id, asked, [answer])])
    assert list(packed.targets) == answer and answer[-1] == tokenizer.convert_tokens_to_ids(END[kind])


def test_a_system_message_that_a_template_refuses_joins_the_next_users(tokenizers):
    gemma = prompts.chat_for(prompts.generator(TURN), tokenizers["gemma2"])
    trunk = prompts.chat_for(prompts.generator_trunk(TURN), tokenizers["gemma2"])
    first, last = gemma[0]["content"], trunk[-1]["content"]
    assert gemma[0]["role"] == trunk[-1]["role"] == "user"
    assert first.startswith(prompts.GENERATOR_ROLE) and first.endswith("I lost my job.")
    assert last.startswith("Last week.") and "Providing Suggestions" in last
    assert prompts.chat_for(prompts.generator(TURN), tokenizers["llama3.1"]) == prompts.generator(TURN).chat()


@KINDS
def test_the_engine_answers_as_transformers_does(tokenizers, kind):
    """Greedy, from the cache of a whole dialogue, against plain ``generate`` with eager attention."""
    tokenizer = tokenizers[kind]
    engine = TransformersEngine(model(kind, len(tokenizer)), tokenizer, batch_tokens=2000)
    asked = [prompts.vanilla(TURN), prompts.vanilla(Turn("d/0/03", "d/0", CONTEXT[:3], "Others", ""))]
    (found,) = engine.complete(asked, Sampling(temperature=0.0, top_p=1.0, max_new_tokens=6), seed=1, purpose="t")
    eager = model(kind, len(tokenizer), "eager")
    for prompt, completion in zip(asked, found, strict=True):
        tokens = torch.tensor([ids(render(prompt, tokenizer)[0], tokenizer)])
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        printed = eager.generate(tokens, max_new_tokens=6, do_sample=False, **ends)
        assert completion.text == tokenizer.decode(printed[0, tokens.shape[1] :], skip_special_tokens=True)


# --- Weights that can't be had ---


def test_a_gated_or_absent_model_is_explained(monkeypatch):
    from httpx import Request, Response
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    answer = Response(403, request=Request("GET", "https://example.org"))
    for cause, words in (
        (GatedRepoError("gated", response=answer), "HF_TOKEN"),
        (RepositoryNotFoundError("no", response=answer), "was not found"),
        (LocalEntryNotFoundError("offline"), "hf download google/gemma-2-9b-it"),
    ):
        with pytest.raises(models.ModelUnavailable, match=words), models._explained("google/gemma-2-9b-it"):
            raise OSError("cannot load") from cause
    with pytest.raises(OSError, match="disk"), models._explained("x"):
        raise OSError("disk full")
