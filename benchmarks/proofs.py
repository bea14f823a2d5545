"""What proofs cost: CPU-seconds to find them, to write and to check them, and their size.

    python benchmarks/proofs.py FOLDER [--family acasxu mnist_fc] [--every 5] [--seconds 60]

FOLDER is that of `vnncomp.py`. Instances that hold a counterexample are left out. At the end stand
the figures that are claimed, each beside its claim. The exit status is 1 where the checker does not
confirm what was written.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from vnncomp import files_of, instances

from deel_lip_tf.checking.network import Rejected
from deel_lip_tf.checking.proof import check
from deel_lip_tf.verify.files import decide_file
from deel_lip_tf.verify.specification.vnnlib import read_vnnlib

FAMILIES = "acasxu", "mnist_fc", "oval21", "collins_rul_cnn"
"""By boxes of inputs; by signs of ReLUs; and both of networks with convolutions."""

HEADS = "find s", "write s", "check s", "leaves", "kB"


def measured(network: str, question: str, seconds: float, proof: Path) -> list | str:
    """A number for each of `HEADS`, or why there is none."""
    times, recorded = [time.process_time()], []
    verdict = decide_file(network, read_vnnlib(question), seconds, recorded=recorded)
    times.append(time.process_time())
    if verdict is None or verdict.status != "unsat" or not recorded[0].is_proof:
        return "no proof in the time"
    recorded[0].write(proof, network, question)
    times.append(time.process_time())
    try:
        _, leaves = check(network, question, proof)
    except Rejected as reason:
        return f"REJECTED: {reason}"
    times.append(time.process_time())
    spent = [after - before for before, after in zip(times[:-1], times[1:], strict=True)]
    return [*spent, leaves, proof.stat().st_size / 1000.0]


def main() -> int:
    """Runs the benchmark; 1 where a proof is rejected."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="with instances.csv and the files")
    parser.add_argument("--family", nargs="+", default=[*FAMILIES])
    parser.add_argument("--every", type=int, default=1, help="every n-th instance of a family")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each search, at most")
    options = parser.parse_args()
    rows = instances(options.folder, options.family, options.every, None)
    print(f"{'':<58}" + "".join(f"{head:>9}" for head in HEADS))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for row in (row for row in rows if row["verdict"] != "sat"):
            name = f"{row['onnx'].split('.')[0][:36]} {row['property'].split('.')[0][:20]}"
            files = files_of(options.folder, row)
            answer = measured(*files, options.seconds, Path(folder) / "proof")
            found.append(answer)
            numbers = answer if isinstance(answer, str) else "".join(f"{n:>9.2f}" for n in answer)
            print(f"{name:<58}{numbers}", flush=True)
    proven = [answer for answer in found if not isinstance(answer, str)]
    sums = [sum(column) for column in zip(*proven, strict=True)]
    print(f"{f'{len(proven)} proofs of {len(found)} instances':<58}", end="")
    print("".join(f"{n:>9.2f}" for n in sums))
    rejected = sum(isinstance(answer, str) and "REJECTED" in answer for answer in found)
    print(f"rejected: {rejected} (claim: 0)")
    if proven:
        print(f"seconds to check, for each to find: {sums[2] / sums[0]:.2f} (claim: at most 1)")
    return int(rejected > 0)


if __name__ == "__main__":
    sys.exit(main())
