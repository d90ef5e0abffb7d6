"""Text to text on small random models of every family that writes, against transformers' own loss and generation."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from cl_mlm.batch import Outputs
from cl_mlm.config.components import make_objective
from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.text_to_text import TextToText
from cl_mlm.tokens.logits import NO_TARGET
from cl_mlm.tokens.target_batches import left_padded_prompts

DECODERS, PAIRS = ["gpt2", "llama"], ["t5", "bart"]
ROWS = {
    "source": ["how cold is it", "one", "the long way round the hill and back again"],
    "target": ["ice", "two and three", "hill"],
}
MAX_LENGTH = 64


class Asked:
    """What an objective sees of a run."""

    def __init__(self, backbone):
        self.model, self.tokenizer, self.classes, self.forward = (
            backbone.model,
            backbone.tokenizer,
            (),
            backbone.forward,
        )

    def autocast(self):
        return nullcontext()


@pytest.fixture
def load(model_folder, one_thread):
    def load(kind, **options):
        objective = TextToText(**options)
        name = kind if kind.startswith("tiny") else model_folder(kind)
        backbone = load_backbone(ModelConfig(name), (), 0, MAX_LENGTH, objective)
        backbone.model.eval()
        objective.bind(backbone.model, backbone.kind)
        return objective, backbone

    return load


def batch_of(objective, tokenizer, rows=ROWS, max_length=MAX_LENGTH):
    encoded = objective.encode(rows, tokenizer, {}, max_length)
    columns = {name: [torch.tensor(tokens).int().numpy() for tokens in column] for name, column in encoded.items()}
    return objective.collate(columns, torch.arange(len(rows["source"])), tokenizer)


def tokens_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", DECODERS)
def test_a_decoders_loss_is_the_models_own_with_the_prompt_masked(load, model_folder, kind):
    objective, backbone = load(kind)
    batch = batch_of(objective, backbone.tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(model_folder(kind))
    plain.load_state_dict(backbone.model.state_dict())
    plain.eval()
    losses = objective.loss(backbone.forward(batch), batch).tolist()
    for row, loss in enumerate(losses):
        target = [*tokens_of(backbone.tokenizer, ROWS["target"][row]), backbone.tokenizer.sep_token_id]
        ids = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row] == 1]
        labels = ids.clone()
        labels[: -len(target)] = -100
        assert ids[-len(target) :].tolist() == target
        assert batch.count[row] == len(target)
        expected = plain(input_ids=ids[None], labels=labels[None]).loss.item() * len(target)
        assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", PAIRS)
def test_an_encoder_decoders_loss_is_the_models_own(load, model_folder, kind):
    objective, backbone = load(kind)
    tokenizer = backbone.tokenizer
    batch = batch_of(objective, tokenizer)
    plain = AutoModelForSeq2SeqLM.from_pretrained(model_folder(kind))
    plain.load_state_dict(backbone.model.state_dict())
    plain.eval()
    losses = objective.loss(backbone.forward(batch), batch).tolist()
    for row, loss in enumerate(losses):
        target = [*tokens_of(tokenizer, ROWS["target"][row]), tokenizer.sep_token_id]
        source = tokenizer(ROWS["source"][row], return_tensors="pt")
        expected = plain(**source, labels=torch.tensor([target])).loss.item() * len(target)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert batch.count[row] == len(target)


def test_a_decoder_reads_prefix_source_separator_and_target(load):
    objective, backbone = load("gpt2", prefix="say ", separator=" => ")
    tokenizer = backbone.tokenizer
    batch = batch_of(objective, tokenizer)
    first = [tokenizer.cls_token_id, *tokens_of(tokenizer, "say how cold is it"), *tokens_of(tokenizer, " => ")]
    whole = [*first, *tokens_of(tokenizer, "ice"), tokenizer.sep_token_id]
    assert batch.inputs["input_ids"][0][: len(whole)].tolist() == whole
    assert (batch.inputs["input_ids"][0][len(whole) :] == tokenizer.pad_token_id).all()
    assert batch.targets[0].tolist()[: len(first) - 1] == [NO_TARGET] * (len(first) - 1)
    assert batch.targets[0].tolist()[len(first) - 1 : len(whole) - 1] == whole[len(first) :]
    assert (batch.targets[0][len(whole) - 1 :] == NO_TARGET).all()
    assert batch.num_tokens == int(batch.inputs["attention_mask"].sum())


def test_an_encoder_decoder_reads_prefix_and_source_with_special_tokens(load):
    objective, backbone = load("t5", prefix="say ", separator=" => ")
    batch = batch_of(objective, backbone.tokenizer)
    expected = backbone.tokenizer(["say " + source for source in ROWS["source"]], padding=True, return_tensors="pt")
    assert torch.equal(batch.inputs["input_ids"], expected["input_ids"])
    assert torch.equal(batch.inputs["attention_mask"], expected["attention_mask"])
    assert (batch.inputs["decoder_input_ids"][:, 0] == 0).all()
    wanted = batch.targets[:, 1:] != NO_TARGET
    assert torch.equal(batch.inputs["decoder_input_ids"][:, 1:][wanted], batch.targets[:, :-1][wanted])


def test_a_loss_on_the_prompt_is_never_asked_for(load):
    objective, backbone = load("gpt2")
    batch = batch_of(objective, backbone.tokenizer)
    logits = backbone.forward(batch).logits.detach().requires_grad_()
    objective.loss(Outputs(logits, lambda: logits), batch).sum().backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, batch.targets != NO_TARGET)


@pytest.mark.parametrize("kind", [*DECODERS, *PAIRS])
def test_places_put_before_the_input_leave_the_loss_as_it_is(load, kind):
    objective, backbone = load(kind)
    batch = batch_of(objective, backbone.tokenizer)
    logits = backbone.forward(batch).logits.detach()
    longer = torch.cat([torch.randn(len(batch), 5, logits.shape[-1]), logits], 1)
    first = objective.loss(Outputs(logits, lambda: logits), batch)
    assert torch.equal(objective.loss(Outputs(longer, lambda: longer), batch), first)


def test_virtual_tokens_before_a_decoders_input_keep_targets_at_their_tokens(load):
    objective, backbone = load("llama")
    batch = batch_of(objective, backbone.tokenizer)
    words = backbone.model.get_input_embeddings()
    prompt = torch.tensor([[7, 8, 9]]).expand(len(batch), -1)
    embedded = torch.cat([words(prompt), words(batch.inputs["input_ids"])], 1)
    mask = torch.cat([torch.ones_like(prompt), batch.inputs["attention_mask"]], 1)
    logits = backbone.model(inputs_embeds=embedded, attention_mask=mask).logits
    losses = objective.loss(Outputs(logits, lambda: logits), batch)
    whole = torch.cat([prompt, batch.inputs["input_ids"]], 1)
    targets = torch.cat([torch.full_like(prompt, NO_TARGET), batch.targets], 1)
    given = replace(batch, inputs={"input_ids": whole, "attention_mask": mask}, targets=targets)
    torch.testing.assert_close(losses, objective.loss(backbone.forward(given), given))


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_sites_are_the_target_tokens_in_row_order(load, kind):
    objective, backbone = load(kind)
    batch = batch_of(objective, backbone.tokenizer)
    outputs = backbone.forward(batch)
    sites = objective.sites(outputs, batch)
    targets = [[*tokens_of(backbone.tokenizer, target), backbone.tokenizer.sep_token_id] for target in ROWS["target"]]
    assert sites.target.tolist() == [token for row in targets for token in row]
    assert sites.row.tolist() == [row for row, tokens in enumerate(targets) for _ in tokens]
    first = int((batch.targets[1] != NO_TARGET).int().argmax())
    torch.testing.assert_close(sites.logits[len(targets[0])], outputs.logits[1, first].float())
    losses = torch.nn.functional.cross_entropy(sites.logits, sites.target, reduction="none")
    summed = torch.zeros(3).index_add(0, sites.row, losses)
    torch.testing.assert_close(summed, objective.loss(outputs, batch))


def test_loss_of_half_precision_logits_is_in_single_precision(load):
    objective, backbone = load("gpt2")
    batch = batch_of(objective, backbone.tokenizer)
    logits = backbone.forward(batch).logits.bfloat16()
    assert objective.loss(Outputs(logits, lambda: logits), batch).dtype == torch.float32


def test_a_batch_cut_into_parts_has_the_same_losses(load):
    objective, backbone = load("gpt2")
    batch = batch_of(objective, backbone.tokenizer)
    parts = [objective.loss(backbone.forward(part), part) for part in batch.pieces(2)]
    torch.testing.assert_close(torch.cat(parts), objective.loss(backbone.forward(batch), batch))


@pytest.mark.parametrize("kind", [*DECODERS, *PAIRS])
def test_rows_generated_together_are_those_generated_one_by_one(load, kind):
    objective, backbone = load(kind, max_new_tokens=6)
    asked = Asked(backbone)
    with torch.inference_mode():
        together = objective.predict(asked, batch_of(objective, backbone.tokenizer)).values
        alone = [
            objective.predict(asked, batch_of(objective, backbone.tokenizer, {k: [v[i]] for k, v in ROWS.items()}))
            for i in range(3)
        ]
    assert together == [found.values[0] for found in alone]
    assert len({*together}) > 1


@pytest.mark.parametrize("kind", ["gpt2", "t5"])
def test_every_token_is_the_likeliest_after_those_before(load, kind):
    objective, backbone = load(kind, max_new_tokens=4)
    tokenizer, end = backbone.tokenizer, backbone.tokenizer.sep_token_id
    rows = {name: column[:1] for name, column in ROWS.items()}
    batch = batch_of(objective, tokenizer, rows)
    found = []
    for _ in range(4):
        if kind == "gpt2":
            ids = left_padded_prompts(batch, 0)["input_ids"]
            logits = backbone.model(input_ids=torch.cat([ids, torch.tensor([found]).long()], 1)).logits
        else:
            decoder = torch.tensor([[0, *found]])
            logits = backbone.model(input_ids=batch.inputs["input_ids"], decoder_input_ids=decoder).logits
        found.append(int(logits[0, -1].argmax()))
        if found[-1] == end:
            break
    with torch.inference_mode():
        (written,) = objective.predict(Asked(backbone), batch).values
    assert written == tokenizer.decode([token for token in found if token != end], skip_special_tokens=True).strip()


def test_habits_of_the_models_own_generation_do_not_show(load):
    objective, backbone = load("bart", max_new_tokens=6)
    batch = batch_of(objective, backbone.tokenizer)
    before = objective.predict(Asked(backbone), batch).values
    habits = GenerationConfig(
        num_beams=3, forced_bos_token_id=77, min_new_tokens=5, repetition_penalty=9.0, decoder_start_token_id=2
    )
    backbone.model.generation_config = habits
    assert objective.predict(Asked(backbone), batch).values == before
    assert backbone.model.generation_config is habits


def test_writing_stops_at_the_end_token(load):
    objective, backbone = load("gpt2", max_new_tokens=9)
    with torch.no_grad():  # the end token, whatever is read
        backbone.model.transformer.ln_f.weight.zero_()
        backbone.model.transformer.ln_f.bias.fill_(1.0)
        backbone.model.lm_head.weight[backbone.tokenizer.sep_token_id] = 9.0
    calls = []
    backbone.model.register_forward_hook(lambda *_: calls.append(1))
    found = objective.predict(Asked(backbone), batch_of(objective, backbone.tokenizer)).values
    assert (found, len(calls)) == (["", "", ""], 1)


def test_no_more_is_written_than_the_longest_answer_needs(load):
    objective, backbone = load("gpt2", answers=["ice", "two and three", "hill"])
    calls = []
    backbone.model.register_forward_hook(lambda *_: calls.append(1))
    objective.predict(Asked(backbone), batch_of(objective, backbone.tokenizer))
    assert len(calls) <= 1 + len(tokens_of(backbone.tokenizer, "two and three"))


def test_prompts_are_padded_on_the_left_and_hold_no_target(load):
    objective, backbone = load("gpt2", separator="|")
    batch = batch_of(objective, backbone.tokenizer)
    found = left_padded_prompts(batch, 0)
    for row, source in enumerate(ROWS["source"]):
        prompt = [backbone.tokenizer.cls_token_id, *tokens_of(backbone.tokenizer, source + "|")]
        assert found["input_ids"][row][found["attention_mask"][row] == 1].tolist() == prompt
        assert found["attention_mask"][row].tolist() == sorted(found["attention_mask"][row].tolist())


def test_a_long_source_is_cut_and_the_separator_stays(load):
    objective, backbone = load("gpt2", separator="|")
    batch = batch_of(objective, backbone.tokenizer, {"source": ["word " * 50], "target": ["x"]}, max_length=8)
    prompt = left_padded_prompts(batch, 0)["input_ids"][0].tolist()
    assert len(prompt) == 8
    assert prompt[-1:] == tokens_of(backbone.tokenizer, "|")


@pytest.mark.parametrize(("options", "most"), [({"max_new_tokens": 5}, 5), ({"max_target_length": 3}, 3)])
def test_a_long_target_is_cut_and_keeps_its_end(load, options, most):
    objective, backbone = load("t5", **options)
    batch = batch_of(objective, backbone.tokenizer, {"source": ["a"], "target": ["word " * 50]})
    assert batch.targets.shape == (1, most)
    assert batch.targets[0, -1] == backbone.tokenizer.sep_token_id


def test_a_prompt_of_no_token_still_has_something_to_go_on_from(load):
    objective, backbone = load("gpt2", separator="")
    backbone.tokenizer.backend_tokenizer.post_processor = None
    batch = batch_of(objective, backbone.tokenizer, {"source": [" \t"], "target": ["x"]})
    assert batch.inputs["input_ids"][0, 0] == backbone.tokenizer.sep_token_id
    assert objective.loss(backbone.forward(batch), batch).isfinite().all()


def test_score_is_the_metric_asked_for():
    written, right = ["a cat sat", "a dog"], ["a cat lay", "a dog"]
    for metric in ("exact_match", "rouge_l", "chrf", "bleu"):
        scores = TextToText(metric=metric).score(written, right, ())
        assert scores["score"] == scores[metric]
    assert scores["exact_match"] == 0.5
    assert "format_failures" not in scores


def test_format_failures_are_counted_apart():
    objective = TextToText(answers=["yes", "no"])
    scores = objective.score(["yes", "no", "nope", ""], ["yes", "yes", "no", "no"], ())
    assert (scores["score"], scores["format_failures"]) == (0.25, 0.5)
    lines = objective.per_label(["yes", "no", "nope", ""], ["yes", "yes", "no", "no"], ())
    assert [(line["label"], line["rows"], line["recall"]) for line in lines] == [("yes", 2, 0.5), ("no", 2, 0.0)]


@pytest.mark.parametrize("column", ["source", "target"])
@pytest.mark.parametrize("wrong", ["", " \n", None, 3])
def test_an_empty_text_is_named_with_its_row(column, wrong):
    rows = {name: [*values] for name, values in ROWS.items()}
    rows[column][1] = wrong
    (problem,) = TextToText().validate(rows, "here")
    assert problem.startswith(f"here: {column} must be a non-empty string, got {wrong!r} in row 1 (")


def test_sound_rows_have_no_faults_and_missing_columns_are_named():
    assert TextToText().validate(ROWS, "here") == []
    assert TextToText().validate({"source": ["a"]}, "here") == [
        "here: needs the columns source and target, has no target"
    ]


def test_a_target_that_is_no_answer_is_named_with_its_row():
    assert TextToText(answers=["ice", "hill"]).validate(ROWS, "here") == [
        "here: target must be one of stream.options.answers, got 'two and three' in row 1 (1 such rows); "
        "allowed: 'ice', 'hill'"
    ]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"max_new_tokens": 1}, "max_new_tokens: must be at least 2, got 1"),
        ({"max_target_length": 1}, "max_target_length: must be at least 2 or null, got 1"),
        ({"answers": []}, "answers: must be different texts that are not empty, or null, got []"),
        ({"answers": ["a", "a "]}, "answers: must be different texts that are not empty, or null, got ['a', 'a ']"),
        ({"answers": ["a", " "]}, "answers: must be different texts that are not empty, or null, got ['a', ' ']"),
    ],
)
def test_an_option_out_of_range_is_named(options, fault):
    assert TextToText(**options).faults(64) == [fault]
    assert TextToText().faults(64) == []


def test_an_option_of_another_type_is_named():
    with pytest.raises(ConfigError) as caught:
        make_objective("text_to_text", {"metric": "blue", "max_new_tokens": "many"})
    assert caught.value.problems == [
        "stream.options.metric: must be one of exact_match, rouge_l, chrf, bleu, got 'blue' (did you mean 'bleu'?)",
        "stream.options.max_new_tokens: must be a whole number, got 'many'",
    ]


def test_an_encoder_cannot_write(model_folder):
    with pytest.raises(ConfigError, match=r"needs AutoModelForSeq2SeqLM or AutoModelForCausalLM; .* is an encoder"):
        load_backbone(ModelConfig(model_folder("bert")), (), 0, MAX_LENGTH, TextToText())


@pytest.mark.parametrize("kind", ["tiny-decoder", "tiny-encoder-decoder"])
def test_a_tiny_model_writes_the_same_after_it_was_saved(load, tmp_path, kind):
    objective, backbone = load(kind, max_new_tokens=4)
    backbone.save(tmp_path)
    again = load_backbone(ModelConfig(str(tmp_path)), (), 1, MAX_LENGTH, objective)
    again.model.eval()
    written = [
        objective.predict(Asked(found), batch_of(objective, found.tokenizer)).values for found in (backbone, again)
    ]
    assert written[0] == written[1]


@pytest.mark.parametrize("text", ["Hello World,  ok\n\tü 中文 😀 don't  x.", " lead trail ", "x" * 300 + " é", "ﬁ ①"])
def test_any_text_comes_back_from_the_tokens_of_a_tiny_model_that_writes(text):
    tokenizer = letter_tokenizer("tiny-decoder")
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_decoder_has_room_for_all_that_it_writes_but_the_last_token():
    tokenizer = letter_tokenizer()
    separator = len(TextToText()._separator_tokens(tokenizer))
    assert TextToText(max_new_tokens=10, max_target_length=4).extra_length(tokenizer, "causal") == separator + 9
    assert TextToText(max_new_tokens=4, max_target_length=10).extra_length(tokenizer, "causal") == separator + 10
    assert TextToText().extra_length(tokenizer, "seq2seq") == 0
