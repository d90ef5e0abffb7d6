"""Seven families of sequence classifiers, small and random, behind one Backbone."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    pipeline,
)

from cl_mlm.batch import Batch
from cl_mlm.config.schema import FinetuningConfig, ModelConfig
from cl_mlm.errors import ConfigError
from cl_mlm.models.backbone import PlainBackbone, leading
from cl_mlm.models.loading import load_backbone
from cl_mlm.objectives.classification import Classification

LABELS = ("red", "green", "blue")
GROWN = (*LABELS, "black", "white")
MAX_LENGTH = 32
FAMILIES = ["bert", "roberta", "distilbert", "gpt2", "llama", "t5", "bart"]
DECODERS = ["gpt2", "llama"]
HEADS = {
    "bert": "classifier",
    "roberta": "classifier.out_proj",
    "distilbert": "classifier",
    "gpt2": "score",
    "llama": "score",
    "t5": "classification_head.out_proj",
    "bart": "classification_head.out_proj",
}
TEXTS = ["red", "a green leaf in the wind, and another one", "blue sky"]


def batch_of(backbone, texts=TEXTS) -> Batch:
    objective = Classification()
    rows = {"text": texts, "label": ["red"] * len(texts)}
    encoded = objective.encode(rows, backbone.tokenizer, {"red": 0}, MAX_LENGTH)
    return objective.collate(encoded, torch.arange(len(texts)), backbone.tokenizer)


def logits_of(backbone, texts=TEXTS):
    with torch.no_grad():
        return backbone.forward(batch_of(backbone, texts)).logits


@pytest.mark.parametrize("kind", FAMILIES)
def test_head_is_the_last_linear_outside_the_body(load, kind):
    backbone = load(kind)
    assert (backbone.head_name, backbone.head.out_features) == (HEADS[kind], len(LABELS))


def test_head_is_the_last_linear_even_where_an_earlier_one_is_as_wide(letters):
    """RoBERTa's own head has a Linear of 16 by 16 before the one of 16 classes."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = AutoConfig.for_model("roberta", vocab_size=len(letters), num_labels=16, **sizes)
    backbone = PlainBackbone(AutoModelForSequenceClassification.from_config(config), letters, "sequence")
    assert backbone.model.classifier.dense.out_features == 16
    assert backbone.head_name == "classifier.out_proj"


@pytest.mark.parametrize("kind", FAMILIES)
def test_growing_copies_old_rows_to_the_bit_and_adds_as_many_as_asked(load, kind):
    backbone = load(kind)
    old = {name: parameter.detach().clone() for name, parameter in backbone.head.named_parameters()}
    backbone.grow(GROWN, seed=1, stage_index=1)
    assert backbone.head.weight.shape[0] == len(GROWN)
    for name, parameter in backbone.head.named_parameters():
        assert torch.equal(leading(old[name], parameter), old[name])
        assert parameter[len(LABELS) :].shape[0] == len(GROWN) - len(LABELS)


@pytest.mark.parametrize("kind", FAMILIES)
def test_new_rows_follow_from_seed_and_stage_alone(load, kind):
    def grown(seed, stage_index, noise):
        backbone = load(kind)
        torch.manual_seed(noise)
        backbone.grow(GROWN, seed, stage_index)
        return backbone.head.weight[len(LABELS) :].detach()

    first = grown(5, 1, noise=0)
    assert torch.equal(first, grown(5, 1, noise=1))
    assert not torch.equal(first, grown(6, 1, noise=0))
    assert not torch.equal(first, grown(5, 2, noise=0))
    assert (first != 0).all()


@pytest.mark.parametrize("kind", FAMILIES)
def test_growth_leaves_the_logits_of_old_classes(load, kind):
    backbone = load(kind)
    before = logits_of(backbone)
    backbone.grow(GROWN, seed=0, stage_index=1)
    after = logits_of(backbone)
    assert after.shape == (len(TEXTS), len(GROWN))
    torch.testing.assert_close(after[:, : len(LABELS)], before, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", FAMILIES)
def test_growth_writes_the_labels_into_the_config(load, kind):
    backbone = load(kind)
    backbone.grow(GROWN, seed=0, stage_index=1)
    config = backbone.model.config
    assert config.id2label == dict(enumerate(GROWN))
    assert config.label2id == {label: i for i, label in enumerate(GROWN)}
    assert (config.num_labels, backbone.model.num_labels) == (len(GROWN), len(GROWN))
    assert config.problem_type == "single_label_classification"


def test_growing_to_the_same_labels_changes_no_weight(load):
    backbone = load("bert")
    before = backbone.head
    backbone.grow(LABELS, seed=0, stage_index=1)
    assert backbone.head is before
    assert backbone.model.config.id2label[2] == "blue"


def test_growth_keeps_parameter_names(load):
    backbone = load("bart")
    names = [name for name, _ in backbone.model.named_parameters()]
    backbone.grow(GROWN, seed=0, stage_index=1)
    assert [name for name, _ in backbone.model.named_parameters()] == names


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_model_reloads_with_equal_logits(load, tmp_path, kind):
    backbone = load(kind)
    backbone.grow(GROWN, seed=0, stage_index=1)
    backbone.save(tmp_path / "kept")
    again = load_backbone(ModelConfig(str(tmp_path / "kept")), GROWN, 9, MAX_LENGTH, Classification())
    again.model.eval()
    assert torch.equal(logits_of(again), logits_of(backbone))
    assert again.tokenizer.padding_side == "right"


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_saved_model_works_with_the_plain_pipeline(load, tmp_path, kind):
    backbone = load(kind)
    backbone.grow(GROWN, seed=0, stage_index=1)
    backbone.save(tmp_path / "kept")
    classify = pipeline("text-classification", model=str(tmp_path / "kept"), device="cpu", batch_size=len(TEXTS))
    probabilities = logits_of(backbone).softmax(-1)
    for row, scores in zip(probabilities, classify(TEXTS, top_k=None), strict=True):
        found = {entry["label"]: entry["score"] for entry in scores}
        assert found == pytest.approx(dict(zip(GROWN, row.tolist(), strict=True)), rel=1e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_row_alone_has_the_logits_that_it_has_in_a_padded_batch(load, kind):
    backbone = load(kind)
    together = logits_of(backbone)
    alone = torch.cat([logits_of(backbone, [text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", FAMILIES)
def test_features_are_the_input_of_the_head(load, kind):
    backbone = load(kind)
    outputs = backbone.forward(batch_of(backbone))
    assert outputs.features.shape == (len(TEXTS), backbone.head.in_features)
    torch.testing.assert_close(backbone.head(outputs.features), outputs.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", FAMILIES)
def test_features_follow_the_head_after_growth(load, kind):
    backbone = load(kind)
    backbone.grow(GROWN, seed=0, stage_index=1)
    outputs = backbone.forward(batch_of(backbone))
    torch.testing.assert_close(backbone.head(outputs.features), outputs.logits, rtol=1e-5, atol=1e-6)


@pytest.fixture
def without_padding(tmp_path, letters, save_model, request):
    """A decoder whose tokenizer has an end-of-text token, put after every row, and none for padding."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=letters.backend_tokenizer, eos_token="[SEP]", padding_side="left"
    )
    assert tokenizer.pad_token is None
    config = ModelConfig(save_model(tmp_path, request.param, tokenizer, pad=False))
    return load_backbone(config, LABELS, 0, MAX_LENGTH, Classification())


@pytest.mark.parametrize("without_padding", DECODERS, indirect=True)
def test_a_decoder_without_padding_token_gets_the_end_of_text_token(without_padding, tmp_path):
    assert without_padding.tokenizer.pad_token == "[SEP]"
    without_padding.save(tmp_path / "kept")
    kept = AutoConfig.from_pretrained(tmp_path / "kept")
    assert kept.pad_token_id == without_padding.tokenizer.eos_token_id


@pytest.mark.parametrize("without_padding", DECODERS, indirect=True)
def test_a_tokenizer_that_padded_on_the_left_is_kept_padding_on_the_right(without_padding, tmp_path):
    without_padding.save(tmp_path / "kept")
    assert AutoTokenizer.from_pretrained(tmp_path / "kept").padding_side == "right"


@pytest.mark.parametrize("without_padding", DECODERS, indirect=True)
def test_a_decoder_that_got_a_padding_token_ignores_padding(without_padding):
    without_padding.model.eval()
    alone = torch.cat([logits_of(without_padding, [text]) for text in TEXTS])
    torch.testing.assert_close(logits_of(without_padding), alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("without_padding", DECODERS, indirect=True)
def test_features_are_the_input_of_the_head_where_rows_end_with_the_padding_token(without_padding):
    without_padding.model.eval()
    outputs = without_padding.forward(batch_of(without_padding))
    torch.testing.assert_close(without_padding.head(outputs.features), outputs.logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", FAMILIES)
def test_dropout_is_drawn_in_training_and_zero_turns_it_off(load, kind):
    def passes_differ(dropout):
        backbone = load(kind, dropout=dropout)
        backbone.train_mode()
        batch = batch_of(backbone)
        found = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            found.append(backbone.forward(batch).logits.detach())
        return not torch.equal(*found)

    assert passes_differ(0.3)
    assert not passes_differ(0.0)


@pytest.mark.parametrize("kind", FAMILIES)
def test_head_mode_trains_what_lies_outside_the_body(load, kind):
    backbone = load(kind)
    backbone.set_trainable(FinetuningConfig(mode="head"), 0)
    body = {id(parameter) for parameter in backbone.model.base_model.parameters()}
    trainable = {name for name, p in backbone.model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, p in backbone.model.named_parameters() if id(p) not in body}
    assert f"{HEADS[kind]}.weight" in trainable
    assert trainable == {name for name, _ in backbone.head_parameters()}


@pytest.mark.parametrize("kind", FAMILIES)
def test_head_mode_keeps_the_body_deterministic(load, kind):
    backbone = load(kind, dropout=0.3)
    backbone.set_trainable(FinetuningConfig(mode="head"), 0)
    backbone.train_mode()
    seen = []
    backbone.model.base_model.register_forward_hook(lambda module, args, output: seen.append(output[0].detach()))
    for seed in (0, 1):
        torch.manual_seed(seed)
        backbone.forward(batch_of(backbone))
    assert torch.equal(seen[0], seen[1])
    assert backbone.model.training


def test_full_mode_trains_everything_again_after_head_mode(load):
    backbone = load("bert")
    backbone.set_trainable(FinetuningConfig(mode="head"), 0)
    backbone.set_trainable(FinetuningConfig(), 0)
    assert all(parameter.requires_grad for parameter in backbone.model.parameters())


def test_a_head_grown_in_head_mode_is_trainable(load):
    backbone = load("bert")
    backbone.set_trainable(FinetuningConfig(mode="head"), 0)
    backbone.grow(GROWN, seed=0, stage_index=1)
    assert backbone.head.weight.requires_grad
    assert backbone.head.bias.requires_grad


def test_leading_is_a_view_of_the_grown_parameter():
    new = torch.arange(12.0).reshape(4, 3)
    leading(torch.zeros(2, 3), new).zero_()
    assert new.tolist() == [[0, 0, 0], [0, 0, 0], [6, 7, 8], [9, 10, 11]]


def test_a_model_without_class_head_is_refused(load):
    backbone = load("bert")
    backbone.model.config.num_labels = 7
    with pytest.raises(ConfigError, match=r"has no head of 7 outputs$"):
        PlainBackbone(backbone.model, backbone.tokenizer, "sequence")
