"""Times two ideas that are not in the product: torch.compile, and batches with a budget of tokens.

python benchmarks/tries.py [--model FOLDER] [--threads 1] [--steps 60]

One process takes blocks of steps in the order A B B A, and prints rows per CPU second and the ratio of the medians.
Rows are random, with the lengths of short questions (4 to 25 tokens), so that no data set is needed.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig

ROWS, BATCH, SEED = 3000, 32, 0


def model_of(folder):
    torch.manual_seed(SEED)
    size = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    config = AutoConfig.from_pretrained(folder) if folder else BertConfig(**size)
    config.num_labels = 150
    return AutoModelForSequenceClassification.from_config(config)


def batches_by_rows(lengths, random):
    """Returns batches of equally many rows, sorted by length within groups of 50 batches, as the product does."""
    order = random.permutation(len(lengths))
    groups = [order[i : i + 50 * BATCH] for i in range(0, len(order), 50 * BATCH)]
    cut = [g[np.argsort(lengths[g], kind="stable")] for g in groups]
    batches = [g[i : i + BATCH] for g in cut for i in range(0, len(g), BATCH)]
    return [batches[i] for i in random.permutation(len(batches))]


def batches_by_tokens(lengths, random):
    """Returns batches of rows sorted by length, each with at most as many padded tokens as a mean batch of rows."""
    budget = int(BATCH * lengths.mean())
    batches, batch = [], []
    for row in np.argsort(lengths, kind="stable"):
        if batch and lengths[row] * (len(batch) + 1) > budget:
            batches.append(np.array(batch))
            batch = []
        batch.append(row)
    batches.append(np.array(batch))
    return [batches[i] for i in random.permutation(len(batches))]


def steps_of(model, lengths, make_batches):
    """Yields the number of rows of each optimiser step after it is done."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    random = np.random.default_rng(SEED)
    while True:
        for rows in make_batches(lengths, random):
            longest = int(lengths[rows].max())
            ids = torch.from_numpy(random.integers(1000, 20000, (len(rows), longest)))
            mask = torch.from_numpy((np.arange(longest) < lengths[rows][:, None]).astype(np.int64))
            labels = torch.from_numpy(random.integers(0, 150, len(rows)))
            logits = model(input_ids=ids, attention_mask=mask).logits
            torch.nn.functional.cross_entropy(logits, labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield len(rows)


def block(steps, number):
    """Returns the rows per CPU second of `number` steps."""
    started = time.process_time()
    rows = sum(next(steps) for _ in range(number))
    return rows / (time.process_time() - started)


def compare(name, first, second, number, rounds=3):
    """Prints the median rates of two ways in blocks of `number` steps, and the ratio of the second to the first."""
    rates = {0: [], 1: []}
    for _ in range(rounds):
        for side in (0, 1, 1, 0):
            rates[side].append(block((first, second)[side], number))
    medians = [statistics.median(rates[side]) for side in (0, 1)]
    print(
        f"{name}: {medians[1]:.1f} against {medians[0]:.1f} rows per CPU second, ratio {medians[1] / medians[0]:.3f}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of an encoder; default: random weights of MiniLM's size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=60, help="of a block")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lengths = np.random.default_rng(SEED).integers(4, 26, ROWS)

    plain = steps_of(model_of(options.model), lengths, batches_by_rows)
    block(plain, 5)
    tokens = steps_of(model_of(options.model), lengths, batches_by_tokens)
    block(tokens, 5)
    compare("batches of a token budget / of 32 rows", plain, tokens, options.steps)

    compiled = steps_of(torch.compile(model_of(options.model), dynamic=True), lengths, batches_by_rows)
    started = time.perf_counter()
    block(compiled, 5)
    print(f"torch.compile: {time.perf_counter() - started:.0f} s until five steps were done", flush=True)
    block(compiled, options.steps)  # further shapes are compiled on the way
    compare("torch.compile / eager", plain, compiled, options.steps)


if __name__ == "__main__":
    main()
