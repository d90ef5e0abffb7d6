"""Rows over whole runs, in processes of their own, or of one figure only."""

from __future__ import annotations

import math
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.speed.arm_avalanche import Avalanche
from benchmarks.speed.arm_ours import Ours
from benchmarks.speed.child import Child
from benchmarks.speed.intervals import Comparison, Effort, compare, half_width, theil_sen
from benchmarks.speed.measuring import Measured, SkippedError, alternate, measured, pace
from benchmarks.speed.stepper import Jobs, cpu_clock
from benchmarks.speed.workload import Workload, stream_settings
from benchmarks.startup import first_step_seconds

MEMORY_STEPS = 30
CHECKPOINT_SECONDS = 600.0  # the default of checkpoint.every_minutes
SERVER_SECONDS = 90.0
LOGGING_HALF_WIDTH = 0.002  # a target of 1 % needs a narrower interval than the others


def run_of_stages(work: Workload, effort: Effort) -> Measured:
    """Measures a whole run, one epoch a stage, test sets scored after each: A B, and B A where there is time."""
    import cl_mlm

    def ours() -> int:
        folder = work.new_folder("run")
        settings = work.settings(training={"steps": None, "epochs": 1}, stream=stream_settings())
        settings |= {"output": str(folder), "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}}
        cl_mlm.run(settings, progress=False, stream=work.stream if work.rows is not None else None)
        return rows

    def other() -> int:
        steps = -(-work.num_rows() // 32)
        return Avalanche(work, epochs=1, schedule_steps=steps).train_and_evaluate()

    rows = sum(len(stage.train) for stage in work.stream.stages)
    a, b, found = Jobs(ours), Jobs(other), Comparison(reached=True)
    first, second = a.block(1), b.block(1)
    if effort.max_quads > 1:
        second += b.block(1)
        first += a.block(1)
    return _single(found, first, second)


def _single(found: Comparison, first: Any, second: Any) -> Measured:
    found.a, found.b = first, second
    found.log_ratios = [math.log(second.cpu / first.cpu)]
    found.wall_log_ratios = [math.log(second.wall / first.wall)]
    return measured(found, "whole runs, no interval")


def bf16(work: Workload, effort: Effort) -> Measured:
    """Measures our training in bf16 against fp32, each in its own process."""
    if work.device == "cpu" and not {"avx512_bf16", "amx_bf16"} & processor_flags():
        raise SkippedError("the processor has no bf16 arithmetic")
    return alternate(Child(work, "ours", "bf16"), Child(work, "ours", "fp32"), work, effort)


def processor_flags() -> set[str]:
    """Returns the processor's features, as Linux names them."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return set()
    flags = [line.partition(":")[2].split() for line in path.read_text().splitlines() if line.startswith("flags")]
    return set(flags[0]) if flags else set()


def memory(work: Workload, effort: Effort) -> Measured:
    """Measures the most memory that a process held by the end of 30 steps, ours over the hand-written loop's."""
    peaks = {}
    for name in ("ours", "hand"):
        with closing(Child(work, name)) as child:
            child.block(MEMORY_STEPS)
            peaks[name] = child.peak
    return Measured(peaks["ours"] / peaks["hand"], details={"bytes": peaks})


def growth(work: Workload, effort: Effort) -> Measured:
    """Measures the slope of processor time per padded token over the stages from the second, in % of their median."""
    from cl_mlm.tokens.batching import training_batches

    costs = []
    with closing(Ours(work, stage=0)) as ours:
        ours.use(steps=None, epochs=1)
        data = ours.run.data
        lengths = [data.lengths(data.ids(stage)) for stage in range(len(work.stream))]
        for stage, of_rows in enumerate(lengths):
            batches = training_batches(of_rows, 32, ours.run.place.seed, stage, 0)
            tokens = sum(len(batch) * int(of_rows[batch].max()) for batch in batches)
            ours.place(stage)
            ours.journal.stage_start(stage, ours.experiment.stage_slugs[stage])
            started, _ = cpu_clock()
            ours.train()
            costs.append((cpu_clock()[0] - started) / tokens)
    slope = theil_sen(range(1, len(costs)), costs[1:]) / statistics.median(costs[1:])
    return Measured(100 * slope, details={"cpu_seconds_per_padded_token": costs})


def sqlite(work: Workload, effort: Effort) -> Measured:
    """Measures what MLflow's thread adds to training where the store is a file."""
    return _logging(work, effort, f"sqlite:///{work.new_folder('store')}/mlflow.db")


def server(work: Workload, effort: Effort) -> Measured:
    """Measures what MLflow's thread adds to training where the store is a server on this machine."""
    with mlflow_server(work.new_folder("server")) as address:
        return _logging(work, effort, address)


def _logging(work: Workload, effort: Effort, uri: str) -> Measured:
    """Measures training with MLflow's thread over the same without that thread's processor seconds, block by block.

    Two runs beside each other would not tell a hundredth apart on a machine with other work.
    """
    _, unit = pace(work)
    steps = -(-10 // unit) * unit  # a point of the training curve at least, as a run's default has it
    found, started = Comparison(), time.monotonic()
    with closing(Child(work, "ours", uri=uri)) as child:
        child.block(steps)  # imports MLflow and makes the store
        while len(found.log_ratios) < max(2, effort.max_quads):
            block = child.block(steps)
            own = replace(block, cpu=block.cpu - child.logging)
            found.log_ratios.append(math.log(block.cpu / own.cpu))
            found.wall_log_ratios.append(0.0)
            found.a, found.b = found.a + own, found.b + block
            found.reached = len(found.log_ratios) >= 2 and half_width(found.log_ratios) <= LOGGING_HALF_WIDTH
            enough = len(found.log_ratios) >= effort.min_quads and found.reached
            if enough or (len(found.log_ratios) > 1 and time.monotonic() - started >= effort.max_seconds):
                break
    return measured(found, "processor seconds of MLflow's thread, blocks of one process")


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Runs a tracking server on a free port; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1", "--port", port]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    with (folder / "log.txt").open("w") as log:
        environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=environment)
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SERVER_SECONDS
        while not _is_up(address):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "log.txt").read_text())
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


def _is_up(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


class _Enough(BaseException):
    """Leaves a stage in the middle."""


def checkpoint(work: Workload, effort: Effort) -> Measured:
    """Measures how long a checkpoint within a stage takes, as a share of the time between two; wall-clock."""
    from cl_mlm.storage.checkpoint import write_step

    seconds: list[float] = []
    with closing(Ours(work)) as ours:

        def keep(step: int, state: Callable[[], dict[str, Any]]) -> None:
            if step < 3:
                return
            started = time.perf_counter()
            write_step(ours.folder / "steps", ours.stage, step, state())
            seconds.append(time.perf_counter() - started)
            if len(seconds) == 5:
                raise _Enough

        setattr(ours.experiment, "may_checkpoint", keep)  # noqa: B010 - in place of the experiment's own, which waits minutes
        with suppress(_Enough):
            ours.train()
    shares = [value / CHECKPOINT_SECONDS for value in seconds]
    note = "median and range of five"
    return Measured(statistics.median(shares), min(shares), max(shares), note=note, details={"seconds": seconds})


def first_step(work: Workload, effort: Effort) -> Measured:
    """Measures what comes between the imports and the end of the first step; caches filled."""
    settings = work.settings(stream=stream_settings())
    if work.rows is not None:
        settings["limit"] = work.rows
    pairs = [first_step_seconds(settings, work.new_folder("start")) for _ in range(4)]
    warm = [wall for wall, _ in pairs[1:]]
    details = {"seconds": [wall for wall, _ in pairs], "cpu_seconds": [cpu for _, cpu in pairs]}
    return Measured(statistics.median(warm), min(warm), max(warm), note="median and range of three", details=details)


def device(work: Workload, effort: Effort) -> Measured:
    """Measures training, ours over the hand-written loop, in tokens a second and as a share of the matrix peak."""
    ours, hand = Child(work, "ours"), Child(work, "hand")
    with closing(ours), closing(hand):
        found = compare(ours, hand, effort, *pace(work))
        peaks = {"ours": ours.peak, "hand": hand.peak}
    row = measured(found)
    lengths = [len(ids) for ids in work.encoded(work.last)["input_ids"]]
    mean = statistics.fmean(lengths)
    peak = matmul_peak(work.device)
    rates = {name: rate * mean for name, rate in zip(peaks, row.details["rows_per_second"], strict=True)}
    share = rates["ours"] * flops_per_token(work, mean) / peak
    row.details |= {"tokens_per_second": rates, "peak_bytes": peaks, "matmul_flops": peak, "share_of_peak": share}
    row.note = f"{rates['ours']:.0f} tokens/s, {100 * share:.1f} % of {peak / 1e12:.3g} TFLOP/s bf16, "
    row.note += f"peak {peaks['ours'] / 2**30:.2f} GiB ours, {peaks['hand'] / 2**30:.2f} GiB hand"
    return row


def matmul_peak(device: str) -> float:
    """Returns floating-point operations a second of a large bf16 matrix product: the best of ten."""
    import torch

    size = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def flops_per_token(work: Workload, tokens: float) -> float:
    """Returns operations of a training step per token: 6 a weight outside the embeddings, and attention's products."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    settings = AutoConfig.from_pretrained(work.model)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(settings)
    embeddings = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    weights = sum(p.numel() for p in model.parameters() if id(p) not in embeddings)
    # A decoder's layers attend twice, to themselves and to the encoder.
    layers = settings.num_hidden_layers * (3 if settings.is_encoder_decoder else 1)
    return 6 * weights + 12 * layers * settings.hidden_size * tokens
