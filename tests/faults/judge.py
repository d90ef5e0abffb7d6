"""One trial: a copy of a run is damaged, the user's command is given again, and what comes of it is judged."""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from random import Random

from bases import ALL, command, run_folder, verify
from damages import KINDS, draw
from mirror import differences
from verdict import compare
from world import in_child

# Not part of what a run has found: the lock, and what was delivered where.
BESIDE = (".lock", "mlflow.json")
MISSING = ": in one of both folders only"  # as `compare` says it
WAYS_OUT = ("--again", "delete", "resume", "sync", "cl-mlm ", "move or delete it", "set it back")
REPAIRED, REFUSED, HARMLESS, FAILED = "repaired", "refused", "harmless", "FAILED"


@dataclass
class Outcome:
    """What came of a damage.

    Attributes:
        verdict: one of REPAIRED, REFUSED, HARMLESS and FAILED.
        is_named: whether `cl-mlm verify` named the damage; None: not asked.
        faults: why it failed.
    """

    number: int
    base: str
    kind: str
    target: str
    detail: str
    command: str
    verdict: str
    is_named: bool | None = None
    faults: list[str] = field(default_factory=list)
    text: str = ""

    def to_json(self):
        """Returns the outcome as a text."""
        return json.dumps(asdict(self), indent=1)


def play(bases, number, seed, home, kind=None, among=ALL):
    """Damages a copy of a run, gives the command again and returns the outcome."""
    random = Random(f"{seed} {number}")
    kind = kind or [*KINDS][number % len(KINDS)]
    damage = None
    while damage is None:  # a run that was killed early has no summary, no predictions
        base = random.choice(among)
        for one in base.family if "another" in kind else (base, base.whole):
            bases.make(one)
        shutil.rmtree(home, ignore_errors=True)
        bases.copy(base, home)
        folder = run_folder(home)
        other = run_folder(bases.home(base.twin)) if "another" in kind else folder
        damage = draw(random, kind, folder, other)
    after = _content(folder / damage.target)
    asked = random.choice((["run", "config.yaml"], ["resume", folder.relative_to(home).as_posix()]))
    verified = verify(home, folder)
    code, text = command(home, asked)
    outcome = Outcome(
        number, base.name, damage.kind, damage.target, damage.detail, asked[0], FAILED, text=f"{text}\n[exit {code}]"
    )
    named = names(verified[1], damage.target) and verified[0] != 0
    outcome.is_named = named
    whole = run_folder(bases.home(base.whole))
    outcome.verdict, outcome.faults = _judge(folder, whole, damage.target, code, text, named, after)
    if outcome.verdict == REFUSED:
        outcome.faults = _again(home, folder, whole, damage.target)
    elif outcome.verdict != FAILED:
        outcome.faults = mlflow_faults(home, folder)
    outcome.verdict = FAILED if outcome.faults else outcome.verdict
    outcome.text += f"\n--- verify ---\n{verified[1]}\n[exit {verified[0]}]"
    return outcome


def mlflow_faults(home, folder):
    """Returns in words what MLflow holds otherwise than the journal, after everything is sent."""
    log = home / "mlflow-faults.txt"
    pipe, child = in_child(lambda pipe: os.write(pipe, json.dumps(_mlflow_faults(home, folder)).encode()), log)
    with os.fdopen(pipe, "rb") as said:
        told = said.read()
    os.waitpid(child, 0)
    faults = json.loads(told) if told else [log.read_text()]
    return [f"MLflow: {fault}" for fault in faults[:8]]


def _mlflow_faults(home, folder):
    from mlflow import MlflowClient

    from cl_mlm.tracking.mlflow_sender import sync

    os.chdir(home)
    sync(folder)
    # The whole path: MLflow would look for a relative one where this process was when it first heard of it.
    return differences(MlflowClient(f"sqlite:///{home / 'mlflow.db'}"), folder)


def _again(home, folder, whole, target):
    """Takes the way out that a refusal names: returns what is wrong with the run that comes of it.

    It is a new one beside the damaged one, or that one where the command with the user's own config goes on with it.
    """
    code, text = command(home, ["run", "config.yaml", "--again"])
    if code == 2 and ("got a folder" in text or "got a file" in text):
        (shutil.rmtree if (folder / target).is_dir() else os.remove)(folder / target)
        code, text = command(home, ["run", "config.yaml", "--again"])
    made = [path for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    if code != 0 or len(made) > 1:
        return [f"`run --again` ended with {code}, {len(made)} new folders: {text}"]
    if not made:
        return [f"`run --again`: {fault}" for fault in compare(whole, folder)[:8]]
    matrices = [json.loads((run / "summary.json").read_text())["accuracy_matrix"] for run in (whole, made[0])]
    return [] if matrices[0] == matrices[1] else ["`run --again` has another matrix"]


def _judge(folder, whole, target, code, text, is_named, after):
    """Returns the verdict, and why it failed."""
    if "Traceback (most recent call last)" in text:
        return FAILED, ["a traceback"]
    is_beside = target in BESIDE or target.startswith(".lock")
    if code == 2:
        faults = []
        if not names(text, target):
            faults.append("refused, and the damage is not named")
        if not any(way in text for way in WAYS_OUT):
            faults.append("refused without a way out")
        if not is_named:
            faults.append("refused, and verify does not name the damage")
        return (FAILED, faults) if faults else (REFUSED, [])
    if code != 0:
        return FAILED, [f"ended with {code}"]
    beside = [path.name for path in folder.parent.iterdir() if path.is_dir() and path != folder]
    if beside:
        return FAILED, [f"a new run beside it: {', '.join(beside)}"]
    try:
        faults = compare(whole, folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        faults = [f"cannot be compared: {error!r}"]
    is_removed = after is None and (folder / "files.json").exists() and target.startswith("stages")
    if is_removed and all(fault.startswith(f"{target}/") and fault.endswith(MISSING) for fault in faults):
        # Models of a finished run are removed to save room: what the run has found is whole without them.
        is_told = is_named and names(text, target)
        return (HARMLESS, []) if is_told else (FAILED, ["a stage is gone, and the command or verify does not say so"])
    if faults:
        return FAILED, [f"{len(faults)} differences", *faults[:8]]
    if is_beside:
        return HARMLESS, []
    if _content(folder / target) == after and _content(whole / target) != after:
        # Only clock and machine can differ here: what the comparison leaves out.
        return (HARMLESS, []) if is_named else (FAILED, ["left as it is, and verify does not name it"])
    return REPAIRED, []


def names(text, target):
    """Says whether a message names what is damaged: the file, or its checkpoint."""
    parts = target.split("/")
    wanted = {target, parts[-1]}
    if parts[0] in ("stages", "steps") and len(parts) > 1:
        wanted.add("/".join(parts[:2]))
    flat = re.sub(r"\s+", " ", text)
    return any(re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", flat) for word in wanted)


def _content(path):
    """Returns the bytes of a file, the names of a folder, None of what is not there."""
    if path.is_dir():
        return sorted(p.relative_to(path).as_posix() for p in path.rglob("*"))
    return path.read_bytes() if path.exists() else None
