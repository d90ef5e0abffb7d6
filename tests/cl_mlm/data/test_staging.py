import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from cl_mlm.data.staging import by_field, by_labels, by_source, carve_validation, column_codes, stage_order
from cl_mlm.errors import ConfigError, DataError


def make(labels, **more):
    return Dataset.from_dict({"text": [f"row {i}" for i in range(len(labels))], "label": labels, **more})


def splits_of(num_labels=6, rows_per_label=4):
    labels = [f"l{i % num_labels}" for i in range(num_labels * rows_per_label)]
    domains = ["work" if int(label[1:]) % 2 else "home" for label in labels]
    return {split: make(labels, domain=domains) for split in ("train", "validation", "test")}


def test_stages_have_disjoint_labels_that_cover_all():
    stream = by_labels(splits_of(), name="s", labels_per_stage=2, order_seed=3)
    assert len(stream) == 3
    assert sorted(label for stage in stream.stages for label in stage.labels) == [f"l{i}" for i in range(6)]


def test_every_row_lands_in_the_stage_of_its_label_in_the_old_order():
    splits = splits_of()
    for stage in by_labels(splits, name="s", labels_per_stage=2, order_seed=1).stages:
        expected = [row["text"] for row in splits["train"] if row["label"] in stage.labels]
        assert stage.train["text"][:] == expected
        assert stage.test["text"][:] == expected


def test_labels_stay_sorted_without_a_seed():
    stream = by_labels(splits_of(), name="s", labels_per_stage=3)
    assert [stage.labels for stage in stream.stages] == [("l0", "l1", "l2"), ("l3", "l4", "l5")]


def test_one_seed_gives_one_order_and_another_seed_another():
    orders = [by_labels(splits_of(), name="s", labels_per_stage=2, order_seed=seed).labels for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_stage_names_are_numbered():
    stream = by_labels(splits_of(), name="s", labels_per_stage=3)
    assert [stage.name for stage in stream.stages] == ["labels-01", "labels-02"]


def test_stages_map_the_same_table_and_copy_no_rows():
    splits = splits_of()
    stage = by_labels(splits, name="s", labels_per_stage=2).stages[0]
    texts = [split.data.column("text").chunk(0).buffers()[2] for split in (stage.train, splits["train"])]
    assert texts[0].address == texts[1].address


def test_stage_fields_notes_and_scenario_are_passed_on():
    stream = by_labels(
        splits_of(),
        name="s",
        labels_per_stage=3,
        notes=["as given"],
        scenario="task_incremental",
        source="me",
        licence="MIT",
    )
    assert (stream.notes, stream.scenario) == (("as given",), "task_incremental")
    assert {(stage.source, stage.licence) for stage in stream.stages} == {("me", "MIT")}


@pytest.mark.parametrize("wrong", [4, 0, -2])
def test_labels_per_stage_must_divide_the_number_of_labels(wrong):
    with pytest.raises(
        ConfigError, match=rf"^stream.labels_per_stage: must divide 6, got {wrong}; allowed: 1, 2, 3, 6$"
    ):
        by_labels(splits_of(), name="s", labels_per_stage=wrong)


def test_labels_per_stage_or_groups_is_needed():
    with pytest.raises(ConfigError, match=r"stream.labels_per_stage: needed"):
        by_labels(splits_of(), name="s")


def test_labels_per_stage_and_groups_exclude_each_other():
    with pytest.raises(ConfigError, match=r"stream.labels_per_stage: must be null where stream.groups is given, got 2"):
        by_labels(splits_of(2), name="s", labels_per_stage=2, groups=[["l0", "l1"]])


def test_groups_are_the_stages_in_the_given_order():
    groups = [["l5", "l0"], ["l1", "l2", "l3", "l4"]]
    stream = by_labels(splits_of(), name="s", groups=groups, order_seed=0)
    assert [stage.labels for stage in stream.stages] == [("l5", "l0"), ("l1", "l2", "l3", "l4")]
    assert set(stream.stages[0].train["label"]) == {"l5", "l0"}


def test_every_fault_of_groups_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        by_labels(splits_of(3), name="s", groups=[["l0", "l0"], ["l11"]])
    assert caught.value.problems == [
        "stream.groups: no label is called 'l11' (did you mean 'l1'?)",
        "stream.groups: must name every label once, got twice: l0",
        "stream.groups: must name every label once, missing: l1, l2",
    ]


def test_an_empty_group_is_refused():
    with pytest.raises(ConfigError, match=r"stream.groups\[1\]: must name at least one label"):
        by_labels(splits_of(2), name="s", groups=[["l0", "l1"], []])


def test_a_label_that_only_the_test_split_has_gets_a_stage():
    splits = {**splits_of(2), "test": make(["l0", "l1", "new", "new2"])}
    stream = by_labels(splits, name="s", labels_per_stage=2)
    assert stream.stages[1].labels == ("new", "new2")
    assert len(stream.stages[1].train) == 0


def test_a_row_without_label_is_refused():
    splits = {**splits_of(2), "validation": make(["l0", None, "l1", None])}
    with pytest.raises(DataError, match=r"^s validation: 2 rows have no label, first row 1; fill it in, or leave"):
        by_labels(splits, name="s", labels_per_stage=1)


def test_labels_that_are_no_strings_are_refused():
    splits = {**splits_of(2), "train": make([["a"], ["b"]])}
    with pytest.raises(DataError, match=r"^s train: column 'label' must hold strings, got list"):
        by_labels(splits, name="s", labels_per_stage=1)


def test_a_field_gives_one_stage_for_each_value():
    stream = by_field(splits_of(), "domain", name="s")
    assert [(stage.name, stage.domain) for stage in stream.stages] == [("home", "home"), ("work", "work")]
    assert stream.scenario == "domain_incremental"
    assert stream.stages[1].labels == ("l1", "l3", "l5")
    assert set(stream.stages[1].test["domain"]) == {"work"}


def test_a_field_that_is_no_domain_fills_no_domain():
    splits = {name: split.rename_column("domain", "year") for name, split in splits_of().items()}
    assert [stage.domain for stage in by_field(splits, "year", name="s").stages] == [None, None]


def test_an_order_of_values_is_kept():
    stream = by_field(splits_of(), "domain", name="s", order=["work", "home"])
    assert [stage.name for stage in stream.stages] == ["work", "home"]


def test_an_order_must_name_every_value():
    with pytest.raises(ConfigError) as caught:
        by_field(splits_of(), "domain", name="s", order=["wrk"])
    assert caught.value.problems == [
        "stream.order: no value of 'domain' is called 'wrk' (did you mean 'work'?)",
        "stream.order: must name every value of 'domain' once, missing: home, work",
    ]


def test_a_field_that_is_no_column_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match=r"stream.field: train has no column 'domian' \(did you mean 'domain'\?\)"):
        by_field(splits_of(), "domian", name="s")


def test_sources_are_stages_in_their_order_with_their_own_labels():
    same = {split: make(["b", "a", "b"]) for split in ("train", "validation", "test")}
    stream = by_source({"second": same, "first": splits_of(2)}, name="s")
    assert [(stage.name, stage.labels) for stage in stream.stages] == [("second", ("a", "b")), ("first", ("l0", "l1"))]


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    fraction=st.floats(0.05, 0.9),
    seed=st.integers(0, 5),
)
def test_carving_parts_the_rows_and_leaves_every_label_in_train(counts, fraction, seed):
    labels = [f"l{i}" for i, count in enumerate(counts) for _ in range(count)]
    if max(counts) == 1:
        return
    train, validation = carve_validation(make(labels), fraction, seed)
    assert sorted([*train["text"], *validation["text"]]) == sorted(f"row {i}" for i in range(len(labels)))
    assert set(train["label"]) == set(labels)
    assert len(validation) > 0


def test_carving_takes_the_fraction_of_every_label():
    labels = ["a"] * 100 + ["b"] * 50
    _, validation = carve_validation(make(labels), 0.1, 0)
    assert (validation["label"][:].count("a"), validation["label"][:].count("b")) == (10, 5)


def test_carving_many_small_labels_still_meets_the_fraction():
    train, validation = carve_validation(make([f"l{i % 50}" for i in range(150)]), 0.1, 0)
    assert (len(train), len(validation)) == (135, 15)


def test_carving_is_the_same_for_a_seed_and_differs_between_seeds():
    carved = [carve_validation(make(["a", "b"] * 100), 0.1, seed)[1]["text"][:] for seed in (0, 0, 1)]
    assert carved[0] == carved[1] != carved[2]


def test_carving_works_without_labels():
    train, validation = carve_validation(Dataset.from_dict({"text": list("abcdefghij")}), 0.2, 0)
    assert (len(train), len(validation)) == (8, 2)


def test_carving_refuses_to_take_the_only_row_of_a_label():
    with pytest.raises(DataError, match="no row of 3 can be spared"):
        carve_validation(make(["a", "b", "c"]), 0.5, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_the_carved_fraction_must_be_inside_0_and_1(fraction):
    with pytest.raises(ConfigError, match=r"stream.validation_fraction: must be above 0 and below 1"):
        carve_validation(make(["a", "a"]), fraction, 0)


def test_codes_follow_an_indices_mapping_and_name_only_its_values():
    picked = make(["c", "a", "b", "a", "c"]).select([4, 3, 1])
    codes, names = column_codes(picked, "label", "here")
    assert (codes.tolist(), names) == ([1, 0, 0], ("a", "c"))


def test_codes_are_the_same_over_several_chunks():
    from datasets import concatenate_datasets

    joined = concatenate_datasets([make(["b", "a"]), make(["c", "a"]), make(["b"])])
    codes, names = column_codes(joined, "label", "here")
    assert [names[code] for code in codes] == ["b", "a", "c", "a", "b"]


def test_codes_of_no_rows_are_empty():
    codes, names = column_codes(make(["a"]).select([]), "label", "here")
    assert (codes.tolist(), names, codes.dtype) == ([], (), np.int64)


def test_an_order_of_stages_is_a_permutation():
    assert sorted(stage_order(list("abcdef"), 4)) == list("abcdef")
    assert stage_order(list("abcdef"), 4) != list("abcdef")
