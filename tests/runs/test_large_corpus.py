"""A corpus much larger than what a run may allocate: from a text file to a trained and scored model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MEGABYTES = 300
ALLOWED_GROWTH = 100 << 20
SIZES = {"small": 1, "large": MEGABYTES}
WORDS = 3000
# Pages of mapped files are the kernel's to drop, so that only anonymous memory counts.
MEASURE = """
import json, sys, threading, time
import cl_mlm

def anonymous():
    line = next(line for line in open("/proc/self/status") if line.startswith("RssAnon"))
    return int(line.split()[1]) << 10

class Peak:
    def __enter__(self):
        self.top = anonymous()
        self.done = threading.Event()
        self.watcher = threading.Thread(target=self.watch)
        self.watcher.start()
        return self

    def watch(self):
        while not self.done.wait(0.005):
            self.top = max(self.top, anonymous())

    def __exit__(self, *_):
        self.done.set()
        self.watcher.join()

if __name__ == "__main__":
    small, large = (json.loads(text) for text in sys.argv[1:])
    cl_mlm.run(small, progress=False)
    with Peak() as first:
        cl_mlm.run({**small, "seed": 1}, progress=False)
    with Peak() as second:
        started = time.perf_counter()
        result = cl_mlm.run(large, progress=False)
        seconds = time.perf_counter() - started
    found = {"small": first.top, "large": second.top, "seconds": seconds, "score": result.matrix[0, 0]}
    print(json.dumps(found))
"""


@pytest.fixture
def model(tmp_path):
    """A small GPT-2 whose tokens are whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    index = {word: i for i, word in enumerate(["[UNK]", "[END]", *map(word_of, range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(index, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[END]")
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(index), bos_token_id=1, eos_token_id=1, **sizes))
    model.save_pretrained(tmp_path / "model")
    made.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def word_of(number):
    return f"word{number:04d}xy"


def write_corpus(folder, megabytes, seed):
    """Writes about so many megabytes of lines of 20 to 180 words, all different, and 50 lines for each other split."""
    random = np.random.default_rng(seed)
    words = np.array([word_of(i) for i in range(WORDS)])
    folder.mkdir()
    for split, size in {"train": megabytes << 20, "validation": 50_000, "test": 50_000}.items():
        with (folder / f"{split}.txt").open("w") as file:
            written = 0
            while written < size:
                line = " ".join(words[random.integers(0, WORDS, random.integers(20, 180))])
                written += file.write(line + "\n")
    return folder


def settings(folder, model, store, output):
    stream = {"name": "files", "path": str(folder.parent), "stages_by": "files", "order": [folder.name]}
    stream |= {"objective": "language_modelling", "options": {"pack": True}}
    return {
        "experiment": folder.name,
        "stream": stream,
        "model": {"name": model},
        "training": {"steps": 2, "batch_size": 4, "max_length": 128, "threads": 1, "device": "cpu"},
        "evaluation": {"batch_size": 4},  # what a model holds while it scores is none of the corpus's
        "strategies": {"replay": {"capacity": 100}},
        "tracking": {"uri": store},
        "output": str(output),
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from /proc")
def test_memory_does_not_grow_with_the_corpus(tmp_path, model, own_store):
    folders = [write_corpus(tmp_path / name, size, seed) for seed, (name, size) in enumerate(SIZES.items())]
    layers = [settings(folder, model, own_store, tmp_path / "runs") for folder in folders]
    environment = {**os.environ, "CL_MLM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", MEASURE, *map(json.dumps, layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    table = next((tmp_path / "cache" / "tables").glob("*/table.arrow"))
    assert table.is_file()
    assert max(path.stat().st_size for path in (tmp_path / "cache").rglob("*.arrow")) > 2.5 * ALLOWED_GROWTH
    assert found["large"] - found["small"] < ALLOWED_GROWTH
    assert found["score"] > 0
