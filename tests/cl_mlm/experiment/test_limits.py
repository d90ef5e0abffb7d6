"""What the system allows the process, held against what a run needs: told, raised or refused before training."""

import resource

import pytest

import cl_mlm
from cl_mlm.check.look import early_look
from cl_mlm.check.look_text import look_lines
from cl_mlm.config.loading import load_config
from cl_mlm.errors import ConfigError
from cl_mlm.experiment import limits
from cl_mlm.experiment.preparation import prepare

NONE = resource.RLIM_INFINITY


@pytest.fixture
def set_limits(monkeypatch):
    """Limits of this process as it sees them: `set_limits(RLIMIT_AS=(soft, hard))`; all others are not set."""
    given, made = {}, []
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: given.get(which, (NONE, NONE)))
    monkeypatch.setattr(limits.resource, "setrlimit", lambda *arguments: made.append(arguments))
    monkeypatch.setattr(limits, "cgroup_memory", lambda: given.get("cgroup"))

    def set_(cgroup=None, **values):
        given.clear()
        given["cgroup"] = cgroup
        given.update({getattr(resource, name): value for name, value in values.items()})
        return made

    set_()
    return set_


@pytest.fixture
def prepared(fast):
    return prepare(load_config(fast, ["training.device=cpu"]))


def test_without_limits_there_is_nothing_to_tell_but_the_files(prepared, set_limits):
    assert [limit.name for limit in limits.process_limits(prepared)] == ["open files"]
    assert all(limit.suffices for limit in limits.process_limits(prepared))


def test_the_soft_limit_of_open_files_is_raised_to_what_a_run_needs(prepared, set_limits):
    made = set_limits(RLIMIT_NOFILE=(8, 4096))
    limits.require_limits(prepared)
    ((which, (soft, hard)),) = made
    assert (which, hard) == (resource.RLIMIT_NOFILE, 4096)
    assert limits.FILES < soft < 4096


def test_a_soft_limit_that_suffices_stays(prepared, set_limits):
    made = set_limits(RLIMIT_NOFILE=(2048, 4096))
    limits.require_limits(prepared)
    assert made == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("RLIMIT_NOFILE", r"open files: this process may have 9, the run needs at least \d+; raise it: ulimit -n \d+"),
        ("RLIMIT_AS", r"address space: this process may have 9 bytes, the run needs at least .*: ulimit -v \d+"),
        ("RLIMIT_DATA", r"data of the process: this process may have 9 bytes, .*: ulimit -d \d+"),
        ("RLIMIT_FSIZE", r"size of a file: this process may have 9 bytes, the run needs at least .* MB; .* -f \d+"),
        ("RLIMIT_NPROC", r"threads of this user: this process may have 9, .*: ulimit -u \d+, or end other programs"),
    ],
)
def test_a_limit_that_is_too_low_is_refused_by_run_and_check(prepared, set_limits, monkeypatch, name, words):
    monkeypatch.setattr(limits.os, "geteuid", lambda: 1000)
    set_limits(**{name: (9, 9)})
    with pytest.raises(ConfigError, match=words):
        limits.require_limits(prepared)
    with pytest.raises(ConfigError, match=words):
        early_look(prepared)


@pytest.mark.parametrize("given", [{"strategies": {"ewc": {}}}, {"checkpoint": {"every_steps": 1}}])
def test_the_largest_file_of_a_run_may_be_a_state_and_not_the_model(fast, set_limits, given):
    set_limits(RLIMIT_FSIZE=(9, 9))

    def needed(**settings):
        found = limits.process_limits(prepare(load_config({**fast, **settings}, ["training.device=cpu"])))
        return next(limit.needed for limit in found if limit.name == "size of a file")

    assert needed(**given) > 1.5 * needed()


def test_all_limits_that_are_too_low_are_named_at_once_before_anything_is_written(fast, set_limits, tmp_path):
    set_limits(RLIMIT_NOFILE=(9, 9), RLIMIT_FSIZE=(9, 9))
    with pytest.raises(ConfigError) as error:
        cl_mlm.run(fast, f"output={tmp_path / 'runs'}", progress=False)
    assert len(error.value.problems) == 2
    assert not (tmp_path / "runs").exists()


def test_a_limit_of_the_threads_does_not_bind_a_user_with_all_rights(prepared, set_limits, monkeypatch):
    monkeypatch.setattr(limits.os, "geteuid", lambda: 0)
    set_limits(RLIMIT_NPROC=(9, 9))
    limits.require_limits(prepared)


def test_a_cgroup_with_little_memory_is_a_warning_as_pages_may_be_given_back(prepared, set_limits):
    set_limits(cgroup=10_000_000)
    limits.require_limits(prepared)
    lines = look_lines(early_look(prepared))
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert warning.startswith("warning: memory (cgroup): this process may have 10 MB, the run needs at least ")
    set_limits(cgroup=1 << 40)
    lines = look_lines(early_look(prepared))
    assert [line for line in lines if "memory (cgroup) 1.1 TB, the run needs at least " in line]
    assert not [line for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/job/step\n", {"job/step/memory.max": "max", "job/memory.max": "5000"}, 5000),
        ("0::/job/step\n", {"job/step/memory.max": "7000", "job/memory.max": "5000"}, 5000),
        ("0::/of/the/host\n", {"memory.max": "3000"}, 3000),
        ("0::/\n", {}, None),
        ("4:memory:/job\n3:cpu:/\n", {"memory/job/memory.limit_in_bytes": "4000"}, 4000),
        ("4:memory:/job\n", {"memory/memory.limit_in_bytes": str((1 << 63) - 4096)}, None),
        ("nonsense\n", {}, None),
        (None, {}, None),
    ],
)
def test_the_memory_of_a_cgroup_is_the_least_of_it_and_those_above(tmp_path, groups, files, expected):
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    if groups is not None:
        (tmp_path / "own").write_text(groups)
    assert limits.cgroup_memory(tmp_path / "root", tmp_path / "own") == expected
