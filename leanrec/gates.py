"""Gates: figures held against bounds, written down, and a stop when one is missed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from leanrec.errors import GateError
from leanrec.files import read_json, write_json
from leanrec.journal import step

GATE_FILE = "gate.json"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One figure against its bound; `detail` says where to look and what to do."""

    figure: str
    value: float | int | str
    bound: str
    passed: bool
    detail: str = ""


def at_least(figure: str, value: float, bound: float, detail: str = "") -> Check:
    """A check that passes when `value` is a number not below `bound`; NaN fails."""
    return Check(
        figure=figure, value=_plain(value), bound=f">= {bound:g}", passed=value >= bound, detail=detail
    )


def above(figure: str, value: float, bound: float, detail: str = "") -> Check:
    """A check that passes when `value` is a number above `bound`; an equal one and NaN fail."""
    return Check(
        figure=figure, value=_plain(value), bound=f"> {bound:.6g}", passed=value > bound, detail=detail
    )


def at_most(figure: str, value: float, bound: float, detail: str = "") -> Check:
    """A check that passes when `value` is a number not above `bound`; NaN fails."""
    return Check(
        figure=figure, value=_plain(value), bound=f"<= {bound:g}", passed=value <= bound, detail=detail
    )


def unjudged(figure: str, bound: str, reason: str) -> Check:
    """A check that passes because the data cannot tell, and says so; NaN is no such figure."""
    return Check(figure=figure, value="not judged", bound=bound, passed=True, detail=reason)


def write_gate(folder: Path, gate: str, checks: list[Check]) -> bool:
    """Write `gate.json` into `folder`; True when every check passed."""
    passed = all(check.passed for check in checks)
    write_json(
        Path(folder) / GATE_FILE, {"gate": gate, "passed": passed, "checks": [asdict(c) for c in checks]}
    )
    return passed


@step("enforce_gate")
def enforce_gate(*, folder: Path) -> None:
    """Stop with a GateError that names every missed bound in the `gate.json` of `folder`."""
    gate = read_json(Path(folder) / GATE_FILE)
    missed = [check for check in gate["checks"] if not check["passed"]]
    if not missed:
        return
    sentences = [
        f"{check['figure']} is {_shown(check['value'])}, bound {check['bound']}"
        + (f" ({check['detail']})" if check["detail"] else "")
        for check in missed
    ]
    raise GateError(f"gate {gate['gate']}: " + "; ".join(sentences))


def _plain(value: float) -> float | str:
    return float(value) if math.isfinite(value) else str(value)


def _shown(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
