"""Compares this platform's speed with a hand-written loop, with transformers' Trainer and with Avalanche.

    python -m benchmarks.speed [--only train,eval.trainer] [--setting short] [--quick] [--json FILE] [--figure FILE]

Ratios are of rows per processor second, by blocks of steps that alternate A B B A in one process; an interval is the
95 % t-interval of the mean log ratio. Exits 1 where a target is missed or a row failed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.speed.intervals import Effort
from benchmarks.speed.table import draw, is_met, markdown, merge, plain
from benchmarks.speed.workload import SIZES, Workload, find_model


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of rows, or how some begin, with commas between")
    parser.add_argument("--setting", choices=["short", "long", "both"], default="both")
    parser.add_argument("--quick", action="store_true", help="one quad a row, short blocks: no interval")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of torch, in every arm; default: all cores"
    )
    parser.add_argument("--model", help="folder of an encoder; default: the installed one, else random weights")
    parser.add_argument("--size", choices=list(SIZES), default="minilm", help="of the random weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rows", type=int, help="at most so many rows of a stage and split")
    parser.add_argument("--half-width", type=float, default=Effort.half_width)
    parser.add_argument("--max-quads", type=int, default=Effort.max_quads)
    parser.add_argument("--max-seconds", type=float, default=Effort.max_seconds, help="of a row, warm-up left out")
    parser.add_argument("--block-seconds", type=float, default=Effort.block_seconds)
    parser.add_argument("--json", type=Path, help="rows are merged into this file, each as soon as it is measured")
    parser.add_argument("--show", action="store_true", help="measures nothing: shows what is in --json")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--one-arm", choices=["hand", "ours"], help="is one arm: reads numbers of steps, a line each")
    parser.add_argument("--tracking", help="of --one-arm: an MLflow store to send to")
    options = parser.parse_args(given)
    if options.show and not options.json:
        parser.error("--show: needs --json")
    return options


def effort(options: argparse.Namespace) -> Effort:
    if options.quick:
        return Effort(max_quads=1, min_quads=1, block_seconds=min(2.0, options.block_seconds))
    return Effort(
        half_width=options.half_width,
        max_quads=options.max_quads,
        max_seconds=options.max_seconds,
        block_seconds=options.block_seconds,
    )


def chosen(options: argparse.Namespace, names: list[str]) -> list[str]:
    wanted = [name for name in options.only.split(",") if name]
    unknown = [name for name in wanted if not any(row.startswith(name) for row in names)]
    if unknown:
        sys.exit(f"--only: no row begins with {', '.join(unknown)}; rows: {', '.join(names)}")
    if not wanted:
        # An accelerator's own row is of no use on a processor, and processor seconds say nothing of an accelerator.
        return [name for name in names if name.startswith("device.") == (options.device != "cpu")]
    # A whole name is that row alone, though it is how the names of others begin too.
    return [name for name in names if any(name == one if one in names else name.startswith(one) for one in wanted)]


def facts(work: Workload, model: str) -> dict[str, Any]:
    from cl_mlm.storage.versions import versions
    from cl_mlm.training.hardware import describe_hardware

    other = {name: metadata.version(name) for name in ("accelerate", "avalanche-lib")}
    return {
        "setting": work.kind,
        **describe_hardware(),
        "threads": work.threads,
        "device": work.device,
        "precision": work.precision,
        "model": model,
        "versions": {**versions(), **other},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]]),
    }


def measure(work: Workload, options: argparse.Namespace, model: str) -> tuple[list[dict[str, Any]], int]:
    """Returns the rows of one setting and how many failed; each is printed, and kept, when it is there."""
    from benchmarks.speed.measuring import SkippedError
    from benchmarks.speed.rows import all_rows

    every, rows, num_failed = all_rows(), [], 0
    common = facts(work, model)
    for name in chosen(options, list(every)):
        row = every[name]
        if work.kind not in row.targets:
            continue
        started = time.monotonic()
        try:
            found = row.measure(work, effort(options))
        except SkippedError as reason:
            print(f"{name} {work.kind}: left out, {reason}", flush=True)
            continue
        except Exception:  # the other rows are still worth having; the exit status tells
            traceback.print_exc()
            num_failed += 1
            continue
        target = row.targets[work.kind]
        rows.append(
            {
                "name": name,
                "title": row.title,
                **common,
                **vars(found),
                "target": target,
                "at_least": row.at_least,
                "is_ratio": row.is_ratio,
                "met": is_met(found.value, target, at_least=row.at_least),
                "seconds": round(time.monotonic() - started, 1),
            }
        )
        if options.json:
            merge(options.json, rows[-1:])
        print(plain(rows[-1:]).splitlines()[1], f"[{rows[-1]['seconds']:.0f} s]", flush=True)
    return rows, num_failed


def main() -> None:
    options = arguments()
    if options.show:
        show(json.loads(options.json.read_text())["rows"], options)
        return
    with tempfile.TemporaryDirectory(prefix="speed-") as temporary:
        folder = Path(temporary)
        os.environ.setdefault("CL_MLM_CACHE", str(folder / "cache"))
        model, title = find_model(options.model, options.size, folder)
        kinds = ["short", "long"] if options.setting == "both" else [options.setting]
        rows: list[dict[str, Any]] = []
        num_failed = 0
        for kind in kinds:
            work = Workload(kind, folder, model, options.threads, options.device, options.precision, options.rows)
            if options.one_arm:
                from benchmarks.speed.child import serve

                serve(work, options.one_arm, options.tracking)
                return
            found, failed = measure(work, options, title)
            rows, num_failed = rows + found, num_failed + failed
    show(rows, options)
    sys.exit(bool(num_failed) or any(row["met"] is False for row in rows))


def show(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Prints the table and draws the figure, one table for each machine, model and number of threads."""
    from benchmarks.speed.rows import all_rows

    order = list(all_rows())
    rows = sorted(rows, key=lambda row: (order.index(row["name"]), row["setting"] == "long"))
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        title = (
            f"{row['processor']}, {row['cores']} cores, {row['threads']} threads, {row['accelerator']} accelerator, "
        )
        title += f"{row['device']}, {row['precision']}, {row['model']}"
        groups.setdefault(title, []).append(row)
    for title, own in groups.items():
        print(f"\n{title}\n{'' if not options.markdown else chr(10)}{(markdown if options.markdown else plain)(own)}")
    if options.figure and rows:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
