"""Decides what is prompted: the columns with their templates, the labels that rows may be given, and their words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cl_mlm.config.components import make_objective
from cl_mlm.data.templates import MASK, SLOT, Template
from cl_mlm.errors import ConfigError, DataError, nearest
from cl_mlm.prompting.shots import draw_shots, shot_faults
from cl_mlm.prompting.verbaliser import Words, label_words, word_faults
from cl_mlm.randomness import numpy_generator
from cl_mlm.tokens.chat import exchange, with_system

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from datasets import Dataset

    from cl_mlm.config.schema import Config, PromptingConfig
    from cl_mlm.objective import Head, Objective
    from cl_mlm.stream import Column, Stream
    from cl_mlm.tokens.chat import Chat

LANGUAGE_HEADS: tuple[Head, ...] = ("causal", "masked", "seq2seq")
CHOOSING = ("classification", "relation")
WRITING = "text_to_text"


@dataclass(frozen=True)
class PromptColumn:
    """One column that is prompted.

    Attributes:
        index: of the column among those of the stream.
        column: the column.
        home: the stage after which the column counts as learned; demonstrations are drawn from its training rows.
        train: the training rows of that stage.
        objective: what the rows mean; its metric is the score.
        template: of the rows.
        answer: name of the data set's column that holds the answer.
        answers: of the training rows, (N,); `[]` where no demonstrations are asked for.
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
        """Returns the rows of a split; `train` is that of the home stage."""
        rows: Dataset = (self.train if split == "train" else self.column.split(split)).with_format(None)
        return rows


@dataclass(frozen=True)
class Prompting:
    """Checked prompts.

    Attributes:
        config: the section `prompting`.
        stream: the stream whose columns are prompted.
        columns: its columns that can be prompted, in order.
        words: the words of every label; empty: answers are texts of any kind, and are generated.
        is_own: whether the stream is the run's own.
        is_cloze: whether the model fills in masks.
        is_limited: whether this is a smoke run, which may show fewer demonstrations than asked for.
        chat: how the model's tokenizer writes conversations; None: not known yet, or prompts are plain texts.
    """

    config: PromptingConfig
    stream: Stream
    columns: tuple[PromptColumn, ...]
    words: Words
    is_own: bool
    is_cloze: bool
    is_limited: bool = False
    chat: Chat | None = None

    def labels(self, column: PromptColumn, after: int) -> list[str]:
        """Returns the labels that rows of a column may be given; `[]`: any text.

        In a task-incremental stream they are the labels of the column's own stage. Otherwise they are those of all
        stages up to the column's home or, where the stream is the run's own, up to the last trained stage if that is
        later. So the question before a stage is trained is the same as right after it, and the zero-shot score can be
        compared with the fine-tuned one. For `text_to_text` they are its `answers`.

        Args:
            column: the column.
            after: the last stage that was trained; -1: none.
        """
        prompted = column.column
        if prompted.objective == WRITING and not prompted.labels:
            return list(prompted.options.get("answers") or ())
        if self.stream.masks:
            return list(prompted.labels)
        last = max(column.home, after) if self.is_own else column.home
        return list(dict.fromkeys(label for stage in self.stream.stages[: last + 1] for label in stage.labels))

    def positions(self, column: PromptColumn) -> list[int]:
        """Returns the positions of the column's rows that are prompted, ascending."""
        num_rows, max_rows = len(column.column.split(self.config.split)), self.config.max_rows
        if max_rows is None or max_rows >= num_rows:
            return list(range(num_rows))
        drawn = numpy_generator(self.config.seed, "prompted-rows", column.index).permutation(num_rows)[:max_rows]
        return sorted(int(i) for i in drawn)

    def prompts(self, column: PromptColumn, shots: int, labels: Sequence[str], positions: Sequence[int]) -> list[str]:
        """Returns the prompts of rows: demonstrations, then the row itself; a cloze holds `SLOT` where the answer goes.

        Args:
            column: the column.
            shots: number of demonstrations.
            labels: that the rows may be given.
            positions: of the rows.

        Raises:
            DataError: the template fails on a row.
        """
        given = {"labels": list(labels), "choices": [self.words[label][0] for label in labels], MASK: SLOT}
        shown = self._demonstrations(column, shots, given)
        where = f"{self.config.split} of {column.name!r}"
        rows = column.table(self.config.split)[list(positions)]
        questions = [
            column.template.render(row, given, f"row {position} of {where}")
            for position, row in zip(positions, _row_by_row(rows), strict=True)
        ]
        if self.chat is not None:
            turns = [turn for question, answer in shown for turn in exchange(question, answer)]
            asked = [[*turns, {"role": "user", "content": question}] for question in questions]
            return [self.chat.text(with_system(self.config.system, messages), asks=True) for messages in asked]
        between = "" if self.is_cloze else self.config.delimiter
        demonstrations = [f"{question}{between}{answer}" for question, answer in shown]
        return [self.config.separator.join([*demonstrations, question]) for question in questions]

    def _demonstrations(self, column: PromptColumn, shots: int, given: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Returns training rows, as the template renders them, and their answers; those of a cloze are in the text."""
        chosen = draw_shots(
            column.answers,
            shots,
            per_class=self.config.per_class,
            seed=self.config.seed,
            stage_index=column.home,
        )
        if not chosen:
            return []
        demonstrations = []
        for position, row in zip(chosen, _row_by_row(column.table("train")[chosen]), strict=True):
            answer = self.words.get(row[column.answer], (row[column.answer],))[0]
            where = f"row {position} of train of {column.name!r}"
            filled = {**given, MASK: answer} if self.is_cloze else given
            demonstrations.append((column.template.render(row, filled, where), "" if self.is_cloze else answer))
        return demonstrations

    def example(self) -> str:
        """Returns the first prompt of the first column, with the largest number of demonstrations."""
        column, shots = self.columns[0], max(self.config.shots)
        positions = self.positions(column)[:1]
        text = self.prompts(column, shots, self.labels(column, -1), positions)[0]
        return text.replace(SLOT, "[mask]")


def refuse_headless(objectives: Iterable[Objective]) -> None:
    """Refuses prompts for models without the head of a language model.

    Raises:
        ConfigError: an objective trains another head.
    """
    for objective in objectives:
        other_heads = [head for head in objective.heads if head not in LANGUAGE_HEADS]
        if other_heads:
            raise ConfigError(
                f"prompting: needs a model with a language-model head, but objective {objective.name} trains a "
                f"{other_heads[0]} head; must be null there. A classification stream that is to be prompted is trained "
                "with stream.as_text=true, on a decoder or an encoder-decoder"
            )


def prepare_prompting(config: Config, stream: Stream, objectives: Iterable[Objective]) -> Prompting:
    """Returns the prompts that `config.prompting` asks for, checked; reads labels and a row of every column, no model.

    Args:
        config: a config with the section `prompting`.
        stream: the stream whose columns are prompted: that of `prompting.data`, or the run's own.
        objectives: of the run's own stream.

    Raises:
        ConfigError, DataError: every fault.
    """
    section = config.prompting
    assert section is not None
    is_cloze = any("masked" in objective.heads for objective in objectives)
    problems = _shape_faults(section)
    columns = _columns(section, stream, is_cloze, problems)
    words = _words(section, stream, [prompted.column for prompted in columns], problems)
    if problems:
        raise ConfigError(problems)
    prompting = Prompting(
        section, stream, tuple(columns), words, section.data is None, is_cloze, config.limit is not None
    )
    _try_out(prompting)
    return prompting


def _shape_faults(section: PromptingConfig) -> list[str]:
    """Returns the faults that the section has whatever the stream is."""
    faults = [
        f"prompting.{name}: must be null without chat, got {text!r}"
        for name, text in {"system": section.system, "chat_template": section.chat_template}.items()
        if text is not None and not section.chat
    ]
    if not section.shots or len(set(section.shots)) < len(section.shots):
        faults.append(f"prompting.shots: must name each number of demonstrations once, got {section.shots}")
    if section.template is None and not section.templates:
        faults.append("prompting.template: must be a template, got null, and prompting.templates names none")
    return faults


def _columns(section: PromptingConfig, stream: Stream, is_cloze: bool, problems: list[str]) -> list[PromptColumn]:
    """Returns the columns that can be prompted; adds every fault to `problems`."""
    prompted = []
    columns = stream.columns
    known = [*dict.fromkeys([*(c.name for c in columns), *(c.task for c in columns)])]
    problems += [
        f"prompting.templates.{name}: no column or task is called so{nearest(name, known)}; allowed: {', '.join(known)}"
        for name in section.templates
        if name not in known
    ]
    templates: dict[str, Template | None] = {}
    if not any(_can_be_prompted(column) for column in columns):
        problems.append(
            f"prompting: can ask for labels or texts ({', '.join((*CHOOSING, WRITING))}), not for objective "
            f"{columns[0].objective} of column {columns[0].name!r}; prompting.data may name another stream"
        )
    for index, column in enumerate(columns):
        if not _can_be_prompted(column):
            continue
        assert column.home is not None
        key, text = _template_of(section, column)
        if is_cloze and column.objective == WRITING and not column.options.get("answers"):
            problems.append(
                f"prompting: a masked model cannot write a text of any kind, which column {column.name!r} asks for; "
                "its objective needs answers"
            )
        if text is None:
            if section.templates:
                problems.append(f"prompting.templates: none for column {column.name!r}, and prompting.template is null")
            continue
        if key not in templates:
            templates[key] = _parsed(text, key, problems)
        template = templates[key]
        if template is None:
            continue
        objective = make_objective(column.objective, column.options)
        rows, answer = column.split(section.split), objective.reference_columns[0]
        faults = template.faults(rows.column_names, f"column {column.name!r}", is_cloze=is_cloze)
        problems += [fault for fault in faults if fault not in problems]
        train = stream.stages[column.home].train
        answers = train.with_format(None).select_columns([answer])[:][answer] if max(section.shots, default=0) else []
        prompted.append(PromptColumn(index, column, column.home, train, objective, template, answer, answers))
    return prompted


def _can_be_prompted(column: Column) -> bool:
    """Whether rows have an answer to ask for (those of a corpus do not), and a stage to draw demonstrations from."""
    return column.objective in (*CHOOSING, WRITING) and column.home is not None


def _template_of(section: PromptingConfig, column: Column) -> tuple[str, str | None]:
    """Returns the key of a column's template in the config, and the template; None where it has none."""
    for name in (column.name, column.task):
        if name in section.templates:
            return f"prompting.templates.{name}", section.templates[name]
    return "prompting.template", section.template


def _parsed(text: str, key: str, problems: list[str]) -> Template | None:
    """Returns the template; None where it is none, and adds the faults to `problems`."""
    try:
        return Template(text, key)
    except ConfigError as error:
        problems += error.problems
        return None


def _words(section: PromptingConfig, stream: Stream, columns: Sequence[Column], problems: list[str]) -> Words:
    """Returns the words of all labels, `{}` where answers are texts of any kind; adds every fault to `problems`."""
    writing = [column for column in columns if column.objective == WRITING]
    labels = list(stream.labels)
    for column in writing:
        labels += [answer for answer in column.options.get("answers") or () if answer not in labels]
    if not labels:
        if section.verbaliser:
            problems.append("prompting.verbaliser: must be empty where answers are texts of any kind, got words")
        return {}
    all_write = bool(columns) and len(writing) == len(columns)
    words = label_words(labels, section.verbaliser, are_texts=all_write)
    problems += word_faults(labels, section.verbaliser, words)
    return words


def _try_out(prompting: Prompting) -> None:
    """Renders a prompt of every column, and checks that there are rows enough for the demonstrations.

    Raises:
        ConfigError: there are too few rows, or a cloze has no gap, or several; with every fault of the data too.
        DataError: only templates fail, each on a row.
    """
    config = prompting.config
    config_faults: list[str] = []
    data_faults: list[str] = []
    for column in prompting.columns:
        if not prompting.is_limited:
            of, labels = f"column {column.name!r}", column.column.labels
            for shots in config.shots:
                config_faults += shot_faults(column.answers, labels, shots, per_class=config.per_class, of=of)
        try:
            first = prompting.positions(column)[:1]
            for text in prompting.prompts(column, max(config.shots), prompting.labels(column, -1), first):
                if prompting.is_cloze and text.count(SLOT) != 1:
                    config_faults.append(
                        f"{column.template.key}: must hold {{{{ mask }}}} once, got it {text.count(SLOT)} times"
                    )
        except DataError as error:
            data_faults += error.problems
    if config_faults:
        raise ConfigError([*config_faults, *data_faults])
    if data_faults:
        raise DataError(data_faults)


def _row_by_row(rows: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Returns columns of rows as one mapping for each row."""
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]
