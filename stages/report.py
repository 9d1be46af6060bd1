"""Write the report: what the figures of all stages say."""

from pathlib import Path

from labeltune import conf, report, terminal
from labeltune.evaluation import Report
from labeltune.evidence import Evidence

PLOTS = Path("plots")


def main() -> None:
    """Write plots/report.html and plots/report.md."""
    settings = conf.section("report", Report)
    document = report.compose(Evidence.read(), settings)
    report.save(document, PLOTS)
    report.show(document, PLOTS)


if __name__ == "__main__":
    terminal.run(main)
