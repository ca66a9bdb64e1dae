"""The process in which the tests of one hole run: a child of its own for each.

Children are forked from a process that has imported what takes seconds, where the system can fork. This module imports
nothing of ours, since `caption` is to come from the tree that is graded.
"""

import contextlib
import importlib
import json
import math
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import pytest

try:
    import resource
except ImportError:  # on Windows, where the clock alone counts
    resource = None  # type: ignore[assignment]

PRELOADED = ["torch", "torchvision", "h5py", "numpy", "pytest", "pycocotools.mask", "tyro", "nltk.translate.bleu_score"]
OUTER = ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_CURRENT_TEST")  # of a pytest that we may run under
IDLE = 5  # times the limit of processor time, the limit by the clock
OURS = ("caption", "preprocess", "conftest")
MAX_REASON = 130  # characters


def run_tests(
    tree: Path, modules: Sequence[str], tests: Sequence[str], seconds: float, until_closed: Connection
) -> dict[str, str]:
    """Run tests in a tree in which these modules are a student's. Return for each test the reason why it failed, in one
    line, "" if it passed. A parametrised test passes if all of its cases do.

    After so many seconds of processor time, so that other work on the machine takes nothing from them, or IDLE times as
    many by the clock, the child is killed; what has not ended by then has failed. So it is when the other end of the
    pipe `until_closed` is closed, if only by the end of this process.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload(PRELOADED)
    log = tree.with_name("log.jsonl")
    log.touch()
    ready, started = context.Pipe(duplex=False)
    arguments = (str(tree), list(modules), list(tests), str(log), seconds, started, until_closed)
    child = context.Process(target=_child, args=arguments, daemon=True)
    child.start()
    started.close()
    with contextlib.suppress(EOFError):
        ready.recv()  # the time of the imports is not the student's
    wait([child.sentinel, until_closed], IDLE * seconds)
    stopped = child.is_alive() or (resource is not None and child.exitcode == -signal.SIGXCPU)
    child.kill()
    child.join()
    cases, reasons, begun, general = _read(log)
    if stopped:
        general = f"no result within {seconds:g} s of processor time: is there a loop without an end?"
    elif not general:
        general = f"the process ended with exit code {child.exitcode} before the test had"
    found = {}
    for test in tests:
        missed = [case for case in cases if case == test or case.startswith(f"{test}[")] or [test]
        because = [reasons.get(case, f"{_name(case)}: {general}" if case in begun else general) for case in missed]
        found[test] = next(filter(None, because), "")
    return found


def _read(log: Path) -> tuple[list[str], dict[str, str], set[str], str]:
    """Return from the child's log the cases of all tests, the reasons of those that ended, those that began, and an
    error before any of them."""
    cases, reasons, begun, error = [], {}, set(), ""
    for line in log.read_text(encoding="utf-8").splitlines():
        kind, case, reason = json.loads(line)
        if kind == "case":
            cases.append(case)
        elif kind == "begin":
            begun.add(case)
        elif kind == "end":
            reasons[case] = reason
        else:
            error = error or reason
    return cases, reasons, begun, error


def _end_with(until_closed: Connection) -> None:
    """End this process when the other end of the pipe is closed."""
    wait([until_closed])
    os._exit(1)


def _child(
    tree: str,
    modules: list[str],
    tests: list[str],
    log: str,
    seconds: float,
    started: Connection,
    until_closed: Connection,
) -> None:
    """Import the modules and run the tests, and write what becomes of them to the file `log`."""
    threading.Thread(target=_end_with, args=(until_closed,), daemon=True).start()
    ours = Path(__file__).parents[1]
    os.environ.update({"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
    for name in OUTER:
        os.environ.pop(name, None)
    os.chdir(tree)
    sys.path[:] = [tree, *(path for path in sys.path if Path(path or ".").resolve() not in (ours, Path(tree)))]
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:  # imported with the main module again
        del sys.modules[name]
    sys.dont_write_bytecode = True
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    recorder = Recorder(Path(tree), Path(log))
    started.send(None)
    if resource is not None:
        limit = math.ceil(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))  # SIGXCPU, and after 5 s more SIGKILL
    sys.path.insert(1, str(Path(tree) / "tests"))
    for module in (*modules, "conftest"):  # first, since pytest would not tell what goes wrong with conftest
        try:
            importlib.import_module(module)
        except BaseException as error:  # a student's file may even exit
            recorder.write("error", module, f"{module} cannot be imported: {describe(error, Path(tree))}")
            return
    options = ["-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir", tree, "--continue-on-collection-errors"]
    with contextlib.suppress(SystemExit):
        pytest.main([*options, *tests], plugins=[recorder])


class Recorder:
    """A plugin of pytest that writes down each test when it begins and when it has ended."""

    def __init__(self, tree: Path, log: Path) -> None:
        self.tree, self.log = tree, log
        self.reasons: dict[str, str] = {}

    def write(self, kind: str, case: str, reason: str = "") -> None:
        """Add a line to the log, which a killed process leaves readable."""
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps([kind, case, reason])}\n")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self.write(
                "error", report.nodeid, f"{report.nodeid} cannot be read: {str(report.longrepr).split(chr(10))[-1]}"
            )

    def pytest_collection_finish(self, session: Any) -> None:
        for item in session.items:
            self.write("case", item.nodeid)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.write("begin", nodeid)

    def pytest_runtest_makereport(self, item: Any, call: Any) -> None:
        if call.excinfo is not None:
            self.reasons.setdefault(item.nodeid, f"{_name(item.nodeid)}: {describe(call.excinfo.value, self.tree)}")

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.write("end", nodeid, self.reasons.get(nodeid, ""))


def _name(case: str) -> str:
    """Return the name of a test without its file."""
    return case.split("::")[-1]


def describe(error: BaseException, tree: Path) -> str:
    """Return an error as one line, with the innermost function and statement of the tree's code, if there is one."""
    text = " ".join(str(error).split()).removesuffix(" Use -v to get more diff")
    kind = "" if isinstance(error, AssertionError) else type(error).__name__ + (": " if text else "")
    inside = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(tree / "caption")
    ]
    where = (
        f", in {inside[-1].name}: {inside[-1].line}" if inside and not isinstance(error, NotImplementedError) else ""
    )
    room = max(MAX_REASON - len(where), MAX_REASON // 2)
    line = f"{kind}{text}"
    return (line if len(line) <= room else f"{line[: room - 3]}...") + where
