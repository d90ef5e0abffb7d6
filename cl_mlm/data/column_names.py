"""Says which column of a file is likely meant where one is missing, as the setting that names it."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

# Names that data sets in use have for our columns; the first one that a file has is proposed.
SYNONYMS = {
    "text": "sentence utterance content body query message review tweet comment document input question text_a "
    "sentence1 premise sms request sent",
    "text_pair": "sentence2 hypothesis text_b question2 passage",
    "label": "intent category class target topic sentiment label_name label_text class_name relation rel tag y",
    "labels": "label intents categories classes targets topics tags",
    "value": "score label rating target similarity",
    "tokens": "words",
    "tags": "ner_tags ner labels slots bio_tags",
    "entities": "spans label labels",
    "head": "e1 subject subj head_span",
    "tail": "e2 object obj tail_span",
    "context": "passage paragraph document article",
    "question": "query",
    "answers": "answer",
    "source": "input src prompt instruction article document dialogue text",
    "target": "output tgt completion response summary answer",
}
OF_TEXT = ("text", "text_pair", "label", "context", "question", "source", "target")  # whose values are strings
NO_TEXT = {"id", "idx", "index", "uid", "guid", "split", ""}
MOST_SHOWN = 20
CLOSE = 0.8  # how near a name that the config gives must be to one of the file: a slip of the pen


def remedy(
    missing: Sequence[str],
    given: Mapping[str, str],
    names: Sequence[str],
    example: Mapping[str, Any],
    used: Collection[str] = (),
) -> str:
    """Returns `set columns: {text: utterance, label: intent}`, or between which columns to choose.

    Args:
        missing: our names of the columns that a file lacks.
        given: our names of columns to the file's, as the config has them.
        names: of the file's columns.
        example: a row of the file.
        used: those of the file's columns that are found already.
    """
    free = [name for name in names if name not in used]
    guesses = _guesses(missing, given, free)
    open_names = [name for name in free if name not in guesses.values()]
    lacking = [ours for ours in missing if ours not in guesses]
    texts = [name for name in open_names if _can_be_text(name, example.get(name))]
    if len(lacking) == 1 and lacking[0] in OF_TEXT and len(texts) == 1 and (guesses or len(open_names) == 1):
        guesses[lacking[0]] = texts[0]
    if len(open_names) < len(missing) - len(guesses) and len(names) < len(missing) + len({*used}):
        return "these are too few columns"
    kept = {ours: theirs for ours, theirs in given.items() if ours not in missing}
    choice = ", ".join(map(yaml_name, open_names[:MOST_SHOWN])) or "none is left"
    pairs = [f"{ours}: {yaml_name(theirs)}" for ours, theirs in kept.items()]
    pairs += [f"{ours}: {yaml_name(guesses[ours]) if ours in guesses else f'<one of {choice}>'}" for ours in missing]
    return f"set columns: {{{', '.join(pairs)}}}" if names else "it has no columns"


def _guesses(missing: Sequence[str], given: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    guesses: dict[str, str] = {}
    for ours in missing:
        free = [name for name in names if name not in guesses.values()]
        by_plain = {_plain(name): name for name in reversed(free)}
        candidates = [_plain(ours), *SYNONYMS.get(ours, "").split()]
        near = get_close_matches(given[ours], free, n=1, cutoff=CLOSE) if ours in given else []
        found = next((by_plain[_plain(word)] for word in candidates if _plain(word) in by_plain), None)
        if near or found is not None:
            guesses[ours] = near[0] if near else str(found)
    return guesses


def _plain(name: str) -> str:
    """Returns a name without what spellings of one word differ in: case, signs between words, the plural."""
    return re.sub(r"[\W_]+", "", name).casefold().removesuffix("s")


def _can_be_text(name: str, value: object) -> bool:
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.,]*", value.strip()) is not None
    return isinstance(value, str) and not is_number and name.casefold() not in NO_TEXT


def yaml_name(name: str) -> str:
    """Returns a name as YAML reads it inside of `{...}`."""
    is_plain = re.fullmatch(r"[^\W\d][\w.-]*( [\w.-]+)*", name) is not None
    is_word = name.casefold() in ("yes", "no", "on", "off", "true", "false", "null", "y", "n")
    return name if is_plain and not is_word else json.dumps(name, ensure_ascii=False)
