"""Trains every objective on real data and says by how many standard errors each task's own stage improves.

Runs naive training on each data set of `--data` (folders with train, validation and test files) over the seeds and
prints the table of docs/results/objectives.md; the same command again goes on where it stopped.

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
BY_ACCURACY = (
    "classification",
    "relation",
)  # their score is a mean over rows, whose standard error needs no resampling
HOLDS = 3  # standard errors
UNDEFINED = "–"

SHARED = {
    "training": {"batch_size": 16, "steps": 40, "max_length": 64, "threads": 1},
    "evaluation": {"batch_size": 64},
    "checkpoint": {"keep_stages": "none", "reuse_stages": 0},
}
ENCODER = {"training": {"learning_rate": 3e-4, "head_factor": 10, "precision": "bf16"}}
WRITER = {"training": {"learning_rate": 2e-3, "steps": 300}}
LONGER = {"training": {"learning_rate": 1e-4, "steps": 300}}  # of data sets whose gain after 40 steps was below HOLDS
HARD = (
    "chnsenticorp_htl",
    *(f"cl15_{name}" for name in ("boolq", "cb", "copa", "mnli", "multirc", "rte", "wic", "yelp")),
)
ALL = 10_000  # rows of a split, more than any has
TAGGER = {"training": {"steps": 100}}  # few words of a row have a tag other than O, and rows are short
CL15 = (
    *("agnews", "amazon", "boolq", "cb", "copa", "dbpedia", "imdb"),
    *("mnli", "multirc", "qqp", "rte", "sst2", "wic", "yelp"),
)


def whole(folder, objective="classification", test=300, **options):
    """Returns a stream whose one stage is the data set, with at most `test` rows to score."""
    rows = {"validation": 300, "test": test}
    return {"stages_by": "files", "order": [folder], "objective": objective, "options": options, "rows": rows}


def written(folder, model, metric, test=200):
    stream = whole(folder, "text_to_text", test, metric=metric, max_new_tokens=40)
    return {"stream": stream, "model": {"name": model}, **WRITER}


def tasks():
    """Returns what differs between data sets, by their names: stream, and settings that the kind of data asks for."""
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


def merged(*parts):
    """Returns nested mappings as one; later ones win."""
    found = {}
    for part in parts:
        for key, value in part.items():
            found[key] = merged(found.get(key, {}), value) if isinstance(value, dict) else value
    return found


def config_of(name, options, seed):
    task = tasks()[name]
    kind = {} if "model" in task else {**ENCODER, "model": {"name": options.model}}
    stream = {"name": "files", "overlap": "drop", **task["stream"]}
    stream["path"] = str(Path(options.data) / stream.get("path", ""))
    splits = ["validation"] if options.validation else ["test"]
    own = {"experiment": f"objectives-{name}", "output": options.output, "seed": seed}
    return merged(SHARED, kind, task, {"stream": stream, "evaluation": {"splits": splits}}, own)


def standard_error(score, after, before, references, seed=RESAMPLING_SEED):
    """Returns the standard error of score(after) - score(before) over rows, by a paired bootstrap; never zero.

    Args:
        score: of predictions and references, a number.
        after: predictions of the trained model.
        before: those of the untrained one; None: of score(after) alone.
        references: of the same rows.
        seed: of the resampling.
    """
    random, values = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        rows = random.integers(0, len(references), len(references))
        right = [references[i] for i in rows]
        value = score([after[i] for i in rows], right)
        values.append(value - (0.0 if before is None else score([before[i] for i in rows], right)))
    return float(np.std(values, ddof=1)) or 1 / len(references)


def binomial_error(hits):
    """Returns the standard error of a fraction, (p(1-p)/n)^1/2 with p = (hits + 1)/(n + 2): never zero."""
    p = (sum(hits) + 1) / (len(hits) + 2)
    return (p * (1 - p) / len(hits)) ** 0.5


def paired_error(after, before):
    """Returns the standard error of the difference of two fractions of the same rows, never below 1/n."""
    differences = np.subtract(after, before, dtype=float)
    return max(float(np.std(differences, ddof=1)) / len(after) ** 0.5, 1 / len(after))


def majority(references):
    """Returns the fraction of rows that always the most frequent label would get right."""
    return max(references.count(label) for label in set(references)) / len(references)


def compared(objective, labels, after, before, references):
    """Returns a stage's scores before and after, the standard error of the gain, and the gain in such errors.

    Where there are no predictions from before, the model not knowing the labels yet: always the most frequent label
    for accuracies, else a score of zero. `control` is what can be had without reading a row: for accuracies the most
    frequent label, for texts what the trained model writes, each text given to the next row.
    """

    def score(predictions, right):
        return objective.score(predictions, right, labels)["score"]

    found = {"after": score(after, references), "measured": before is not None, "rows": len(references)}
    if objective.name in BY_ACCURACY:
        hits = [x == y for x, y in zip(after, references, strict=True)]
        share, alone = majority(references), binomial_error(hits)
        found |= {"control": share, "over_control": (found["after"] - share) / alone}
        found["before"] = share if before is None else score(before, references)
        first = None if before is None else [x == y for x, y in zip(before, references, strict=True)]
        found["error"] = alone if first is None else paired_error(hits, first)
    else:
        found["before"] = 0.0 if before is None else score(before, references)
        found["error"] = standard_error(score, after, before, references)
        if objective.name == "text_to_text":
            others = [*after[1:], after[0]]
            found["control"] = score(others, references)
            error = standard_error(score, after, others, references)
            found["over_control"] = (found["after"] - found["control"]) / error
    found["gain"] = (found["after"] - found["before"]) / found["error"]
    return found


def stages_of(result):
    """Returns `compared` for every stage's own column, just after the stage."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    def rows_of(name, stage):
        path = result.folder / "predictions" / f"{name}.parquet"
        table = pq.read_table(path).filter(pc.field("column") == stage) if path.is_file() else None
        return None if table is None or not len(table) else table

    stream = result.summary["settings"]["stream"]
    objective = make_objective(stream["objective"], stream["options"] or {})
    found = []
    for i, stage in enumerate(result.summary["columns"]):
        after, before = rows_of(i, stage), rows_of("before", stage)
        labels = result.summary["stream"]["labels"][stage]
        first = None if before is None else before["prediction"].to_pylist()
        found.append(
            compared(objective, labels, after["prediction"].to_pylist(), first, after["reference"].to_pylist())
        )
        measured = result.summary["accuracy_matrix"][i][i]
        if abs(measured - found[-1]["after"]) > 1e-9:
            raise SystemExit(f"{result.folder}: {stage}: {measured} measured, {found[-1]['after']} of the predictions")
    return found


def table(results):
    """Returns the markdown table of `results`: name -> {objective, model, seeds: {seed: stages}}."""
    head = "data set | objective, score | model | stages | test rows a stage | before | after | standard error"
    lines = [f"| {head} | least gain | control | least gain over it | 3 standard errors |", "|---" * 12 + "|"]
    return "\n".join(lines + [line_of(name, found) for name, found in results.items()])


def line_of(name, found):
    seeds = list(found["seeds"].values())
    every = [stage for stages in seeds for stage in stages]

    def mean(key):
        return statistics.fmean(stage[key] for stage in every)

    after = [statistics.fmean(stage["after"] for stage in stages) for stages in seeds]
    spread = f" ± {100 * statistics.stdev(after):.1f}" if len(after) > 1 else ""
    least, rows = min(stage["gain"] for stage in every), sorted({stage["rows"] for stage in every})
    sizes = str(rows[0]) if len(rows) == 1 else f"{rows[0]}-{rows[-1]}"
    chance, over = UNDEFINED, UNDEFINED
    if "control" in every[0]:
        chance, over = f"{100 * mean('control'):.1f}", f"{min(stage['over_control'] for stage in every):.1f}"
    cells = [
        *(name, found["objective"], found["model"], str(len(seeds[0])), sizes),
        *(f"{100 * mean('before'):.1f}", f"{100 * statistics.fmean(after):.1f}{spread}", f"{100 * mean('error'):.1f}"),
        *(f"{least:.1f}", chance, over, "yes" if least >= HOLDS else "**no**"),
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
    """Runs, and returns what is told of the run: seconds, scores on validation, and the entry of the table."""
    result = cl_mlm.run(config, *overrides, progress=False)
    summary = result.summary
    stream = summary["settings"]["stream"]
    metric = (stream["options"] or {}).get("metric")
    return {
        "cost": summary["cost"],
        "validation": [row[i] for i, row in enumerate(summary["validation_matrix"])],
        "objective": stream["objective"] + (f", {metric}" if metric else ""),
        "model": Path(summary["model"]["name"]).name,
        "stages": None if "test" not in summary["settings"]["evaluation"]["splits"] else kept_stages(result),
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
        if precision not in workers:  # one process runs one precision
            workers[precision] = ProcessPoolExecutor(1, get_context("spawn"))
        found = workers[precision].submit(measure, config, options.overrides).result()
        cost = found["cost"]
        shown = f"{name} seed {seed}: {cost['train_seconds']:.0f} s training, {cost['eval_seconds']:.0f} s evaluation"
        if options.validation:
            shown += f", validation {[round(100 * value, 1) for value in found['validation']]}"
        else:
            kept = {"objective": found["objective"], "model": found["model"], "seeds": {}}
            results.setdefault(name, kept)["seeds"][seed] = found["stages"]
        print(shown, flush=True)
    if results:
        text = table(results)
        print(text)
        Path(options.output, "objectives.md").write_text(text + "\n", encoding="utf-8")


def kept_stages(result):
    """Returns `stages_of`, written down beside the run, for resampling takes its time."""
    path = result.folder.with_name(result.folder.name + ".gains.json")
    if not path.is_file():
        path.write_text(json.dumps(stages_of(result), indent=1), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
