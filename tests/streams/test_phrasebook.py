import hashlib
import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from typing import Any

import pytest

import streams.phrasebook as module
from cl_mlm.errors import ConfigError
from cl_mlm.stream import SPLITS, Stream
from streams import _phrasebook_grammar as grammar
from streams.phrasebook import phrasebook

INTENTS = tuple(f"{domain}_{action}" for domain in grammar.DOMAINS for action in grammar.ACTIONS)
SMALL = {"train_rows": 6, "validation_rows": 5, "test_rows": 5}


def rows_of(stream: Stream, split: str) -> list[dict[str, Any]]:
    return [row for stage in stream.stages for row in stage.split(split).to_list()]


def all_rows(stream: Stream) -> list[dict[str, Any]]:
    return [row for split in SPLITS for row in rows_of(stream, split)]


def normalised(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


@pytest.fixture(scope="module")
def default() -> Stream:
    return phrasebook()


def test_default_stream_has_five_stages_of_four_labels(default):
    assert [len(stage.labels) for stage in default.stages] == [4] * 5
    assert set(default.labels) == set(INTENTS)
    assert len(default.labels) == 20


def test_every_intent_has_the_asked_number_of_rows_in_every_split(default):
    for split, size in {"train": 80, "validation": 20, "test": 30}.items():
        assert Counter(row["intent"] for row in rows_of(default, split)) == dict.fromkeys(INTENTS, size)


def test_label_is_intent_of_its_domain_and_action(default):
    assert all(row["label"] == row["intent"] == f"{row['domain']}_{row['action']}" for row in all_rows(default))


def test_labels_of_a_row_belong_to_its_stage(default):
    for stage in default.stages:
        assert set(stage.train["label"]) == set(stage.test["label"]) == set(stage.labels)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_normalised_text_comes_twice_in_the_stream(seed):
    texts = Counter(normalised(row["text"]) for row in all_rows(phrasebook(seed=seed)))
    assert [text for text, n in texts.items() if n > 1] == []


def test_rows_with_equal_requests_are_drawn_again(monkeypatch):
    templates = "\n".join(f"{word} [{{city}}] {{party}}" for word in ("one", "two", "three", "four", "five"))
    monkeypatch.setattr(grammar, "TEMPLATES", {"music_find": templates})
    monkeypatch.setattr(module, "_templates", module._templates.__wrapped__)
    rows = [" ".join(row["tokens"]).lower() for row in module._draw_rows("music_find", "train", 60, 0, set())]
    requests = {re.search(r"\b(one|two|three|four|five)\b.*", row)[0] for row in rows}
    assert len(requests) == 60


def test_tokens_spell_the_text(default):
    for row in all_rows(default):
        assert re.sub(r"([,?])", r" \1", row["text"]).split() == row["tokens"]


def test_tags_are_bio_of_known_slots_and_aligned(default):
    known = {tag for tag, _ in grammar.SLOTS.values()}
    for row in all_rows(default):
        assert len(row["tags"]) == len(row["tokens"])
        for before, tag in zip(["O", *row["tags"]], row["tags"], strict=False):
            assert tag == "O" or tag[2:] in known
            assert not tag.startswith("I-") or before[2:] == tag[2:]


def test_tagged_spans_are_whole_fillers(default):
    fillers = {(tag, filler.lower()) for tag, text in grammar.SLOTS.values() for filler in text.split("|")}
    for row in all_rows(default):
        spans: list[list[str]] = []
        for token, tag in zip(row["tokens"], row["tags"], strict=True):
            if tag.startswith("B-"):
                spans.append([tag[2:], token])
            elif tag.startswith("I-"):
                spans[-1][1] += f" {token}"
        assert all((tag, text.lower()) in fillers for tag, text in spans)


def test_same_seed_gives_the_rows_of_every_machine():
    """The digest was written down once: it changes only with the grammar or the shares."""
    rows = [[row["text"], row["label"], row["tags"]] for row in all_rows(phrasebook(**SMALL))]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == "b7a52760be4b71ff"


def test_rows_do_not_depend_on_the_hash_seed():
    code = f"from streams.phrasebook import phrasebook; print(phrasebook(**{SMALL}).stages[0].train['text'][:])"
    said = [
        subprocess.run([sys.executable, "-c", code], env={"PYTHONHASHSEED": n}, capture_output=True, check=True).stdout
        for n in ("1", "2")
    ]
    assert said[0] == said[1]
    assert said[0]


def test_another_seed_gives_other_rows():
    texts = [{row["text"] for row in all_rows(phrasebook(seed=seed, **SMALL))} for seed in (0, 1)]
    assert len(texts[0] & texts[1]) < 0.02 * len(texts[0])


def test_test_rows_do_not_move_when_other_splits_grow():
    sizes = {"test_rows": 30, "validation_rows": 5}  # enough that training rows would otherwise take some of them
    assert rows_of(phrasebook(train_rows=1, **sizes), "test") == rows_of(phrasebook(train_rows=200, **sizes), "test")


def test_order_seed_moves_labels_but_not_rows():
    plain, moved = phrasebook(order_seed=None, **SMALL), phrasebook(order_seed=3, **SMALL)
    assert plain.labels == tuple(sorted(INTENTS)) != moved.labels
    assert sorted(row["text"] for row in all_rows(plain)) == sorted(row["text"] for row in all_rows(moved))


def test_labels_per_stage_cuts_the_stages():
    assert [len(stage.labels) for stage in phrasebook(labels_per_stage=10, **SMALL).stages] == [10, 10]


def test_task_incremental_has_the_same_rows_under_its_own_scenario():
    stream = phrasebook(scenario="task_incremental", **SMALL)
    assert stream.scenario == "task_incremental"
    assert all_rows(stream) == all_rows(phrasebook(**SMALL))


def test_domain_incremental_has_one_stage_a_domain_and_actions_as_labels():
    stream = phrasebook(scenario="domain_incremental", **SMALL)
    assert sorted(stage.name for stage in stream.stages) == sorted(grammar.DOMAINS)
    for stage in stream.stages:
        assert set(stage.labels) == set(stage.train["label"]) == set(grammar.ACTIONS)
        assert set(stage.test["domain"]) == {stage.name} == {stage.domain}


def test_head_of_a_stage_has_every_label(default):
    for stage in default.stages:
        assert set(stage.test["label"][:30]) == set(stage.labels)


@pytest.mark.parametrize("key", ["train_rows", "validation_rows", "test_rows"])
def test_no_rows_is_a_config_error(key):
    with pytest.raises(ConfigError, match=rf"stream\.{key}: must be at least 1, got 0"):
        phrasebook(**{**SMALL, key: 0})


def test_more_rows_than_the_grammar_gives_is_a_config_error_that_says_how_many():
    most_held, most = module._capacity()
    with pytest.raises(ConfigError) as error:
        phrasebook(train_rows=most, validation_rows=most_held, test_rows=1)
    assert error.value.problems == [
        f"stream.validation_rows + stream.test_rows: the grammar gives at most {most_held} rows per intent, "
        f"got {most_held + 1}",
        f"stream.train_rows + stream.validation_rows + stream.test_rows: the grammar gives at most {most} rows per "
        f"intent, got {most + most_held + 1}",
    ]


def test_grammar_gives_what_capacity_says():
    most_held, most = module._capacity()
    poorest = min(INTENTS, key=lambda intent: sum(module._count(t.pattern) for t in module._templates()[intent]))
    said: set[str] = set()
    sizes = {"test": most_held, "train": most - most_held}
    rows = [row for split, size in sizes.items() for row in module._draw_rows(poorest, split, size, 0, said)]
    assert len({row["text"] for row in rows}) == most


@pytest.mark.parametrize("labels_per_stage", [3, 0])
def test_labels_that_do_not_divide_are_a_config_error(labels_per_stage):
    with pytest.raises(ConfigError, match=r"stream\.labels_per_stage: must divide 20"):
        phrasebook(labels_per_stage=labels_per_stage, **SMALL)


def test_domain_incremental_refuses_fewer_labels_than_actions():
    with pytest.raises(ConfigError, match=r"stream\.labels_per_stage: must be 4, .* got 2"):
        phrasebook(scenario="domain_incremental", labels_per_stage=2, **SMALL)


def test_held_out_templates_give_their_share_of_test_rows_and_no_training_row(monkeypatch):
    templates = {"music_find": "\n".join(f"word{i} {{person}} {{city}} {{time}}" for i in range(12))}
    monkeypatch.setattr(grammar, "TEMPLATES", templates)
    monkeypatch.setattr(module, "_templates", module._templates.__wrapped__)
    monkeypatch.setattr(module, "TYPO_SHARE", 0)

    def words(split: str, size: int) -> list[str]:
        rows = module._draw_rows("music_find", split, size, 0, set())
        return [token.lower() for row in rows for token in row["tokens"] if token.lower().startswith("word")]

    trained, tested = words("train", 200), words("test", 100)
    assert len(set(trained)) == 12 - module.HELD_OUT_TEMPLATES
    assert sum(word not in trained for word in tested) == round(module.HELD_OUT_SHARE * 100)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 20 * 6)])
def test_aside_share_sets_how_many_rows_name_another_domain(monkeypatch, share, expected):
    monkeypatch.setattr(module, "ASIDE_SHARE", share)
    monkeypatch.setattr(module, "TYPO_SHARE", 0)
    monkeypatch.setattr(grammar, "ASIDES", {domain: f"about-{domain}" for domain in grammar.DOMAINS})
    rows = rows_of(phrasebook(**SMALL), "train")
    assert sum("about-" in row["text"].lower() for row in rows) == expected
    assert not any(f"about-{row['domain']}" in row["text"].lower() for row in rows)


@pytest.mark.parametrize(("share", "style"), [(0.0, r"[^A-Z,?]+"), (1.0, r"[A-Z0-9$].*")])
def test_written_share_sets_how_many_rows_have_capitals(monkeypatch, share, style):
    monkeypatch.setattr(module, "WRITTEN_SHARE", share)
    assert all(re.fullmatch(style, row["text"]) for row in all_rows(phrasebook(**SMALL)))


def test_a_typo_changes_one_word_outside_the_slots(monkeypatch):
    sound = [("please", "O"), ("Lisbon", "B-city"), ("is", "O")]
    monkeypatch.setattr(module, "TYPO_SHARE", 1.0)
    wrong = module._misspell(sound, module._Dice(0, "test"))
    assert wrong[0] != sound[0]
    assert wrong[1:] == sound[1:]


def test_no_row_fills_two_slots_with_the_same_words():
    pattern = module._parse("{city} to {city}")
    said = [module._expand(pattern, module._Dice(seed, "test"), set()) for seed in range(200)]
    assert all(tokens[: len(tokens) // 2] != tokens[len(tokens) // 2 + 1 :] for tokens in said)


def test_count_is_the_number_of_things_a_pattern_says():
    assert module._count(module._parse("(a|b|b) [c] {party}")) == 2 * 2 * len(grammar.SLOTS["party"][1].split("|"))


def test_grammar_has_templates_for_every_intent():
    assert tuple(grammar.TEMPLATES) == INTENTS
    assert set(grammar.ASIDES) == set(grammar.DOMAINS)
    assert min(len(templates) for templates in module._templates().values()) >= 12


def test_grammar_lines_are_well_formed():
    lines = [line.strip() for text in grammar.TEMPLATES.values() for line in text.strip().splitlines()]
    lines += [grammar.GREETING, grammar.COURTESY, *grammar.ASIDES.values(), *grammar.SYMBOLS.values()]
    for line in lines:
        brackets, nested = "".join(re.findall(r"[()\[\]]", line)), ""
        while brackets != nested:
            brackets, nested = brackets.replace("()", "").replace("[]", ""), brackets
        assert brackets == "", line
        assert set(re.findall(r"\{(\w+)\}", line)) <= set(grammar.SLOTS), line
        assert set(re.findall(r"<(\w+)>", line)) <= set(grammar.SYMBOLS), line


def test_no_template_comes_twice_in_the_grammar():
    lines = Counter(line.strip() for text in grammar.TEMPLATES.values() for line in text.strip().splitlines())
    assert max(lines.values()) == 1


def test_action_verbs_overlap_between_actions():
    """`move`, `drop`, `put`, `get` ... alone do not tell the action, so that the task needs more than key words."""
    said: dict[str, set[str]] = {action: set() for action in grammar.ACTIONS}
    for row in rows_of(phrasebook(), "train"):
        said[row["action"]].update(row["text"].lower().split())
    for verb in ("move", "drop", "get", "put", "take", "pull", "set", "make", "hold"):
        assert sum(verb in words for words in said.values()) >= 2, verb


def test_default_stream_is_made_in_a_second_without_torch():
    code = (
        "import sys, time, datasets; start = time.process_time();"
        "from streams.phrasebook import phrasebook; phrasebook();"
        "print(time.process_time() - start, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert float(said[0]) < 1
    assert said[1] == "False"
