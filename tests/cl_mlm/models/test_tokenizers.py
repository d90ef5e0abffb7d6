import pytest

from cl_mlm.config.schema import ModelConfig
from cl_mlm.models.tokenizers import folds_case


@pytest.mark.parametrize(("name", "folds"), [("tiny", True), ("tiny-decoder", False), ("tiny-encoder-decoder", False)])
def test_a_tokenizer_folds_case_or_does_not(name, folds):
    assert folds_case(ModelConfig(name=name)) is folds


def test_a_tokenizer_that_cannot_be_had_is_taken_to_tell_case_apart(tmp_path):
    assert not folds_case(ModelConfig(name=str(tmp_path)))
