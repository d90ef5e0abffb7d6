"""A finished run is handed back only where data, code and model are what it was made of; else a new one is made."""

import importlib
import json
import shutil
import sys

import pytest

import cl_mlm
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError, RunFolderError
from cl_mlm.experiment.preparation import prepare
from cl_mlm.experiment.resuming import rerun_run, resume_run
from cl_mlm.storage import versions
from cl_mlm.storage.run_lookup import read_summary

MINE = """
from cl_mlm.strategy import Strategy

class Mine(Strategy):
    def after_step(self, run):
        self.last = 1
"""
FACTORY = """
from cl_mlm.stream import Stream
from streams.files import files

def mine(*, path: str) -> Stream:
    return files(path=path, labels_per_stage=2, order_seed=None)
"""


@pytest.fixture
def quick(quick, write_rows, tmp_path):
    """`quick` on rows of this test's own, whose stages are not shared."""
    quick["stream"]["path"] = str(write_rows(tmp_path / "weather"))
    quick["training"] |= {"steps": 1}
    quick["evaluation"] = {"splits": ["test"]}
    return quick


def edit(folder, split="train", old="snow snow snow", new="mist mist mist"):
    """Changes some rows; the size of the file stays."""
    path = folder / f"{split}.jsonl"
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into a folder on the path, as another process would find it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        forget()

    def forget():
        for name in [n for n, m in sys.modules.items() if str(getattr(m, "__file__", "")).startswith(str(tmp_path))]:
            del sys.modules[name]
        importlib.invalidate_caches()

    yield write
    forget()


def warned(result):
    (warning,) = result.warnings
    return warning


def assert_anew(first, second, said):
    """The second run is new, lies beside the first, and says why."""
    assert second.is_new
    assert second.folder == first.folder.with_name(f"{first.folder.name}-2")
    assert f"{first.folder} is finished, but is not the result of what is there now" in warned(second)
    assert said in warned(second)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_edited_rows_are_trained_on_in_a_new_run(quick, tmp_path, caplog, split):
    first = cl_mlm.run(quick)
    edit(tmp_path / "weather", split)
    second = cl_mlm.run(quick)
    fingerprint = first.summary["stream"]["fingerprint"][:12]
    assert_anew(first, second, f"rows of labels-01 ({split}): fingerprint {fingerprint} at the start, ")
    assert warned(second) in caplog.messages
    assert cl_mlm.run(quick).folder == second.folder


def test_nothing_is_trained_where_all_is_as_it_was(quick, monkeypatch):
    first = cl_mlm.run(quick)
    monkeypatch.setattr("cl_mlm.experiment.running.train_stage", lambda *given: pytest.fail("trained"))
    again = cl_mlm.run(quick)
    assert (again.is_new, again.folder, again.warnings) == (False, first.folder, [])


def test_the_run_of_rows_that_are_back_is_handed_back(quick, tmp_path):
    first = cl_mlm.run(quick)
    edit(tmp_path / "weather")
    cl_mlm.run(quick)
    edit(tmp_path / "weather", old="mist mist mist", new="snow snow snow")
    again = cl_mlm.run(quick)
    assert (again.is_new, again.folder, again.warnings) == (False, first.folder, [])


def test_another_source_of_the_project_makes_a_new_run(quick, monkeypatch):
    first, before = cl_mlm.run(quick), versions.source()
    monkeypatch.setattr(versions, "source", lambda: "0123456789ab")
    assert_anew(first, cl_mlm.run(quick), f"source {before} then, 0123456789ab now")


def test_an_edited_strategy_and_what_its_file_imports_make_a_new_run(quick, module):
    module("helping_a", "rate = 1\n")
    module("mine_b", f"from helping_a import rate\n{MINE}")
    first = cl_mlm.run(quick, strategies="mine_b.Mine")
    module("helping_a", "rate = 2\n")
    second = cl_mlm.run(quick, strategies="mine_b.Mine")
    assert_anew(first, second, "source of helping_a ")
    module("mine_b", f"from helping_a import rate\n{MINE}# more\n")
    third = cl_mlm.run(quick, strategies=[importlib.import_module("mine_b").Mine()])
    assert third.folder.name.endswith("-3")
    assert "beside it: source of mine_b " in warned(third)
    assert cl_mlm.run(quick, strategies="mine_b.Mine").folder == third.folder


def test_a_strategy_edited_after_python_loaded_it_is_refused(quick, module, tmp_path):
    module("mine_b", MINE)
    cl_mlm.run(quick, strategies="mine_b.Mine")
    (tmp_path / "mine_b.py").write_text(MINE.replace("1", "2"))
    with pytest.raises(ConfigError, match=r"mine_b.py was edited after Python had imported it.*restart Python, or"):
        cl_mlm.run(quick, strategies="mine_b.Mine")


@pytest.mark.parametrize("name", ["__main__", "builtins"])
def test_an_edited_class_of_a_notebook_makes_a_new_run(quick, name):
    def cell(value):
        scope = {"__name__": name}
        exec(MINE.replace("1", value), scope)
        return scope["Mine"]

    first = cl_mlm.run(quick, strategies=[cell("1")()])
    assert not cl_mlm.run(quick, strategies=[cell("1")()]).is_new
    assert_anew(first, cl_mlm.run(quick, strategies=[cell("2")()]), f"source of {name}.Mine ")


def test_an_edited_hook_behind_a_decorator_of_torch_makes_a_new_run(quick):
    def cell(value):
        scope = {"__name__": "__main__"}
        source = MINE.replace("1", value).replace("    def", "    @torch.no_grad()\n    def")
        exec(f"import torch\n{source}", scope)
        return [scope["Mine"]()]

    first = cl_mlm.run(quick, strategies=cell("1"))
    assert not cl_mlm.run(quick, strategies=cell("1")).is_new
    assert_anew(first, cl_mlm.run(quick, strategies=cell("2")), "source of __main__.Mine ")


def test_a_global_that_the_run_itself_changes_is_named(quick):
    scope = {"__name__": "__main__"}
    exec(MINE.replace("self.last = 1", "HISTORY.append(1)").replace("class", "HISTORY = []\nclass"), scope)
    first, second = (cl_mlm.run(quick, strategies=[scope["Mine"]()]) for _ in range(2))
    assert_anew(first, second, "beside it: value of __main__.HISTORY ")
    assert "source of" not in warned(second)


def test_an_edited_function_that_builds_the_stream_makes_a_new_run(quick, module):
    module("factory_a", FACTORY)
    quick["stream"] = {"name": "factory_a.mine", "path": quick["stream"]["path"]}
    first = cl_mlm.run(quick)
    module("factory_a", FACTORY + "# more\n")
    assert_anew(first, cl_mlm.run(quick), "source of factory_a ")


def test_another_question_about_the_same_rows_makes_a_new_run(quick, small_stream):
    from dataclasses import replace

    stream = small_stream.first(2)
    first = cl_mlm.run(quick, stream=stream)
    other = replace(stream, stages=tuple(replace(stage, domain="weather") for stage in stream.stages))
    assert_anew(first, cl_mlm.run(quick, stream=other), "objectives and columns of the stream")


def test_an_edited_model_folder_makes_a_new_run(quick, model_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(model_folder("bert"), tmp_path / "model")
    quick["model"] = {"name": str(folder)}
    first = cl_mlm.run(quick)
    (folder / "README.md").write_text("read by nobody")
    assert not cl_mlm.run(quick).is_new
    weights = load_file(folder / "model.safetensors")
    save_file({name: value * 1.01 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert_anew(first, cl_mlm.run(quick), "files of the model: digest ")


def test_other_prompted_rows_make_a_new_run(quick, write_rows, tmp_path):
    prompted = write_rows(tmp_path / "prompted")
    quick["model"], quick["stream"]["as_text"] = {"name": "tiny-decoder"}, True
    data = {"name": "files", "path": str(prompted), "stages_by": "whole"}
    quick["prompting"] = {"template": "{{ text }}", "data": data, "max_rows": 2}
    first = cl_mlm.run(quick)
    edit(prompted, "test", "third", "fifth")
    assert_anew(first, cl_mlm.run(quick), "prompted rows: fingerprint ")


def test_other_packages_are_told_and_the_run_is_handed_back(quick, monkeypatch):
    first, found = cl_mlm.run(quick), versions.versions()
    monkeypatch.setattr("cl_mlm.experiment.continuation.versions", lambda: found | {"torch": "9.9"})
    again = cl_mlm.run(quick)
    assert (again.is_new, again.folder) == (False, first.folder)
    assert f"torch {found['torch']} then, 9.9 now" in warned(again)


def unfinished(folder):
    """Takes the end of a finished run away: its last checkpoint stays."""
    (folder / "summary.json").unlink()


def test_an_unfinished_run_of_other_rows_is_refused_and_again_makes_one_beside_it(quick, tmp_path):
    first = cl_mlm.run(quick)
    unfinished(first.folder)
    edit(tmp_path / "weather")
    with pytest.raises(RunFolderError, match=r"(?s)rows of the stream.*`run --again` .* makes a new run beside it"):
        cl_mlm.run(quick)
    second = cl_mlm.run(quick, again=True)
    assert (second.is_new, second.folder.name) == (True, f"{first.folder.name}-2")
    assert not (first.folder / "summary.json").exists()
    assert cl_mlm.run(quick).folder == second.folder


def test_an_unfinished_run_of_another_source_is_refused_unless_it_is_allowed(quick, monkeypatch):
    first = cl_mlm.run(quick)
    unfinished(first.folder)
    monkeypatch.setattr(versions, "source", lambda: "0123456789ab")
    with pytest.raises(RunFolderError, match="0123456789ab now"):
        cl_mlm.run(quick)
    allowed = cl_mlm.run(quick, allow_inexact=True)
    assert allowed.folder == first.folder
    assert "resumed under other versions: source " in allowed.summary["flags"][-1]


def test_an_unfinished_run_beside_a_stale_one_is_resumed_where_it_is_of_the_present_rows(quick, tmp_path):
    first = cl_mlm.run(quick)
    edit(tmp_path / "weather")
    second = cl_mlm.run(quick)
    unfinished(second.folder)
    assert_anew(first, cl_mlm.run(quick), "rows of labels-01 (train)")
    unfinished(second.folder)
    edit(tmp_path / "weather", old="mist mist mist", new="fogs fogs fogs")
    with pytest.raises(RunFolderError, match=f"{second.folder}: cannot go on"):
        cl_mlm.run(quick)


def test_again_makes_a_further_run_of_the_same_and_the_newest_is_handed_back(quick):
    first = cl_mlm.run(quick)
    assert cl_mlm.run(quick, again=True).warnings == []
    again = cl_mlm.run(quick)
    assert (again.is_new, again.folder.name) == (False, f"{first.folder.name}-2")


def test_resume_of_a_finished_run_of_other_rows_is_refused(quick, tmp_path):
    first = cl_mlm.run(quick)
    assert not resume_run(first.folder).is_new
    edit(tmp_path / "weather")
    way_out = f"cl-mlm run {first.folder}/config.yaml"
    with pytest.raises(RunFolderError, match=rf"(?s)rows of labels-01 \(train\).*{way_out}"):
        resume_run(first.folder)


def test_rerun_of_other_rows_runs_nothing(quick, tmp_path):
    first = cl_mlm.run(quick)
    edit(tmp_path / "weather")
    is_equal, (line,) = rerun_run(first.folder)
    assert not is_equal
    assert line.endswith("nothing was run")


def test_rerun_tells_of_own_code_that_has_changed(quick, module):
    module("mine_b", MINE)
    first = cl_mlm.run(quick, strategies="mine_b.Mine")
    module("mine_b", MINE + "# more\n")
    assert any(line.startswith("source of mine_b ") for line in rerun_run(first.folder)[1])


def test_what_a_run_was_made_of_is_in_its_summary(quick, module):
    module("mine_b", MINE)
    first = cl_mlm.run(quick, strategies="mine_b.Mine")
    found = read_summary(first.folder)["provenance"]
    assert found["stream/fingerprint"] == first.summary["stream"]["fingerprint"]
    assert list(found["own_source"]) == ["mine_b"]
    config = load_config(quick, [{"strategies": "mine_b.Mine"}])
    assert json.loads(prepare(config).provenance["own_source"]) == found["own_source"]


def test_the_command_line_says_what_has_changed(cli, quick, write_config, tmp_path):
    config = write_config(tmp_path / "experiment.yaml", quick)
    assert cli("run", config).code == 0
    assert "already finished" in cli("run", config).out
    edit(tmp_path / "weather")
    said = cli("run", config)
    assert said.code == 0
    (line,) = [line for line in (said.out + said.err).splitlines() if "a new run is made beside it" in line]
    assert line.startswith("warning: ")
    assert "a new run is made beside it: rows of labels-01 (train): fingerprint" in line
    assert "already finished" in cli("run", config).out


@pytest.fixture
def shared(quick, monkeypatch):
    """`quick` that takes stages over, and is never found finished."""
    monkeypatch.setattr("cl_mlm.experiment.running._num_shared", lambda *given: 2)
    return quick


def test_a_stage_is_not_taken_over_from_other_code(shared, module):
    module("helping_a", "rate = 1\n")
    module("mine_b", f"import helping_a\n{MINE}")
    cl_mlm.run(shared, strategies="mine_b.Mine")
    taken = cl_mlm.run(shared, "evaluation.batch_size=8", strategies="mine_b.Mine")
    assert len(taken.summary["reused"]) == 2
    module("helping_a", "rate = 2\n")
    assert cl_mlm.run(shared, strategies="mine_b.Mine").summary["reused"] == []


def test_a_stage_is_not_taken_over_from_another_cell_of_a_notebook(shared):
    def cell(value):
        scope = {"__name__": "__main__"}
        exec(MINE.replace("1", value), scope)
        return [scope["Mine"]()]

    cl_mlm.run(shared, strategies=cell("1"))
    assert len(cl_mlm.run(shared, "evaluation.batch_size=8", strategies=cell("1")).summary["reused"]) == 2
    assert cl_mlm.run(shared, "evaluation.batch_size=8", strategies=cell("2")).summary["reused"] == []


OBJECTIVE = """
from cl_mlm.objectives.classification import Classification

class Own(Classification):
    def encode(self, rows, *given):
        return super().encode({**rows, "text": [text * 1 for text in rows["text"]]}, *given)
"""


def test_rows_encoded_by_another_own_objective_are_not_taken_from_the_cache(quick, module, monkeypatch):
    from cl_mlm.tokens import encoding

    written, write = [], encoding._write
    monkeypatch.setattr(encoding, "_write", lambda *given: [written.append(given[0]), write(*given)])
    quick["stream"]["objective"] = "own_a.Own"
    module("own_a", OBJECTIVE)
    first = cl_mlm.run(quick)
    num_first = len(written)
    cl_mlm.run(quick, again=True)
    assert len(written) == num_first > 0
    module("own_a", OBJECTIVE.replace("* 1", "* 2"))
    second = cl_mlm.run(quick)
    assert "source of own_a " in warned(second)
    assert len(written) == 2 * num_first
    assert first.summary["reused"] == second.summary["reused"] == []
