"""Runs configs/sentiment.yaml with five seeds and prints accuracy before and after training, and a per-class report.

Figures are means over seeds with their 95 % intervals.

python benchmarks/sentiment.py training.threads=1 --path <folder of SST-2> --model <folder of the encoder>
"""

import argparse
from pathlib import Path

import cl_mlm
from cl_mlm.metrics import mean_interval
from cl_mlm.scores.labels import per_class

CONFIG = Path(__file__).parent.parent / "configs" / "sentiment.yaml"
MEASURES = ("precision", "recall", "f1")


def answers(folder, name):
    """Returns predictions and references of the test rows: `before` training, or after stage `0`."""
    import pyarrow.parquet as pq

    columns = pq.read_table(folder / "predictions" / f"{name}.parquet").to_pydict()
    return columns["prediction"], columns["reference"]


def interval(values):
    """Returns mean and half width of the 95 % interval in percent, as text; an undefined value counts as 0."""
    mean, half = mean_interval([0.0 if value is None else value for value in values])
    return f"{100 * mean:.1f} ± {100 * half:.1f}"


def report(folders):
    """Returns two markdown tables: the accuracy of every seed and their mean, and the measures of every class."""
    by_moment = {name: [answers(folder, name) for folder in folders] for name in ("before", "0")}
    accuracy = {
        name: [sum(p == r for p, r in zip(*pair, strict=True)) / len(pair[1]) for pair in pairs]
        for name, pairs in by_moment.items()
    }
    seeds = range(len(folders))
    lines = [f"| accuracy | {' | '.join(f'seed {i}' for i in seeds)} | mean |", "|---" * (len(folders) + 2) + "|"]
    for name, title in (("before", "before"), ("0", "after")):
        cells = [f"{100 * value:.0f}" for value in accuracy[name]]
        lines.append(f"| {title} | {' | '.join(cells)} | {interval(accuracy[name])} |")
    lines += ["", "| class | when | precision | recall | F1 | test rows |", "|---" * 6 + "|"]
    _, references = by_moment["0"][0]
    for label in sorted({*references}):
        for name, title in (("before", "before"), ("0", "after")):
            by_seed = [per_class(*pair, [label])[0] for pair in by_moment[name]]
            cells = [interval([measures[measure] for measures in by_seed]) for measure in MEASURES]
            lines.append(f"| {label} | {title} | {' | '.join(cells)} | {by_seed[0]['rows']} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", help="local copy of SST-2; default: the hub")
    parser.add_argument("--model", help="hub id or folder of the encoder; default: the config's")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", default="runs")
    parser.add_argument("overrides", nargs="*", default=[], help="settings, such as training.threads=1")
    options = parser.parse_intermixed_args()
    given = {"stream.path": options.path, "model.name": options.model, "output": options.output}
    overrides = [f"{key}={value}" for key, value in given.items() if value] + options.overrides
    folders = []
    for seed in options.seeds:
        result = cl_mlm.run(CONFIG, *overrides, seed=seed, progress=False)
        folders.append(result.folder)
        print(f"seed {seed}: {result.summary['cost']['train_seconds']:.0f} s training", flush=True)
    print(report(folders))


if __name__ == "__main__":
    main()
