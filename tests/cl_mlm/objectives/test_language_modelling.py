"""Language modelling on small random models, against transformers' own loss; which tokens are masked, and when."""

import math
from contextlib import nullcontext

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from cl_mlm.batch import Outputs
from cl_mlm.config.schema import ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.language_modelling import LanguageModelling
from cl_mlm.randomness import torch_generator
from cl_mlm.tokens.logits import NO_TARGET
from cl_mlm.tokens.masking import masked_tokens

ROWS = {"text": ["how cold is it", "one", "the long way round the hill and back again"]}
MAX_LENGTH = 64
CAUSAL, MASKED = LanguageModelling(), LanguageModelling("masked", mask_share=0.3)


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
    def load(kind, objective):
        backbone = load_backbone(ModelConfig(model_folder(kind)), (), 0, MAX_LENGTH, objective)
        backbone.model.eval()
        return backbone

    return load


def batch_of(objective, tokenizer, rows=ROWS, max_length=MAX_LENGTH, ids=None):
    encoded = objective.encode(rows, tokenizer, {}, max_length)
    columns = {
        name: [torch.tensor(tokens).int().numpy() if isinstance(tokens, list) else tokens for tokens in column]
        for name, column in encoded.items()
    }
    ids = torch.arange(len(rows["text"])) if ids is None else torch.tensor(ids)
    return objective.collate(columns, ids, tokenizer)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_causal_loss_is_the_models_own(load, model_folder, kind):
    backbone = load(kind, CAUSAL)
    batch = batch_of(CAUSAL, backbone.tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(model_folder(kind))
    plain.load_state_dict(backbone.model.state_dict())
    plain.eval()
    losses = CAUSAL.loss(backbone.forward(batch), batch).tolist()
    for text, loss, count in zip(ROWS["text"], losses, batch.count.tolist(), strict=True):
        ids = backbone.tokenizer(text, return_tensors="pt")["input_ids"]
        assert count == ids.shape[1] - 1
        assert loss == pytest.approx(plain(input_ids=ids, labels=ids).loss.item() * count, rel=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_masked_loss_is_the_models_own(load, model_folder, kind):
    backbone = load(kind, MASKED)
    batch = batch_of(MASKED, backbone.tokenizer)
    plain = AutoModelForMaskedLM.from_pretrained(model_folder(kind))
    plain.load_state_dict(backbone.model.state_dict())
    plain.eval()
    losses = MASKED.loss(backbone.forward(batch), batch)
    expected = plain(**batch.inputs, labels=batch.targets).loss.item() * float(batch.count.sum())
    assert losses.sum().item() == pytest.approx(expected, rel=1e-5)
    assert ((batch.targets != NO_TARGET).sum(1) == batch.count).all()


def test_sites_are_the_shifted_logits_in_row_order(load):
    backbone = load("gpt2", CAUSAL)
    batch = batch_of(CAUSAL, backbone.tokenizer)
    outputs = backbone.forward(batch)
    sites = CAUSAL.sites(outputs, batch)
    lengths = batch.inputs["attention_mask"].sum(1).tolist()
    logits = torch.cat([outputs.logits[row, : length - 1] for row, length in enumerate(lengths)])
    targets = torch.cat([batch.inputs["input_ids"][row, 1:length] for row, length in enumerate(lengths)])
    assert torch.equal(sites.logits, logits.float())
    assert torch.equal(sites.target, targets)
    assert sites.row.tolist() == [row for row, length in enumerate(lengths) for _ in range(length - 1)]


def test_places_put_before_the_input_leave_the_loss_as_it_is(load):
    backbone = load("gpt2", CAUSAL)
    batch = batch_of(CAUSAL, backbone.tokenizer)
    logits = backbone.forward(batch).logits.detach()
    longer = torch.cat([torch.randn(3, 4, logits.shape[-1]), logits], 1)
    expected = CAUSAL.loss(Outputs(logits, lambda: logits), batch)
    assert torch.equal(CAUSAL.loss(Outputs(longer, lambda: longer), batch), expected)


def without_start():
    """A tokenizer that puts nothing before a text, as that of GPT-2."""
    tokenizer = letter_tokenizer("tiny-decoder")
    tokenizer.backend_tokenizer.post_processor = None
    return tokenizer


def test_the_first_token_of_a_text_is_predicted_where_the_tokenizer_puts_none_before_it():
    tokenizer = without_start()
    batch = batch_of(CAUSAL, tokenizer, {"text": ["a"]})
    assert batch.inputs["input_ids"].tolist() == [[tokenizer.bos_token_id, *tokenizer("a")["input_ids"]]]
    assert batch.count.tolist() == [1.0]


def test_a_token_put_before_counts_in_the_length():
    assert batch_of(CAUSAL, without_start(), {"text": ["word " * 9]}, max_length=5).inputs["input_ids"].shape == (1, 5)


@pytest.mark.parametrize("text", ["für é", "a b c", "中文 ok 😀"])
def test_bytes_are_those_of_the_text_that_was_read(text):
    tokenizer = letter_tokenizer("tiny-decoder")
    whole = batch_of(CAUSAL, tokenizer, {"text": [text]})
    assert whole.extra["num_bytes"].tolist() == [len(text.encode())]
    cut = batch_of(
        CAUSAL, tokenizer, {"text": [text + " and more of it"]}, max_length=whole.inputs["input_ids"].shape[1]
    )
    assert cut.extra["num_bytes"].tolist() == [len(text.encode())]


def test_prediction_is_loss_tokens_and_bytes(load):
    backbone = load("gpt2", CAUSAL)
    batch = batch_of(CAUSAL, backbone.tokenizer)
    with torch.inference_mode():
        found = CAUSAL.predict(Asked(backbone), batch).values
        losses = CAUSAL.loss(backbone.forward(batch), batch).tolist()
    sizes = [float(len(text)) for text in ROWS["text"]]
    assert found == [list(line) for line in zip(losses, batch.count.tolist(), sizes, strict=True)]


def test_score_of_a_hand_made_case():
    # 10 tokens of 2 bits each over 4 bytes.
    found = [[6 * 2 * math.log(2), 6.0, 1.0], [4 * 2 * math.log(2), 4.0, 3.0]]
    assert CAUSAL.score(found, [1, 3], ()) == pytest.approx({"score": 0.25, "perplexity": 4.0, "bits_per_byte": 5.0})
    assert MASKED.score(found, [1, 3], ()) == pytest.approx({"score": 0.25, "perplexity": 4.0})


def test_a_loss_beyond_the_range_of_numbers_still_has_a_score():
    scores = CAUSAL.score([[1e6, 1.0, 1.0]], [1], ())
    assert scores["score"] == 0
    assert all(map(math.isfinite, scores.values()))


def test_the_form_of_model_follows_from_the_kind():
    assert (CAUSAL.heads, CAUSAL.varies) == (("causal",), False)
    assert (MASKED.heads, MASKED.varies) == (("masked",), True)


@pytest.mark.parametrize(("kind", "objective"), [("bert", CAUSAL), ("gpt2", MASKED), ("t5", CAUSAL)])
def test_a_model_of_another_form_is_refused(load, kind, objective):
    with pytest.raises(ConfigError, match=r"^model.name: the stream's objective needs"):
        load(kind, objective)


def draws_of(shape, seed=0):
    return torch.rand((3, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_masks_random_tokens_and_the_tokens_themselves_have_their_shares():
    tokens = torch.full((1000, 40), 700)
    maskable, count = torch.ones_like(tokens).bool(), torch.full((1000,), 10.0)
    shown, targets = masked_tokens(tokens, maskable, count, draws_of(tokens.shape), 4, 500)
    chosen = targets != NO_TARGET
    assert (chosen.sum(1) == 10).all()
    assert (targets[chosen] == 700).all()
    assert (shown[~chosen] == 700).all()
    assert (shown[chosen] == 4).float().mean().item() == pytest.approx(0.8 + 0.1 / 500, abs=0.015)
    assert (shown[chosen] == 700).float().mean().item() == pytest.approx(0.1, abs=0.012)
    others = shown[chosen & (shown != 4) & (shown != 700)]
    assert others.float().mean().item() == pytest.approx(249.5, abs=20)
    assert 0 <= others.min() < others.max() < 500
    places = chosen.float().mean(0)
    assert places.min() > 0.19
    assert places.max() < 0.31


def test_a_token_that_may_not_be_masked_is_not():
    tokens = torch.arange(24).reshape(2, 12)
    maskable = tokens % 3 == 0
    shown, targets = masked_tokens(tokens, maskable, torch.tensor([4.0, 2.0]), draws_of(tokens.shape), 99, 100)
    assert torch.equal(targets[0] != NO_TARGET, maskable[0])
    assert (targets[1] != NO_TARGET).sum() == 2
    assert torch.equal(shown[~maskable], tokens[~maskable])


def test_special_tokens_and_padding_are_never_predicted():
    tokenizer = letter_tokenizer()
    whole = LanguageModelling("masked", mask_share=0.999)
    batch = batch_of(whole, tokenizer)
    lengths = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ROWS["text"]]
    assert batch.count.tolist() == lengths
    assert not torch.isin(batch.targets, torch.tensor(tokenizer.all_special_ids)).any()


def test_a_share_of_a_row_is_masked_and_at_least_one_token():
    batch = batch_of(MASKED, letter_tokenizer())
    lengths = [len(letter_tokenizer()(text, add_special_tokens=False)["input_ids"]) for text in ROWS["text"]]
    assert batch.count.tolist() == [max(1, round(0.3 * length)) for length in lengths]


def test_the_same_step_masks_the_same_tokens_and_another_step_others():
    batch = batch_of(MASKED, letter_tokenizer())
    first, same, other = (MASKED.varied(batch, torch_generator(1, "varied", step)) for step in (3, 3, 4))
    assert torch.equal(first.inputs["input_ids"], same.inputs["input_ids"])
    assert torch.equal(first.targets, same.targets)
    assert not torch.equal(first.targets, other.targets)
    assert torch.equal((first.targets != NO_TARGET).sum(1), batch.count.long())
    assert torch.equal((other.targets != NO_TARGET).sum(1), batch.count.long())


def test_what_a_step_masks_is_drawn_from_the_row_as_it_is():
    batch = batch_of(MASKED, letter_tokenizer())
    twice = MASKED.varied(MASKED.varied(batch, torch_generator(1, "a")), torch_generator(1, "b"))
    once = MASKED.varied(batch, torch_generator(1, "b"))
    assert torch.equal(twice.inputs["input_ids"], once.inputs["input_ids"])


def test_outside_of_training_a_rows_mask_follows_from_its_id_alone():
    tokenizer = letter_tokenizer()
    together = batch_of(MASKED, tokenizer, ids=[5, 6, 7])
    alone = batch_of(MASKED, tokenizer, {"text": ROWS["text"][:1]}, ids=[5])
    length = alone.targets.shape[1]
    assert torch.equal(together.inputs["input_ids"][0, :length], alone.inputs["input_ids"][0])
    assert torch.equal(together.targets[0, :length], alone.targets[0])
    long = {"text": ROWS["text"][2:]}
    masks = [batch_of(MASKED, tokenizer, long, ids=[name]).targets for name in range(6)]
    assert any(not torch.equal(masks[0], mask) for mask in masks[1:])


def test_causal_rows_are_not_varied():
    batch = batch_of(CAUSAL, letter_tokenizer())
    assert CAUSAL.varied(batch, torch_generator(1, "a")) is batch


def test_a_tokenizer_without_mask_token_is_refused():
    tokenizer = letter_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(ConfigError, match=r"^stream.options.kind: masked needs a tokenizer with a mask token"):
        batch_of(MASKED, tokenizer)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, math.nan])
def test_a_share_out_of_range_is_named(share):
    assert LanguageModelling("masked", share).faults(64) == [f"mask_share: must be above 0 and below 1, got {share}"]


@pytest.mark.parametrize("wrong", ["", " \n", None, 3])
def test_an_empty_text_is_named_with_its_row(wrong):
    (problem,) = CAUSAL.validate({"text": ["a", wrong]}, "here")
    assert problem.startswith(f"here: text must be a non-empty string, got {wrong!r} in row 1 (")
