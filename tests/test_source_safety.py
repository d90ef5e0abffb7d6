"""What the source may not contain, so that no data is ever run as code: a promise of docs/security.md."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


SOURCES = sorted(path for package in ("cl_mlm", "streams", "strategies") for path in (ROOT / package).rglob("*.py"))


def faults_of_source(text):
    """Returns what a source file does that could run data as code."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [m for m in modules if m.partition(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.Call):
            found += faults_of_call(node)
    return found


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "load", "unsafe_load"),
}


def faults_of_call(call):
    name = ast.unparse(call.func)
    given_ = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    found = [name] if name in FORBIDDEN_CALLS else []
    for key, allowed in (("shell", "False"), ("allow_pickle", "False"), ("trust_remote_code", "False")):
        if given_.get(key, allowed) != allowed:
            found.append(f"{name}({key}={given_[key]})")
    if re.fullmatch(r"(np|numpy)\.load", name) and "allow_pickle" not in given_:
        found.append(f"{name} without allow_pickle=False")
    is_auto = re.fullmatch(r"Auto\w+\.from_(pretrained|config)", name)
    if is_auto and "trust_remote_code" not in given_:
        found.append(f"{name} without trust_remote_code=False")
    if is_auto and name.startswith("AutoModel") and name.endswith("pretrained") and "use_safetensors" not in given_:
        found.append(f"{name} without use_safetensors=True")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_file_runs_data_as_code(path):
    assert faults_of_source(path.read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "yaml.load(text, Loader=Loader)",
        "AutoConfig.from_pretrained(name)",
        "AutoModel.from_pretrained(name, trust_remote_code=False)",
        "AutoTokenizer.from_pretrained(name, trust_remote_code=True)",
        "load_dataset(name, trust_remote_code=flag)",
    ],
)
def test_what_would_run_data_as_code_is_seen(text):
    assert faults_of_source(text)


def test_calls_that_are_safe_are_not_taken_for_others():
    assert faults_of_source("model.eval()\nnp.load(path, allow_pickle=False)\nre.compile(text)\njson.load(file)") == []
