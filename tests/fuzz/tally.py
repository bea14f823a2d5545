"""What was asked, answered, refused and violated; each violation with what repeats it."""

import collections
import json
import re
import time
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Tally", "Violation", "short"]


@dataclass(frozen=True)
class Violation:
    """A claim that is false.

    Attributes:
        claim: its name.
        case: what repeats it: the group and the seed.
        detail: the claim and the counterexample.
        text: the graph, in one line.
    """

    claim: str
    case: str
    detail: str
    text: str

    def __str__(self) -> str:
        return f"VIOLATION {self.claim} [{self.case}] {self.text} | {self.detail}"


@dataclass
class Tally:
    """Counts of all that was asked; `log` is a text file that takes a line for each case.

    Attributes:
        asked: by claim, how often it was answered.
        refused: by `(claim, reason)`.
        kinds: by kind of call, in how many answered graphs it occurs.
        graphs: in all, by group.
        violations: all of them.
    """

    log: object = None
    asked: collections.Counter = field(default_factory=collections.Counter)
    refused: collections.Counter = field(default_factory=collections.Counter)
    kinds: collections.Counter = field(default_factory=collections.Counter)
    graphs: collections.Counter = field(default_factory=collections.Counter)
    violations: list[Violation] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    def answered(self, claim: str, count: int = 1) -> None:
        self.asked[claim] += count

    def refuse(self, claim: str, error: Exception) -> None:
        self.refused[claim, reason_of(error)] += 1

    def violated(self, claim: str, case: str, detail: str, text: str) -> None:
        """Notes a violation: of one claim in one case, the first."""
        found = Violation(claim, case, detail, text)
        if any((v.claim, v.case) == (claim, case) for v in self.violations):
            return
        self.violations.append(found)
        self.write({"violation": claim, "case": case, "detail": detail, "text": text})
        print(str(found)[:900], flush=True)

    def write(self, line: dict) -> None:
        if self.log is not None:
            print(json.dumps(line), file=self.log, flush=True)

    def share(self, claim: str) -> float:
        """Of the questions of a claim, the share that was answered."""
        refused = sum(n for (name, _), n in self.refused.items() if name == claim)
        return self.asked[claim] / max(self.asked[claim] + refused, 1)

    def summary(self) -> str:
        """Tables of claims, refusals and kinds."""
        lines = [f"{sum(self.graphs.values())} graphs and files in "
                 f"{time.time() - self.started:.0f} s: {dict(self.graphs)}"]  # fmt: skip
        lines.append(f"{sum(self.asked.values())} claims, {len(self.violations)} violations")
        names = sorted({*self.asked, *(name for name, _ in self.refused)})
        lines += [
            f"  {name:40} {self.asked[name]:7} answered, {self.share(name):6.1%}" for name in names
        ]
        lines.append("refusals:")
        lines += [f"  {n:5} {name}: {why}" for (name, why), n in self.refused.most_common(60)]
        lines.append("in graphs with an answer:")
        lines.append("  " + ", ".join(f"{kind} {n}" for kind, n in sorted(self.kinds.items())))
        violated = collections.Counter(v.claim for v in self.violations)
        lines += [f"VIOLATED {name}: {n}" for name, n in violated.most_common()]
        return "\n".join(lines)


def reason_of(error: Exception) -> str:
    """The first reason of a refusal, without the names of layers and their numbers."""
    text = str(error)
    found = re.search(r"'[^']*' \((\w+)[:,]? ?([^;)]*)", text)
    if found is not None:
        return f"{found[1]}: {re.sub(r'[0-9]+', 'N', found[2])[:90]}"
    return re.sub(r"[0-9]+", "N", re.sub(r"'[^']*'", "'...'", text))[:110]


def short(numbers) -> str:
    """The first of some numbers, with the digits that matter to a reader."""
    flat = [f"{float(n):.6g}" for n in np.ravel(numbers)[:8]]
    return f"[{', '.join(flat)}{', ...' if np.size(numbers) > 8 else ''}]"
