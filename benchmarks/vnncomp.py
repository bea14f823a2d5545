"""How many instances of the verification competition are decided, rightly, and how fast.

    python benchmarks/vnncomp.py FOLDER [--family acasxu tllverifybench] [--every 5] [--limit 20]
        [--verdict sat] [--seconds 60] [--in-process] [--results FILE.jsonl]
        [--plot FILE.png] [--peers PYTHON]

FOLDER holds `instances.csv` (family, onnx, property, timeout, verdict, median_s: the time-out, what
the competition's tools agreed on and their median seconds) and a folder of files for each family.
Each instance is a process of its own, `python -m deel_lip_tf verify --nearest-inputs`, start-up
included: inputs count as they do in the competition. With `--in-process` all are decided here by
`verify.decide`, with inputs that lie in the box exactly, and the import of the package counts for
none.

Answers are appended to the results file as they come, and an instance that stands there is not
asked again: a run that was stopped goes on. Every `sat` is replayed with onnxruntime, where this
interpreter or the one of `--peers` has it: the counterexample is in the box up to float32, and the
outputs satisfy the property up to 1e-4, the tolerance of the competition, or exactly.

PYTHON is an interpreter whose environment has `auto_LiRPA`, `maraboupy` or `onnxruntime`; what it
lacks is left out, and said so. They are asked about the same instances with the same limit
(`vnncomp_peers.py` says how). auto_LiRPA 0.3, the release of PyPI, wants torch below 1.13 and runs
with 1.13.1, numpy 1.24 and setuptools below 70 on Python 3.11; maraboupy 2.0.0 installs as it is.

A verdict that contradicts the tools comes first, with the command that shows it, and makes the exit
status 1.
"""

import argparse
import csv
import gzip
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

VERDICTS = ("sat", "unsat")
PEERS = "auto_LiRPA", "maraboupy"
TOLERANCE = 1e-4  # of outputs, in the competition
GRACE = 60.0  # seconds beyond the limit after which a process is stopped


def instances(
    folder: Path, families: list[str], every: int, limit: int | None, verdict: str | None = None
) -> list[dict]:
    """The rows of `instances.csv` that are asked for: of each family every n-th."""
    with open(folder / "instances.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    known = list(dict.fromkeys(row["family"] for row in rows))
    if unknown := set(families) - set(known):
        sys.exit(f"--family must be of {', '.join(known)}. Received: {', '.join(unknown)}.")
    chosen = [
        [row for row in rows if row["family"] == family and verdict in (None, row["verdict"])][
            ::every
        ]
        for family in families or known
    ]
    return [row for of_family in chosen for row in of_family[:limit]]


def files_of(folder: Path, row: dict) -> tuple[str, str]:
    """Network and property."""
    return tuple(str(folder / row["family"] / row[name]) for name in ("onnx", "property"))


def by_command(network: str, question: str, seconds: float) -> tuple[str, list[float] | None]:
    """What the command prints: a verdict, or its error, and the input of a counterexample."""
    command = [sys.executable, "-m", "deel_lip_tf", "verify", network, question]
    command += ["--time-limit", f"{seconds:g}", "--nearest-inputs"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE)
    except subprocess.TimeoutExpired:
        return "stopped", None
    point = [float(number) for number in re.findall(r"\(X_\d+ ([^)\s]+)\)", done.stdout)]
    answer = next(iter(done.stdout.split()), None) or f"error: {done.stderr.strip()[-200:]}"
    return answer, point or None


def in_process(network: str, question: str, seconds: float) -> tuple[str, list[float] | None]:
    """What `verify.decide` answers."""
    from deel_lip_tf import verify

    try:
        model, asked = verify.from_onnx(network), verify.read_vnnlib(question)
        found = verify.decide(model, asked, time_limit=seconds)
        point = None if found.witness is None else np.ravel(found.witness).tolist()
        return found.status, point
    except (ValueError, TypeError) as error:
        return f"error: {str(error)[-200:]}", None


def elsewhere(python: str, side: str, files: tuple[str, str], seconds: float, **more) -> object:
    """What another program says, run by an interpreter that has it; a text where it fails."""
    from deel_lip_tf.verify.specification.vnnlib import read_vnnlib

    claims = read_vnnlib(files[1]).conjunctions
    asked = {name: np.stack([getattr(one, name) for one in claims]) for name in ("lower", "upper")}
    asked["owner"] = np.repeat(np.arange(len(claims)), [len(one.weights) for one in claims])
    asked |= {n: np.concatenate([getattr(c, n) for c in claims]) for n in ("weights", "offsets")}
    script = Path(__file__).with_name("vnncomp_peers.py")
    with tempfile.TemporaryDirectory() as folder:
        opened = gzip.open if files[0].endswith(".gz") else open
        with opened(files[0], "rb") as file:
            (Path(folder) / "network.onnx").write_bytes(file.read())
        np.savez(Path(folder) / "question.npz", **asked, **more)
        command = [python, str(script), side, folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return "stopped"
    if done.returncode:
        return f"error: {(done.stderr.strip().splitlines() or ['none'])[-1][-120:]}"
    return json.loads(done.stdout.splitlines()[-1])


def has(python: str, package: str) -> bool:
    """Whether an interpreter has a package."""
    return not subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode


def replayed(python: str, files: tuple[str, str], point: list[float]) -> str:
    """Whether onnxruntime's outputs at an input satisfy the property: "exactly", "nearly", "no"."""
    from deel_lip_tf.verify.specification.vnnlib import read_vnnlib

    y = elsewhere(python, "onnxruntime", files, GRACE, point=np.array(point))
    if isinstance(y, str):
        return y
    x, best = np.array(point), np.inf
    for claim in read_vnnlib(files[1]).conjunctions:
        room = 2.0**-23 * np.maximum(np.abs(claim.lower), np.abs(claim.upper))
        if ((claim.lower - room <= x) & (x <= claim.upper + room)).all():
            best = min(best, (claim.weights @ np.array(y) + claim.offsets).max(initial=-np.inf))
    return "exactly" if best <= 0 else "nearly" if best <= TOLERANCE else "no"


def answered(
    folder: Path,
    rows: list[dict],
    most: float,
    results: Path,
    ask: Callable[..., tuple[str, list[float] | None]],
    others: dict[str, str],
) -> list[dict]:
    """Rows with `answer` and `seconds`, those of earlier runs as they were.

    Of each of `others`, the interpreter that has it.
    """
    known = {}
    if results.exists():
        lines = results.read_text(encoding="utf-8").splitlines()
        known = {(a["family"], a["onnx"], a["property"]): a for a in map(json.loads, lines)}
    found = []
    for position, row in enumerate(rows):
        key = row["family"], row["onnx"], row["property"]
        if key not in known:
            limit = min(most, float(row["timeout"] or most))
            start = time.perf_counter()
            files = files_of(folder, row)
            answer, point = ask(*files, limit)
            own = {"answer": answer, "seconds": round(time.perf_counter() - start, 3)}
            if answer == "sat" and point and "onnxruntime" in others:
                own["replayed"] = replayed(others["onnxruntime"], files, point)
            for peer in (name for name in PEERS if name in others):
                start = time.perf_counter()
                own[peer] = elsewhere(others[peer], peer, files, limit)
                own[f"{peer} seconds"] = round(time.perf_counter() - start, 3)
            known[key] = {**row, **own, "limit": limit}
            with open(results, "a", encoding="utf-8") as file:
                file.write(json.dumps(known[key]) + "\n")
        found.append(known[key])
        if sys.stderr.isatty():  # a file would hold every state of the line
            show_progress(position + 1, len(rows), found)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    return found


def show_progress(done: int, total: int, found: list[dict]) -> None:
    """One line that replaces itself."""
    bar = "#" * (30 * done // total)
    solved, wrong = sum(map(is_solved, found)), sum(map(is_wrong, found))
    last = f"{found[-1]['family']} {found[-1]['answer'][:7]} {found[-1]['seconds']:.1f} s"
    text = f"[{bar:<30}] {done}/{total}, {solved} decided, {wrong} wrong; {last:<40}"
    print(f"\r{text}", end="", file=sys.stderr, flush=True)


def is_wrong(row: dict) -> bool:
    """Whether a verdict contradicts that of the tools."""
    return row["answer"] in VERDICTS and row["verdict"] in VERDICTS and not is_solved(row)


def is_solved(row: dict) -> bool:
    """Whether there is a verdict, and not another one than that of the tools."""
    agrees = row["verdict"] not in VERDICTS or row["answer"] == row["verdict"]
    return row["answer"] in VERDICTS and agrees


def print_table(rows: list[dict], folder: Path) -> None:
    """Wrong verdicts, what stayed open, and a line for each family."""
    for row in filter(is_wrong, rows):
        print(
            f"WRONG: {row['answer']} and not {row['verdict']}: python -m deel_lip_tf verify ",
            end="",
        )
        print(*files_of(folder, row))
    for row in rows:
        if not is_solved(row) and not is_wrong(row):
            print(f"open: {row['family']} {row['onnx']} {row['property']} ", end="")
            print(f"({row['verdict'] or '?'}): {row['answer']} after {row['seconds']:.1f} s")
    heads = ("solved", 7), ("of", 5), ("wrong", 7), ("median s", 10), ("tools", 8), ("worst s", 9)
    print(f"\n{'family':<22}" + "".join(f"{name:>{width}}" for name, width in heads))
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family]
        solved = [row for row in own if is_solved(row)]
        mine = [row["seconds"] for row in solved]
        theirs = [float(row["median_s"]) for row in solved if row["median_s"]]
        counts = f"{len(solved):>7}{len(own):>5}{sum(map(is_wrong, own)):>7}"
        worst = f"{max(mine):>9.2f}" if mine else f"{'-':>9}"
        print(f"{family:<22}{counts}{middle(mine):>10}{middle(theirs):>8}{worst}")


def print_others(rows: list[dict], others: dict[str, str]) -> None:
    """What onnxruntime confirms, and a line for each other program, or that it is not installed."""
    found = [row for row in rows if row["answer"] == "sat"]
    told = [row["replayed"] for row in found if "replayed" in row]
    print(f"\nof {len(found)} sat, {len(told)} replayed with onnxruntime", end="")
    print("" if told or "onnxruntime" in others else " (not installed)", end="")
    print(f": {told.count('exactly')} exactly, {told.count('nearly')} within {TOLERANCE:g}", end="")
    print(f", {len(told) - told.count('exactly') - told.count('nearly')} not")
    for peer in PEERS:
        own = [{**row, "answer": row[peer]} for row in rows if peer in row]
        if not own:
            print(f"{peer}: " + ("nothing asked" if peer in others else "not installed"))
            continue
        solved = [row[f"{peer} seconds"] for row in own if is_solved(row)]
        failed = sum(row["answer"].startswith("error") for row in own)
        print(
            f"{peer}: {len(solved)} of {len(own)} solved, {sum(map(is_wrong, own))} wrong, ", end=""
        )
        print(f"{failed} not read, median {middle(solved)} s")


def middle(values: Iterable[float]) -> str:
    """The median, or a dash."""
    values = list(values)
    return f"{np.median(values):.2f}" if values else "-"


def plot(rows: list[dict], path: Path) -> None:
    """Cactus plot: how many are decided in how many seconds each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    decided = [row for row in rows if is_solved(row)]
    curves = {
        "this library": [row["seconds"] for row in decided],
        "median of the tools": [float(row["median_s"]) for row in rows if row["median_s"]],
    }
    for name, seconds in curves.items():
        axes.plot(np.arange(1, len(seconds) + 1), np.sort(seconds), marker=".", label=name)
    axes.set(yscale="log", xlabel="instances decided", ylabel="seconds each, at most")
    axes.set_title(f"{len(decided)} of {len(rows)} instances, {sum(map(is_wrong, rows))} wrong")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> int:
    """Runs the benchmark; 1 where a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="with instances.csv and the files")
    parser.add_argument("--family", nargs="+", default=[], help="all by default")
    parser.add_argument("--every", type=int, default=1, help="every n-th instance of a family")
    parser.add_argument("--limit", type=int, help="instances of each family, at most")
    parser.add_argument("--verdict", choices=VERDICTS, help="only those of which the tools say so")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each, at most")
    parser.add_argument("--in-process", action="store_true", help="without start-up")
    parser.add_argument("--results", type=Path, default=Path("vnncomp.jsonl"))
    parser.add_argument("--plot", type=Path, help="a .png file for the cactus plot")
    parser.add_argument("--peers", help="an interpreter that has other verifiers")
    options = parser.parse_args()
    rows = instances(options.folder, options.family, options.every, options.limit, options.verdict)
    ask = by_command
    if options.in_process:
        from deel_lip_tf import verify  # noqa: F401  its import is not counted

        ask = in_process
    others = {}
    if options.peers:
        others = {n: options.peers for n in (*PEERS, "onnxruntime") if has(options.peers, n)}
    if importlib.util.find_spec("onnxruntime"):
        others["onnxruntime"] = sys.executable
    found = answered(options.folder, rows, options.seconds, options.results, ask, others)
    print_table(found, options.folder)
    print_others(found, others)
    if options.plot is not None:
        plot(found, options.plot)
    return int(any(map(is_wrong, found)))


if __name__ == "__main__":
    sys.exit(main())
