"""`Result`: a finished run, its figures, its models and what they say of new rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from cl_mlm.config.undecodable import named_in_text
from cl_mlm.errors import ConfigError, RunFolderError, nearest
from cl_mlm.run_folder import RunFolder
from cl_mlm.tracking.shell import shell_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from transformers import Pipeline, PreTrainedModel

    from cl_mlm.experiment.prompt_run import Prompted
    from cl_mlm.stream import Stream


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run.

    Attributes:
        folder: where everything of the run lies.
        summary: the contents of `summary.json`.
        is_new: False where the run had been finished before.
        warnings: what the reader should know, such as a tracking server out of reach.
    """

    folder: Path
    summary: Mapping[str, Any]
    is_new: bool = True
    warnings: list[str] = field(default_factory=list)

    @override
    def __repr__(self) -> str:
        from cl_mlm.results.notebook import run_line

        return f"Result({self.folder}: {run_line(self.summary)})"

    def _repr_html_(self) -> str:
        from cl_mlm.results.notebook import run_html

        return run_html(self.summary, str(self.folder))

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """Test scores, (stages, columns); NaN where nothing was measured."""
        import numpy as np

        return np.array(self.summary["accuracy_matrix"], dtype=np.float64)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The run's final figures; None where undefined, with the reason in `summary["reasons"]`."""
        return dict(self.summary["metrics"])

    def frame(self) -> DataFrame:
        """Returns both matrices as a pandas frame: a row for each stage and column.

        Its columns are `stage_index` (from 0), `stage` (its name), `column` (what is scored), `home` (the stage after
        which that counts as learned; missing: a probe), and `accuracy` (test) and `validation`, scores in 0-1, NaN
        where nothing was measured.
        """
        from cl_mlm.results.notebook import run_frame

        return run_frame(self.summary)

    def plot(self) -> Figure:
        """Returns the forgetting curves as a Matplotlib figure; pyplot is left alone."""
        from cl_mlm.results.notebook import run_figure

        return run_figure(self.summary)

    def model_folder(self, stage: int = -1, task: str | None = None) -> Path:
        """Returns the folder of the model as it was scored after `stage`: a plain transformers folder.

        Args:
            stage: the stage's index, from 0; negative ones count from the last.
            task: of a stream with several objectives, whose head: a key of `summary["tasks"]`; None: the stage's own.

        Raises:
            ConfigError: the stream has no such stage or task.
            RunFolderError: that stage's model was not kept (`checkpoint.keep_stages`), or, in a run of an early
                version, is not the one that was scored.
        """
        from cl_mlm.experiment.summary import SWAPPED, check_scored

        known = [*self.summary.get("tasks", {})]
        if task is not None and known and task not in known:
            raise ConfigError(f"task: must be one of {', '.join(known)}, got {task!r}{nearest(task, known)}")
        stage_index = self._stage_index(stage)
        folder = RunFolder(self.folder).model(stage_index, task)
        if not folder.is_dir():
            kept = [int(path.parent.name) for path in sorted(RunFolder(self.folder).stages.glob("[0-9]*/model"))]
            there = f"kept: stage {', '.join(map(str, kept))}" if kept else "no stage is kept"
            raise RunFolderError(f"{folder}: not kept; run with checkpoint.keep_stages=all ({there})")
        check_scored(RunFolder(self.folder).stage(stage_index), self.summary.get(SWAPPED, []))
        return folder

    def model(self, stage: int = -1, task: str | None = None) -> PreTrainedModel:
        """Returns the model as it was after `stage` (-1: the last), from the run folder.

        Arguments and errors are those of `model_folder`.
        """
        import transformers

        from cl_mlm.models.loading import pretrained

        with named_in_text(self.model_folder(stage, task)) as folder:
            settings = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            kind: Any = getattr(transformers, (settings.architectures or ["AutoModel"])[0])
            return pretrained(kind, str(folder), settings)

    def predict(
        self,
        rows: Any,
        stage: int = -1,
        *,
        task: str | None = None,
        column: str | None = None,
        device: str | None = None,
        scores: bool = False,
    ) -> list[Any]:
        """Returns what the model after `stage` says of new rows, as it was scored on the test rows.

        An answer is a label, a list of labels or tags, a text, or a number, by the run's objective.

        Args:
            rows: a list of strings, or of dicts with the objective's columns; a pandas frame, a `datasets.Dataset`, a
                dict of columns, or the `Path` of a file. A pair of texts may be a tuple, a row of words a list, or a
                string that white space cuts. Columns of answers are not read.
            stage: the stage's index, from 0; negative ones count from the last.
            task: of a stream with several objectives, which one; None: the stage's own.
            column: of a task-incremental stream, whose labels the rows may be given: one of `summary["columns"]`.
            device: `cpu`, `cuda`, `cuda:1`, `mps`; None: an accelerator where there is one.
            scores: returns pairs of answer and its probability, None where the answer is no choice among classes.

        Raises:
            ConfigError: there is no such stage, task, column or device, or the objective gives no answer for a new row.
            DataError: a row is empty, or lacks a column.
            RunFolderError: see `model_folder`.
        """
        from cl_mlm.experiment.predicting import ask, predict_rows, task_of_stage

        folder = self.model_folder(stage, task)
        stage_index = self._stage_index(stage)
        asked = ask(self.summary, stage_index, task_of_stage(self.summary, stage_index, task), column)
        if isinstance(rows, Path):
            rows = self.read_rows(rows, stage, task)
        answers = predict_rows(folder, asked, rows, device)
        return answers if scores else [answer for answer, _ in answers]

    def read_rows(
        self, path: Path, stage: int = -1, task: str | None = None, encoding: str | None = None
    ) -> dict[str, list[Any]]:
        """Returns the new rows of a file as columns: what `predict` reads of it.

        Args:
            path: a .txt file (every line that is not blank is a row), .csv, .tsv, .jsonl, .json or .parquet; columns
                have the objective's names, or those of the files that the run was trained on.
            stage: see `predict`.
            task: see `predict`.
            encoding: of the file; None: UTF-8 where it is that, else that of the files the run was trained on.

        Raises:
            DataError: the faults of the file.
        """
        from cl_mlm.experiment.predicting import rows_of_file, task_of_stage

        key = task_of_stage(self.summary, self._stage_index(stage), task)
        return rows_of_file(path, self.summary["tasks"][key], self.summary["settings"]["stream"], encoding)

    def pipeline(self, stage: int = -1, task: str | None = None, device: str | None = None) -> Pipeline:
        """Returns a transformers pipeline on the model after `stage`, which cuts texts as the run did.

        Classification, multi-label classification (all labels with their probabilities) and regression: a
        `text-classification` pipeline. Tagging: `token-classification`, called with a list of words and
        `is_split_into_words=True`; the first token of a word has the word's tag. Language modelling: `text-generation`
        or `fill-mask`.
        Arguments and errors are those of `predict`.

        Raises:
            ConfigError: transformers has no pipeline that would give the answers of this run.
        """
        from cl_mlm.experiment.pipelines import make_pipeline
        from cl_mlm.experiment.predicting import ask, task_of_stage

        folder = self.model_folder(stage, task)
        stage_index = self._stage_index(stage)
        key = task_of_stage(self.summary, stage_index, task)
        if self.summary["stream"].get("choices"):
            raise ConfigError(
                "pipeline: none of transformers' gives a row labels of its own column only (task-incremental stream); "
                "predict(rows, column=...) does"
            )
        return make_pipeline(folder, ask(self.summary, stage_index, key), device)

    def prompt(
        self,
        *overrides: str,
        stage: int | str = "last",
        shots: Sequence[int] | None = None,
        config: str | Path | Mapping[str, Any] | None = None,
        stream: Stream | None = None,
    ) -> Prompted:
        """Asks the model after `stage`, or the `untrained` one, by prompts; see `cl_mlm.prompt`."""
        from cl_mlm.experiment.prompt_run import prompt_run

        return prompt_run(self.folder, *overrides, stage=stage, shots=shots, config=config, stream=stream)

    def _stage_index(self, stage: int) -> int:
        """Returns the index of a stage from 0.

        Raises:
            ConfigError: there is no such stage.
        """
        num_stages = len(self.summary["stream"]["stages"])
        if isinstance(stage, bool) or not isinstance(stage, int) or not -num_stages <= stage < num_stages:
            raise ConfigError(f"stage: must be {-num_stages} to {num_stages - 1}, got {stage!r}")
        return stage % num_stages


def load_result(folder: str | Path) -> Result:
    """Returns the finished run in a folder.

    Raises:
        RunFolderError: there is no such folder, it holds no run, or one that is unfinished or damaged.
    """
    from cl_mlm.results.runs import load_run, unfinished_runs
    from cl_mlm.storage.run_lookup import faults_of_finished, in_short, read_summary

    folder = Path(folder)
    if not folder.is_dir():
        raise RunFolderError(f"{folder}: no such folder")
    files = RunFolder(folder)
    if not files.summary.is_file() and not files.config.is_file():
        below = sorted(path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/summary.json"))
        hint = f"; runs lie below ({len(below)}), such as {below[0]}" if below else ""
        raise RunFolderError(f"{folder}: holds no run (no config.yaml){hint}")
    if unfinished_runs(folder):
        raise RunFolderError(f"{folder}: is not finished; `{shell_line('cl-mlm', 'resume', folder)}` goes on with it")
    read_summary(folder)  # refuses what is no summary
    warnings, resume = [], shell_line("cl-mlm", "resume", folder)
    if files.journal.exists() or files.inventory.exists():  # else it is a summary that somebody was given
        faults = faults_of_finished(folder)
        if faults is None:
            raise RunFolderError(f"{folder}: is not finished; `{resume}` goes on with it")
        ways_out = f"`{resume}` makes again what can be made from what is kept"
        if any(fault.startswith(f"{files.summary.name}: ") for fault in faults):
            raise RunFolderError(f"{folder}: is not whole: {in_short(faults)}; {ways_out}")
        if faults:  # the figures are those of the run all the same
            warnings.append(f"{folder}: is not whole: {in_short(faults)}; {ways_out}")
    load_run(folder)  # refuses values that make no table
    return Result(folder, read_summary(folder), is_new=False, warnings=warnings)
