"""Runs both arms of configs/pipeline.yaml, checks their results, and draws the figure of docs/results/pipeline.md.

    python benchmarks/pipeline.py [--output runs] [--figure FILE] [overrides]

Exits with 1 if pre-training did not lower the loss, fine-tuning did not beat zero-shot prompts on a stage's own column,
replay forgot as much as naive, or the runs took more than five minutes together.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import cl_mlm

CONFIG = Path(__file__).parent.parent / "configs" / "pipeline.yaml"
ARMS = ("naive", "replay")
LIMIT = 300.0  # seconds of training and evaluation, both arms together


def first_stage(folder, name):
    """Returns the values of one metric in the first stage, in the order of the journal."""
    lines = map(json.loads, (folder / "journal.jsonl").read_text().splitlines())
    points = [line["values"] for line in lines if line["kind"] == "metrics" and line["stage"] == 0]
    return [values[name] for values in points if name in values]


def seconds_spent(results):
    """Returns the seconds of training and evaluation of all runs; a stage that runs share counts once."""
    costs = [result.summary["cost"] for result in results.values()]
    reusing = [result.folder for result in results.values() if result.summary["reused"]]
    # The cost of a run that reuses the first stage contains the seconds of the run that trained it.
    counted_twice = sum(sum(first_stage(folder, "time/train_seconds")) for folder in reusing)
    return sum(cost["train_seconds"] + cost["eval_seconds"] for cost in costs) - counted_twice


def curves(summary):
    """Returns by name a score for each moment, before training first: the mean over columns that a stage trains for."""
    columns = [j for j, home in enumerate(summary["home"]) if home is not None]
    probe = next(j for j, home in enumerate(summary["home"]) if home is None)
    matrix = np.array([summary["baseline"], *summary["accuracy_matrix"]], dtype=float)
    scores = {"fine-tuned": matrix[:, columns].mean(1), "held-out text": matrix[:, probe]}
    for shots, rows in summary["prompting"]["shots"].items():
        scores[f"{shots}-shot prompts"] = np.array(rows, dtype=float).mean(1)
    return scores


def faults(summaries, losses, seconds):
    """Returns a line for each expectation that does not hold."""
    wrong = []
    if not losses[-1] < losses[0]:
        wrong.append(f"the loss of pre-training did not fall: {losses[0]:.2f} to {losses[-1]:.2f}")
    for arm, summary in summaries.items():
        for j, home in enumerate(summary["home"]):
            if home is None:
                continue
            tuned = summary["accuracy_matrix"][home][j]
            prompted = summary["prompting"]["shots"]["0"][home][j]  # row 0 is before training, so this is before `home`
            if not tuned > prompted:
                wrong.append(
                    f"{arm}: {summary['columns'][j]} is {tuned:.2f} fine-tuned and {prompted:.2f} zero-shot before"
                )
    forgotten = {arm: summary["metrics"]["forgetting"] for arm, summary in summaries.items()}
    if not forgotten["replay"] < forgotten["naive"]:
        wrong.append(f"replay forgets {forgotten['replay']:.2f}, naive {forgotten['naive']:.2f}")
    if seconds > LIMIT:
        wrong.append(f"{seconds:.0f} s of training and evaluation, more than {LIMIT:.0f}")
    return wrong


def draw(summaries, path):
    """Draws the scores of fine-tuning, prompts and held-out text before training and after each stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = dict(zip(ARMS, ("tab:red", "tab:blue"), strict=True))
    styles = {"fine-tuned": "-", "4-shot prompts": "--", "0-shot prompts": ":"}
    for arm, summary in summaries.items():
        moments = ["before", *summary["stream"]["stages"]]
        scores = curves(summary)
        for name, style in styles.items():
            left.plot(moments, 100 * scores[name], style, color=colours[arm], marker=".", label=f"{arm}, {name}")
        right.plot(moments, 100 * scores["held-out text"], color=colours[arm], marker=".", label=arm)
    left.set_ylabel("accuracy over all intents, %")
    right.set_ylabel("held-out text, probability of a token, %")
    for axes in (left, right):
        axes.set_xlabel("after stage")
        axes.set_ylim(bottom=0)
        axes.tick_params(axis="x", rotation=30)
        axes.legend(fontsize=7, handlelength=3.5)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="such as training.threads=1 seed=1")
    parser.add_argument("--output", default="runs")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_intermixed_args()
    given = [*options.overrides, f"output={options.output}"]
    results = {arm: cl_mlm.run(CONFIG, *given, arm=arm) for arm in ARMS}
    summaries = {arm: dict(result.summary) for arm, result in results.items()}
    seconds, losses = seconds_spent(results), first_stage(results["naive"].folder, "train/loss/stage")
    for arm, summary in summaries.items():
        print(f"{arm}: forgetting {100 * summary['metrics']['forgetting']:.1f} points, {summary['probes']}")
        for name, values in curves(summary).items():
            print(f"  {name}: {' '.join(f'{100 * value:.1f}' for value in values)} %")
    print(f"pre-training: {losses[0]:.2f} to {losses[-1]:.2f} nats a token; {seconds:.0f} s together")
    if options.figure:
        draw(summaries, options.figure)
    wrong = faults(summaries, losses, seconds)
    print("\n".join(f"MISS {line}" for line in wrong) or "ok")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
