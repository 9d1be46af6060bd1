import re
from pathlib import Path

import pandas as pd
import pytest

from labeltune.reporting.report.render import answers, heading, html, markdown
from labeltune.reporting.report.results import RunResults
from stages import report as stage
from tests.unit.reporting.report.conftest import Page, compose

NUMBER = re.compile(r"\d[\d.,]*")
OPTIONAL = ("confidence_analysis", "robustness_result", "baseline_comparison", "baselines", "worklist")


def test_the_verdict_comes_first_and_its_figures_are_those_of_the_predictions(run: Path, evidence: RunResults) -> None:
    rows = pd.read_csv(run / "data/predictions/test.csv", dtype={"label": str, "prediction": str})
    right, surest = rows["label"] == rows["prediction"], ~rows["abstained"]
    verdict = [answer for _, answer in answers(compose(evidence))]
    assert verdict[0].startswith(f"It classifies {right.mean():.1%} of {len(rows)} test rows correctly (95% interval ")
    assert "TF-IDF and logistic regression" in verdict[1]
    assert "p = 0.73" in verdict[1].replace("\u00a0", " ")
    assert f"{surest.mean():.1%} of the test rows" in verdict[2]
    assert f"{right[surest].mean():.1%} are classified correctly" in verdict[2]
    assert verdict[3].startswith("None of the 4 perturbations that keep the label")
    page = html(compose(evidence))
    assert page.index('class="verdict"') < page.index('class="tiles"') < page.index('id="accuracy"')


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_and_the_markdown_hold_the_same_figures(evidence: RunResults, language: str) -> None:
    document = compose(evidence, language)
    page, text = Page(html(document)), markdown(document)
    listed = re.sub(r"(?m)^\d+\. ", "", text)  # the numbers of a Markdown list are no figures
    listed = re.sub(r"(?m)^ *```.*$", "", listed)
    assert NUMBER.findall(re.sub(r"[\\`]", "", listed)) == NUMBER.findall(page.text)
    assert len(NUMBER.findall(page.text)) > 300
    for anchor, part in document.chapters.items():
        assert f"\n## {heading(part)}\n" in text
        assert ("section", {"id": anchor}) in page.tags
        assert ("a", {"href": f"#{anchor}"}) in page.tags


def test_the_figures_are_those_of_the_files(evidence: RunResults) -> None:
    text = markdown(compose(evidence))
    trusted, robust = evidence.confidence, evidence.robustness
    assert trusted is not None
    assert robust is not None
    assert f"Calibration error (ECE) | {trusted['calibration']['before']['ece']:.3f} |" in text
    test = robust["perturbation_tests"]["typo_insertion"]
    low, high = (100 * test["accuracy_interval"][end] for end in ("low", "high"))
    assert (
        f"| Typos | 10.0% | 60 | 58 | {test['original_accuracy']:.1%} | {test['accuracy']:.1%} ({low:.1f} to " in text
    )
    assert f"{high:.1f})" in text
    for name, row in evidence.metrics["per_class"].items():
        assert f"| `{name}` | {row['precision']:.1%} | {row['recall']:.1%} | {row['f1']:.3f} |" in text
    assert "| TF-IDF and logistic regression |" in text
    assert "| 1.9 | 5,200 | 260 | 1.4 |" in text
    assert "| **Fine-tuned model** |" in text
    assert "**105** | **42.9** | **1,850** | **1.0** |" in text
    assert "| Balancing the labels | – | 3,412 |" in text
    assert "245,760 of 134,761,920" in text


def test_a_report_without_optional_parts_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    for file in run.rglob("*"):
        if file.is_file() and file.stem not in OPTIONAL and file.parent.name not in ("costs", "robustness"):
            target = tmp_path / file.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    (tmp_path / "plots/roc.png").unlink()
    whole, document = compose(RunResults.read(run)), compose(RunResults.read(tmp_path))
    assert list(document.chapters) == list(whole.chapters)
    assert [answer for _, answer in answers(document)][1:] == ["Not measured in this run."] * 3
    for name in ("confidence", "robustness", "comparison", "costs"):
        assert "the file of the stage that measures it is missing" in document.chapters[name]
    assert "No worklist was created" in document.chapters["data"]
    assert "The figure `plots/roc.png` is missing. In 9" in document.chapters["accuracy"]
    assert "img" in {tag for tag, _ in Page(html(document)).tags}
    html(compose(RunResults.read(tmp_path), "zh"))


def test_a_chinese_report_is_chinese(evidence: RunResults) -> None:
    document = compose(evidence, "zh")
    assert document.language == "zh-Hans"
    for question, answer in answers(document):
        assert re.search(r"[\u4e00-\u9fff]", question)
        assert re.search(r"[\u4e00-\u9fff]", answer)
    english = set(re.findall(r"[A-Za-z]{4,}", " ".join(map(heading, document.chapters.values()))))
    assert not english
    assert '<html lang="zh-Hans">' in html(document)


def test_the_stage_writes_the_same_bytes_again_and_says_the_verdict(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    stage.main()
    shown = capsys.readouterr().out
    files = [run / "plots/report.html", run / "plots/report.md"]
    first = [file.read_bytes() for file in files]
    stage.main()
    assert [file.read_bytes() for file in files] == first
    assert "How accurate is the classifier? It classifies " in shown
    assert "plots/report.html" in shown
    assert not list(run.rglob("*.part"))


def test_settings_choose_the_language_of_the_stage(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in run.rglob("*"):
        if source.is_file():
            target = tmp_path / source.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(resolved.read_text("utf-8").replace("language: en", "language: zh"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    stage.main()
    assert "分类器评估报告" in (tmp_path / "plots/report.md").read_text("utf-8")
