"""Collects what every proof came to, and keeps docs/correctness.md the table of it.

`pytest tests/proofs -m proof --write-correctness` writes the page. Any run of all proofs fails where the page says
otherwise.
"""

import re
from pathlib import Path

import pytest

from tests.proofs.matrix import CELLS, HEADS, METHODS, PROOFS, applies
from tests.tiny import CONFIGURATIONS

PAGE = Path(__file__).parents[2] / "docs/correctness.md"
MARKS = {True: "✓", False: "✗"}

NODE = re.compile(rf"test_proofs\.py::test_(?P<proof>{'|'.join(PROOFS)})\[(?P<cell>[^\]]*?)(-all|-1)?\]")

Outcomes = dict[tuple[str, str], bool]
OUTCOMES = pytest.StashKey[Outcomes]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-correctness", action="store_true", help="write docs/correctness.md from the proofs")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[OUTCOMES] = {}
    config.pluginmanager.register(Collector(config))


class Collector:
    """Notes what each proof came to, from the reports, which the workers of pytest-xdist send too."""

    def __init__(self, config: pytest.Config) -> None:
        self.outcomes = config.stash[OUTCOMES]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        proof = NODE.search(report.nodeid)
        if proof and (report.when == "call" or report.failed):
            key = (proof["proof"], proof["cell"])
            self.outcomes[key] = self.outcomes.get(key, True) and report.passed


def page(outcomes: Outcomes) -> str:
    """Write the page from the outcomes of the tests."""
    numbers = {proof: i for i, proof in enumerate(PROOFS, start=1)}
    lines = [
        "# Correctness",
        "",
        "Written by `pytest tests/proofs -m proof --write-correctness`. Each tick is a test that passed on a tiny",
        "model of the architecture's own class, which was trained, saved and loaded. These tests fail if this page is",
        "out of date.",
        "A dash means that the property does not apply: nothing is merged without adapters, and Transformers has no",
        "classifier with an MLP head and none that scores label words of several tokens.",
        "",
        *(f"{numbers[proof]}. {text}" for proof, text in PROOFS.items()),
        "",
        "| architecture | method | head | " + " | ".join(map(str, numbers.values())) + " |",
        "|---|---|---|" + "---|" * len(numbers),
    ]
    for cell in CELLS:
        architecture, method, head = cell
        marks = [MARKS[outcomes[proof, "-".join(cell)]] if applies(proof, cell) else "–" for proof in PROOFS]
        lines.append(f"| {architecture} | {method} | {HEADS[head]} | " + " | ".join(marks) + " |")
    classes = ", ".join(f"{name} ({CONFIGURATIONS[name][1]})" for name in dict.fromkeys(cell[0] for cell in CELLS))
    lines += [
        "",
        f"Architectures: {classes}. Methods: {', '.join(METHODS)}; qlora uses bitsandbytes' 4-bit weights on the CPU.",
        "For qlora, property 9 is tested without bitsandbytes' repacking for CPUs, which fails on matrices this small.",
        "",
        "`tests/unit/modeling/test_label_scoring.py` also compares label words of several tokens with a slow",
        "reference, one forward pass per label, with shared first tokens, prefixes and Chinese words.",
        "`tests/integration/test_crash_safety.py` and `tests/end_to_end/test_crash_safety.py` test that interrupted",
        "and resumed trainings end in the same bytes.",
    ]
    return "\n".join(lines) + "\n"


def pytest_sessionfinish(session: pytest.Session) -> None:
    outcomes = session.config.stash[OUTCOMES]
    wanted = {(proof, "-".join(cell)) for proof in PROOFS for cell in CELLS if applies(proof, cell)}
    if hasattr(session.config, "workerinput") or wanted - outcomes.keys():
        return  # a worker, or not all were run
    if session.config.getoption("write_correctness", False):
        PAGE.write_text(page(outcomes), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page(outcomes):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line(
            "docs/correctness.md is out of date: run `pytest tests/proofs -m proof --write-correctness`", red=True
        )
