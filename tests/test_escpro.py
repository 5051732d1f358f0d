"""ESC-Pro as files, the embedded roles, and exported trees."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from decoupled_esc import corpus, prompts, taxonomy
from decoupled_esc.corpus import Dialogue, Message, Turn, Utterance
from decoupled_esc.errors import KnownError
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.evaluate.ranks import PercentileReward
from decoupled_esc.generate.engine import Completion, Sampling
from decoupled_esc.present import trees as pictures
from decoupled_esc.search import embedded, escpro
from decoupled_esc.search.export import SearchTree, exported, summary
from decoupled_esc.search.grow import RoleError, grow
from decoupled_esc.search.tree import Quality, SeekerTurn, Tree
from tests.test_grow import memory
from tests.test_served_search import GOLD
from tests.test_tree import constants

CONSTANTS = constants(
    prior_temperature=1.0, bias=-1.5, rollout=1, own_turn=True, gold_value=None, gold_visits=1, min_iterations=8, max_iterations=8,
    max_depth=4,
)  # fmt: skip
TURN = Turn("d/1", "d", (Message("seeker", "I'm lost. "),), "Question", "Where do you live?")
PAIR = escpro.ProPair("d/1#3", TURN, "Others", "Hello \u2028 you")


# --- Files ---


def test_pairs_and_turns_read_back(tmp_path):
    before = (*TURN.context, Message("supporter", TURN.reply, "Question"), Message("seeker", "Here."))
    later = Turn("d/2", "d", before, "Others", "Ah.")
    found = [PAIR, escpro.ProPair("d/2#0", later, "Question", "Why?")]
    escpro.write(tmp_path / "pairs.jsonl", found)
    escpro.write_turns(tmp_path / "sft.jsonl", [TURN, later])
    assert escpro.read(tmp_path / "pairs.jsonl") == found
    assert escpro.read_turns(tmp_path / "sft.jsonl") == [TURN, later]
    from datasets import load_dataset

    files = {"data_files": str(tmp_path / "pairs.jsonl"), "cache_dir": str(tmp_path / "cache")}
    rows = load_dataset("json", split="train", **files)
    assert rows["id"] == ["d/1#3", "d/2#0"] and rows[1]["context"][1]["strategy"] == "Question"


WRONG = [
    ('"reply"', '"said"', "reply"), ('"rejected_reply"', '"no"', "rejected_reply"), ('"seeker"', '"user"', "context.0.role"),
    ('"context": [', '"context": null, "more": [', "context"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "field"), WRONG)
def test_a_row_of_another_form_is_named_with_its_field(tmp_path, old, new, field):
    path = tmp_path / "pairs.jsonl"
    for write, read, row in ((escpro.write, escpro.read, PAIR), (escpro.write_turns, escpro.read_turns, TURN)):
        write(path, [row])
        whole = path.read_text(encoding="utf-8")
        path.write_text(whole.replace(old, new), encoding="utf-8")
        if old in whole:  # turns have nothing rejected
            with pytest.raises(KnownError, match=f"{path}, line 1, field {field}"):
                read(path)


def test_a_share_of_the_trees():
    found = [
        escpro.ProPair(f"{d}/{k}#0", Turn(f"{d}/{k}", d, TURN.context, "Others", "x"), "Question", "y")
        for d in "abcd"
        for k in range(3)
    ]
    assert {pair.turn.dialogue for pair in escpro.some(found, 0.5)} == {"a", "b"} and escpro.some(found, 1.0) == found
    assert escpro.some([], 0.5) == []


# --- The seeker's side ---


def test_the_seekers_turns_answer_the_supporters():
    dialogue = Dialogue("d", (
        Utterance("d/0", "seeker", "I'm sad."), Utterance("d/1", "supporter", "Why?", "Question"), Utterance("d/2", "supporter", "Tell me.", "Others"),
        Utterance("d/3", "seeker", "My dog."), Utterance("d/4", "supporter", "I'm sorry.", "Reflection of feelings")))  # fmt: skip
    found = embedded.seeker_turns(dialogue)
    assert [turn.reply for turn in found] == ["My dog.", "[ends]"], "where nobody answered there is nothing to learn"
    prompt = embedded.seeker(found[0])
    assert prompt.messages[1:] == (("assistant", "I'm sad."), ("user", "Why?"), ("assistant", " "), ("user", "Tell me."))
    assert prompt.target == "My dog."


def test_a_seeker_who_has_the_last_word_has_not_ended_the_talk_before():
    """The answer that the chat form drops is learned; the end only where the dialogue ends with the supporter."""
    said = [("seeker", "I'm sad."), ("supporter", "Why?"), ("seeker", "My dog."), ("supporter", "Oh."), ("seeker", "Thanks."), ("seeker", "Bye.")]
    said = tuple(Utterance(f"d/{n}", role, text, "Question" if role == "supporter" else None) for n, (role, text) in enumerate(said))
    assert [turn.reply for turn in embedded.seeker_turns(Dialogue("d", said))] == ["My dog.", "Thanks. Bye."]
    assert [turn.reply for turn in embedded.seeker_turns(Dialogue("d", said[:4]))] == ["My dog.", embedded.ENDS]


def test_a_dialogue_ends_where_it_ends():
    dialogues = corpus.load("esconv", download=False).dialogues
    found = [embedded.seeker_turns(dialogue) for dialogue in dialogues]
    ends = [[turn.reply for turn in turns].count(embedded.ENDS) for turns in found]
    assert ends == [int(dialogue.utterances[-1].role == "supporter") for dialogue in dialogues]
    assert 0 < sum(ends) < len(dialogues)
    assert all((turns[-1].reply == embedded.ENDS) == bool(end) for turns, end in zip(found, ends, strict=True))


@given(st.text(max_size=40))
@example("[ends]")
@example("[ends] thank you ")
def test_whatever_a_seeker_model_prints_is_read_or_refused(text):
    try:
        said = embedded.parse_seeker(text)
    except RoleError:
        assert not text.strip()
    else:
        assert said == SeekerTurn(corpus.fold(text.strip().removeprefix("[ends]")) or None, text.strip().startswith("[ends]"))


# --- The roles ---


class Scripted:
    """An engine that prints what ``say`` says, and prefers the strategy that comes first."""

    def __init__(self, say):
        self.say, self.asked = say, []

    def count(self, prompt):
        return sum(len(content.split()) for _, content in prompt.messages)

    def complete(self, prompts_, sampling, *, seed, purpose):
        self.asked += prompts_
        yield [Completion(p.id, *self.say(p)) for p in prompts_]

    def score_choices(self, prompts_, choices):
        yield [p.id for p in prompts_], np.tile(-np.arange(len(choices), dtype=np.float32), (len(prompts_), 1))


def roles(supporter, seeker_model, max_length=400):
    return embedded.roles(
        supporter=Scripted(supporter), planner=Scripted(None), seeker_model=Scripted(seeker_model),
        reward=lambda turns: [Quality(2.0, None, None, 4.0 if turn.strategy == "Question" else 0.0) for turn in turns],
        generator_layout=prompts.generator_trunk, strategies=taxonomy.STRATEGIES, sampling=Sampling(temperature=0.7, top_p=0.95, max_new_tokens=10),
        max_length=max_length, seed=1,
    )  # fmt: skip


def grown(supporter, seeker_model, **more):
    tree = Tree(GOLD, taxonomy.STRATEGIES, CONSTANTS)
    grow({"t": tree}, roles(supporter, seeker_model, **more), {"t": memory()})
    return tree


def test_embedded_roles_grow_a_tree():
    numbers = iter(range(10_000))
    tree = grown(lambda p: (f"reply {next(numbers)}", 5, True), lambda p: (f"answer {next(numbers)}", 5, True))
    assert tree.iterations == 8 and not tree.failures
    spoken = [node for node in tree.nodes() if node.kind == "expanded" and not node.gold]
    assert spoken and all(node.reply.startswith("reply") and node.seeker.startswith("answer") for node in spoken)
    assert max(node.prior for node in tree.root.children) == tree.root.children[0].prior, "the planner's first choice"


def test_models_that_find_no_end_close_branches_and_nothing_else():
    tree = grown(lambda p: ("and so on", 10, False), lambda p: ("x", 1, True))
    assert tree.finished and {why for _, why in tree.failures} == {"finds no end"}
    tree = grown(lambda p: (" ", 1, True), lambda p: ("x", 1, True))
    assert tree.finished and {why for _, why in tree.failures} == {"says nothing"}


def test_a_talk_that_outgrows_the_window_is_a_failure_of_its_branch():
    numbers = iter(range(10_000))
    tree = grown(
        lambda p: (f"reply {next(numbers)}", 5, True),
        lambda p: (f"{next(numbers)} " + "word " * 500, 5, True),
        max_length=160,
    )
    assert tree.finished and {why for _, why in tree.failures} == {"the conversation does not fit into max_length"}


def test_an_exported_tree_shows_nothing_that_people_said():
    numbers = iter(range(10_000))
    tree = grown(
        lambda p: (f"reply {next(numbers)}", 5, True),
        lambda p: (("[ends]" if next(numbers) % 3 == 0 else f"answer {next(numbers)}"), 5, True),
    )
    row = TypeAdapter(SearchTree).dump_python(exported(tree, "t"), mode="json")
    text = json.dumps(row)
    assert "bad day" not in text and "hello" not in text and json.loads(text) == row
    assert len(row["nodes"]) == summary(tree).nodes == sum(1 for _ in tree.nodes())
    assert summary(tree).spoken == sum("reply" in node for node in row["nodes"]) > 0
    shown = exported(tree, "t")
    html = pictures.Explorer([shown])._repr_html_()
    assert html.count("<details") == html.count("</details>") and "reply" in html and "bad day" not in html
    assert pictures.readable([shown]) is shown and pictures.drawing(shown, "a test").axes


# --- The reward ---


def test_places_among_people_run_from_0_to_4_and_order_as_the_scores_do():
    class Classifier:
        def probabilities(self, replies):
            found = np.zeros((len(replies), len(LABELS)))
            found[:, LABELS.index("Strategy Mismatch")] = [1 / len(reply.text) for reply in replies]
            return found

    class Scale:
        def levels(self, texts):
            return np.array([[len(text), 0.0, 0.0] for text in texts])

    def reply(text, strategy="Question"):
        return Reply(text, TURN, strategy, text)

    ranks = PercentileReward(
        Classifier(), Scale(), [reply("x" * n) for n in range(1, 10)] + [reply("x" * 50, "Others")]
    )
    assert ranks.scores([reply("x" * 5)]) == [(2.0, 2.0)], "a person's median turn has half marks"
    assert ranks.scores([reply("x"), reply("x" * 30)]) == [(pytest.approx(2 / 9),) * 2, (4.0, 4.0)]
    assert ranks.scores([reply("x" * 5, "Others")]) == [(0.0, 0.0)], "among those of its own strategy"
    assert ranks.scores([reply("x", "Information")]) == [(2.0, 2.0)]
