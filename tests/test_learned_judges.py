"""Judges that learn from people's judgements: features by hand, chosen without the test, and no gain where there is none."""

import numpy as np
import pytest
import scipy.stats

from decoupled_esc import models
from decoupled_esc.corpus import judgements
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.judgements import BOTS, EXPERTS, Chat, Rating
from decoupled_esc.evaluate import learned_judges as learned
from decoupled_esc.evaluate import read_by_model
from decoupled_esc.evaluate.published_judges import WHICH_BOT, expert_agreement, pair_accuracy, untied_pairs
from decoupled_esc.experiments.learned_judges import LearnedJudges
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import judge_tables

FEW = {"replicates": 200, "seed": 1}
WIDTH = 4


@pytest.fixture(autouse=True)
def few_choices(monkeypatch):
    monkeypatch.setattr(learned, "STRENGTHS", (1.0,))
    monkeypatch.setattr(learned, "CANDIDATES", (learned.GROUPS[:1], learned.GROUPS[1:3], learned.GROUPS[1:]))


def encode(texts):
    """The first word decides the direction."""
    vectors = np.array([[float(ord(text[:1] or "a") % WIDTH == k) for k in range(WIDTH)] for text in texts])
    return vectors


def levels(texts):
    return np.array([[len(text) % 3, 0.0, 1.0] for text in texts], dtype=float)


def test_features_are_means_over_replies_beside_the_message_before():
    said = [("abc", "a b b?", "b", "I am sorry for you!"), ("a", "d e")]
    found = learned.features(said, encode, levels)
    assert set(found) == set(learned.GROUPS) and all(len(values) == 2 for values in found.values())
    assert found["words"][:, 0] == pytest.approx(np.log1p([8, 2]))
    assert found["different words"][:, 0] == pytest.approx(np.log1p([7, 2]))
    assert found["relevance"][:, 0] == pytest.approx([0.5, 0.0]), "cosine with the message before, not with the next"
    question, exclamation, addresses, own, feeling, echo = found["surface"][0]
    assert (question, exclamation, addresses, own, feeling) == (0.5, 0.5, 0.5, 0.5, 0.5)
    assert echo == pytest.approx(0), "'abc' and 'b' are not in the replies that follow them"
    assert found["embedding"][1].tolist() == encode(["d e"])[0].tolist()


def chats_of(people, rank, rng):
    """``rank``: (feature of the chat) -> 1 to 3; the words of a chat are its place in the alphabet, its length is chance."""
    found = []
    for person in range(people):
        for bot in BOTS:
            quality, length = rng.normal(), int(rng.integers(3, 30))
            found.append((Chat(str(person), "positive", bot, ("x", " ".join(["w"] * length)), rank(quality)), quality, length))
    return found


def made(rows, rng):
    """Features of chats in which one direction of the embedding holds the quality."""
    quality, length = (np.array([row[k] for row in rows], dtype=float) for k in (1, 2))
    noise = rng.normal(0, 1, (len(rows), 3))
    return {
        "words": np.log1p(length)[:, None], "different words": np.full((len(rows), 1), 0.7), "relevance": quality[:, None] + 0.3 * noise[:, :1],
        "surface": noise, "empathy": rng.normal(0, 1, (len(rows), 3)), "embedding": rng.normal(0, 1, (len(rows), 5)),
    }  # fmt: skip


def thirds(quality):
    return 1 + int(quality > -0.4) + int(quality > 0.4)


def test_what_people_prefer_is_learned_for_new_people_and_for_a_new_bot():
    rng = np.random.default_rng(2)
    rows = chats_of(40, thirds, rng)
    chats = [row[0] for row in rows]
    found = learned.learned_preferences(chats, made(rows, rng), learned.GROUPS[1:3], **FEW)
    judge, transferred, length = found.rows
    assert [row.judge for row in found.rows] == [learned.JUDGE, learned.TRANSFERRED, learned.LENGTH] and found.people == 40
    for row in (judge, transferred):
        assert row.by_person.value > 80 and row.new_over_length.low > 0 and row.over_length.low > 0
        gaps = [gap.value for gap in row.by_writer_over_length.values()]
        ends = scipy.stats.t.interval(0.95, len(BOTS) - 1, np.mean(gaps), scipy.stats.sem(gaps))
        assert (row.over_writers().low, row.over_writers().high) == pytest.approx(ends)
        assert row.new_writer.value == pytest.approx(np.mean([share.value for share in row.by_writer.values()]))
        assert row.new_over_length.value == pytest.approx(np.mean(gaps))
    assert length.over_length.value == length.new_over_length.value == 0
    assert length.longer.value > 95, "but for ties"
    assert all("relevance" in reads for reads in found.chosen.values()) and set(found.chosen) == {*BOTS, learned.TRANSFERRED}


def test_preferences_by_chance_are_not_learned():
    people, bots = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rows = chats_of(60, lambda quality, rng=rng: int(rng.integers(1, 4)), rng)
        tested = learned._Tested([row[0] for row in rows], found := made(rows, rng))
        chooser = lambda known, splits, found=found: learned.PreferenceJudge(learned.GROUPS[1:], 1.0).fit(found, known)  # noqa: E731
        people.append(tested.by_person(chooser).mean())
        bots.append(np.mean([right.mean() for right in tested.by_bot(chooser)[0].values()]))
    for shares in (people, bots):
        assert abs(np.mean(shares) - 0.5) < 3 * np.std(shares, ddof=1) / np.sqrt(6) + 0.01, "nothing of a known chat's rank is learned"


def test_what_a_language_model_reads_is_taken_where_it_tells_and_gains_nothing_where_it_does_not():
    rng = np.random.default_rng(3)
    rows = chats_of(40, thirds, rng)
    chats, quality = [row[0] for row in rows], np.array([row[1] for row in rows])
    none = made(rows, rng) | {"relevance": rng.normal(size=(len(rows), 1))}
    hidden = rng.normal(0, 1, (len(rows), 4))
    for likelihood, tells in ((quality + 0.3 * rng.normal(size=len(rows)), True), (rng.normal(size=len(rows)), False)):
        read = {"likelihood": likelihood[:, None], "hidden states": hidden}
        found = {row.judge: row for row in learned.learned_preferences(chats, none | read, ("words",), **FEW).rows}
        without, by_model = found[learned.JUDGE], found[learned.WITH_MODEL]
        assert abs(without.by_person.value - 50) < 10
        assert (
            by_model.over_length.low > 0 and by_model.new_over_length.low > 0
            if tells
            else abs(by_model.by_person.value - 50) < 10
        )
    keys = [("S", f"c{k}") for k in range(50)]
    found = {name: rng.normal(size=(50, 2)) for name in (*learned.GROUPS, *learned.MODEL_GROUPS)}
    ratings = [
        Rating(*key, "", "d", "experts", float(round(3 + v)))
        for key, v in zip(keys, found["likelihood"][:, 0], strict=True)
    ]
    made_up = learned.predicted_ratings(ratings, keys, found, seed=1)
    own = {
        name: [row.value for row in made_up if row.rater == name]
        for name in (learned.JUDGE, learned.LENGTH, learned.WITH_MODEL)
    }
    order = [row.conversation for row in made_up if row.rater == learned.WITH_MODEL]
    told = dict(zip([id for _, id in keys], [row.value for row in ratings], strict=True))
    right = {name: np.corrcoef(values, [told[id] for id in order])[0, 1] for name, values in own.items()}
    assert right[learned.WITH_MODEL] > 0.7 > 0.5 > max(right[learned.JUDGE], right[learned.LENGTH])


def test_a_reply_is_as_likely_as_the_model_itself_says(tmp_path):
    torch = pytest.importorskip("torch")
    weights = models.EmbeddedModel(kind="embedded", name="esc-nano").weights
    model, tokenizer = models.load(weights), models.load_tokenizer(weights)
    said = ("I feel bad today", "  I am sorry. Why? ", "my dog died", "That is hard", "yes")
    text, places = read_by_model.spans(said, tokenizer)
    assert [text[start:end] for start, end in places] == [said[1], said[3]]
    (tokens, nats, hidden), _ = read_by_model.readings(model, tokenizer, [said, said[:2]])
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor([found["input_ids"]])
    inside = [any(start <= a < b <= end for start, end in places) for a, b in found["offset_mapping"]]
    assert tokenizer.decode(ids[0][inside]) == said[1] + said[3], "replies alone"
    labels = ids.masked_fill(~torch.tensor([inside]), -100)
    out = model(input_ids=ids, labels=labels, output_hidden_states=True)
    assert tokens == ids.shape[1] and nats == pytest.approx(-out.loss.item(), abs=1e-4)
    assert hidden == pytest.approx(out.hidden_states[-1][0][inside].mean(0).detach().numpy(), abs=1e-4)


def test_a_judge_of_length_prefers_the_longer_and_is_turned_with_the_pair():
    rng = np.random.default_rng(4)
    rows = chats_of(20, thirds, rng)
    found, pairs = made(rows, rng), np.array(untied_pairs([row[0] for row in rows])[1])
    longer = np.where((found["words"][pairs[:, :1], 0] > found["words"][pairs[:, 1:], 0]), pairs, pairs[:, ::-1])
    judge = learned.PreferenceJudge(("words",), 1.0).fit(found, longer)
    assert judge.right(found, longer).mean() > 0.9 and judge.right(found, longer[:, ::-1]).mean() < 0.1
    same = {name: np.ones_like(values) for name, values in found.items()}
    assert (judge.right(same, pairs) == 0.5).all(), "what it can't tell apart counts half"


def test_the_table_has_every_judge_beside_ours_and_what_people_themselves_pick():
    rng = np.random.default_rng(6)
    rows = chats_of(20, thirds, rng)
    chats, found = [row[0] for row in rows], made(rows, rng)
    raters = (*EXPERTS, "experts", "crowd", learned.JUDGE, learned.LENGTH)
    ratings = [Rating("S", f"{k}", "", "d", rater, float(rng.integers(1, 6))) for k in range(30) for rater in raters]
    worth = LearnedJudges(
        learned.learned_preferences(chats, found, learned.GROUPS[1:3], **FEW), expert_agreement(ratings, {}, **FEW), 30
    )
    table = judge_tables.learned_worth(worth, pair_accuracy(chats, **FEW))
    ours = [learned.JUDGE, learned.LENGTH, learned.TRANSFERRED]
    assert table.index.tolist() == ["expert–expert", "crowd–expert", *ours[:2], ours[2], WHICH_BOT, "people themselves"]
    assert (table.loc[ours[:2]] != "–").drop(columns="new bot, minus length").all().all()
    assert table.loc[learned.LENGTH, "preference, new people"] == table.loc["people themselves", "picks the longer"]
    by_writer = judge_tables.learned_by_writer(worth)
    assert set(by_writer.columns) == set(BOTS) and len(by_writer) == 5
    judge, beyond = judge_tables.learned_rows(worth)[0], Missing("no data")
    assert judge_tables.beats_length(judge.new_over_length) == "beats" and judge_tables.beats_length(None) == "was not measured against"
    assert judge_tables.learned_worth(beyond, beyond) == judge_tables.learned_by_writer(beyond) == beyond
    assert judge_tables.learned_rows(beyond) == (None, None)


def test_ratings_are_predicted_from_other_conversations_and_a_dimension_by_chance_is_not():
    rng = np.random.default_rng(5)
    keys = [("S", f"c{k}") for k in range(50)]
    hidden = rng.normal(size=50)
    found = {name: rng.normal(size=(50, 2)) for name in learned.GROUPS} | {"relevance": hidden[:, None]}
    told = {"seen": np.clip(np.round(3 + hidden), 1, 5), "chance": rng.integers(1, 6, 50)}
    ratings = [Rating(*key, "", name, "experts", float(v)) for name, values in told.items() for key, v in zip(keys, values, strict=True)]
    made_up = learned.predicted_ratings([*ratings, Rating("S", "elsewhere", "", "seen", "experts", 3.0)], keys, found, seed=1)
    assert len(made_up) == 2 * 2 * 50 and {row.rater for row in made_up} == {learned.JUDGE, learned.LENGTH}
    by = {(row.dimension, row.rater, row.conversation): row.value for row in made_up}

    def correlation(dimension, rater):
        return np.corrcoef([by[dimension, rater, id] for _, id in keys], told[dimension])[0, 1]

    assert correlation("seen", learned.JUDGE) > 0.8 > 0.5 > correlation("chance", learned.JUDGE)
    assert correlation("seen", learned.LENGTH) < 0.5
    assert "relevance" in learned.groups_for_ratings([row for row in ratings if row.dimension == "seen"], keys, found, seed=1)
    spread = np.std([by["seen", learned.JUDGE, id] for _, id in keys])
    assert 0.75 < spread / told["seen"].std() < 1.25, "it does not keep to the middle"


def conversations(folder, ed="Seeker: a_comma_ b \n Seeker: c \n Supporter: d \n Seeker: e"):
    texts = {
        "ed.csv": f'conv_id,full_conversation\nhit:1,"{ed}"\n', "epitome.csv": "sp_id,seeker_post,response_post\nx,sad,sorry\n",
        "ear.csv": 'conversation_id,full_conversation\n7,"Seeker: f\nSupporter: g: h"\n',
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / "table.csv", *(folder / name for name in texts)]


def test_conversations_are_read_in_turn(tmp_path):
    assert judgements.read_conversations(conversations(tmp_path)) == {
        ("EmpatheticDialogues", "hit:1"): ("a, b c", "d", "e"), ("EPITOME", "x"): ("sad", "sorry"), ("Lend an Ear", "7"): ("f", "g: h"),
    }  # fmt: skip
    with pytest.raises(CorpusError, match=r"ed.csv.*row 1.*expected messages of both.*data fetch empathic_judges"):
        judgements.read_conversations(conversations(tmp_path, ed="Seeker: a"))
