"""Would a test notice? One fault at a time in the library's code: python -m tools.mutants [--count N] [MODULE ...]

Cosmic Ray's operators make them (a + for a −, a number more or less by one, a decorator less, ...), everywhere but in
messages and annotations; a sample of all is tried. Each is put into a copy of the repository, where the tests that
reach its module run until one fails: for all faults those about the module, then for what is left the others, each
time with JAX's 64-bit mode on and then off. The same call goes on where it was ended: by which test a fault was noticed
stays in tests/noticed.jsonl, on another machine too; what nothing has noticed so far stays in _build/mutants.
"""

import argparse
import difflib
import hashlib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from lib.chapter.machine import cores
from tools.reach import ROOT, stages
from tools.unit import HALVES, KEPT

PLACE = ROOT / "_build" / "mutants"
NOTICED = ROOT / "tests" / "noticed.jsonl"
LIMIT = 1200  # seconds for one run of tests; what takes longer, as an endless loop does, is noticed
# Of the operators those that leave sensible programs: a shift of floating-point numbers says nothing about the tests.
OPERATORS = re.compile(
    "core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|Pow_Mul|FloorDiv_Div|Mod_Mul|BitAnd_BitOr|BitOr_BitAnd)"
    "|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Lt_Gt|Gt_Lt|Is_IsNot|IsNot_Is)"
    "|ReplaceUnaryOperator_Delete_(USub|Not|Invert)|Replace(True|False|And|Or|Break|Continue)With.*"
    "|AddNot|NumberReplacer|RemoveDecorator|ZeroIterationForLoop)$"
)
SPEED = re.compile("jit|cache")  # decorators without which the same is computed


class Mutant(NamedTuple):
    """One fault: what an operator does at one place of a module."""

    module: Path
    operator: str
    occurrence: int

    @cache  # noqa: B019
    def code(self) -> str:
        """The module with the fault."""
        source = self.module.read_text(encoding="utf-8")
        return mutate_code(source, get_operator(self.operator)(), self.occurrence) or source

    def difference(self, context: int = 2) -> str:
        name = self.module.relative_to(ROOT).as_posix()
        lines = self.module.read_text(encoding="utf-8").splitlines(), self.code().splitlines()
        return "\n".join(difflib.unified_diff(*lines, name, name, n=context, lineterm=""))


def mutants(module: Path) -> Iterator[Mutant]:
    """All faults of a module that might matter."""
    source = module.read_text(encoding="utf-8")
    nodes = list(ast_nodes(get_ast(source)))
    for name in filter(OPERATORS.match, sorted(operator_names())):
        places = [node for node in nodes for _ in get_operator(name)().mutation_positions(node)]
        for occurrence, node in enumerate(places):
            if _matters(node):
                yield Mutant(module, name, occurrence)


def sample(modules: list[Path], count: int, seed: int) -> list[Mutant]:
    """So many of all faults that are Python, every one as likely as any other; the same for the same seed."""
    every = [mutant for module in modules for mutant in mutants(module)]
    random.Random(seed).shuffle(every)
    return sorted(islice((mutant for mutant in every if _compiles(mutant.code())), count))


def _matters(node: Any) -> bool:
    """Not in a message, an annotation, a signature's bare star, zip's `strict`, or a decorator that only saves time."""
    if node.type == "operator" and node.parent.type in ("parameters", "lambdef", "dictorsetmaker"):
        return False
    child = None
    while node is not None:
        if node.type in ("fstring", "raise_stmt") or (node.type == "decorator" and SPEED.search(node.get_code())):
            return False
        if child is not None and child is _annotation(node):
            return False
        if node.type == "argument" and node.get_code().startswith(("strict=", " strict=")):
            return False
        child, node = node, node.parent
    return True


def _annotation(node: Any) -> Any:
    """What a node says of a type, if it does."""
    if node.type == "funcdef":
        return node.annotation
    return node.children[{"annassign": 1, "tfpdef": 2}[node.type]] if node.type in ("annassign", "tfpdef") else None


def _compiles(code: str) -> bool:
    try:
        compile(code, "mutant", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


class Trust:
    """Which tests may say that they noticed a fault: those that pass on the code as it is. Asked once in each half."""

    def __init__(self) -> None:
        self._fails: dict[tuple[str, str], bool] = {}

    def aside(self, half: dict[str, str]) -> list[str]:
        """Tests that fail on the code as it is too, and notice nothing."""
        return [test for (test, of), fails in self._fails.items() if fails and of == str(half)]

    def fails(self, said: str, half: dict[str, str], copy: Path, stop: Event) -> bool:
        """Whether what was said of a fault is said of the code without it, which the copy now holds."""
        if not re.match(r"(lib|tests)/.*\.py", said):
            return False  # no test said it: the program crashed, or came to no end
        if (said, str(half)) not in self._fails:
            self._fails[said, str(half)] = bool(_run([said], half, copy, stop))
        return self._fails[said, str(half)]


def judge(mutant: Mutant, stage: int, copy: Path, trust: Trust, stop: Event) -> dict[str, Any]:
    """Try a fault in a copy of the repository, and say by which tests of a stage it was noticed, if by any."""
    start, place = time.monotonic(), copy / mutant.module.relative_to(ROOT)
    source = place.read_text(encoding="utf-8")
    tests = [test.relative_to(ROOT).as_posix() for test in stages(mutant.module, ROOT)[stage]]

    def said(half: dict[str, str]) -> str:
        place.write_text(mutant.code(), encoding="utf-8")
        try:
            return _run(tests, half, copy, stop, trust.aside(half))
        finally:
            place.write_text(source, encoding="utf-8")

    noticed, halves = "", list(HALVES)
    while not noticed and halves:
        noticed = said(halves[-1])
        if noticed and trust.fails(noticed, halves[-1], copy, stop):
            noticed = ""  # and once more, without the test that is now set aside
        elif not noticed:
            halves.pop()
    return {"noticed": noticed, "stage": stage, "seconds": round(time.monotonic() - start, 1)}


def _run(tests: list[str], half: dict[str, str], copy: Path, stop: Event, aside: Sequence[str] = ()) -> str:
    """The first test that fails, or what else went wrong; nothing where all pass."""
    if not tests:
        return ""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider"]
    command += [*tests, *(part for test in aside for part in ("--deselect", test))]
    # Without stored bytecode: a file that changes within a second and keeps its size would be taken for the old one.
    environment = os.environ | KEPT | half | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(copy)}
    process = subprocess.Popen(
        command, cwd=copy, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        for _ in range(LIMIT):
            with suppress(subprocess.TimeoutExpired):
                said = process.communicate(timeout=1)[0].decode(errors="replace")
                failed = re.search("^(FAILED|ERROR) (.*)", said, re.MULTILINE)
                # 5: of these tests none is for this half.
                return "" if process.returncode in (0, 5) else failed[2].partition(" - ")[0] if failed else "it crashed"
            if stop.is_set():
                raise KeyboardInterrupt
        return f"no end after {LIMIT} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run_all(wanted: list[Mutant], known: dict[str, Any], left: Path, state: str) -> None:
    """Judge what is not known yet, one a core; each judgement is kept at once, in `left` where nothing noticed it."""
    stop, copies, trust = Event(), queue.SimpleQueue(), Trust()
    for worker in range(cores()):
        copies.put(_copy(PLACE / f"copy-{worker}"))

    def one(mutant: Mutant, stage: int) -> None:
        copy = copies.get()
        try:
            verdict = judge(mutant, stage, copy, trust, stop)
        finally:
            copies.put(copy)
        known[_key(mutant)] = verdict
        line = {"key": _key(mutant)} | ({} if verdict["noticed"] else {"state": state}) | verdict
        with (NOTICED if verdict["noticed"] else left).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        outcome = "noticed" if verdict["noticed"] else "SURVIVES" if stage else "so far"
        print(f"{outcome:<8}  {verdict['seconds']:6.1f} s  {_say(mutant)}", flush=True)

    with ThreadPoolExecutor(cores()) as pool:
        try:
            for stage in (0, 1):
                unjudged = [
                    m for m in wanted if not (v := known.get(_key(m))) or not (v["noticed"] or v["stage"] >= stage)
                ]
                list(pool.map(one, unjudged, [stage] * len(unjudged)))
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _copy(place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    left = shutil.ignore_patterns(".*", "_build", "__pycache__", "*.egg-info")
    return Path(shutil.copytree(ROOT, place, ignore=left))


@cache
def _key(mutant: Mutant) -> str:
    return hashlib.sha256(f"{mutant.module.relative_to(ROOT)}\0{mutant.code()}".encode()).hexdigest()


def _state() -> str:
    """A hash of the library and its tests: what nobody noticed, a new test may."""
    files = sorted(path for folder in ("lib", "tests") for path in (ROOT / folder).rglob("*.py"))
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()


def _known(left: Path, state: str) -> dict[str, Any]:
    """Judgements of earlier calls that still hold."""
    lines = [
        line for kept in (left, NOTICED) if kept.exists() for line in kept.read_text(encoding="utf-8").splitlines()
    ]
    verdicts = (json.loads(line) for line in lines)
    return {verdict["key"]: verdict for verdict in verdicts if verdict["noticed"] or verdict["state"] == state}


def _say(mutant: Mutant) -> str:
    """Where a fault is, and its line as it was and as it is."""
    name, _, place, *lines = mutant.difference(context=0).splitlines()
    return "  ".join([f"{name[4:]}:{place.split()[1][1:]}", *(line.replace("    ", "") for line in lines)])


def report(wanted: list[Mutant], known: dict[str, Any]) -> str:
    """What survived, as differences, and how many of each module's faults were noticed."""
    survived = [mutant for mutant in wanted if not known[_key(mutant)]["noticed"]]
    lines = [f"{mutant.difference()}\n" for mutant in survived]
    for module in dict.fromkeys(mutant.module for mutant in wanted):
        of = [mutant for mutant in wanted if mutant.module == module]
        noticed = sum(bool(known[_key(mutant)]["noticed"]) for mutant in of)
        lines.append(f"{noticed:>4} of {len(of):<4} {module.relative_to(ROOT).as_posix()}")
    seconds = sum(known[_key(mutant)]["seconds"] for mutant in wanted) / len(wanted)
    noticed = len(wanted) - len(survived)
    return "\n".join([*lines, f"{noticed} of {len(wanted)} noticed, {noticed / len(wanted):.1%}; {seconds:.1f} s each"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as lib/data/span.py; default: all")
    parser.add_argument("--count", type=int, default=300, metavar="N", help="how many faults are tried")
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="which: another number, another sample")
    wanted = parser.parse_args()
    modules = [(ROOT / module).resolve() for module in wanted.modules] or sorted((ROOT / "lib").rglob("*.py"))
    chosen = sample(modules, wanted.count, wanted.seed)
    print(f"{len(chosen)} faults in {len({mutant.module for mutant in chosen})} modules", flush=True)
    state, left = _state(), PLACE / "left.jsonl"
    PLACE.mkdir(parents=True, exist_ok=True)
    known = _known(left, state)
    run_all(chosen, known, left, state)
    print(report(chosen, known))


if __name__ == "__main__":
    main()
