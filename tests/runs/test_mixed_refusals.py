"""What is refused of streams with several objectives, before anything is loaded."""

import pytest

import cl_mlm

FAULTS = [
    ([{"path": "tagging", "objective": "tagin"}], "no objective is called 'tagin' (did you mean 'tagging'?)"),
    ([{"objective": "tagging"}], "stream.stages[0].path: must name a folder or file inside stream.path, got none"),
    ([{"path": "nowhere"}], "stream.stages[0].path: must be a folder or file, got"),
    (
        [{"path": "tagging", "goal": 1}],
        "stream.stages[0].goal: unknown key; allowed: path, objective, options, columns",
    ),
    ([{"path": "tagging", "objective": "tagging", "options": {"x": 1}}], "stream.stages[0].options.x: no option"),
    ([{"path": "tagging", "objective": 3}], "stream.stages[0].objective: must be a text, got 3"),
    ([], "stream.stages: must name at least one stage, got []"),
    ([{"path": "tagging"}], "text"),
]


@pytest.mark.parametrize(("stages", "fault"), FAULTS)
def test_faults_of_stages_are_told_by_their_key(stages, fault, layer, tmp_path):
    settings = layer(tmp_path, ["naive"])
    settings["stream"]["stages"] = stages
    with pytest.raises((cl_mlm.ConfigError, cl_mlm.DataError)) as told:
        cl_mlm.run(settings, progress=False)
    assert fault in str(told.value)


def test_stages_are_refused_beside_what_they_replace(layer, tmp_path):
    settings = layer(tmp_path, ["naive"])
    settings["stream"] |= {"order": ["tagging"]}
    with pytest.raises(cl_mlm.ConfigError, match=r"stream\.order: must be null where stream\.stages"):
        cl_mlm.run(settings, progress=False)
    settings["stream"] |= {"order": None, "stages_by": "field", "field": "text"}
    with pytest.raises(cl_mlm.ConfigError, match=r"stream\.stages: must be null where stream\.stages_by is field"):
        cl_mlm.run(settings, progress=False)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_family_without_such_heads_on_one_body_is_refused_before_anything_is_loaded(
    kind, layer, model_folder, tmp_path
):
    settings = layer(tmp_path / "runs", ["naive"], model={"name": model_folder(kind)})
    with pytest.raises(cl_mlm.ConfigError, match=r"model\.name: .*needs|stream: the objectives .* on one body"):
        cl_mlm.run(settings, progress=False)
    assert not (tmp_path / "runs").exists()


def test_what_a_strategy_cannot_do_with_one_of_the_objectives_is_refused(layer, tmp_path):
    with pytest.raises(
        cl_mlm.ConfigError, match=r"strategies\.ewc\.fisher: exact needs one choice a row; objective tagging"
    ):
        cl_mlm.run(layer(tmp_path, {"ewc": {"fisher": "exact"}}), progress=False)


def test_rows_of_several_objectives_are_not_dealt_out_together(layer, tmp_path):
    settings = layer(tmp_path, ["naive"])
    settings["stream"] |= {"scenario": "instance_incremental", "num_stages": 2}
    with pytest.raises(cl_mlm.ConfigError, match=r"instance_incremental deals out the rows of one objective, got"):
        cl_mlm.run(settings, progress=False)
