"""What a model is shown and what is read back from it: the three layouts, the cut to the window, the parsers."""

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from decoupled_esc import prompts, taxonomy
from decoupled_esc.corpus import Message, Turn, fold, tagged
from decoupled_esc.prompts import PromptTooLong, fit, parse_strategy, parse_tagged

CONTEXT = (
    Message("seeker", "Hi [there]"),
    Message("supporter", "What happened?", "Question"),
    Message("seeker", " "),
    Message("supporter", "I lost one, too.", "Self-disclosure"),
    Message("seeker", "Thanks."),
)
TURN = Turn("d/0/05", "d/0", CONTEXT, "Affirmation and Reassurance", "You can do it.")

words = st.text(st.characters(codec="utf-8"), max_size=12)
strategies = st.sampled_from(taxonomy.STRATEGIES)
EACH = pytest.mark.parametrize("strategy", taxonomy.STRATEGIES)


@st.composite
def turns(draw) -> Turn:
    pairs = draw(st.lists(st.tuples(words, words, strategies), max_size=5))
    context = [m for said, reply, s in pairs for m in (Message("seeker", said), Message("supporter", reply, s))]
    context.append(Message("seeker", draw(words)))
    return Turn("d/0/01", "d/0", tuple(context), draw(strategies), draw(words))


# The three layouts ----------------------------------------------------------------------------------------------


def test_vanilla_by_hand():
    prompt = prompts.vanilla(TURN)
    assert prompt.id == "d/0/05"
    assert prompt.messages[0] == ("system", prompts.VANILLA_INSTRUCTION)
    assert prompt.messages[1:] == (
        ("user", "Hi [there]"),
        ("assistant", "[Question] What happened?"),
        ("user", " "),
        ("assistant", "[Self-disclosure] I lost one, too."),
        ("user", "Thanks."),
    )
    assert prompt.target == "[Affirmation and Reassurance] You can do it."


def test_planner_by_hand():
    prompt = prompts.planner(TURN)
    system, user = prompt.messages
    assert system == ("system", prompts.PLANNER_INSTRUCTION)
    assert user == ("user", "seeker: Hi [there]\nsupporter: What happened?\nseeker:  \n"
                            "supporter: I lost one, too.\nseeker: Thanks.")  # fmt: skip
    assert prompt.target == "Affirmation and Reassurance"


def test_generator_by_hand():
    prompt = prompts.generator(TURN)
    (role, instruction), *said = prompt.messages
    assert role == "system" and "strategy Affirmation and Reassurance." in instruction
    assert [text for _, text in said] == [m.text for m in CONTEXT]
    assert prompt.target == "You can do it."


@settings(deadline=None)
@given(turns())
def test_roles_alternate_and_end_on_the_seeker(turn):
    for layout in prompts.LAYOUTS.values():
        prompt = layout(turn)
        roles = [role for role, _ in prompt.messages]
        if layout is prompts.generator_trunk:
            assert roles.pop() == "system"
        assert roles[0] == "system" and roles[-1] == "user"
        assert all(a != b for a, b in zip(roles[1:], roles[2:], strict=False))
        assert prompt.chat() == [{"role": role, "content": content} for role, content in prompt.messages]
        assert prompt.id == turn.id
    assert len(prompts.vanilla(turn).messages) == len(prompts.generator(turn).messages) == len(turn.context) + 1


@settings(deadline=None)
@given(turns())
def test_the_trunk_says_what_the_papers_generator_says_in_another_place(turn):
    (_, said), *chat = prompts.generator(turn).messages
    (_, role), *same, (_, strategy) = prompts.generator_trunk(turn).messages
    assert same == chat and f"{role} {strategy}" == said and turn.strategy in strategy
    other = prompts.generator_trunk(replace(turn, strategy="Information"))
    assert other.messages[:-1] == prompts.generator_trunk(turn).messages[:-1]  # shared whatever the strategy


@settings(deadline=None)
@given(turns())
def test_tags_stand_in_vanilla_only(turn):
    supporter = [m for m in turn.context if m.role == "supporter"]
    in_vanilla = [text for role, text in prompts.vanilla(turn).messages if role == "assistant"]
    in_generator = [text for role, text in prompts.generator(turn).messages if role == "assistant"]
    assert in_vanilla == [tagged(m) for m in supporter]
    assert in_generator == [m.text for m in supporter]
    assert prompts.planner(turn).messages[1][1] == "\n".join(f"{m.role}: {m.text}" for m in turn.context)


@EACH
def test_instructions_name_the_strategies(strategy):
    assert strategy in prompts.VANILLA_INSTRUCTION and strategy in prompts.PLANNER_INSTRUCTION
    named = prompts.generator(replace(TURN, strategy=strategy)).messages[0][1]
    assert f"the strategy {strategy}." in named
    assert [s for s in taxonomy.STRATEGIES if f"strategy {s}." in named] == [strategy]


@given(turns())
def test_no_layout_shows_its_target(turn):
    """Changing strategy and reply changes no message, but for the generator, which is told the strategy."""
    other = replace(turn, strategy="Others" if turn.strategy != "Others" else "Question", reply="something else")
    assert prompts.vanilla(turn).messages == prompts.vanilla(other).messages
    assert prompts.planner(turn).messages == prompts.planner(other).messages
    assert prompts.generator(turn).messages == prompts.generator(replace(turn, reply=other.reply)).messages
    assert prompts.generator(turn).messages[0] != prompts.generator(other).messages[0]
    assert prompts.generator(turn).messages[1:] == prompts.generator(other).messages[1:]


# The cut to the window ------------------------------------------------------------------------------------------


def characters(prompt: prompts.Prompt) -> int:
    return sum(len(text) for _, text in prompt.messages) + len(prompt.target)


@settings(deadline=None)
@given(turn=turns(), layout=st.sampled_from(list(prompts.LAYOUTS.values())), window=st.integers(0, 700))
def test_fit_cuts_as_few_of_the_oldest_pairs_as_fit(turn, layout, window):
    def without(start):
        return layout(replace(turn, context=turn.context[start:]))

    smallest = characters(without(len(turn.context) - 1))
    if smallest > window:
        with pytest.raises(PromptTooLong, match=rf"^d/0/01: .* {window} tokens"):
            fit(turn, layout, characters, window)
        return
    prompt, cut = fit(turn, layout, characters, window)
    assert characters(prompt) <= window
    assert cut % 2 == 0 and prompt == without(cut)
    assert all(characters(without(start)) > window for start in range(0, cut, 2))


def test_fit_by_hand():
    def messages(prompt):
        return len(prompt.messages)  # with the system message: 6 uncut

    for window, cut in ((6, 0), (5, 2), (4, 2), (3, 4), (2, 4)):
        prompt, dropped = fit(TURN, prompts.vanilla, messages, window)
        assert dropped == cut
        assert prompt.messages[1:] == prompts.vanilla(TURN).messages[1 + cut :]
        assert prompt.target == prompts.vanilla(TURN).target
    with pytest.raises(PromptTooLong, match="d/0/05.*1 tokens. Raise data.window"):
        fit(TURN, prompts.vanilla, messages, 1)


# Reading answers ------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("form", ["{}", "[{}]", "  {}\n", "{}.", "[{}].", "[ {} ]"])
@pytest.mark.parametrize("case", [str, str.upper, str.lower, str.title])
def test_all_eight_names_parse_in_every_forgiven_form(strategy, form, case):
    assert parse_strategy(form.format(case(strategy))) == strategy


@pytest.mark.parametrize(
    "text",
    ["", " ", "[]", "Quest", "Questions", "Other", "Question:", "The strategy is Question", "Question Others",
     "Question, Others", "Question\nHow are you?", "Reflectionof feelings", "Self disclosure", "None"],
)  # fmt: skip
def test_anything_else_is_invalid(text):
    assert parse_strategy(text) is None


def test_white_space_inside_a_name_is_folded():
    assert parse_strategy("Restatement\n or  Paraphrasing") == "Restatement or Paraphrasing"


@given(st.text(max_size=40))
def test_parse_strategy_only_ever_gives_a_known_name(text):
    parsed = parse_strategy(text)
    assert parsed is None or (parsed in taxonomy.STRATEGIES and parsed.lower() in fold(text).lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[Question] How are you?", ("Question", "How are you?")),
        ("  [question]How  are\nyou?\n", ("Question", "How are you?")),
        ("[ Others. ] Bye", ("Others", "Bye")),
        ("[Question]", ("Question", "")),
        ("[Question] [Others] x", ("Question", "[Others] x")),
        ("[Question] see [1]", ("Question", "see [1]")),
        ("[Probing] How?", (None, "How?")),  # a tag, but of no strategy: not part of the reply
        ("[] How?", (None, "How?")),
        ("How are  you? [Question]", (None, "How are you? [Question]")),
        ("Question How?", (None, "Question How?")),
        ("[Question How?", (None, "[Question How?")),
        ("[Quest\nion] How?", (None, "[Quest ion] How?")),  # a tag stands on one line
        ("", (None, "")),
    ],
)
def test_parse_tagged_table(text, expected):
    assert parse_tagged(text) == expected


@given(strategies, words)
def test_what_vanilla_is_trained_to_print_reads_back(strategy, reply):
    assert parse_tagged(tagged(Message("supporter", reply, strategy))) == (strategy, fold(reply))
    prompt = prompts.vanilla(replace(TURN, strategy=strategy, reply=reply))
    assert parse_tagged(prompt.target) == (strategy, fold(reply))
    assert parse_strategy(prompts.planner(replace(TURN, strategy=strategy)).target) == strategy


@given(st.text(max_size=40))
def test_without_a_tag_the_whole_answer_is_the_reply(text):
    assume(not re.match(r"\s*\[", text))
    assert parse_tagged(text) == (None, fold(text))
