"""The default stream: English requests from a small grammar, so that a first run needs no download.

Five domains times four actions give twenty intents. All of them share greetings, cities, dates and people, and their
verbs overlap. Some validation and test rows come from templates that no training row is made from.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, TypeVar

from cl_mlm.data import by_field, by_labels
from cl_mlm.errors import ConfigError
from cl_mlm.randomness import numpy_generator
from cl_mlm.stream import Scenario, Stream
from streams import _phrasebook_grammar as grammar

if TYPE_CHECKING:
    from datasets import Dataset

# How hard the task is: joint training of a small encoder from scratch should reach an accuracy of 0.85-0.93. A bag of
# words reaches 0.87; without held-out templates, asides and typos 0.95, with a held-out share of 0.25 only 0.77.
HELD_OUT_TEMPLATES = 4  # of every intent; no training row is made from them
HELD_OUT_SHARE = 0.1  # of an intent's validation and test rows, made from its held-out templates
ASIDE_SHARE = 0.05  # of all rows, with a clause in front that names another domain
TYPO_SHARE = 0.03  # of all rows, with one misspelt word
WRITTEN_SHARE = 0.4  # of all rows, with capitals and punctuation; the others are plain lower case

MARK = re.compile(r"[()\[\]|]|\{\w+\}|[^\s()\[\]|{}]+")
PUNCTUATION = (",", "?")
T = TypeVar("T")
Tagged = list[tuple[str, str]]


@dataclass(frozen=True)
class _Slot:
    name: str


@dataclass(frozen=True)
class _Choice:
    options: tuple[_Pattern, ...]


_Pattern = tuple["str | _Slot | _Choice", ...]


@dataclass(frozen=True)
class _Template:
    pattern: _Pattern
    is_request: bool


def phrasebook(
    *,
    labels_per_stage: int = 4,
    order_seed: int | None = 0,
    scenario: Scenario = "class_incremental",
    seed: int = 0,
    train_rows: int = 80,
    validation_rows: int = 20,
    test_rows: int = 30,
) -> Stream:
    """Returns the embedded stream: twenty intents cut into stages, or the five domains as stages.

    Rows have `text`, `label`, `domain`, `intent`, `action`, `tokens` and `tags` (BIO tags of the slots). The label is
    the intent; where the scenario is domain_incremental, and each domain a stage, it is the action. Test rows do not
    depend on the sizes of the other splits.

    Args:
        labels_per_stage: number of intents a stage; four, all actions, in the domain-incremental scenario.
        order_seed: shuffles the intents (the domains) over the stages; None keeps them sorted.
        scenario: what a stage brings and what is known at prediction.
        seed: of the rows.
        train_rows: number of rows per intent.
        validation_rows: number of rows per intent.
        test_rows: number of rows per intent.

    Raises:
        ConfigError: the grammar cannot give so many rows, or the intents cannot be cut like that.
    """
    sizes = {"test": test_rows, "validation": validation_rows, "train": train_rows}
    by_domain = scenario == "domain_incremental"
    _check(sizes, labels_per_stage if by_domain else len(grammar.ACTIONS))
    splits = _draw_splits(sizes, "action" if by_domain else "intent", seed)
    if by_domain:
        return by_field(splits, "domain", name="phrasebook", order_seed=order_seed, scenario=scenario, language="en")
    return by_labels(
        splits,
        name="phrasebook",
        labels_per_stage=labels_per_stage,
        order_seed=order_seed,
        scenario=scenario,
        language="en",
    )


@cache
def _capacity() -> tuple[int, int]:
    """Returns how many rows per intent the grammar can give: validation and test together, all splits together.

    Both hold for every seed. They are half of what the smallest templates of the poorest intent can say, so that
    drawing again until a row is new stays cheap.
    """
    counts = [sorted(_count(template.pattern) for template in templates) for templates in _templates().values()]
    held_out = min(sum(smallest[:HELD_OUT_TEMPLATES]) for smallest in counts) // 2
    common = min(sum(smallest[:-HELD_OUT_TEMPLATES]) for smallest in counts) // 2
    return min(int(held_out / HELD_OUT_SHARE), common) if HELD_OUT_SHARE else common, common


def _check(sizes: Mapping[str, int], labels_per_domain: int) -> None:
    problems = [f"stream.{split}_rows: must be at least 1, got {size}" for split, size in sizes.items() if size < 1]
    for splits, most in zip((("validation", "test"), ("train", "validation", "test")), _capacity(), strict=True):
        total = sum(sizes[split] for split in splits)
        if total > most:
            keys = " + ".join(f"stream.{split}_rows" for split in splits)
            problems.append(f"{keys}: the grammar gives at most {most} rows per intent, got {total}")
    if labels_per_domain != len(grammar.ACTIONS):
        rule = f"must be {len(grammar.ACTIONS)}, all actions, in domain_incremental"
        problems.append(f"stream.labels_per_stage: {rule}, got {labels_per_domain}")
    if problems:
        raise ConfigError(problems)


def _draw_splits(sizes: Mapping[str, int], label: str, seed: int) -> dict[str, Dataset]:
    """Returns the splits, drawn in the order of `sizes`; no two rows say the same."""
    from datasets import Dataset

    said: set[str] = set()
    splits = {}
    for split, size in sizes.items():
        rows = [row for intent in _templates() for row in _draw_rows(intent, split, size, seed, said)]
        rows = _Dice(seed, "order", split).shuffled(rows)  # so that the head of a split has every intent
        splits[split] = Dataset.from_list([{"text": row["text"], "label": row[label], **row} for row in rows])
    return splits


def _draw_rows(intent: str, split: str, size: int, seed: int, said: set[str]) -> Iterator[dict[str, str | list[str]]]:
    """Yields rows of one intent that say nothing in `said`, and adds to it what they say.

    A row is new only where its request is, too: another greeting, aside or typo makes no new row.
    """
    domain, action = intent.split("_")
    templates = _Dice(seed, "templates", intent).shuffled(_templates()[intent])
    held_out, common = templates[:HELD_OUT_TEMPLATES], templates[HELD_OUT_TEMPLATES:]
    num_held_out = 0 if split == "train" else round(HELD_OUT_SHARE * size)
    dice = _Dice(seed, "rows", intent, split)
    num_drawn = 0
    while num_drawn < size:
        template = dice.pick(held_out if num_drawn < num_held_out else common)
        request = _expand(template.pattern, dice, set())
        tagged = _misspell(_style(_surround(request, template.is_request, domain, dice), dice), dice)
        text = _spell(tagged)
        said_now = {_spell(request).replace(",", "").replace(" ?", "").lower(), text.lower()}
        if said.isdisjoint(said_now):
            said |= said_now
            num_drawn += 1
            tokens, tags = [token for token, _ in tagged], [tag for _, tag in tagged]
            yield {"text": text, "domain": domain, "intent": intent, "action": action, "tokens": tokens, "tags": tags}


def _surround(request: Tagged, is_request: bool, domain: str, dice: _Dice) -> Tagged:
    """Returns the utterance with a greeting or none, sometimes an aside, and after a request sometimes a courtesy."""
    before = _expand(_parse(grammar.GREETING), dice, set())
    if dice.happens(ASIDE_SHARE):
        other = dice.pick([name for name in grammar.DOMAINS if name != domain])
        before += _expand(_parse(grammar.ASIDES[other]), dice, set())
    if not is_request or request[-1][0] == "?":
        return before + request
    return before + request + _expand(_parse(grammar.COURTESY), dice, set())


def _style(tagged: Tagged, dice: _Dice) -> Tagged:
    """Returns the tokens with capitals and punctuation, or in plain lower case without."""
    if not dice.happens(WRITTEN_SHARE):
        return [(token.lower(), tag) for token, tag in tagged if token not in PUNCTUATION]
    written = [(re.sub(r"^i(?=$|')", "I", token), tag) for token, tag in tagged]
    first, tag = written[0]
    return [(first[0].upper() + first[1:], tag), *written[1:]]


def _misspell(tagged: Tagged, dice: _Dice) -> Tagged:
    """Returns the tokens, sometimes with one word outside the slots that swaps, loses or doubles a letter."""
    places = [i for i, (token, tag) in enumerate(tagged) if tag == "O" and len(token) > 4 and token.isalpha()]
    if not places or not dice.happens(TYPO_SHARE):
        return tagged
    place = dice.pick(places)
    word = tagged[place][0]
    i = 1 + dice.below(len(word) - 2)
    middle = dice.pick((word[i + 1] + word[i], word[i + 1], word[i] + word[i : i + 2]))
    return [*tagged[:place], (word[:i] + middle + word[i + 2 :], "O"), *tagged[place + 1 :]]


def _spell(tagged: Tagged) -> str:
    return re.sub(r" (?=[,?])", "", " ".join(token for token, _ in tagged))


def _expand(pattern: _Pattern, dice: _Dice, used: set[str]) -> Tagged:
    """Returns one thing that `pattern` can say, with fillers that are not in `used`, and adds them to it."""
    tagged: Tagged = []
    for part in pattern:
        if isinstance(part, str):
            tagged.append((part, "O"))
        elif isinstance(part, _Choice):
            tagged += _expand(dice.pick(part.options), dice, used)
        else:
            tag, fillers = _slots()[part.name]
            filler = dice.pick([filler for filler in fillers if filler not in used])
            used.add(filler)
            first, *others = filler.split()
            tagged += [(first, f"B-{tag}"), *((token, f"I-{tag}") for token in others)]
    return tagged


def _count(pattern: _Pattern) -> int:
    """Returns how many things `pattern` can say where a filler may come twice."""
    counts = []
    for part in pattern:
        if isinstance(part, _Choice):
            counts.append(sum(_count(option) for option in set(part.options)))
        elif isinstance(part, _Slot):
            counts.append(len(_slots()[part.name][1]))
    return prod(counts)


@cache
def _slots() -> dict[str, tuple[str, tuple[str, ...]]]:
    return {name: (tag, tuple(fillers.split("|"))) for name, (tag, fillers) in grammar.SLOTS.items()}


@cache
def _templates() -> dict[str, tuple[_Template, ...]]:
    """Returns the templates of every intent."""
    return {
        intent: tuple(
            _Template(_parse(line), is_request=line.startswith(("<ask>", "<do>")))
            for line in map(str.strip, lines.strip().splitlines())
        )
        for intent, lines in grammar.TEMPLATES.items()
    }


@cache
def _parse(line: str) -> _Pattern:
    written_out = re.sub(r"<(\w+)>", lambda match: grammar.SYMBOLS[match[1]], line)
    (pattern,) = _parse_options(iter(MARK.findall(written_out)))
    return pattern


def _parse_options(marks: Iterator[str]) -> tuple[_Pattern, ...]:
    """Returns the alternatives up to the closing bracket, and takes the bracket."""
    options: list[list[str | _Slot | _Choice]] = [[]]
    for mark in marks:
        if mark in ")]":
            break
        if mark == "|":
            options.append([])
        elif mark == "(":
            options[-1].append(_Choice(_parse_options(marks)))
        elif mark == "[":
            options[-1].append(_Choice((*_parse_options(marks), ())))
        elif mark.startswith("{"):
            options[-1].append(_Slot(mark[1:-1]))
        else:
            options[-1].append(mark)
    return tuple(tuple(option) for option in options)


class _Dice:
    """Draws from the raw words of a bit generator: NumPy may change its distributions, but never these words."""

    def __init__(self, seed: int, *address: str | int) -> None:
        self._bits = numpy_generator(seed, "phrasebook", *address).bit_generator

    def below(self, bound: int) -> int:
        """Returns a whole number from 0 to `bound` - 1."""
        return self._bits.random_raw() % bound

    def happens(self, share: float) -> bool:
        """Returns True in `share` of all calls."""
        return self.below(1_000_000) < share * 1_000_000

    def pick(self, items: Sequence[T]) -> T:
        """Returns one of the items."""
        return items[self.below(len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Returns the items in random order."""
        keys = [self.below(1 << 62) for _ in items]
        return [items[i] for i in sorted(range(len(items)), key=keys.__getitem__)]
