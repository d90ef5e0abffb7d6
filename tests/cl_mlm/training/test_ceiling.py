"""What a perfect model reaches on a column, with small tokenizers of the three families."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import cl_mlm
from cl_mlm.batch import Outputs
from cl_mlm.config.loading import load_config
from cl_mlm.data.tasks import tasks_of
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification
from cl_mlm.objectives.question_answering import QuestionAnswering
from cl_mlm.objectives.tagging import Tagging
from cl_mlm.stream import Stage, Stream
from cl_mlm.training import ceiling as module
from cl_mlm.training.ceiling import ceiling_notes, ceilings

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
ZERO_WIDTH, SELECTOR = "\u200b", "\ufe0f"


def wordpiece():
    """A tokenizer as BERT's: it drops what is invisible, folds case and accents, and cuts words into letters."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *".,-!?'$"]
    tokenizer = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **special)


def unigram():
    """A tokenizer as T5's: SentencePiece in NFKC, without braces among its pieces, an end token behind each text."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(c, -3.0) for c in f'{LETTERS}{LETTERS.upper()}.,:!?"é']
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_bpe():
    """A tokenizer as GPT-2's: bytes and a few merges, so that any text can be written."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {p: i for i, p in enumerate(["<end>", *alphabet, "in", "th"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("i", "n"), ("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = {"bos_token": "<end>", "eos_token": "<end>", "unk_token": "<end>", "pad_token": "<end>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **end)


TOKENIZERS = {"wordpiece": wordpiece, "unigram": unigram, "byte_bpe": byte_bpe, "letters": letter_tokenizer}


def stream_of(rows, objective, labels=(), **options):
    data = Dataset.from_list(rows)
    splits = {"train": data, "validation": data, "test": data}
    return Stream("odd", (Stage(name="x", labels=tuple(labels), objective=objective, options=options, **splits),))


@pytest.fixture
def ceiling():
    """The ceiling of a column of these rows: `ceiling(tokenizer, rows, objective, labels, max_length, **options)`."""

    def find(tokenizer, rows, objective, labels=(), max_length=64, split="test", **options):
        stream = stream_of(rows, objective, labels, **options)
        config = load_config(
            {"training": {"max_length": max_length}, "evaluation": {"splits": [split]}}, needs_stream=False
        )
        return ceilings(stream, tasks_of(stream), tokenizer, config)["x"]

    return find


def reasons(found):
    return {cause.reason: cause.rows for cause in found.causes}


def words_and_tags(*words, entity=None):
    at = len(words) - 1 if entity is None else entity
    return {"tokens": list(words), "tags": ["B-city" if i == at else "O" for i in range(len(words))]}


@pytest.mark.parametrize("word", [ZERO_WIDTH, SELECTOR, "\u00ad", "\u0301"])
def test_an_entity_on_a_word_without_a_token_is_told(ceiling, word):
    rows = [words_and_tags("in", "rome"), words_and_tags("in", "oslo"), words_and_tags("in", word)]
    found = ceiling(wordpiece(), rows, "tagging", ["city"])
    assert found.score == pytest.approx(2 * 2 / (2 + 3))
    assert reasons(found) == {"an entity holds a word without a token": 1}
    assert found.note("x") == (
        "column 'x': a perfect model reaches 0.800 (entity F1): 1 of 3 test rows cannot be right: in 1 an entity holds "
        f"a word without a token (row 2: {word!a})"
    )


def test_a_word_without_a_token_outside_entities_costs_nothing(ceiling):
    rows = [words_and_tags(ZERO_WIDTH, "rome"), words_and_tags(SELECTOR, "oslo")]
    assert ceiling(wordpiece(), rows, "tagging", ["city"]).is_whole
    assert ceiling(byte_bpe(), [words_and_tags("in", ZERO_WIDTH)], "tagging", ["city"]).is_whole


def test_an_entity_of_another_columns_type_costs_nothing(ceiling):
    row = {"tokens": ["bo", ZERO_WIDTH], "tags": ["B-person", "B-city"]}
    stream = stream_of([row], "tagging", ["person", "city"])
    tokenizer, objective = wordpiece(), Tagging()
    found = objective.attainable({k: [v] for k, v in row.items()}, tokenizer, {"person": 0, "city": 1}, 64, ["person"])
    assert found.obstacles == [None]
    assert stream.columns[0].labels == ("person", "city")
    assert ceiling(tokenizer, [row], "tagging", ["person", "city"]).score == pytest.approx(2 / 3)


def test_an_entity_beyond_max_length_is_told(ceiling):
    rows = [words_and_tags("in", "rome"), words_and_tags(*"abcdefghijkl")]
    found = ceiling(wordpiece(), rows, "tagging", ["city"], max_length=10)
    assert reasons(found) == {"an entity reaches beyond training.max_length 10": 1}
    assert found.causes[0].example == "word 12 of 12"


def test_a_column_without_an_entity_is_told(ceiling):
    found = ceiling(wordpiece(), [{"tokens": ["a"], "tags": ["O"]}] * 2, "tagging", ["city"])
    assert (found.score, reasons(found)) == (0.0, {"there is no entity of the column's types": 2})


def writing(*targets):
    return [{"source": f"say {i}", "target": target} for i, target in enumerate(targets)]


def test_a_target_that_the_vocabulary_cannot_write_is_told(ceiling):
    rows = writing("ok", '{"id": 3}', "fine", "ok")
    found = ceiling(unigram(), rows, "text_to_text")
    assert found.score == 3 / 4
    assert found.note("x") == (
        "column 'x': a perfect model reaches 0.750 (exact_match): 1 of 4 test rows cannot be right: in 1 the target "
        """holds characters that the vocabulary lacks (row 1: '{"id": 3}' becomes '"id": 3')"""
    )
    for make in (byte_bpe, lambda: letter_tokenizer("tiny-decoder")):
        assert ceiling(make(), rows, "text_to_text").is_whole


@pytest.mark.parametrize("target", ["a\\b", "x < y", "日本", "~"])
def test_other_characters_that_are_missing_are_told(ceiling, target):
    found = ceiling(unigram(), writing(target), "text_to_text")
    assert reasons(found) == {"the target holds characters that the vocabulary lacks": 1}


def test_a_target_beyond_max_new_tokens_is_told(ceiling):
    rows = writing("a b c", "a b c d e f g h", "ok")
    found = ceiling(byte_bpe(), rows, "text_to_text", max_new_tokens=8)
    assert reasons(found) == {"the target is longer than max_new_tokens 8": 1}
    assert found.causes[0].example == "16 tokens with the end token"
    shorter = ceiling(byte_bpe(), rows, "text_to_text", max_new_tokens=32, max_target_length=8)
    assert reasons(shorter) == {"the target is longer than max_target_length 8": 1}
    assert ceiling(byte_bpe(), rows, "text_to_text", max_new_tokens=16).is_whole


def test_a_target_that_holds_the_end_token_is_told(ceiling):
    found = ceiling(unigram(), writing("first </s> then"), "text_to_text")
    assert reasons(found) == {"the target holds the token that ends a text": 1}


def test_a_tokenizer_that_gives_another_text_back_is_told(ceiling):
    found = ceiling(wordpiece(), writing("Paris", "rome"), "text_to_text")
    assert reasons(found) == {"the tokenizer gives another text back": 1}
    assert found.causes[0].example == "'Paris' becomes 'paris'"
    # ROUGE-L takes no notice of capitals.
    assert ceiling(wordpiece(), writing("Paris", "rome"), "text_to_text", metric="rouge_l").is_whole


@pytest.mark.parametrize("metric", ["exact_match", "rouge_l", "chrf", "bleu"])
def test_short_answers_accents_and_any_script_cost_nothing(ceiling, metric):
    rows = writing("yes", "caf\u00e9", "cafe\u0301", "我爱北京", "привет мир", "สวัสดี", "?!", "😀", "ＡＢ")
    assert ceiling(byte_bpe(), rows, "text_to_text", metric=metric).is_whole
    # Composed by the tokenizer's own normalisation.
    assert ceiling(unigram(), writing("cafe\u0301"), "text_to_text", metric=metric).is_whole


def test_answers_from_a_list_take_the_room_of_the_longest(ceiling):
    rows, answers = writing("no", "perhaps"), ["no", "perhaps"]
    assert ceiling(byte_bpe(), rows, "text_to_text", answers=answers).is_whole


def asked(context, *answers):
    starts = [context.index(answer) for answer in answers]
    return {"context": context, "question": "what", "answers": {"text": list(answers), "answer_start": starts}}


CONTEXT = "the tower was built in the 1990s by a firm of berlin and paris"


def test_answers_in_scripts_without_spaces_can_be_right(ceiling):
    rows = [asked("我们住在北京大学。", "北京大学"), asked("อยู่ที่กรุงเทพ", "กรุงเทพ")]
    assert ceiling(letter_tokenizer(), rows, "question_answering", stride=8, max_length=100).is_whole


def test_answers_that_no_span_of_tokens_is_are_told(ceiling):
    found = ceiling(
        wordpiece(),
        [
            asked(CONTEXT, "berlin"),
            asked(CONTEXT, "tower was built in the 1990s by a firm"),
            asked(CONTEXT, "the"),
            asked(f"so {ZERO_WIDTH} it is", ZERO_WIDTH),
        ],
        "question_answering",
        max_length=100,
        max_answer_tokens=10,
    )
    assert reasons(found) == {
        "the answer is longer than max_answer_tokens 10": 1,
        "the answer has no word beside articles and punctuation": 1,
        "the answer has no token": 1,
    }
    assert 1 / 4 < found.score < 1 / 2


def test_an_answer_that_no_window_holds_is_told(ceiling):
    rows = [asked(CONTEXT, "berlin"), asked(CONTEXT, "built in the 1990s by a firm of berlin")]
    found = ceiling(wordpiece(), rows, "question_answering", max_length=32, stride=4, max_answer_tokens=100)
    reason = "no window of training.max_length 32 holds the whole answer (windows share stride 4)"
    assert reasons(found) == {reason: 1}
    assert ceiling(wordpiece(), rows, "question_answering", max_length=100, max_answer_tokens=100).is_whole


def test_an_answer_that_is_part_of_a_token_is_told(ceiling):
    def of(*answers):
        rows = [asked("the cats sat", *answers)]
        return ceiling(letter_tokenizer(), rows, "question_answering", stride=8)

    assert of("cat").is_whole  # the tokens are `cat` and `s`
    assert (of("ca").score, reasons(of("ca"))) == (0.0, {"the answer begins or ends inside a token": 1})
    assert of("ca", "sat").is_whole  # another answer that can be right is enough


def test_equal_values_have_no_correlation(ceiling):
    rows = [{"text": "a", "value": 2.0}, {"text": "b", "value": 2.0}]
    found = ceiling(wordpiece(), rows, "regression")
    assert (found.score, found.metric) == (0.5, "(1 + pearson) / 2")
    assert found.causes[0].rows == 2
    assert ceiling(wordpiece(), [*rows, {"text": "c", "value": 3.0}], "regression").is_whole


def test_labels_can_always_be_right(ceiling):
    tokenizer = wordpiece()
    texts = [{"text": f"{ZERO_WIDTH} " * 99, "label": "a"}, {"text": "b", "label": "b"}]
    assert ceiling(tokenizer, texts, "classification", ["a", "b"], max_length=4).is_whole
    several = [{"text": "a", "labels": []}, {"text": "b", "labels": ["a", "b"]}]
    assert ceiling(tokenizer, several, "multilabel", ["a", "b"]).is_whole
    marked = [{"tokens": ["a", "b"], "head": [0, 1], "tail": [1, 2], "label": label} for label in "ab"]
    assert ceiling(tokenizer, marked, "relation", ["a", "b"]).is_whole


def test_perplexity_and_objectives_of_ones_own_have_none(ceiling):
    assert ceiling(byte_bpe(), [{"text": "a b"}], "language_modelling") is None

    class Own(Classification):
        choice_metric = None

    assert Own().attainable({}, wordpiece(), {}, 4, ()) is None


def test_every_row_of_a_column_is_looked_at(ceiling):
    rows = [words_and_tags("in", "rome") for _ in range(2500)]
    rows[1001] = words_and_tags("in", ZERO_WIDTH)
    found = ceiling(wordpiece(), rows, "tagging", ["city"])
    assert (found.rows, reasons(found)) == (2500, {"an entity holds a word without a token": 1})
    assert found.causes[0].row == 1001
    found = ceiling(unigram(), writing(*["ok"] * 2300, "{"), "text_to_text")
    assert (found.causes[0].row, found.rows) == (2300, 2301)


def test_rows_that_are_encoded_together_say_nothing_of_all(ceiling):
    # A thousand rows without an entity are a batch of their own, and are right.
    rows = [{"tokens": ["a"], "tags": ["O"]}] * 1000 + [words_and_tags("rome"), words_and_tags(ZERO_WIDTH)]
    found = ceiling(wordpiece(), rows, "tagging", ["city"])
    assert reasons(found) == {"an entity holds a word without a token": 1}
    assert ceiling(wordpiece(), rows[:1001], "tagging", ["city"]).is_whole
    values = [{"text": "a", "value": 2.0}] * 1000 + [{"text": "b", "value": 3.0}]
    assert ceiling(wordpiece(), values, "regression").is_whole


def test_a_large_column_is_sampled_evenly_and_says_so(ceiling, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 1000)
    found = ceiling(unigram(), writing(*["ok"] * 1500, *["{"] * 1500), "text_to_text")
    assert (found.rows, found.rows_of_split, found.score) == (1000, 3000, 0.5)
    assert "500 of 1,000 test rows cannot be right" in found.note("x")
    assert found.note("x").endswith("; looked at 1,000 of 3,000 test rows")


def test_a_sample_is_told_where_nothing_was_found_too(ceiling, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 1000)
    whole = ceiling(unigram(), writing(*["ok"] * 3000), "text_to_text")
    assert ceiling_notes({"x": whole}) == [
        "column 'x': a perfect model can be right in all rows looked at (exact_match): 1,000 of 3,000 test rows"
    ]
    # That none of the rows looked at holds an entity says nothing of the others.
    unknown = ceiling(wordpiece(), [{"tokens": ["a"], "tags": ["O"]}] * 1500, "tagging", ["city"])
    assert (unknown.score, unknown.causes) == (None, ())
    assert ceiling_notes({"x": unknown}) == [
        "column 'x': what a perfect model reaches (entity F1) is not known: looked at 1,000 of 1,500 test rows"
    ]
    # Labels can always be right, also in the rows that were not looked at.
    labels = ceiling(wordpiece(), [{"text": "a", "label": "a"}] * 1500, "classification", ["a", "b"])
    assert ceiling_notes({"x": labels}) == []


def test_the_split_is_the_one_that_is_evaluated(ceiling):
    found = ceiling(unigram(), writing("{"), "text_to_text", split="validation")
    assert "1 of 1 validation rows cannot be right" in found.note("x")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_tags_of_a_model_that_knows_every_target_reach_the_ceiling(kind):
    tokenizer, objective, rng = TOKENIZERS[kind](), Tagging(), random.Random(0)
    words = ["rome", "x", ZERO_WIDTH, SELECTOR, "caf\u00e9", "Ünder", "a-b", "{", "北京"]
    tags = ["O", "B-a", "B-b"]
    rows = {"tokens": [[rng.choice(words) for _ in range(9)] for _ in range(30)]}
    rows["tags"] = [[rng.choice(tags) for _ in row] for row in rows["tokens"]]
    labels = {"a": 0, "b": 1}
    batch = objective.collate(objective.encode(rows, tokenizer, labels, 20), torch.arange(30), tokenizer)
    classes = objective.classes(list(labels))
    logits = torch.nn.functional.one_hot(batch.targets.clamp_min(0), len(classes)).float() * 30
    run = SimpleNamespace(forward=lambda _: Outputs(logits, lambda: logits), classes=classes)
    found = objective.attainable(rows, tokenizer, labels, 20, list(labels))
    assert found.values == objective.predict(run, batch).values
    assert [obstacle is None for obstacle in found.obstacles] == [
        value == reference for value, reference in zip(found.values, rows["tags"], strict=True)
    ]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_spans_of_a_model_that_knows_every_target_are_no_better_than_the_ceiling(kind):
    tokenizer, objective, rng = TOKENIZERS[kind](), QuestionAnswering(stride=4, max_answer_tokens=8), random.Random(1)
    picked = []
    for _ in range(40):
        start = rng.randrange(len(CONTEXT) - 12)
        text = CONTEXT[start : start + rng.randint(1, 12)]
        if text.strip():
            picked.append(
                {"context": CONTEXT, "question": "what", "answers": {"text": [text], "answer_start": [start]}}
            )
    rows = {name: [row[name] for row in picked] for name in picked[0]}
    encoded = objective.encode(rows, tokenizer, {}, 48)
    batch = objective.collate(encoded, torch.arange(len(picked)), tokenizer)
    logits = torch.zeros(*batch.inputs["input_ids"].shape, 2).scatter_(1, batch.targets[:, None], 30.0)
    run = SimpleNamespace(forward=lambda _: Outputs(logits, lambda: logits), raw=lambda _, column: rows[column])
    references = objective.references(rows)
    reached = objective.score(objective.predict(run, batch).values, references, [])["f1"]
    found = objective.attainable(rows, tokenizer, {}, 48, [])
    ceiling_score = objective.score(found.values, references, [])["f1"]
    assert reached <= ceiling_score + 1e-9
    assert ceiling_score > 0.3


def test_check_and_run_tell_it(cli, fast, tmp_path, own_store):
    folder = tmp_path / "odd"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"source": f"{split} {i}", "target": "yes" if i else "a " * 40} for i in range(8)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fast |= {"stream": {"name": "files", "path": str(tmp_path), "stages_by": "files", "stages": [{"path": "odd"}]}}
    fast["stream"] |= {"objective": "text_to_text", "options": {"max_new_tokens": 8}}
    fast |= {"model": {"name": "tiny-decoder"}, "strategies": {}}
    fast["training"] |= {"steps": 2}
    result = cl_mlm.run(fast)
    found = result.summary["ceilings"]["odd"]
    assert (found["score"], found["metric"], found["rows"]) == (7 / 8, "exact_match", 8)
    assert found["causes"][0]["reason"] == "the target is longer than max_new_tokens 8"
    note = "column 'odd': a perfect model reaches 0.875 (exact_match): 1 of 8 test rows cannot be right"
    assert any(line.startswith(note) for line in result.summary["stream"]["notes"])
    (tmp_path / "config.yaml").write_text(json.dumps(fast))
    said = cli("check", str(tmp_path / "config.yaml"))
    assert f"note: {note}" in said.out
    as_json = json.loads(cli("check", str(tmp_path / "config.yaml"), "--json").out)
    assert as_json["ceilings"] == result.summary["ceilings"]


def test_nothing_is_told_where_every_answer_can_be_right(small_stream):
    found = ceilings(small_stream, tasks_of(small_stream), letter_tokenizer(), load_config({}, needs_stream=False))
    assert [value.score for value in found.values()] == [1.0, 1.0]
    assert ceiling_notes(found) == []
