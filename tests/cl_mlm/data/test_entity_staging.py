import pytest
from datasets import Dataset

from cl_mlm.data.entity_staging import by_types
from cl_mlm.data.hygiene import clean
from cl_mlm.data.label_columns import rarest_labels
from cl_mlm.data.sampling import limit
from cl_mlm.errors import ConfigError, DataError

TAGS = [
    ["B-per", "O", "B-loc", "I-loc"],
    ["O", "B-org", "O", "O"],
    ["B-per", "I-per", "O", "B-org"],
    ["O", "O", "O", "O"],
    ["B-loc", "O", "O", "B-num"],
]


def split_of(name, tags=TAGS):
    return Dataset.from_list(
        [{"tokens": [name, f"row{i}", *"cd"][: len(row)], "tags": row, "place": i} for i, row in enumerate(tags)]
    )


def splits_of(**given):
    return {name: split_of(name, given.get(name, TAGS)) for name in ("train", "validation", "test")}


def stream_of(splits=None, **given):
    return by_types(splits or splits_of(), name="s", **{"types_per_stage": 2, **given})


def places(stage, split="train"):
    return stage.split(split)["place"][:]


def test_types_are_cut_into_stages():
    stream = stream_of()
    assert [(stage.name, stage.labels) for stage in stream.stages] == [
        ("types-01", ("loc", "num")),
        ("types-02", ("org", "per")),
    ]
    assert (stream.scenario, stream.stages[0].objective, stream.stages[0].task) == (
        "class_incremental",
        "tagging",
        "tagging",
    )


def test_a_stage_has_the_rows_that_hold_one_of_its_types_and_a_row_may_be_in_several():
    first, second = stream_of().stages
    for split in ("train", "validation", "test"):
        assert places(first, split) == [0, 4]
        assert places(second, split) == [0, 1, 2]
        assert first.split(split)["tokens"][:][0] == [split, "row0", "c", "d"]


def test_tags_of_all_other_types_are_outside_in_every_split():
    first, second = stream_of().stages
    for split in ("train", "validation", "test"):
        assert first.split(split)["tags"][:] == [["O", "O", "B-loc", "I-loc"], ["B-loc", "O", "O", "B-num"]]
        assert second.split(split)["tags"][:] == [["B-per", "O", "O", "O"], TAGS[1], TAGS[2]]


def test_earlier_types_may_keep_their_tags_and_later_ones_never_do():
    stream = stream_of(mask_others=False)
    first, second = stream.stages
    assert first.train["tags"][:] == [["O", "O", "B-loc", "I-loc"], ["B-loc", "O", "O", "B-num"]]
    assert second.train["tags"][:] == [TAGS[0], TAGS[1], TAGS[2]]
    assert second.labels == ("org", "per")


def test_notes_say_what_was_done_and_which_rows_are_left_out():
    assert stream_of().notes == (
        "a row is in every stage of whose entity types it holds one; tags of all other types are O there",
        "rows without an entity are in no stage: 1 train, 1 validation, 1 test",
    )
    noted = stream_of(mask_others=False, notes=("before",)).notes
    assert noted[0] == "before"
    assert noted[1].endswith("tags of later stages' types are O there")


def test_groups_are_stages_in_their_order():
    stream = stream_of(types_per_stage=None, groups=[["per"], ["num", "org", "loc"]], order_seed=3)
    assert [stage.labels for stage in stream.stages] == [("per",), ("num", "org", "loc")]
    assert stream.labels == ("per", "num", "org", "loc")


def test_one_seed_gives_one_order():
    orders = [stream_of(types_per_stage=1, order_seed=seed).labels for seed in (0, 0, 1, 2, 3)]
    assert orders[0] == orders[1]
    assert len(set(orders)) > 1


def test_the_rows_given_are_left_as_they_are():
    splits = splits_of()
    stream_of(splits)
    assert splits["train"]["tags"][:] == TAGS


def test_a_split_without_a_stages_types_is_empty_and_refused():
    stream = stream_of(splits_of(validation=TAGS[1:3]))
    assert len(stream.stages[0].validation) == 0
    with pytest.raises(DataError, match=r"stage 'types-01' validation: must have rows, got none"):
        clean(stream, "error")


@pytest.mark.parametrize("mask_others", [True, False])
def test_the_gate_accepts_rows_that_stand_in_several_stages(mask_others):
    cleaned, counts = clean(stream_of(mask_others=mask_others), "error")
    assert len(cleaned) == 2
    assert set(counts.values()) == {0}


def test_the_gate_refuses_a_type_of_a_later_stage():
    stream = stream_of()
    odd = Dataset.from_list([{"tokens": ["x"], "tags": ["B-per"], "place": 9}])
    first = stream.stages[0].__class__(**{**vars(stream.stages[0]), "test": odd})
    with pytest.raises(DataError, match=r"'types-01' test: a label must be one of the stage's, got 'per' in 1 rows"):
        clean(stream.__class__("s", (first, stream.stages[1])), "error")


def test_the_gate_refuses_a_test_type_that_train_lacks():
    stream = stream_of(splits_of(train=TAGS[:4]))
    with pytest.raises(DataError, match=r"stage 'types-01' test: train has no row of 'num', test has 1"):
        clean(stream, "error")


def test_the_gate_tells_how_many_rows_were_repaired():
    tags = [["I-per", "O", "B-loc", "O"], ["O", "I-org", "O", "O"], ["B-num", "O", "O", "O"]]
    stream = stream_of(splits_of(train=tags, validation=tags[2:] + tags[:2]), options={"ill_formed": "repair"})
    assert clean(stream, "error")[0].notes[-1] == "ill-formed rows repaired: 4"
    assert clean(stream_of(), "error")[0].notes == stream_of().notes


def test_faulty_rows_are_named_as_they_stand_in_the_split():
    with pytest.raises(DataError) as caught:
        stream_of(splits_of(train=[*TAGS, ["O", "I-per"]], test=[["X-a"]]))
    first, second = caught.value.problems
    assert first.startswith("s train: I-x must follow B-x or I-x")
    assert "'I-per' at word 1 of row 5" in first
    assert second.startswith("s test: a tag must be O, B-x or I-x")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"types_per_stage": 3}, "stream.types_per_stage: must divide 4, got 3; allowed: 1, 2, 4"),
        ({"types_per_stage": None}, "stream.types_per_stage: needed where stream.groups is not given, got None"),
        ({"groups": [["per"]]}, "stream.types_per_stage: must be null where stream.groups is given, got 2"),
        (
            {"types_per_stage": None, "groups": [["per"], ["loc", "org"]]},
            "stream.groups: must name every type once, missing: num",
        ),
        (
            {"scenario": "domain_incremental"},
            "stream.scenario: must be class_incremental or task_incremental where stages bring entity types, got "
            "domain_incremental",
        ),
        (
            {"objective": "classification"},
            "stream.objective: stages by entity type need one with tags, got classification",
        ),
    ],
)
def test_what_does_not_fit_is_refused(given, problem):
    with pytest.raises(ConfigError) as caught:
        stream_of(**given)
    assert caught.value.problems == [problem]


def test_earlier_tags_do_not_go_with_rows_that_know_their_stage():
    assert stream_of(scenario="task_incremental").scenario == "task_incremental"
    with pytest.raises(ConfigError, match=r"^stream.mask_others: must be true"):
        stream_of(scenario="task_incremental", mask_others=False)


def test_rows_are_grouped_by_their_rarest_label():
    assert rarest_labels([["a", "b"], ["a"], [], ["a", "b", "c"], ["b", "a"]]).tolist() == [2, 3, 0, 1, 2]


def test_a_limit_leaves_a_training_row_of_every_type():
    many = [["B-per", "O", "O", "O"]] * 20 + [["B-per", "B-loc", "O", "O"], ["O", "B-org", "B-num", "O"]]
    stage = limit(stream_of(splits_of(train=many), types_per_stage=4), 2).stages[0]
    assert len(stage.train) == 3
    assert places(stage) == [0, 20, 21]
    assert len(stage.test) == 2


@pytest.mark.parametrize("strategy", ["joint", "cumulative"])
def test_training_on_all_stages_at_once_is_refused_where_their_tags_contradict_each_other(tmp_path, strategy):
    import json

    from cl_mlm.config.loading import load_config
    from cl_mlm.experiment.preparation import prepare

    for split in ("train", "validation", "test"):
        rows = [{"tokens": [f"{split}{i}", "ann", "rome"], "tags": ["O", "B-per", "B-loc"]} for i in range(4)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stream = {"name": "files", "path": str(tmp_path), "stages_by": "types", "objective": "tagging"}
    config = {"strategies": [strategy], "output": str(tmp_path / "runs")}
    with pytest.raises(ConfigError, match=f"strategies.{strategy}: trains on all stages at once"):
        prepare(load_config({**config, "stream": {**stream, "types_per_stage": 1}}))
    prepare(load_config({**config, "stream": {**stream, "types_per_stage": 2}}))
