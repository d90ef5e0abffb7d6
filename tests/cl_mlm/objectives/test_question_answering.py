import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cl_mlm.batch import Outputs
from cl_mlm.errors import ConfigError
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.question_answering import QuestionAnswering
from cl_mlm.tokens.spans import best_spans

SHORT = "The cat sat in a red house."
LONG = " ".join(f"word{i} is here" for i in range(30))


def row_of(context, answer, question="what?", start=None):
    begin = context.index(answer) if start is None else start
    return {"context": context, "question": question, "answers": {"text": [answer], "answer_start": [begin]}}


def columns_of(*rows):
    return {name: [row[name] for row in rows] for name in ("context", "question", "answers")}


ROWS = columns_of(row_of(SHORT, "red house"), row_of(LONG, "word17 is"), row_of("A dog.", "dog"))


def encoded_of(rows=ROWS, objective=None, tokenizer=None, max_length=32):
    return (objective or QuestionAnswering(stride=8)).encode(rows, tokenizer or letter_tokenizer(), {}, max_length)


def batch_of(rows=ROWS, tokenizer=None, **settings):
    tokenizer = tokenizer or letter_tokenizer()
    encoded = encoded_of(rows, tokenizer=tokenizer, **settings)
    return QuestionAnswering().collate(encoded, torch.arange(len(rows["context"])) + 5, tokenizer)


def random_outputs(batch):
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(*batch.inputs["input_ids"].shape, 2, generator=random)
    return Outputs(logits, lambda: logits)


def run_of(outputs, rows):
    return SimpleNamespace(forward=lambda _: outputs, raw=lambda _, column: rows[column])


def pointing_at(batch, row, start, end):
    """Returns outputs that are sure of the tokens which hold the characters from `start` to `end` of a row."""
    logits = torch.zeros(*batch.inputs["input_ids"].shape, 2)
    inside = (batch.input_row == row)[:, None]
    logits[..., 0][inside & (batch.extra["char_start"] == start)] = 20
    logits[..., 1][inside & (batch.extra["char_end"] == end)] = 20
    return Outputs(logits, lambda: logits)


def test_windows_are_those_of_the_tokenizer():
    tokenizer = letter_tokenizer()
    expected = tokenizer(
        ["what?"] * 3,
        ROWS["context"],
        truncation="only_second",
        max_length=32,
        stride=8,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    batch = batch_of()
    assert batch.input_row.tolist() == expected["overflow_to_sample_mapping"].tolist()
    assert len(batch.input_row) > 4
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert torch.equal(batch.inputs[name], expected[name])


def test_a_batch_has_an_item_for_every_window_and_keeps_the_names_of_rows():
    batch = batch_of()
    assert batch.ids.tolist() == [5, 6, 7]
    assert batch.count.tolist() == torch.bincount(batch.input_row).float().tolist()
    assert batch.num_tokens == int(batch.inputs["attention_mask"].sum())
    assert len(batch) == 3


def test_every_token_of_the_context_knows_its_characters():
    batch = batch_of(columns_of(row_of(SHORT, "cat")))
    places = zip(batch.extra["char_start"][0].tolist(), batch.extra["char_end"][0].tolist(), strict=True)
    pieces = [SHORT[start:end] for start, end in places if start >= 0]
    assert "".join(pieces) == SHORT.replace(" ", "")
    types = batch.inputs["token_type_ids"][0]
    assert not (batch.extra["char_start"][0][types == 0] >= 0).any()


@pytest.mark.parametrize("answer", ["The", "cat", "red house", "house.", SHORT])
def test_targets_are_the_first_and_last_token_of_the_answer(answer):
    batch = batch_of(columns_of(row_of(SHORT, answer)))
    start, end = batch.targets[0].tolist()
    assert SHORT[batch.extra["char_start"][0, start] : batch.extra["char_end"][0, end]] == answer


def test_an_answer_inside_a_token_points_to_that_token():
    batch = batch_of(columns_of(row_of("a b 1990s", "990")))
    start, end = batch.targets[0].tolist()
    assert batch.extra["char_start"][0, start] <= 5
    assert batch.extra["char_end"][0, end] >= 8


def test_white_space_around_an_answer_is_left_out():
    batch = batch_of(columns_of(row_of(SHORT, " cat ")))
    assert torch.equal(batch.targets, batch_of(columns_of(row_of(SHORT, "cat"))).targets)


def test_a_window_without_the_whole_answer_points_to_the_first_token():
    batch = batch_of()
    begin = LONG.index("word17")
    held = 0
    for window in (batch.input_row == 1).nonzero()[:, 0].tolist():
        starts, ends = batch.extra["char_start"][window], batch.extra["char_end"][window]
        holds = bool((starts == begin).any() and (ends == begin + len("word17 is")).any())
        start, end = batch.targets[window].tolist()
        if holds:
            assert (int(starts[start]), int(ends[end])) == (begin, begin + len("word17 is"))
        else:
            assert (start, end) == (0, 0)
        held += holds
    assert 0 < held < int((batch.input_row == 1).sum())


def test_without_a_cls_token_no_answer_is_the_first_token_which_is_never_of_the_context():
    tokenizer = letter_tokenizer()
    tokenizer.backend_tokenizer.post_processor = None  # as GPT-2's: nothing is added
    tokenizer.cls_token = None
    batch = batch_of(tokenizer=tokenizer)
    assert batch.extra["no_answer"].tolist() == [0] * len(batch.input_row)
    assert (batch.extra["char_start"][:, 0] == -1).all()


def test_a_cls_token_that_comes_last_is_where_no_answer_points():
    from tokenizers import processors

    tokenizer = letter_tokenizer()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=special
    )
    batch = batch_of(tokenizer=tokenizer)
    last = batch.inputs["attention_mask"].sum(-1) - 1
    assert torch.equal(batch.extra["no_answer"], last)
    assert (batch.targets == last[:, None]).all(-1).any()


def test_a_long_question_leaves_room_for_the_context():
    rows = columns_of(row_of(LONG, "word17 is", question="why " * 200), row_of(SHORT, "cat"))
    batch = batch_of(rows)
    assert batch.inputs["input_ids"].shape[1] == 32
    assert ((batch.extra["char_start"] >= 0).sum(-1) > 8).all()
    cut, whole = batch.inputs["input_ids"][0], letter_tokenizer()("why " * 200)["input_ids"]
    assert cut[:9].tolist() == whole[:9]


def test_mean_loss_of_one_window_is_the_models_own(model_folder):
    from transformers import AutoModelForQuestionAnswering

    model = AutoModelForQuestionAnswering.from_pretrained(model_folder("bert")).eval()
    batch = batch_of(columns_of(row_of(SHORT, "red house"), row_of("A dog.", "dog")), max_length=64)
    is_open = batch.extra["char_start"] >= 0
    is_open[:, 0] = True
    model.qa_outputs.register_forward_hook(lambda _, __, out: out.masked_fill(~is_open[..., None], float("-inf")))
    with torch.no_grad():
        found = model(**batch.inputs, start_positions=batch.targets[:, 0], end_positions=batch.targets[:, 1])
    outputs = Outputs(torch.stack([found.start_logits, found.end_logits], -1), lambda: torch.zeros(0))
    losses = QuestionAnswering().loss(outputs, batch)
    assert len(batch.input_row) == len(losses) == 2
    assert float(losses.sum() / batch.count.sum()) == pytest.approx(float(found.loss), rel=1e-6)


def test_loss_of_a_row_is_the_sum_over_its_windows():
    batch = batch_of()
    outputs = random_outputs(batch)
    is_open = batch.extra["char_start"] >= 0
    is_open[:, 0] = True
    expected = torch.zeros(3)
    for window, row in enumerate(batch.input_row.tolist()):
        for side in range(2):
            logits = outputs.logits[window, :, side]
            position = batch.targets[window, side]
            expected[row] += 0.5 * (logits[is_open[window]].logsumexp(0) - logits[position])
    torch.testing.assert_close(QuestionAnswering().loss(outputs, batch), expected)


def test_tokens_outside_the_context_get_no_gradient():
    batch = batch_of()
    logits = random_outputs(batch).logits.requires_grad_()
    QuestionAnswering().loss(Outputs(logits, lambda: logits), batch).sum().backward()
    is_open = batch.extra["char_start"] >= 0
    is_open[:, 0] = True
    assert logits.grad is not None
    assert torch.equal(logits.grad.ne(0).any(-1), is_open)


def test_sites_are_start_and_end_of_every_window_and_agree_with_the_loss():
    batch = batch_of()
    outputs = random_outputs(batch)
    sites = QuestionAnswering().sites(outputs, batch)
    assert sites.row.tolist() == batch.input_row.repeat_interleave(2).tolist()
    losses = torch.nn.functional.cross_entropy(sites.logits, sites.target, reduction="none")
    by_row = torch.zeros(3).index_add(0, sites.row, losses) / 2
    torch.testing.assert_close(by_row, QuestionAnswering().loss(outputs, batch))
    assert (sites.logits.isinf() == sites.logits.isneginf()).all()
    assert sites.logits.isneginf().any()


def test_loss_of_parts_is_the_loss_of_the_whole():
    batch = batch_of()
    outputs = random_outputs(batch)
    whole = QuestionAnswering().loss(outputs, batch)
    found = []
    for part in batch.pieces(3):
        inputs = torch.isin(batch.input_row, part.ids - 5)
        own = Outputs(outputs.logits[inputs], lambda: torch.zeros(0))
        found.append(QuestionAnswering().loss(own, part))
    torch.testing.assert_close(torch.cat(found), whole)


@pytest.mark.parametrize("answer", ["The cat", "red house.", "in"])
def test_prediction_is_the_text_of_the_context(answer):
    rows = columns_of(row_of(SHORT, "cat"))
    batch = batch_of(rows)
    begin = SHORT.index(answer)
    outputs = pointing_at(batch, 0, begin, begin + len(answer))
    assert QuestionAnswering().predict(run_of(outputs, rows), batch).values == [answer]


def test_prediction_comes_from_the_surest_window_of_a_row():
    batch = batch_of()
    begin = LONG.index("word25 is")
    outputs = pointing_at(batch, 1, begin, begin + len("word25 is"))
    assert QuestionAnswering().predict(run_of(outputs, ROWS), batch).values[1] == "word25 is"


def test_a_level_of_logits_does_not_decide_between_windows():
    batch = batch_of()
    begin = LONG.index("word25 is")
    outputs = pointing_at(batch, 1, begin, begin + len("word25 is"))
    outputs.logits[int((batch.input_row == 1).nonzero()[0])] += 1000
    assert QuestionAnswering().predict(run_of(outputs, ROWS), batch).values[1] == "word25 is"


def test_tokens_of_the_question_are_never_predicted():
    batch = batch_of(columns_of(row_of(SHORT, "cat")))
    logits = torch.where((batch.extra["char_start"] < 0)[..., None], 50.0, torch.zeros(1)).repeat(1, 1, 2)[..., :2]
    run = run_of(Outputs(logits, lambda: logits), columns_of(row_of(SHORT, "cat")))
    (found,) = QuestionAnswering().predict(run, batch).values
    assert found
    assert found in SHORT


def test_best_span_is_that_of_all_pairs():
    random = torch.Generator().manual_seed(0)
    for longest in (1, 3, 7, 50):
        log_p = torch.randn(6, 9, 2, generator=random)
        log_p[0, :4] = log_p[1, 2] = float("-inf")
        values, starts, ends = best_spans(log_p, longest)
        for i in range(6):
            pairs = [
                (float(log_p[i, s, 0] + log_p[i, e, 1]), s, e) for s in range(9) for e in range(s, min(9, s + longest))
            ]
            assert (float(values[i]), int(starts[i]), int(ends[i])) == max(pairs)


def test_where_no_span_is_possible_the_places_are_still_tokens():
    values, starts, ends = best_spans(torch.full((2, 5, 2), float("-inf")), 3)
    assert values.isneginf().all()
    assert ((starts < 5) & (ends < 5)).all()


def test_answers_are_at_most_as_long_as_allowed():
    rows = columns_of(row_of(SHORT, "cat"))
    batch = batch_of(rows)
    outputs = pointing_at(batch, 0, 0, len(SHORT))
    (found,) = QuestionAnswering(max_answer_tokens=2).predict(run_of(outputs, rows), batch).values
    assert 0 < len(letter_tokenizer()(found, add_special_tokens=False)["input_ids"]) <= 2


def test_score_is_f1_over_the_answers():
    found = QuestionAnswering().score(["Denver Broncos"], [["the Broncos", "Panthers"]], [])
    assert found == {"score": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3), "exact_match": 0.0}


def test_references_are_all_answers_and_the_key_is_the_context():
    assert QuestionAnswering().references(ROWS) == [["red house"], ["word17 is"], ["dog"]]
    assert QuestionAnswering().key(ROWS) == ROWS["context"]


def test_sound_rows_have_no_faults():
    assert QuestionAnswering().validate(ROWS, "here") == []


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        (None, "be {text: [...], answer_start: [...]}, both of one length, got None"),
        ({"text": ["cat"], "answer_start": []}, "be {text: [...], answer_start: [...]}, both of one length, got {"),
        ({"text": [], "answer_start": []}, "hold at least one text, got {"),
        ({"text": [""], "answer_start": [4]}, "be non-empty strings at whole numbers, got '' at 4"),
        ({"text": ["cat"], "answer_start": [4.5]}, "be non-empty strings at whole numbers, got 'cat' at 4.5"),
        ({"text": ["cat"], "answer_start": [25]}, "lie inside the context, got 'cat' at 25 of 27 characters"),
        ({"text": ["cat"], "answer_start": [-1]}, "lie inside the context, got 'cat' at -1 of 27 characters"),
        ({"text": ["cat"], "answer_start": [5]}, "stand where they begin, got 'cat' at 5, where the context has 'at '"),
    ],
)
def test_wrong_answers_are_named_with_their_row(answers, fault):
    rows = columns_of(row_of(SHORT, "cat"), {**row_of(SHORT, "cat"), "answers": answers})
    (problem,) = QuestionAnswering().validate(rows, "here")
    assert problem.startswith(f"here: answers must {fault}")
    assert problem.endswith(" in row 1 (1 such rows)")


def test_a_missing_column_and_an_empty_question_are_named():
    rows = columns_of(row_of(SHORT, "cat", question=" "))
    (problem,) = QuestionAnswering().validate(rows, "here")
    assert problem.startswith("here: question must be a non-empty string, got ' ' in row 0")
    del rows["answers"]
    (problem,) = QuestionAnswering().validate(rows, "here")
    assert problem == "here: needs the columns context, question and answers, has no answers"


@pytest.mark.parametrize(
    ("options", "max_length", "fault"),
    [
        ({"stride": 88}, 128, "stride: must be in 0-87 at training.max_length 128, got 88"),
        ({"stride": -1}, 128, "stride: must be in 0-87 at training.max_length 128, got -1"),
        ({"stride": 0}, 10, "stride: needs a training.max_length of 11 at least, got 10"),
        ({"max_answer_tokens": 0}, 128, "max_answer_tokens: must be at least 1, got 0"),
    ],
)
def test_options_that_leave_no_room_are_named(options, max_length, fault):
    assert QuestionAnswering(**options).faults(max_length) == [fault]


def test_the_largest_stride_and_the_longest_question_still_encode():
    objective = QuestionAnswering(stride=15)
    assert objective.faults(32) == []
    encoded = encoded_of(columns_of(row_of(LONG, "word17 is", question="why " * 200)), objective)
    assert len(encoded["window_lengths"][0]) > 1


def test_a_tokenizer_without_offsets_is_refused():
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(ConfigError, match=r"model\.name: .* needs a fast tokenizer, .*; got SimpleNamespace"):
        encoded_of(tokenizer=slow)


XQUAD = Path(os.environ.get("CL_MLM_DATA", Path(__file__).parents[4] / "shared" / "data")) / "xquad_en"


@pytest.mark.real_data
@pytest.mark.skipif(not XQUAD.is_dir(), reason="no xquad_en in CL_MLM_DATA or ../shared/data")
def test_a_model_that_knows_every_target_answers_real_questions_exactly():
    lines = (XQUAD / "test.jsonl").read_text(encoding="utf-8").splitlines()[::4]
    rows = columns_of(*map(json.loads, lines))
    objective = QuestionAnswering(stride=64, max_answer_tokens=100)
    assert objective.validate(rows, "xquad") == []
    tokenizer = letter_tokenizer()
    encoded = objective.encode(rows, tokenizer, {}, 256)
    batch = objective.collate(encoded, torch.arange(len(lines)), tokenizer)
    logits = torch.zeros(*batch.inputs["input_ids"].shape, 2)
    logits.scatter_(1, batch.targets[:, None], 30.0)
    predictions = objective.predict(run_of(Outputs(logits, lambda: logits), rows), batch).values
    found = objective.score(predictions, objective.references(rows), [])
    assert len(batch.input_row) > 1.5 * len(lines)
    # A token may hold more than the answer: `$` of `$25`, or a plural's s.
    assert found["exact_match"] > 0.97
    assert found["f1"] > 0.98
