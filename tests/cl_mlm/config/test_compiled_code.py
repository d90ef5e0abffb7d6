"""What code without a file reaches through wrappers, objects and globals: an edit there changes its digests."""

import pytest

from cl_mlm.config.own_source import own_source

HEAD = """
import collections, contextlib, dataclasses, enum, functools, itertools, re, types
import datasets, numpy as np, pandas as pd, torch
from cl_mlm.strategy import Strategy
"""
USES = "\nclass Mine(Strategy):\n    def after_step(self, run): return used\n"
METHOD = "class Mine(Strategy):\n    @{}\n    def after_step(self, run):\n        return EDITED\n"

WRAPPERS = {
    "no_grad": METHOD.format("torch.no_grad()"),
    "inference_mode": METHOD.format("torch.inference_mode()"),
    "context manager": METHOD.format("contextlib.contextmanager").replace("return", "yield"),
    "static": METHOD.format("staticmethod\n    @torch.no_grad()").replace("self, ", ""),
    "lru_cache": METHOD.format("functools.lru_cache"),
    "singledispatchmethod": METHOD.format("functools.singledispatchmethod"),
    "partialmethod": "class Mine(Strategy):\n    def x(self, run, y): return y\n"
    "    after_step = functools.partialmethod(x, y=EDITED)\n",
    "metaclass": "class Meta(type(Strategy)):\n    def x(cls): return EDITED\n"
    "class Mine(Strategy, metaclass=Meta): pass\n",
    "global no_grad": "@torch.no_grad()\ndef used(): return EDITED\n" + USES,
    "global context manager": "@contextlib.contextmanager\ndef used():\n    yield EDITED\n" + USES,
    "global singledispatch": "@functools.singledispatch\ndef used(x): return 1\n"
    "@used.register\ndef _(x: int): return EDITED\n" + USES,
    "function's attribute": "def used(): pass\nused.rate = EDITED\n" + USES,
}
VALUES = {
    "slots": "@dataclasses.dataclass(slots=True)\nclass C: w: float\nused = C(EDITED)",
    "descriptor": "class D:\n    __slots__ = ('v',)\n    def __get__(self, o, t=None): return self.v\n"
    "class C: d = D()\nvars(C)['d'].v = EDITED\nused = C()",
    "own class of a list": "class C(list):\n    def x(self): return EDITED\nused = C()",
    "own class of a dict": "class C(dict):\n    def __missing__(self, key): return EDITED\nused = C()",
    "own class of a text": "class C(str):\n    def x(self): return EDITED\nused = C('a')",
    "own class of a deque": "class C(collections.deque): pass\nused = C([EDITED])",
    "defaultdict": "used = collections.defaultdict(lambda: EDITED)",
    "namespace": "used = types.SimpleNamespace(w=EDITED, f=lambda: 1)",
    "namespace's function": "used = types.SimpleNamespace(f=lambda: EDITED)",
    "iterator": "used = iter([EDITED])",
    "deque": "used = collections.deque([{'a': EDITED, 'b': object()}])",
    "generator": "used = (x * EDITED for x in ())",
    "long pattern": "used = re.compile('a' * 300 + 'EDITED')",
    "data frame": "used = pd.DataFrame({'a': [0.0] * 999 + [EDITED] + [0.0] * 999})",
    "dataset": "used = datasets.Dataset.from_dict({'a': [EDITED]})",
    "weights": "used = torch.nn.Linear(1, 1); used.weight.data.fill_(EDITED); used.bias.data.fill_(0)",
    "array of objects": "used = np.array([{'a': EDITED}], dtype=object)",
    "vectorized": "used = np.vectorize(lambda x: x * EDITED)",
    "sparse tensor": "used = torch.tensor([EDITED]).to_sparse()",
    "compiled": "used = torch.compile(lambda x: x * EDITED)",
    "enum": "class E(enum.Enum): A = EDITED\nused = E.A",
}


def digests(source, value, scope=None):
    scope = {"__name__": "__main__"} if scope is None else scope
    exec(HEAD + source.replace("EDITED", value), scope)
    return own_source([scope["Mine"]])


@pytest.mark.parametrize("name", WRAPPERS)
def test_code_behind_a_wrapper_counts(name):
    assert digests(WRAPPERS[name], "0.5") == digests(WRAPPERS[name], "0.5") != digests(WRAPPERS[name], "0.9")


@pytest.mark.parametrize("name", VALUES)
def test_the_value_of_a_global_counts_and_is_named(name):
    source = VALUES[name] + USES
    before, again, after = (digests(source, value) for value in ("0.5", "0.5", "0.9"))
    assert before == again
    part = "__main__.Mine" if name == "compiled" else "value of __main__.used"
    assert [key for key in before if before[key] != after[key]] == [part]


def test_a_global_that_a_run_changes_is_told_apart_from_code():
    scope = {"__name__": "__main__"}
    before = digests(f"used = []{USES}", "", scope)
    scope["used"].append(1)
    after = own_source([scope["Mine"]])
    assert [key for key in before if before[key] != after[key]] == ["value of __main__.used"]


def test_calls_do_not_change_a_wrapper():
    scope = {"__name__": "__main__"}
    source = "@functools.singledispatch\n@functools.lru_cache\n@torch.no_grad()\ndef used(x): return 1\n" + USES
    before = digests(source, "", scope)
    scope["used"](1)
    assert own_source([scope["Mine"]]) == before


def test_values_that_cannot_be_judged_count_by_their_types():
    source = (
        "import threading\nwith open(re.__file__) as FILE: pass\nclass C:\n    def __reduce__(self): raise OSError\n"
        f"    __repr__ = __reduce__\nused = [C(), object(), OPEN]{USES}"
    )
    lock, file, meta = (
        digests(source.replace("OPEN", text), "")
        for text in ("threading.Lock()", "FILE", "torch.empty(2, device='meta')")
    )
    assert len({str(found) for found in (lock, file, meta)}) == 3
    assert digests(source.replace("OPEN", "threading.Lock()"), "") == lock


def test_a_value_that_reaches_itself_and_one_nested_very_deep_are_taken_in():
    assert digests("class C:\n    def x(self): return used\nused = C()\nused.it = [used]" + USES, "")
    assert digests("used = []\nfor _ in range(9999): used = [used]" + USES, "")


def test_a_long_chain_of_functions_is_followed():
    chain = "".join(f"def f{i}(): return f{i + 1}()\n" for i in range(2000)) + "def f2000(): return EDITED\n"
    source = f"{chain}used = f0{USES}".replace("return used", "return f0()")
    assert digests(source, "1") != digests(source, "2")
