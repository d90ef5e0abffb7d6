import json
import math
import os

import pytest

from benchmarks.speed.__main__ import arguments, chosen
from benchmarks.speed.intervals import Block, Effort, compare, half_width, ratio_interval, theil_sen
from benchmarks.speed.rows import all_rows
from benchmarks.speed.stepper import Stepper
from benchmarks.speed.table import is_met, markdown, merge, plain
from benchmarks.speed.workload import MAX_LENGTH, in_turn, joined

MACHINE = {"processor": "p", "cores": "2", "threads": 1, "device": "cpu", "precision": "fp32", "model": "m"}


def make_row(name="train.hand", value=1.0, **other):
    shown = {"title": "t", "low": math.nan, "high": math.nan, "target": 0.97, "at_least": True, "met": True}
    return {"name": name, "setting": "short", **MACHINE, "value": value, **shown, **other}


class Scripted:
    """An arm whose blocks take the given seconds, one after another; notes its name and its steps."""

    def __init__(self, name, seconds, calls, rows=32):
        self.name, self.seconds, self.calls, self.rows = name, iter(seconds), calls, rows

    def block(self, steps):
        self.calls.append((self.name, steps))
        seconds = next(self.seconds)
        return Block(self.rows * steps, seconds, seconds, 2 * self.rows * steps)

    def close(self):
        pass


def run_pair(a_seconds, b_seconds, effort, warm=(1,), unit=1, **other):
    calls = []
    arms = (Scripted("a", a_seconds, calls), Scripted("b", b_seconds, calls))
    return compare(*arms, effort, warm, unit, **other), calls


def test_blocks_alternate_a_b_b_a_after_one_warm_up_each():
    _, calls = run_pair([9, 1, 1, 1, 1], [9, 1, 1, 1, 1], Effort(max_quads=2, min_quads=3))
    assert "".join(name for name, _ in calls) == "ab" + "abba" + "abba"


def test_the_warm_up_does_not_count():
    found, _ = run_pair([100, 1, 1], [1, 2, 2], Effort(max_quads=1))
    assert found.interval().ratio == pytest.approx(2.0)
    assert (found.a.cpu, found.b.cpu) == (2, 4)


def test_a_drift_that_is_linear_in_time_cancels_within_a_quad():
    found, _ = run_pair([9, 1.0, 4.0], [9, 2.0, 3.0], Effort(max_quads=1))
    assert found.interval().ratio == pytest.approx(1.0)


def test_the_comparison_stops_when_the_interval_is_narrow_enough():
    found, _ = run_pair([1] * 50, [1.1] * 50, Effort(max_quads=20, min_quads=3, half_width=0.02))
    assert (len(found.log_ratios), found.reached) == (3, True)


def test_the_comparison_says_that_the_interval_stayed_wide():
    found, _ = run_pair([1] * 50, [1, 2, 2, 1, 1] * 10, Effort(max_quads=4, half_width=0.02))
    assert (len(found.log_ratios), found.reached) == (4, False)
    assert half_width(found.log_ratios) > 0.02


def test_a_block_lasts_about_as_long_as_asked_in_whole_units():
    # 4 steps take 2 s: 5 s are 10 steps, in units of 4 then 8 or 12; Python rounds 2.5 to 2.
    _, calls = run_pair([50, 2, 1, 1], [50, 2, 1, 1], Effort(max_quads=1, block_seconds=5), warm=(1, 4), unit=4)
    assert [steps for name, steps in calls if name == "a"] == [1, 4, 8, 8]


def test_the_amount_of_work_may_be_another_than_rows():
    found, _ = run_pair([9, 1, 1], [9, 1, 1], Effort(max_quads=1), amount=lambda block: block.processed**2)
    other, _ = run_pair([9, 1, 1], [9, 2, 2], Effort(max_quads=1), amount=lambda block: block.processed)
    assert found.interval().ratio == pytest.approx(1.0)
    assert other.interval().ratio == pytest.approx(2.0)


def test_the_interval_is_students():
    # Mean 0.1, standard deviation 0.1, 3 values: t(0.975, 2) = 4.302653.
    found = ratio_interval([0.0, 0.1, 0.2])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.ratio == pytest.approx(math.exp(0.1))
    assert (found.low, found.high) == pytest.approx((math.exp(0.1 - half), math.exp(0.1 + half)))


def test_one_pair_has_no_interval():
    found = ratio_interval([0.3])
    assert found.ratio == pytest.approx(math.exp(0.3))
    assert math.isnan(found.low)
    assert half_width([0.3]) == math.inf


def test_theil_sen_is_not_moved_by_one_outlier():
    assert theil_sen([0, 1, 2, 3, 4], [0, 2, 4, 600, 8]) == pytest.approx(2.0)


def test_theil_sen_is_zero_for_a_level_line():
    assert theil_sen([1, 2, 3], [5.0, 5.0, 5.0]) == 0.0


def counting(name, log, rows=4):
    def work(tick):
        while True:
            log.append(name)
            tick(rows, 2 * rows)

    return work


def test_only_the_arm_whose_block_it_is_works():
    log = []
    first, second = Stepper(counting("a", log)), Stepper(counting("b", log))
    blocks = [first.block(2), second.block(3), second.block(1), first.block(2)]
    first.close()
    second.close()
    assert "".join(log) == "aabbbbaa"
    assert [block.rows for block in blocks] == [8, 12, 4, 8]
    assert [block.processed for block in blocks] == [16, 24, 8, 16]


def test_a_block_is_timed_without_the_pause_before_it():
    times = iter([(0, 0), (1, 1), (50, 50), (53, 53), (90, 90)])
    arm = Stepper(counting("a", []), clock=lambda: next(times))
    blocks = [arm.block(1), arm.block(1)]
    arm.close()
    assert [block.cpu for block in blocks] == [1, 3]


def test_what_a_loop_raises_reaches_the_one_who_asked():
    def work(tick):
        tick(1)
        raise ValueError("spoilt")

    arm = Stepper(work)
    arm.block(1)
    with pytest.raises(RuntimeError, match="the loop failed") as caught:
        arm.block(1)
    arm.close()
    assert str(caught.value.__cause__) == "spoilt"


def test_a_loop_that_ends_within_its_blocks_is_an_error():
    arm = Stepper(lambda tick: tick(1))
    arm.block(1)
    with pytest.raises(RuntimeError):
        arm.block(1)
    arm.close()


def test_closing_unwinds_the_loop():
    ended = []

    def work(tick):
        try:
            counting("a", [])(tick)
        finally:
            ended.append(True)

    arm = Stepper(work)
    arm.block(3)
    arm.close()
    assert ended == [True]


@pytest.mark.parametrize(
    ("value", "target", "at_least", "expected"),
    [(0.97, 0.97, True, True), (0.96, 0.97, True, False), (1.3, 1.25, False, False), (9.0, None, True, None)],
)
def test_a_target_is_a_bound(value, target, at_least, expected):
    assert is_met(value, target, at_least=at_least) is expected


def test_a_new_row_replaces_its_predecessor_and_leaves_the_others(tmp_path):
    path = tmp_path / "speed.json"
    merge(path, [make_row(value=1.0), make_row("train.trainer", 2.0)])
    together = merge(path, [make_row(value=3.0), make_row(value=4.0, threads=2)])
    assert json.loads(path.read_text())["rows"] == [
        {**row, "low": None, "high": None}
        for row in (make_row("train.trainer", 2.0), make_row(value=3.0), make_row(value=4.0, threads=2))
    ]
    assert len(together) == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["speed.json"]


def test_the_table_shows_a_missed_target_and_a_wide_interval():
    row = make_row(value=0.9, met=False, low=0.8, high=1.0, quads=3, note="", reached=False)
    last = plain([row]).splitlines()[-1]
    assert all(text in last for text in ("0.900", "0.800 to 1.000", "≥ 0.97", "NO", "interval wider than asked"))


def test_the_table_of_the_docs_has_both_settings_in_a_line():
    shared = {"note": "", "reached": True, "is_ratio": True}
    rows = [
        make_row(value=0.9, met=False, low=0.8, high=1.0, quads=3, **shared),
        make_row(value=1.2, quads=1, setting="long", command="python -m benchmarks.speed --rows 16", **shared),
        make_row("train.trainer", value=1.5, quads=1, title="u", target=None, **shared),
    ]
    assert markdown(rows).splitlines() == [
        "| what | target | short | target | long |",
        "| --- | --- | --- | --- | --- |",
        "| t | ≥ 0.97 | **0.900** (0.800 to 1.000; 3 quads) | ≥ 0.97 | 1.200† |",
        "| u | - | 1.500 |  |  |",
    ]


def test_rows_are_cut_alike_for_every_label():
    assert in_turn(["a", "a", "a", "b", "b", "c"], 4) == [0, 1, 3, 5]


def test_long_rows_have_enough_words_and_begin_with_their_own():
    made = joined(["one two", "three", "four five six"])
    assert all(len(text.split()) >= MAX_LENGTH for text in made)
    assert [text.split()[0] for text in made] == ["one", "three", "four"]
    assert made[2].startswith("four five six one two three")


def test_rows_to_encode_are_about_twenty_tokens_and_the_second_time_is_told(tmp_path, monkeypatch):
    from benchmarks.speed import encoding
    from benchmarks.speed.workload import Workload, word_tokenizer

    monkeypatch.setenv("CL_MLM_CACHE", str(tmp_path / "own"))
    work = Workload("short", tmp_path, "no model", 1, rows=40)
    work.__dict__["tokenizer"] = word_tokenizer(500)
    found = encoding.encode(work, Effort(max_quads=1))
    assert found.note.startswith("40 rows of 18.0 tokens")
    assert {name: len(values) for name, values in found.details["seconds"].items()} == {
        "first": 1,
        "first_cpu": 1,
        "again": 1,
    }
    assert len(list(tmp_path.rglob("layout.json"))) == 1
    assert os.environ["CL_MLM_CACHE"] == str(tmp_path / "own")


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ("train.avalanche", ["train.avalanche"]),
        ("train.avalanche_", ["train.avalanche_limit", "train.avalanche_fused"]),
        ("frozen,memory.hand", ["frozen.cache20", "frozen.cache3", "memory.hand"]),
    ],
)
def test_a_whole_name_means_one_row_and_a_beginning_all_that_have_it(only, expected):
    assert chosen(arguments(["--only", only]), [*all_rows()]) == expected


def test_our_arm_trains_a_step_by_the_products_own_parts(tmp_path, fresh_process):
    from transformers import BertConfig, BertForSequenceClassification

    from benchmarks.speed.arm_ours import Ours
    from benchmarks.speed.workload import Workload
    from cl_mlm.models.tiny import letter_tokenizer

    tokenizer = letter_tokenizer("tiny")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **size)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    arm = Ours(Workload("short", tmp_path, str(tmp_path / "model"), threads=1, rows=8))
    arm.use(epochs=1, steps=1)
    assert arm.train() == 8
    arm.close()
