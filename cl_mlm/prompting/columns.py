"""What is prompted: the columns with their templates, the labels that each may be given, and their words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cl_mlm.config.components import make_objective
from cl_mlm.config.schema import Config, PromptingConfig
from cl_mlm.errors import ClMlmError, ConfigError, DataError, nearest
from cl_mlm.objective import Head, Objective
from cl_mlm.prompting.shots import draw_shots, shot_faults
from cl_mlm.prompting.templates import MASK, SLOT, Template
from cl_mlm.prompting.verbaliser import Words, label_words, word_faults
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import Column, Stream

if TYPE_CHECKING:
    from datasets import Dataset

LANGUAGE_HEADS: tuple[Head, ...] = ("causal", "masked", "seq2seq")
CHOOSING = ("classification", "relation")
WRITING = "text_to_text"


@dataclass(frozen=True)
class PromptColumn:
    """One column that is prompted.

    Attributes:
        index: of the column in the stream that is prompted.
        column: whose rows are asked for.
        home: the stage after which it counts as learned, whose training rows are shown.
        train: these rows.
        objective: what the rows mean; its metric is the score.
        template: of its rows.
        answer: the column that holds the answer.
        answers: of the training rows, (N,).
    """

    index: int
    column: Column
    home: int
    train: Dataset
    objective: Objective
    template: Template
    answer: str
    answers: Sequence[str] = field(repr=False)

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column.name

    def table(self, split: str) -> Dataset:
        """Returns the rows of a split; of `train`, those that are shown."""
        rows: Dataset = (self.train if split == "train" else self.column.split(split)).with_format(None)
        return rows


@dataclass(frozen=True)
class Prompting:
    """Prompts that may be scored.

    Attributes:
        config: the section.
        stream: whose columns are prompted.
        columns: those of them that can be prompted, in order.
        words: of every label; empty: answers are texts of any kind, and are generated.
        is_own: the stream is the run's own.
        is_cloze: the model fills in masks.
        is_limited: a smoke run, which shows fewer demonstrations where a stage has fewer rows.
    """

    config: PromptingConfig
    stream: Stream
    columns: tuple[PromptColumn, ...]
    words: Words
    is_own: bool
    is_cloze: bool
    is_limited: bool = False

    def labels(self, column: PromptColumn, after: int) -> list[str]:
        """Returns the labels that rows of a column may be given.

        In a task-incremental stream those of the column's own stage. Else those of all stages up to the column's, or,
        where the stream is the run's own, up to the last that is trained, whichever is later: before a column's stage
        is trained the question is the one that is asked when it has just been. Answers of `text_to_text` are all of
        `answers`. None: any text.

        Args:
            column: which.
            after: the last stage that was trained; -1: none.
        """
        own = column.column
        if own.objective == WRITING and not own.labels:
            return list(own.options.get("answers") or ())
        if self.stream.masks:
            return list(own.labels)
        last = max(column.home, after) if self.is_own else column.home
        return list(dict.fromkeys(label for stage in self.stream.stages[: last + 1] for label in stage.labels))

    def positions(self, column: PromptColumn) -> list[int]:
        """Returns which rows of the column are asked for, ascending."""
        count, most = len(column.column.split(self.config.split)), self.config.max_rows
        if most is None or most >= count:
            return list(range(count))
        drawn = numpy_generator(self.config.seed, "prompted-rows", column.index).permutation(count)[:most]
        return sorted(int(i) for i in drawn)

    def prompts(self, column: PromptColumn, shots: int, labels: Sequence[str], positions: Sequence[int]) -> list[str]:
        """Returns the prompts of rows: demonstrations, then the row itself; a cloze holds `SLOT` where the answer goes.

        Raises:
            DataError: the template fails on a row.
        """
        given = {"labels": list(labels), "choices": [self.words[label][0] for label in labels], MASK: SLOT}
        shown = self._demonstrations(column, shots, given)
        where = f"{self.config.split} of {column.name!r}"
        rows = column.table(self.config.split)[list(positions)]
        asked = [
            column.template.render(row, given, f"row {position} of {where}")
            for position, row in zip(positions, _row_by_row(rows), strict=True)
        ]
        return [self.config.separator.join([*shown, text]) for text in asked]

    def _demonstrations(self, column: PromptColumn, shots: int, given: Mapping[str, Any]) -> list[str]:
        chosen = draw_shots(
            column.answers,
            shots,
            per_class=self.config.per_class,
            seed=self.config.seed,
            stage_index=column.home,
        )
        if not chosen:
            return []
        shown = []
        for position, row in zip(chosen, _row_by_row(column.table("train")[chosen]), strict=True):
            answer = self.words.get(row[column.answer], (row[column.answer],))[0]
            own = {**given, MASK: answer} if self.is_cloze else given
            text = column.template.render(row, own, f"row {position} of train of {column.name!r}")
            shown.append(text if self.is_cloze else f"{text}{self.config.delimiter}{answer}")
        return shown

    def example(self) -> str:
        """Returns the first prompt of the first column, with as many demonstrations as there ever are."""
        column, shots = self.columns[0], max(self.config.shots)
        positions = self.positions(column)[:1]
        text = self.prompts(column, shots, self.labels(column, -1), positions)[0]
        return text.replace(SLOT, "[mask]")


def refuse_headless(objectives: Iterable[Objective]) -> None:
    """Refuses prompts for models that only choose among classes.

    Raises:
        ConfigError: an objective trains another head than a language model's.
    """
    for objective in objectives:
        without = [head for head in objective.heads if head not in LANGUAGE_HEADS]
        if without:
            raise ConfigError(
                f"prompting: needs a model with a language-model head, but objective {objective.name} trains a "
                f"{without[0]} head; must be null there. A classification stream that is to be prompted is trained "
                "with stream.as_text=true, on a decoder or an encoder-decoder"
            )


def prepare_prompting(config: Config, stream: Stream, objectives: Iterable[Objective]) -> Prompting:
    """Returns what `config.prompting` asks for, checked; reads labels and a row of every column, and no model.

    Args:
        config: with the section.
        stream: whose columns are prompted: that of `prompting.data`, or the run's own.
        objectives: of the run's own stream.

    Raises:
        ConfigError, DataError: every fault.
    """
    section = config.prompting
    assert section is not None
    is_cloze = any("masked" in objective.heads for objective in objectives)
    problems = _shape_faults(section)
    columns = _columns(section, stream, is_cloze, problems)
    words = _words(section, stream, [found.column for found in columns], problems)
    if problems:
        raise ConfigError(problems)
    found = Prompting(section, stream, tuple(columns), words, section.data is None, is_cloze, config.limit is not None)
    _try(found)
    return found


def _shape_faults(section: PromptingConfig) -> list[str]:
    """Returns what is wrong with the section by itself."""
    faults = []
    if not section.shots or len(set(section.shots)) < len(section.shots):
        faults.append(f"prompting.shots: must name each number of demonstrations once, got {section.shots}")
    if section.template is None and not section.templates:
        faults.append("prompting.template: must be a template, got null, and prompting.templates names none")
    return faults


def _columns(section: PromptingConfig, stream: Stream, is_cloze: bool, problems: list[str]) -> list[PromptColumn]:
    columns = []
    every = stream.columns
    known = [*dict.fromkeys([*(c.name for c in every), *(c.task for c in every)])]
    problems += [
        f"prompting.templates.{name}: no column or task is called so{nearest(name, known)}; allowed: {', '.join(known)}"
        for name in section.templates
        if name not in known
    ]
    made: dict[str, Template | None] = {}
    asked = [c for c in every if c.objective in (*CHOOSING, WRITING) and c.home is not None]
    if not asked:
        problems.append(
            f"prompting: can ask for labels or texts ({', '.join((*CHOOSING, WRITING))}), not for objective "
            f"{every[0].objective} of column {every[0].name!r}; prompting.data may name another stream"
        )
    for index, column in enumerate(every):
        # What has no answer to ask for (a corpus), and what no stage could show rows of (a probe), is left out.
        if column not in asked or column.home is None:
            continue
        name = next((name for name in (column.name, column.task) if name in section.templates), None)
        key = "prompting.template" if name is None else f"prompting.templates.{name}"
        text = section.template if name is None else section.templates[name]
        if is_cloze and column.objective == WRITING and not column.options.get("answers"):
            problems.append(
                f"prompting: a masked model cannot write a text of any kind, which column {column.name!r} asks for; "
                "its objective needs answers"
            )
        if text is None:
            if section.templates:
                problems.append(f"prompting.templates: none for column {column.name!r}, and prompting.template is null")
            continue
        if key not in made:
            made[key] = _made(text, key, problems)
        template = made[key]
        if template is None:
            continue
        objective = make_objective(column.objective, column.options)
        rows, answer = column.split(section.split), objective.reference_columns[0]
        faults = template.faults(rows.column_names, f"column {column.name!r}", is_cloze=is_cloze)
        problems += [fault for fault in faults if fault not in problems]
        train = stream.stages[column.home].train
        answers = train.with_format(None).select_columns([answer])[:][answer] if max(section.shots, default=0) else []
        columns.append(PromptColumn(index, column, column.home, train, objective, template, answer, answers))
    return columns


def _made(text: str, key: str, problems: list[str]) -> Template | None:
    try:
        return Template(text, key)
    except ConfigError as error:
        problems += error.problems
        return None


def _words(section: PromptingConfig, stream: Stream, columns: Sequence[Column], problems: list[str]) -> Words:
    """Returns the words of all labels; none where the answers are texts of any kind."""
    kinds = {column.objective == WRITING for column in columns}
    labels = list(stream.labels)
    for column in columns:
        labels += [a for a in column.options.get("answers") or () if column.objective == WRITING and a not in labels]
    if not labels:
        if section.verbaliser:
            problems.append("prompting.verbaliser: must be empty where answers are texts of any kind, got words")
        return {}
    words = label_words(labels, section.verbaliser, are_texts=kinds == {True})
    problems += word_faults(labels, section.verbaliser, words)
    return words


def _try(prompting: Prompting) -> None:
    """Renders a prompt of every column and counts what may be shown.

    Raises:
        ConfigError, DataError: every fault.
    """
    faults: list[ClMlmError] = []
    lines: list[str] = []
    for column in prompting.columns:
        of = f"column {column.name!r}"
        for shots in prompting.config.shots:
            if not prompting.is_limited:
                own = column.column.labels
                lines += shot_faults(column.answers, own, shots, per_class=prompting.config.per_class, of=of)
        try:
            most, first = max(prompting.config.shots), prompting.positions(column)[:1]
            for text in prompting.prompts(column, most, prompting.labels(column, -1), first):
                if prompting.is_cloze and text.count(SLOT) != 1:
                    lines.append(
                        f"{column.template.key}: must hold {{{{ mask }}}} once, got it {text.count(SLOT)} times"
                    )
        except DataError as error:
            faults.append(error)
    if lines or faults:
        told = [*lines, *(line for fault in faults for line in getattr(fault, "problems", [str(fault)]))]
        raise (ConfigError if lines else DataError)(told)


def _row_by_row(rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
