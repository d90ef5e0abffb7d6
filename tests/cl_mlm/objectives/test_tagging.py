import json
import math
from types import SimpleNamespace

import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from cl_mlm.batch import Outputs
from cl_mlm.errors import ConfigError
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.tagging import Tagging
from cl_mlm.scores.bio import is_tag, only, repaired, stray, types_of
from cl_mlm.tokens.word_tokens import encode_words

OBJECTIVE = Tagging()
LABELS = {"per": 0, "loc": 1}
CLASSES = ["O", "B-per", "I-per", "B-loc", "I-loc"]
ROWS = {
    "tokens": [["anna", "lives", "in", "new", "york"], ["rome"]],
    "tags": [["B-per", "O", "O", "B-loc", "I-loc"], ["B-loc"]],
}


def encoded(rows=ROWS, max_length=64, tokenizer=None, objective=OBJECTIVE):
    tokenizer = tokenizer or letter_tokenizer()
    return objective.encode(rows, tokenizer, LABELS, max_length)


def collated(rows=ROWS, max_length=64, allowed=None):
    tokenizer = letter_tokenizer()
    ids = torch.arange(len(rows["tokens"]))
    batch = OBJECTIVE.collate(encoded(rows, max_length, tokenizer), ids, tokenizer)
    return batch if allowed is None else batch.with_allowed(torch.tensor(allowed))


def outputs_for(batch, classes=5, seed=0):
    shape = (*batch.inputs["input_ids"].shape, classes)
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Outputs(logits, lambda: torch.zeros(0))


def predicted(batch, outputs):
    classes = CLASSES[: outputs.logits.shape[-1]]
    return OBJECTIVE.predict(SimpleNamespace(classes=classes, forward=lambda _: outputs), batch)


def test_types_bring_their_two_classes_in_order_of_arrival():
    assert OBJECTIVE.classes(["per"]) == CLASSES[:3]
    assert OBJECTIVE.classes(["per", "loc"]) == CLASSES
    assert OBJECTIVE.num_outputs([]) == 1


def test_only_the_first_token_of_a_word_carries_its_tag():
    found = encoded()
    tokens = letter_tokenizer().convert_ids_to_tokens(found["input_ids"][0])
    assert tokens == ["[CLS]", "ann", "a", "liv", "es", "in", "new", "yor", "k", "[SEP]"]
    assert found["targets"][0] == [-100, 1, -100, 0, -100, 0, 3, 4, -100, -100]
    assert found["words"][0] == [-1, 0, -1, 1, -1, 2, 3, 4, -1, -1]
    assert found["num_words"] == [5, 1]


def test_collation_pads_and_counts_the_words_of_every_row():
    batch = collated()
    assert batch.targets[1].tolist() == [-100, 3, -100, *[-100] * 7]
    assert batch.inputs["attention_mask"].sum(-1).tolist() == [10, 4]
    assert batch.count.tolist() == [5.0, 1.0]
    assert batch.num_tokens == 14


def test_a_row_without_any_tagged_token_has_one_item_of_loss_zero():
    batch = collated(max_length=2)
    assert batch.count.tolist() == [1.0, 1.0]
    assert OBJECTIVE.loss(outputs_for(batch), batch).tolist() == [0.0, 0.0]
    assert predicted(batch, outputs_for(batch)).values == [["O"] * 5, ["O"]]


def test_words_that_are_cut_off_are_predicted_outside_and_count():
    batch = collated(max_length=6)  # [CLS] ann a liv es [SEP]
    assert batch.count.tolist() == [2.0, 1.0]
    outputs = outputs_for(batch)
    outputs.logits[...] = 0.0
    outputs.logits[..., 3] = 9.0
    found = predicted(batch, outputs).values
    assert found == [["B-loc", "B-loc", "O", "O", "O"], ["B-loc"]]
    references = OBJECTIVE.references(ROWS)
    assert OBJECTIVE.score(found, references, ["per", "loc"])["recall"] == pytest.approx(1 / 3)


def test_loss_is_the_cross_entropy_summed_over_the_words_of_a_row():
    batch = collated()
    outputs = outputs_for(batch)
    expected = []
    for row, targets in enumerate(batch.targets.tolist()):
        losses = [
            math.log(sum(math.exp(x) for x in outputs.logits[row, t].tolist())) - float(outputs.logits[row, t, target])
            for t, target in enumerate(targets)
            if target >= 0
        ]
        expected.append(sum(losses))
    assert OBJECTIVE.loss(outputs, batch).tolist() == pytest.approx(expected, rel=1e-5)


def test_loss_and_prediction_are_among_the_allowed_classes_only():
    allowed = [[True] * 5, [True, False, False, True, True]]
    batch = collated(allowed=allowed)
    outputs = outputs_for(batch)
    outputs.logits[1, :, 1] = 50.0  # B-per, which the second row may not be given
    logits = outputs.logits[1, 1, [0, 3, 4]]
    assert float(OBJECTIVE.loss(outputs, batch)[1]) == pytest.approx(-float(logits.log_softmax(-1)[1]), rel=1e-5)
    assert predicted(batch, outputs).values[1] == [["O", "B-loc", "I-loc"][int(logits.argmax())]]


def test_sites_are_the_words_in_the_order_of_rows():
    batch = collated()
    outputs = outputs_for(batch)
    sites = OBJECTIVE.sites(outputs, batch)
    assert sites.row.tolist() == [0, 0, 0, 0, 0, 1]
    assert sites.target.tolist() == [1, 0, 0, 3, 4, 3]
    assert torch.equal(sites.logits[3], outputs.logits[0, 6])
    losses = torch.nn.functional.cross_entropy(sites.logits, sites.target, reduction="none")
    summed = torch.zeros(2).index_add(0, sites.row, losses)
    assert summed.tolist() == pytest.approx(OBJECTIVE.loss(outputs, batch).tolist(), rel=1e-5)


def test_the_probability_of_a_row_is_the_product_over_its_words():
    batch = collated()
    outputs = outputs_for(batch)
    found = predicted(batch, outputs)
    assert found.reference_probability.tolist() == pytest.approx((-OBJECTIVE.loss(outputs, batch)).exp().tolist())
    best = outputs.logits[0, [1, 3, 5, 6, 7]].softmax(-1).max(-1)
    assert found.values[0] == [CLASSES[i] for i in best.indices.tolist()]
    assert float(found.probability[0]) == pytest.approx(math.prod(best.values.tolist()), rel=1e-5)


def test_a_tag_that_the_model_lacks_has_probability_zero():
    batch = collated()
    assert predicted(batch, outputs_for(batch, classes=3)).reference_probability.tolist() == [0.0, 0.0]


def test_target_classes_are_those_of_the_tags():
    named = OBJECTIVE.target_classes(collated(), 6)
    assert named.tolist() == [[True, True, False, True, True, False], [False, False, False, True, False, False]]


def test_a_part_of_a_batch_gives_its_rows_loss_and_predictions():
    batch = collated()
    outputs = outputs_for(batch)
    _, second = batch.pieces(2)
    own = Outputs(outputs.logits[1:], outputs.lazy_features)
    assert OBJECTIVE.loss(own, second).tolist() == OBJECTIVE.loss(outputs, batch)[1:].tolist()
    assert predicted(second, own).values == predicted(batch, outputs).values[1:]


# Tokenizers of four families, trained on a few words.


def trained(kind):
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import GPT2Tokenizer, PreTrainedTokenizerFast

    texts = ["Hello brave new world again and again", "the brave new Hello", "world of words, anew"] * 4
    unknown = {"unk_token": "<unk>"}
    settings = {"show_progress": False, "special_tokens": ["<unk>"]}
    if kind in ("gpt2", "roberta"):
        model = Tokenizer(models.BPE())
        model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=340, show_progress=False, initial_alphabet=alphabet)
        model.train_from_iterator(texts, trainer)
        found = json.loads(model.to_str())["model"]
        merges = [tuple(pair) for pair in found["merges"]]
        return GPT2Tokenizer(vocab=found["vocab"], merges=merges, add_prefix_space=kind == "roberta")
    model = Tokenizer(models.Unigram() if kind == "t5" else models.BPE(**unknown))
    model.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first" if kind == "llama" else "always")
    trainer = trainers.UnigramTrainer if kind == "t5" else trainers.BpeTrainer
    model.train_from_iterator(texts, trainer(vocab_size=90, **settings, **(unknown if kind == "t5" else {})))
    if kind == "llama-legacy":
        model = Tokenizer.from_str(json.dumps(json.loads(model.to_str()) | {"pre_tokenizer": None}))
        model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=model, **unknown)


@pytest.mark.parametrize("kind", ["gpt2", "roberta", "llama", "llama-legacy", "t5", "tiny"])
def test_words_become_the_tokens_that_they_are_in_running_text(kind):
    tokenizer = letter_tokenizer() if kind == "tiny" else trained(kind)
    words = ["Hello", "brave", "new", "world", "anew"]
    found = encode_words([words], tokenizer, None)
    whole = tokenizer(" ".join(words), return_offsets_mapping=True)
    assert found["input_ids"][0] == whole["input_ids"]
    starts = {}
    for place, word in enumerate(found.word_ids(0)):
        if word is not None:
            starts.setdefault(word, whole["offset_mapping"][place])
    text = " ".join(words)
    assert sorted(starts) == [0, 1, 2, 3, 4]
    for i, word in enumerate(words):
        begin, end = starts[i]
        assert word.startswith(text[begin:end].strip())
        assert text[begin:end].strip() or text[end:].lstrip().startswith(word)


def test_the_tags_lie_on_the_same_words_in_every_family():
    for kind in ("gpt2", "llama", "t5"):
        found = encoded({"tokens": [["Hello", "new", "world"]], "tags": [["O", "B-loc", "I-loc"]]}, 64, trained(kind))
        assert [target for target in found["targets"][0] if target >= 0] == [0, 3, 4]


def test_a_tokenizer_that_does_not_tell_its_words_is_refused():
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(ConfigError, match=r"^model.name: the stream's objective needs a fast tokenizer"):
        encode_words([["a"]], slow, None)


# Scores.

CASES = [
    # all right; wrong type; wrong end; stray I in the prediction; missed; invented
    (["B-per", "I-per", "O"], ["B-per", "I-per", "O"]),
    (["B-loc", "O", "O"], ["B-per", "O", "O"]),
    (["B-per", "O", "O"], ["B-per", "I-per", "O"]),
    (["O", "I-loc", "O"], ["O", "B-loc", "O"]),
    (["O", "O", "O"], ["O", "O", "B-loc"]),
    (["B-loc", "O", "B-per"], ["O", "O", "B-per"]),
]
PREDICTIONS = [list(p) for p, _ in CASES]
REFERENCES = [list(r) for _, r in CASES]


def test_score_counts_whole_entities():
    # Predicted: 5 entities (the stray one is none), right: 2; in the references: 6.
    found = OBJECTIVE.score(PREDICTIONS, REFERENCES, ["per", "loc"])
    assert found == pytest.approx({"score": 4 / 11, "f1": 4 / 11, "precision": 2 / 5, "recall": 2 / 6})


def test_score_is_that_of_seqeval_in_strict_mode():
    strict = {"mode": "strict", "scheme": IOB2, "average": "micro"}
    found = OBJECTIVE.score(PREDICTIONS, REFERENCES, ["per", "loc"])
    assert found["f1"] == pytest.approx(float(f1_score(REFERENCES, PREDICTIONS, **strict)))
    assert found["precision"] == pytest.approx(float(precision_score(REFERENCES, PREDICTIONS, **strict)))
    assert found["recall"] == pytest.approx(float(recall_score(REFERENCES, PREDICTIONS, **strict)))


def test_types_that_are_not_the_columns_count_neither_as_right_nor_as_wrong():
    found = OBJECTIVE.score(PREDICTIONS, REFERENCES, ["per"])
    masked = [OBJECTIVE.within(rows, ["per"]) for rows in (PREDICTIONS, REFERENCES)]
    assert found == OBJECTIVE.score(*masked, ["per", "loc"])
    assert found == pytest.approx({"score": 4 / 7, "f1": 4 / 7, "precision": 2 / 3, "recall": 2 / 4})


def test_a_column_without_entities_scores_zero():
    assert OBJECTIVE.score([["O", "O"]], [["O", "O"]], ["per"]) == {"score": 0, "f1": 0, "precision": 0, "recall": 0}


def test_types_whose_names_seqeval_would_fold_stay_apart():
    assert OBJECTIVE.score([["B-a-"]], [["B-a"]], ["a", "a-"])["f1"] == 0.0


def test_every_type_has_a_line_and_a_quotient_by_zero_is_none():
    lines = OBJECTIVE.per_label(PREDICTIONS, REFERENCES, ["per", "loc", "org"])
    assert lines[0] == {
        "label": "per",
        "precision": pytest.approx(2 / 3),
        "recall": 0.5,
        "f1": pytest.approx(4 / 7),
        "entities": 4,
    }
    assert lines[1] == {"label": "loc", "precision": 0.0, "recall": 0.0, "f1": 0.0, "entities": 2}
    assert lines[2] == {"label": "org", "precision": None, "recall": None, "f1": None, "entities": 0}


def test_always_the_most_frequent_says_nothing_of_tags():
    assert OBJECTIVE.chance(REFERENCES) is None


# Rows.


def fault(tokens, tags, objective=OBJECTIVE):
    rows = {"tokens": [["fine"], tokens], "tags": [["O"], tags]}
    (line,) = objective.validate(rows, "here")
    return line


def test_sound_rows_have_no_faults():
    assert OBJECTIVE.validate(ROWS, "here") == []


def test_missing_columns_are_named():
    assert OBJECTIVE.validate({"tokens": [["a"]]}, "here") == ["here: needs the columns tokens and tags, has no tags"]


@pytest.mark.parametrize("words", [[], ["a", ""], ["a", 3], ["a", " "], "a b"])
def test_what_is_no_list_of_words_is_refused(words):
    line = fault(words, ["O"] * len(words) if isinstance(words, list) else ["O"])
    assert line.startswith("here: tokens must be a list of at least one word, each a non-empty string, got ")
    assert line.endswith("in row 1 (1 such rows)")


def test_unequal_lengths_are_refused():
    assert fault(["a", "b"], ["O"]) == (
        "here: tags must be as many as tokens, got 1 for the 2 words of row 1 (1 such rows)"
    )


@pytest.mark.parametrize("tag", ["B-", "X-a", "I", "b-a", "", None, 3, "B- ", "Ba"])
def test_what_is_no_tag_is_refused(tag):
    assert fault(["a", "b"], ["O", tag]) == (
        f"here: a tag must be O, B-x or I-x with an entity type x, got {tag!r} at word 1 of row 1 (1 such rows)"
    )


def test_tags_that_are_no_list_are_refused():
    assert "tags must be a list of O, B-x and I-x, got 'O' as tags of row 1" in fault(["a"], "O")


@pytest.mark.parametrize("tags", [["O", "I-a"], ["B-b", "I-a"], ["I-b", "I-a"][::-1]])
def test_an_inside_tag_that_follows_no_entity_of_its_type_is_refused(tags):
    line = fault(["a", "b"], tags)
    assert line.startswith("here: I-x must follow B-x or I-x (stream.options.ill_formed=repair reads it as B-x), got ")
    assert OBJECTIVE.mended({"tags": [tags]}) == 0


def test_repair_reads_a_stray_inside_tag_as_a_beginning_everywhere():
    mending = Tagging("repair")
    rows = {
        "tokens": [["in", "new", "york"], ["rome", "is", "old"]],
        "tags": [["O", "I-loc", "I-loc"], ["B-loc", "O", "O"]],
    }
    assert mending.validate(rows, "here") == []
    assert mending.references(rows)[0] == ["O", "B-loc", "I-loc"]
    assert [target for target in encoded(rows, objective=mending)["targets"][0] if target >= 0] == [0, 3, 4]
    assert mending.mended(rows) == 1


def test_repair_still_refuses_what_is_no_tag():
    assert "a tag must be" in fault(["a"], ["X-a"], Tagging("repair"))


def test_an_unknown_reading_is_refused():
    assert Tagging("maybe").faults(64) == ["ill_formed: must be refuse or repair, got 'maybe'"]
    assert Tagging("repair").options() == {"ill_formed": "repair"}


def test_key_and_labels_of_rows():
    assert OBJECTIVE.key(ROWS) == ["anna lives in new york", "rome"]
    assert OBJECTIVE.labels_of(ROWS) == [["per", "loc"], ["loc"]]


def test_scheme_of_tags():
    assert [is_tag(tag) for tag in ("O", "B-x", "I-x-y", "B-", "O-x", "E-x")] == [True, True, True, False, False, False]
    assert stray(["I-a", "I-a", "I-b", "O", "B-a", "I-a", "I-b"]) == [0, 2, 6]
    assert repaired(["I-a", "I-a", "I-b"]) == ["B-a", "I-a", "B-b"]
    assert only(["B-a", "I-a", "B-b", "O"], {"b"}) == ["O", "O", "B-b", "O"]
    assert types_of(["B-b", "O", "B-a", "I-a", "B-b"]) == ["b", "a"]
