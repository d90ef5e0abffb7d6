"""Compares the rows of a stream with what model and tokenizer can read, before weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from transformers.models.auto import modeling_auto

from cl_mlm.data.tasks import tasks_of
from cl_mlm.errors import ConfigError, UnreachableModelError
from cl_mlm.models.finetuning import add_adapters
from cl_mlm.models.generation import end_token
from cl_mlm.models.loading import model_settings
from cl_mlm.models.positions import PositionLimits, own_length, position_limits
from cl_mlm.models.size import without_weights
from cl_mlm.models.tokenizers import STAND_INS, give_padding, load_tokenizer
from cl_mlm.models.virtual_tokens import LEARNED
from cl_mlm.prompting.reader import prompt_length
from cl_mlm.tokens.chat import Chat
from cl_mlm.tokens.frames import frame, has_tokens, known_text
from cl_mlm.tokens.row_groups import encode_group, row_groups
from cl_mlm.tokens.text_rows import padding

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from cl_mlm.config.schema import Config, PromptingConfig
    from cl_mlm.objective import Head, Objective
    from cl_mlm.prompting.columns import Prompting
    from cl_mlm.stream import Stream
    from cl_mlm.task import Task, Tasks
    from cl_mlm.tokens.encoding import EncodedRows

SHORTEST = 4  # of `training.max_length`
TARGET_OPTIONS = ("max_new_tokens", "max_target_length")
UNKNOWN = "\ua66e"  # a letter that no vocabulary of words or subwords has
OR_ANOTHER = f", or another special token to stand for it ({', '.join(STAND_INS)})"


@dataclass(frozen=True)
class TaskModel:
    """The model of one task, without its weights.

    Attributes:
        kind: its form.
        settings: its config.
        limits: the tokens that it can read.
        tokenizer: the model's.
        num_virtual: virtual tokens, which the limits leave out.
    """

    kind: Head
    settings: PretrainedConfig
    limits: PositionLimits
    tokenizer: PreTrainedTokenizerBase
    num_virtual: int = 0

    @property
    def beside(self) -> str:
        """What the limits leave out, in a message."""
        return f" beside {self.num_virtual} virtual ones (finetuning.virtual_tokens)" if self.num_virtual else ""


def with_length(config: Config, stream: Stream) -> Config:
    """Returns `config` with the model's own length in the place of `training.max_length: null`.

    It is the least of all tasks, and leaves room for what an objective puts behind a row.

    Raises:
        ConfigError: the model names no length, or leaves no room, or its config cannot be had.
    """
    if config.training.max_length is not None:
        return config
    own: list[int] = []
    for task in tasks_of(stream):
        model = _task_model(config, task.objective, task.labels.names)
        length = own_length(model.limits.input, model.settings, model.tokenizer, model.kind)
        if length is None:
            raise ConfigError(
                f"training.max_length: must be a number for {config.model.name!r}, whose weights, config and tokenizer "
                "set no limit, got null"
            )
        extra = task.objective.extra_length(model.tokenizer, model.kind)
        own.append(length - extra)
        if own[-1] < SHORTEST:
            raise ConfigError(
                f"training.max_length: null leaves {max(0, own[-1])} tokens for a row, and {SHORTEST} are the least: "
                f"this model can read {length} tokens{model.beside}, {_too_much(task.objective, model, length)}"
            )
    return replace(config, training=replace(config.training, max_length=min(own)))


def length_faults(config: Config, stream: Stream) -> list[str]:
    """Returns where rows, or what is to be written, are longer than the model can read; `[]` where it is out of reach.

    Rows are counted as the run reads them, and only where `training.max_length` does not keep them short enough: then
    all of them are encoded, into the cache from which the run reads them.
    """
    tasks = tasks_of(stream)
    faults: list[str] = []
    try:
        for task in tasks:
            model = _task_model(config, task.objective, task.labels.names)
            where = "" if len(tasks) == 1 else f"stream, objective {task.key}: "
            text = config.finetuning.init_text
            if text is not None and not has_tokens(model.tokenizer, text):
                return [f"finetuning.init_text: must have tokens in the model's tokenizer, got {text!r}"]
            found = _task_faults(config, stream, tasks, task, model)
            faults += [where + fault for fault in found]
    except UnreachableModelError:  # told when it is loaded
        return []
    except ConfigError as error:
        return [*faults, *error.problems]
    return faults


def length_notes(config: Config, stream: Stream) -> list[str]:
    """Returns where rows are longer than a model's config says, though no table of positions ends there.

    That is so with rotary and relative positions. Only configs that state `max_position_embeddings` count, as those of
    Llama and DeBERTa; T5's relative positions end nowhere. `[]` where the model is out of reach.
    """
    tasks, notes = tasks_of(stream), []
    for task in tasks:
        try:
            model = _task_model(config, task.objective, task.labels.names)
        except UnreachableModelError:
            return []
        stated, max_length = getattr(model.settings, "max_position_embeddings", None), config.training.row_length
        extra = task.objective.extra_length(model.tokenizer, model.kind) + model.num_virtual
        if model.limits.input is not None or not isinstance(stated, int) or not 0 < stated < max_length + extra:
            continue
        found = _encoded(config, stream, tasks, task, model.tokenizer)
        lengths = [_tokens_read(rows, split, task.objective, model, max_length) for split, rows in found]
        longest = max((int(sizes.max(initial=0)) for sizes in lengths), default=0)
        if longest + model.num_virtual > stated:
            where = "" if len(tasks) == 1 else f"objective {task.key}: "
            notes.append(
                f"{where}rows up to {longest:,} tokens, the model's config states {stated:,} positions "
                "(max_position_embeddings): beyond them its quality is not known"
            )
    return notes


def prompt_faults(config: Config, prompting: Prompting, objective: Objective) -> list[str]:  # noqa: PLR0911
    """Returns where prompts or their answers are longer than the model can read; `[]` where it is out of reach.

    A prompt that is too long loses its start; only its answers must fit.
    """
    try:
        model = _task_model(config, objective, ())
    except UnreachableModelError:  # told when it is loaded
        return []
    own = own_length(model.limits.input, model.settings, model.tokenizer, model.kind)
    try:
        length = prompt_length(own, prompting.config.max_length)
    except ConfigError as error:
        return error.problems
    if faults := _chat_faults(prompting.config, model):
        return faults
    words = list({word for of_label in prompting.words.values() for word in of_label})
    unknown = [word for word in words if not has_tokens(model.tokenizer, word)]
    if unknown:
        return [f"prompting.verbaliser: the tokenizer has no tokens for {', '.join(map(repr, unknown[:10]))}"]
    chosen = max(map(len, model.tokenizer(words, add_special_tokens=False)["input_ids"])) if words else 0
    writing = [column.objective for column in prompting.columns if not prompting.labels(column, -1)]
    written = max((objective.written_length(model.tokenizer) for objective in writing), default=0)
    if written:
        end_token(model.tokenizer)
    longest, target = max(chosen, written), model.limits.target
    if target is not None and longest > target:
        return [f"prompting: answers take {longest} tokens, and this model's decoder can read {target}"]
    first, last = ([], []) if prompting.config.chat else frame(model.tokenizer)
    room = length - len(first) - len(last)
    if model.kind == "causal":
        # The last token of an answer is not read; what is written needs one token of the prompt at least.
        room = length - len(first) - (1 if written else 0)
    elif model.kind == "seq2seq":
        longest = 1
    if longest > room:
        return [f"prompting.max_length: must leave room for answers of {longest} tokens, got {length}"]
    return []


def _chat_faults(section: PromptingConfig, model: TaskModel) -> list[str]:
    """Returns why a model cannot be asked through a chat template; `[]` where it is not to be."""
    if not section.chat:
        return []
    if model.kind != "causal":
        return ["prompting.chat: needs a decoder, which writes its turn behind the user's; got true"]
    return Chat(model.tokenizer, section.chat_template).faults("prompting.chat", "prompting", section.system)


def chat_of(config: Config) -> Chat | None:
    """Returns how the model's tokenizer writes the prompts of a config; None: as plain texts, or it is out of reach."""
    section = config.prompting
    if section is None or not section.chat:
        return None
    try:
        return Chat(load_tokenizer(config.model), section.chat_template)
    except UnreachableModelError:  # told when it is loaded
        return None


def _task_model(config: Config, objective: Objective, labels: Sequence[str]) -> TaskModel:
    kind, settings = model_settings(config.model, labels, config.training.max_length, objective)
    model, tokenizer = without_weights(kind, settings), load_tokenizer(config.model)
    num_virtual = 0
    if config.finetuning.mode in LEARNED:
        add_adapters(model, config.finetuning, config.seed)
        num_virtual = config.finetuning.virtual_tokens or 0
    give_padding(tokenizer, kind, is_encoder_decoder=settings.is_encoder_decoder)
    return TaskModel(kind, settings, position_limits(model), tokenizer, num_virtual)


def _tokenizer_faults(model: TaskModel, objective: Objective) -> list[str]:
    """Returns the tokens that a tokenizer lacks; see `give_padding` for those that it is given."""
    tokenizer, settings = model.tokenizer, model.settings
    if not has_tokens(tokenizer, known_text(tokenizer)):
        return ["model.name: its tokenizer gives no tokens for any text"]
    faults = objective.tokenizer_faults(tokenizer, model.kind)
    if model.kind == "sequence" and not settings.is_encoder_decoder and _is_decoder(settings):
        # It classifies a row at its last token that is no padding, which it finds by the tokens and not by the mask.
        if tokenizer.pad_token is None:
            faults.append(f"model.name: a decoder that classifies needs a tokenizer with a pad_token{OR_ANOTHER}")
    elif model.kind == "sequence" and settings.is_encoder_decoder:
        if settings.eos_token_id not in [*chain(*frame(tokenizer))]:  # as a word of a text, it would not end every row
            faults.append(f"model.name: an encoder-decoder that classifies needs {_missing_end(settings, tokenizer)}")
        elif tokenizer.pad_token is None and padding(tokenizer) == settings.eos_token_id:
            faults.append(f"model.name: an encoder-decoder that classifies needs a pad_token{OR_ANOTHER} but the end's")
    return faults


def _missing_end(settings: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """Returns what a tokenizer, or a config, lacks so that the model's end token stands behind every row."""
    if tokenizer.eos_token is None:
        return "a tokenizer with an eos_token that it puts behind every row; this one has no eos_token"
    if settings.eos_token_id is None:
        return f"an eos_token_id in its config.json, that of the tokenizer's eos_token {tokenizer.eos_token!r}"
    return (
        f"a tokenizer that puts the model's end token (eos_token_id {settings.eos_token_id}) behind every row, "
        f"which this one does not: its eos_token {tokenizer.eos_token!r} is token {tokenizer.eos_token_id}"
    )


def _is_decoder(settings: PretrainedConfig) -> bool:
    return settings.model_type not in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _task_faults(config: Config, stream: Stream, tasks: Tasks, task: Task, model: TaskModel) -> list[str]:
    objective, limits, tokenizer = task.objective, model.limits, model.tokenizer
    faults = _tokenizer_faults(model, objective)
    if faults:
        return faults
    max_length, written = config.training.row_length, objective.written_length(tokenizer)
    if limits.target is not None and written > limits.target:
        faults.append(
            f"stream.options.max_new_tokens: must be at most {limits.target}, which this model's decoder can write, "
            f"got {written}"
        )
    extra = objective.extra_length(tokenizer, model.kind)
    vocabulary = getattr(model.settings, "vocab_size", None) or len(tokenizer)
    # What a chat template makes of a row is known only when it is done.
    is_safe = (
        not objective.chats and limits.target is None and (limits.input is None or max_length + extra <= limits.input)
    )
    if is_safe and len(tokenizer) <= vocabulary and has_tokens(tokenizer, UNKNOWN):
        return faults
    # Tokens of every row, of input and target.
    inputs: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    targets: list[np.ndarray[tuple[int, ...], np.dtype[np.int64]]] = []
    # A masked token may be replaced by any token.
    largest = len(tokenizer) - 1 if model.kind == "masked" else padding(tokenizer)
    for split, rows in _encoded(config, stream, tasks, task, tokenizer):
        largest = max(largest, rows.largest)
        inputs.append(_tokens_read(rows, split, objective, model, max_length))
        if not (written and split != "train") and "target_ids" in rows.column_lengths:
            targets.append(rows.column_lengths["target_ids"])
    if largest >= vocabulary:
        faults.append(f"model.name: its tokenizer gives tokens up to {largest}, but its vocab_size is {vocabulary}")
    empty = int((np.concatenate(inputs) == 0).sum())
    if empty:
        faults.append(f"model.name: its tokenizer has no token for unknown words, which leaves {empty} rows empty")
    faults += _input_faults(np.concatenate(inputs), objective, model, max_length)
    if targets:
        faults += _target_faults(np.concatenate(targets), limits.target)
    return faults


def _tokens_read(
    rows: EncodedRows, split: str, objective: Objective, model: TaskModel, max_length: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Returns the tokens that a model reads of every row in one sequence, (R,); of scored rows it writes the target."""
    # A row that becomes several windows has them end to end.
    lengths = rows.column_lengths | {"input_ids": np.minimum(rows.column_lengths["input_ids"], max_length)}
    written = objective.written_length(model.tokenizer) if split != "train" else 0
    return objective.input_length(lengths, model.tokenizer, model.kind, written or None)


def _encoded(
    config: Config, stream: Stream, tasks: Tasks, task: Task, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[str, EncodedRows]]:
    """Yields the rows of one task that a run trains on or scores, encoded, with their split."""
    scored = {*config.evaluation.splits, *(["validation"] if config.training.may_stop_early else [])}
    for split in ("train", *sorted(scored)):
        owners = stream.owners(split)
        for group in row_groups(stream, split, tasks):
            if tasks.keys_of(split)[group.start] == task.key and any(len(owners[i].split(split)) for i in group):
                try:
                    yield split, encode_group(stream, split, group, tasks, tokenizer, config.training.row_length)
                except Exception as error:
                    if type(error) is not Exception:  # the Rust library raises nothing more special
                        raise
                    names = " to ".join(dict.fromkeys(repr(owners[i].name) for i in (group[0], group[-1])))
                    raise ConfigError(
                        "model.name: its tokenizer has no token for unknown words, which split "
                        f"{split!r} of {names} holds: {error}"
                    ) from error


def _input_faults(
    lengths: np.ndarray[tuple[int, ...], np.dtype[np.int64]], objective: Objective, model: TaskModel, max_length: int
) -> list[str]:
    limit, extra = model.limits.input, objective.extra_length(model.tokenizer, model.kind)
    if limit is None or lengths.max(initial=0) <= limit:
        return []
    longer = int((lengths > limit).sum())
    found = f"{longer} of {len(lengths)} rows have more, up to {lengths.max()}"
    if not extra:
        return [
            f"training.max_length: must be at most {limit}, the tokens that this model can read{model.beside}, "
            f"or null: {found}; got {max_length}"
        ]
    room = limit - extra
    if room < SHORTEST:
        return [
            f"training.max_length: cannot be small enough: this model can read {limit} tokens{model.beside}, "
            f"{_too_much(objective, model, limit)}; {found}; got {max_length}"
        ]
    return [
        f"training.max_length: must be at most {room}, or null: this model can read {limit} tokens{model.beside}, "
        f"of which separator and target take up to {extra} (stream.options.max_new_tokens, max_target_length); "
        f"{found}; got {max_length}"
    ]


def _too_much(objective: Objective, model: TaskModel, limit: int) -> str:
    """Returns which options of an objective leave too little for a row, and what fits; `limit`: tokens read at once."""
    options = objective.options()
    least = type(objective)(**options | {"max_new_tokens": 2, "max_target_length": None})
    separator = least.extra_length(model.tokenizer, model.kind) - 2
    fitting = limit - SHORTEST - separator
    taken = f"of which stream.options.separator takes {separator} and the target up to "
    taken += str(objective.extra_length(model.tokenizer, model.kind) - separator)
    if fitting < 2:
        return f"{taken}; the separator must take at most {limit - SHORTEST - 2}"
    too_large = [f"stream.options.{name}" for name in TARGET_OPTIONS if (options[name] or 0) > fitting]
    return f"{taken}; {' and '.join(too_large)} must be at most {fitting}, which leaves {SHORTEST} for a row"


def _target_faults(lengths: np.ndarray[tuple[int, ...], np.dtype[np.int64]], limit: int | None) -> list[str]:
    if limit is None or lengths.max(initial=0) <= limit:
        return []
    longer = int((lengths > limit).sum())
    return [
        f"stream.options.max_target_length: must be at most {limit}, the tokens that this model's decoder can read: "
        f"{longer} of {len(lengths)} training rows have more, up to {lengths.max()}"
    ]
