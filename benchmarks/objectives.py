"""Trains every objective on real data and measures by how many standard errors each stage's own score improves.

Runs naive training on each data set of `--data` (folders with train, validation and test files) with every seed and
prints the table of docs/results/objectives.md. The same command again continues where it stopped.

    python benchmarks/objectives.py --data <folder of the data sets> --model <folder of MiniLM>
    python benchmarks/objectives.py training.steps=80 --validation --only sst2 ...      a trial, scored on validation
"""

import argparse
import itertools
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import cl_mlm
from cl_mlm.config.components import make_objective
from cl_mlm.config.loading import load_config
from cl_mlm.experiment.preparation import prepare
from cl_mlm.storage.run_lookup import is_finished, run_folder

RESAMPLES, RESAMPLING_SEED = 100, 0
# Objectives whose score is a mean over rows: its standard error needs no resampling.
BY_ACCURACY = ("classification", "relation")
HOLDS = 3  # standard errors
UNDEFINED = "–"

SHARED = {
    "training": {"batch_size": 16, "steps": 40, "max_length": 64, "threads": 1},
    "evaluation": {"batch_size": 64},
    "checkpoint": {"keep_stages": "none", "reuse_stages": 0},
}
ENCODER = {"training": {"learning_rate": 3e-4, "head_factor": 10, "precision": "bf16"}}
WRITER = {"training": {"learning_rate": 2e-3, "steps": 300}}
LONGER = {"training": {"learning_rate": 1e-4, "steps": 300}}  # of HARD
# Data sets whose gain after 40 steps was below HOLDS.
HARD = (
    "chnsenticorp_htl",
    *(f"cl15_{name}" for name in ("boolq", "cb", "copa", "mnli", "multirc", "rte", "wic", "yelp")),
)
ALL = 10_000  # rows; no split has more
TAGGER = {"training": {"steps": 100}}  # few words of a row have a tag other than O, and rows are short
CL15 = (
    *("agnews", "amazon", "boolq", "cb", "copa", "dbpedia", "imdb"),
    *("mnli", "multirc", "qqp", "rte", "sst2", "wic", "yelp"),
)


def whole(folder, objective="classification", test=300, **options):
    """Returns a stream of one stage that holds the data set, at most `test` rows of it to score."""
    rows = {"validation": 300, "test": test}
    return {"stages_by": "files", "order": [folder], "objective": objective, "options": options, "rows": rows}


def written(folder, model, metric, test=200):
    """Returns what a data set sets whose model writes a text."""
    stream = whole(folder, "text_to_text", test, metric=metric, max_new_tokens=40)
    return {"stream": stream, "model": {"name": model}, **WRITER}


def tasks():
    """Returns by data set the stream and the settings in which it differs from `SHARED`."""
    slots = {"stages_by": "types", "types_per_stage": 13, "objective": "tagging"}
    entities = {"stages_by": "types", "types_per_stage": 3, "objective": "tagging"}
    relations = {"stages_by": "labels", "labels_per_stage": 10, "objective": "relation", "rows": {"test": 800}}
    questions = {"stream": whole("xquad_en", "question_answering"), "training": {"max_length": 256, "steps": 250}}
    classified = ["sgd_intent", "sst2", "chnsenticorp_htl", *(f"cl15_{name}" for name in CL15)]
    return {
        "snips_slots": {"stream": {"path": "snips_slots", **slots}, **TAGGER},
        "wnut17": {"stream": {"path": "wnut17", **entities}, **TAGGER},
        "fewrel80": {"stream": {"path": "fewrel80", **relations}, "training": {"steps": 120}},
        "xquad_en": questions,
        "multi30k_en_de": written("multi30k_en_de", "tiny-encoder-decoder", "chrf"),
        "dialogsum": written("dialogsum", "tiny-encoder-decoder", "chrf"),
        "sgd_response": written("sgd_response", "tiny-decoder", "chrf", test=ALL),
        **{name: {"stream": whole(name)} for name in classified},
        **{name: {"stream": whole(name, test=ALL), **LONGER} for name in HARD},
    }


def merged(*mappings):
    """Returns nested mappings as one; later ones win."""
    result = {}
    for mapping in mappings:
        for key, value in mapping.items():
            result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def config_of(name, options, seed):
    """Returns the config of a data set's run."""
    task = tasks()[name]
    kind = {} if "model" in task else {**ENCODER, "model": {"name": options.model}}
    stream = {"name": "files", "overlap": "drop", **task["stream"]}
    stream["path"] = str(Path(options.data) / stream.get("path", ""))
    splits = ["validation"] if options.validation else ["test"]
    identity = {"experiment": f"objectives-{name}", "output": options.output, "seed": seed}
    return merged(SHARED, kind, task, {"stream": stream, "evaluation": {"splits": splits}}, identity)


def standard_error(score, after, before, references, seed=RESAMPLING_SEED):
    """Returns the standard error of score(after) - score(before) by a paired bootstrap over rows; never zero.

    Args:
        score: a function of predictions and references that returns a number.
        after: predictions of the trained model.
        before: predictions of the untrained model; None: the standard error of score(after) is returned.
        references: of the same rows.
        seed: of the resampling.
    """
    random, values = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        rows = random.integers(0, len(references), len(references))
        drawn = [references[i] for i in rows]
        gain = score([after[i] for i in rows], drawn)
        if before is not None:
            gain -= score([before[i] for i in rows], drawn)
        values.append(gain)
    return float(np.std(values, ddof=1)) or 1 / len(references)


def binomial_error(hits):
    """Returns the standard error of a fraction, (p(1-p)/n)^1/2 with p = (hits + 1)/(n + 2), which is never zero."""
    p = (sum(hits) + 1) / (len(hits) + 2)
    return (p * (1 - p) / len(hits)) ** 0.5


def paired_error(after, before):
    """Returns the standard error of the difference of two fractions over the same n rows; at least 1/n."""
    differences = np.subtract(after, before, dtype=float)
    return max(float(np.std(differences, ddof=1)) / len(after) ** 0.5, 1 / len(after))


def majority(references):
    """Returns the accuracy of always predicting the most frequent label."""
    return max(references.count(label) for label in set(references)) / len(references)


def compared(objective, labels, after, before, references):
    """Returns a stage's scores before and after training, the standard error of the gain, and the gain in such errors.

    `before` is None if the untrained model did not know the labels. Its score is then, for accuracies, that of always
    predicting the most frequent label, else zero. `control` is a score that can be had without reading a row: for
    accuracies that of the most frequent label, for texts that of the trained model's texts, each given to the row
    before its own.
    """

    def score(predictions, of_references):
        return objective.score(predictions, of_references, labels)["score"]

    figures = {"after": score(after, references), "measured": before is not None, "rows": len(references)}
    if objective.name in BY_ACCURACY:
        hits_after = [x == y for x, y in zip(after, references, strict=True)]
        share, error_after = majority(references), binomial_error(hits_after)
        figures |= {"control": share, "over_control": (figures["after"] - share) / error_after}
        if before is None:
            figures |= {"before": share, "error": error_after}
        else:
            hits_before = [x == y for x, y in zip(before, references, strict=True)]
            figures |= {"before": score(before, references), "error": paired_error(hits_after, hits_before)}
    else:
        figures["before"] = 0.0 if before is None else score(before, references)
        figures["error"] = standard_error(score, after, before, references)
        if objective.name == "text_to_text":
            shifted = [*after[1:], after[0]]
            figures["control"] = score(shifted, references)
            error = standard_error(score, after, shifted, references)
            figures["over_control"] = (figures["after"] - figures["control"]) / error
    figures["gain"] = (figures["after"] - figures["before"]) / figures["error"]
    return figures


def stages_of(result):
    """Returns `compared` for every stage: on its own column, before any training and just after the stage."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    def rows_of(name, stage):
        path = result.folder / "predictions" / f"{name}.parquet"
        table = pq.read_table(path).filter(pc.field("column") == stage) if path.is_file() else None
        return None if table is None or not len(table) else table

    stream = result.summary["settings"]["stream"]
    objective = make_objective(stream["objective"], stream["options"] or {})
    stages = []
    for i, stage in enumerate(result.summary["columns"]):
        after, before = rows_of(i, stage), rows_of("before", stage)
        labels = result.summary["stream"]["labels"][stage]
        predicted_before = None if before is None else before["prediction"].to_pylist()
        predicted_after, references = after["prediction"].to_pylist(), after["reference"].to_pylist()
        figures = compared(objective, labels, predicted_after, predicted_before, references)
        measured = result.summary["accuracy_matrix"][i][i]
        if abs(measured - figures["after"]) > 1e-9:
            raise SystemExit(f"{result.folder}: {stage}: {measured} measured, {figures['after']} of the predictions")
        stages.append(figures)
    return stages


def table(results):
    """Returns the markdown table of `results`: name -> {objective, model, seeds: {seed: stages}}."""
    head = "data set | objective, score | model | stages | test rows a stage | before | after | standard error"
    lines = [f"| {head} | least gain | control | least gain over it | 3 standard errors |", "|---" * 12 + "|"]
    return "\n".join(lines + [line_of(name, result) for name, result in results.items()])


def line_of(name, result):
    """Returns a data set's line of the table: means over stages and seeds, and the least gain."""
    seeds = list(result["seeds"].values())
    every = [stage for stages in seeds for stage in stages]

    def mean(key):
        return statistics.fmean(stage[key] for stage in every)

    after = [statistics.fmean(stage["after"] for stage in stages) for stages in seeds]
    spread = f" ± {100 * statistics.stdev(after):.1f}" if len(after) > 1 else ""
    least, rows = min(stage["gain"] for stage in every), sorted({stage["rows"] for stage in every})
    sizes = str(rows[0]) if len(rows) == 1 else f"{rows[0]}-{rows[-1]}"
    control, over_control = UNDEFINED, UNDEFINED
    if "control" in every[0]:
        control = f"{100 * mean('control'):.1f}"
        over_control = f"{min(stage['over_control'] for stage in every):.1f}"
    cells = [
        *(name, result["objective"], result["model"], str(len(seeds[0])), sizes),
        *(f"{100 * mean('before'):.1f}", f"{100 * statistics.fmean(after):.1f}{spread}", f"{100 * mean('error'):.1f}"),
        *(f"{least:.1f}", control, over_control, "yes" if least >= HOLDS else "**no**"),
    ]
    return f"| {' | '.join(cells)} |"


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("CL_MLM_DATA"), help="folder of the data sets; CL_MLM_DATA")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2", help="hub id or folder")
    parser.add_argument("--only", nargs="+", choices=list(tasks()), default=list(tasks()), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--output", default="runs", help="folder of the runs; the table goes to objectives.md in it")
    parser.add_argument("--validation", action="store_true", help="a trial: scores on the validation splits only")
    parser.add_argument("--finished", action="store_true", help="starts nothing: the table of the runs that are there")
    parser.add_argument("overrides", nargs="*", default=[], help="settings for every run, such as training.steps=80")
    options = parser.parse_intermixed_args(given)
    if not options.data:
        parser.error("--data: needed where CL_MLM_DATA is not set")
    return options


def measure(config, overrides):
    """Runs a config; returns the run's cost, its validation scores, and what the table shows of it."""
    result = cl_mlm.run(config, *overrides, progress=False)
    summary = result.summary
    stream = summary["settings"]["stream"]
    metric = (stream["options"] or {}).get("metric")
    return {
        "cost": summary["cost"],
        "validation": [row[i] for i, row in enumerate(summary["validation_matrix"])],
        "objective": stream["objective"] + (f", {metric}" if metric else ""),
        "model": Path(summary["model"]["name"]).name,
        "stages": cached_stages(result) if "test" in summary["settings"]["evaluation"]["splits"] else None,
    }


def main():
    options = arguments()
    results, workers = {}, {}
    for seed, name in itertools.product(options.seeds, options.only):
        config = config_of(name, options, seed)
        resolved = load_config(config, options.overrides)
        if options.finished and not is_finished(run_folder(prepare(resolved).config)):
            continue
        precision = resolved.training.precision
        if precision not in workers:  # a process runs in one precision only
            workers[precision] = ProcessPoolExecutor(1, get_context("spawn"))
        measured = workers[precision].submit(measure, config, options.overrides).result()
        cost = measured["cost"]
        line = f"{name} seed {seed}: {cost['train_seconds']:.0f} s training, {cost['eval_seconds']:.0f} s evaluation"
        if options.validation:
            line += f", validation {[round(100 * value, 1) for value in measured['validation']]}"
        else:
            entry = {"objective": measured["objective"], "model": measured["model"], "seeds": {}}
            results.setdefault(name, entry)["seeds"][seed] = measured["stages"]
        print(line, flush=True)
    for worker in workers.values():
        worker.shutdown()
    if results:
        text = table(results)
        print(text)
        Path(options.output, "objectives.md").write_text(text + "\n", encoding="utf-8")


def cached_stages(result):
    """Returns `stages_of`, cached in a file beside the run, because resampling takes long."""
    path = result.folder.with_name(result.folder.name + ".gains.json")
    if not path.is_file():
        path.write_text(json.dumps(stages_of(result), indent=1), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
