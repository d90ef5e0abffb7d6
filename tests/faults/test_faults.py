"""A few damages from end to end: what `make fault-test` does a hundred times."""

import shutil

import pytest
from bases import Base, Bases
from judge import FAILED, play
from world import World, import_everything

pytestmark = pytest.mark.whole_run
KILLED, FINISHED = Base("naive", "all", "killed in stage 1"), Base("naive", "all", "finished")
DAMAGES = [
    ("bit flipped", KILLED),
    ("journal's end deleted", KILLED),
    ("value edited", FINISHED),
]


@pytest.fixture(scope="module")
def bases(empty_store, settled_imports, tmp_path_factory):
    """The runs that are damaged, made when they are first needed."""
    import_everything()  # else every forked process would
    world = World(tmp_path_factory.mktemp("faults"))
    world.write_rows()
    shutil.copyfile(empty_store, world.root / "empty.db")
    return Bases(world)


@pytest.mark.parametrize(("number", "kind", "base"), [(i, *case) for i, case in enumerate(DAMAGES)])
def test_a_damage_is_repaired_or_named(bases, tmp_path, number, kind, base):
    outcome = play(bases, number, seed=0, home=tmp_path / "trial", kind=kind, among=[base])
    assert outcome.verdict != FAILED, outcome.to_json()
