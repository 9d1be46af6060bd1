"""Write the report: what the figures of all stages say."""

from pathlib import Path

from labeltune.config import base
from labeltune.config.evaluation import Report
from labeltune.reporting.report import build
from labeltune.reporting.report.results import RunResults
from labeltune.runtime import errors

PLOTS = Path("plots")


def main() -> None:
    """Write plots/report.html and plots/report.md."""
    settings = base.section("report", Report)
    document = build.compose(RunResults.read(), settings)
    build.save(document, PLOTS)
    build.show(document, PLOTS)


if __name__ == "__main__":
    errors.run(main)
