"""Small random sequence classifiers of seven families, in folders and behind a backbone."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from cl_mlm.config.schema import ModelConfig
from cl_mlm.models.backbone import PlainBackbone
from cl_mlm.models.loading import load_backbone
from cl_mlm.models.tiny import letter_tokenizer
from cl_mlm.objectives.classification import Classification

LABELS = ("red", "green", "blue")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
BART |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
CONFIGS = {
    "bert": SMALL | {"max_position_embeddings": 40},
    "roberta": SMALL | {"max_position_embeddings": 40},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 40},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    "llama": SMALL | {"num_key_value_heads": 1},
    "t5": {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
    "bart": BART | {"max_position_embeddings": 40, "decoder_start_token_id": 2},
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors gain nothing from more, and lose much where other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def letters() -> PreTrainedTokenizerBase:
    return letter_tokenizer()


@pytest.fixture(scope="session")
def save_model() -> Callable[..., str]:
    """Saves a model of a family that knows three labels: `save_model(folder, kind, tokenizer, pad=True)`."""

    def save(folder: Path, kind: str, tokenizer: PreTrainedTokenizerBase, *, pad: bool = True) -> str:
        torch.manual_seed(3)
        ids = {"eos_token_id": tokenizer.sep_token_id or tokenizer.eos_token_id, "bos_token_id": 2}
        ids |= {"pad_token_id": tokenizer.pad_token_id if pad else None}
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), num_labels=len(LABELS), **ids, **CONFIGS[kind])
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():  # larger than the usual initialisation, so that a wrong token shows in the logits
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        model.save_pretrained(folder)
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
        tokenizer.save_pretrained(folder)
        return str(folder)

    return save


@pytest.fixture(scope="session")
def folder_of(
    tmp_path_factory: pytest.TempPathFactory, letters: PreTrainedTokenizerBase, save_model: Callable[..., str]
) -> Callable[[str], str]:
    """A function from a family to a saved model of it, made once."""
    made: dict[str, str] = {}

    def folder(kind: str) -> str:
        if kind not in made:
            made[kind] = save_model(tmp_path_factory.mktemp(kind), kind, letters)
        return made[kind]

    return folder


@pytest.fixture
def load(folder_of: Callable[[str], str]) -> Callable[..., PlainBackbone]:
    """A model of a family, loaded from its folder, in evaluation mode."""

    def make(kind: str, *, dropout: float | None = None, seed: int = 0) -> PlainBackbone:
        config = ModelConfig(folder_of(kind), dropout=dropout)
        backbone = load_backbone(config, LABELS, seed, 32, Classification())
        backbone.model.eval()
        return backbone

    return make
