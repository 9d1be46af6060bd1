import json
import re
import string
import tomllib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from labeltune.config.evaluation import Report, Robustness
from labeltune.data.labels import LabelSet
from labeltune.evaluation.comparison import decide
from labeltune.evaluation.metrics import paired_test
from labeltune.evaluation.robustness.evaluate import Given, measure, plan
from labeltune.inference.calibration import NONE
from labeltune.reporting.report import build, comparison_sections, data_sections, model_sections
from labeltune.reporting.report.document import Document
from labeltune.reporting.report.i18n import TEXTS, Wording
from labeltune.reporting.report.render import code, escape, html, markdown, size
from labeltune.reporting.report.results import RunResults
from labeltune.runtime.errors import UserError
from stages import report as stage
from tests.findings import PICTURES, png, rows_and_logits, write_run

ROOT = Path(__file__).parents[4]
NUMBER = re.compile(r"\d[\d.,]*")
INLINE = ("bdi", "code", "mark", "span")
OPTIONAL = ("confidence_analysis", "robustness_result", "baseline_comparison", "baselines", "worklist")
HOSTILE = (
    "<script>document.title='run'</script>",
    "<img src=http://example.com/a.png onerror=alert(1)>",
    "![picture](http://example.com/b.png) [link](http://example.com) <http://example.com> www.example.com",
    "abc\u202efdp.exe\u202c \x1b[31m \x00 \u200b",
    "``` | a | `b` </code></pre> **bold** $x$ &lt; &#60; \\",
)


class Page(HTMLParser):
    """What a browser would make of a page: its tags, and the text that a reader sees."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.hidden = ""
        self.feed(page)
        self.text = "".join(self.parts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.parts.append("" if tag in INLINE else " ")
        self.hidden = tag if tag in ("style", "title", "script") else ""

    def handle_endtag(self, tag: str) -> None:
        self.hidden = ""

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.parts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    names = ("ham", "spam")
    write_run(folder, names, *rows_and_logits(names))
    return folder


@pytest.fixture(scope="module")
def evidence(run: Path) -> RunResults:
    return RunResults.read(run)


def compose(evidence: RunResults, language: Any = "en", mistakes: int = 20) -> Document:
    return build.compose(evidence, Report(language=language, mistakes=mistakes))


def chapter(document: Document, anchor: str) -> str:
    (found,) = (part for part in document.chapters if part.anchor == anchor)
    return markdown(replace(document, verdict=[], tiles=[], chapters=[found]))


def test_the_verdict_comes_first_and_its_figures_are_those_of_the_predictions(run: Path, evidence: RunResults) -> None:
    rows = pd.read_csv(run / "data/predictions/test.csv", dtype={"label": str, "prediction": str})
    right, surest = rows["label"] == rows["prediction"], ~rows["abstained"]
    verdict = [build.plain(answer) for _, answer in compose(evidence).verdict]
    assert verdict[0].startswith(f"It labels {right.mean():.1%} of {len(rows)} test rows rightly (95% interval ")
    assert "TF-IDF and logistic regression" in verdict[1]
    assert "p = 0.73" in verdict[1].replace("\u00a0", " ")
    assert f"{surest.mean():.1%} of the test rows" in verdict[2]
    assert f"{right[surest].mean():.1%} of them are right" in verdict[2]
    assert verdict[3].startswith("No loss of accuracy is certain for any of the 4 kinds of change")
    page = html(compose(evidence))
    assert page.index('class="verdict"') < page.index('class="tiles"') < page.index('id="quality"')


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_and_the_markdown_hold_the_same_figures(evidence: RunResults, language: str) -> None:
    document = compose(evidence, language)
    page, text = Page(html(document)), markdown(document)
    listed = re.sub(r"(?m)^\d+\. ", "", text)  # the numbers of a Markdown list are no figures
    listed = re.sub(r"(?m)^```(json|yaml)$", "", listed)
    assert NUMBER.findall(listed.replace("\\", "")) == NUMBER.findall(page.text)
    assert len(NUMBER.findall(page.text)) > 300
    for part in document.chapters:
        assert f"\n## {part.title}\n" in text
        assert ("section", {"id": part.anchor}) in page.tags


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


def test_a_page_loads_nothing(evidence: RunResults) -> None:
    text = html(compose(evidence))
    page = Page(text)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert not {"script", "iframe", "object", "embed", "base", "form", "video", "audio"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "srcset", "href", "action", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert not re.search(r"@import|url\(", text)
    assert sum(tag == "img" for tag, _ in page.tags) == len(PICTURES)
    assert all(attributes["alt"] and attributes["width"] for tag, attributes in page.tags if tag == "img")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> RunResults:
    """Labels, ids and texts that would like to be markup."""
    folder = tmp_path_factory.mktemp("hostile")
    names = ("<b>ham</b>|`x`", "spam\u202e![a](http://example.com/c.png)", "שלום *b*")
    rows, logits = rows_and_logits(names)
    rows["text"] = [HOSTILE[place % len(HOSTILE)] for place in range(len(rows))]
    rows["id"] = [f"{name}<i>|`{place}" for place, name in enumerate(rows["id"])]
    write_run(folder, names, rows, -logits)  # nearly every answer is wrong, and so shown
    return RunResults.read(folder)


def test_users_words_are_text_on_the_page(hostile: RunResults) -> None:
    calm = {tag for tag, _ in Page(html(compose(hostile))).tags}
    assert not {"script", "b", "i"} & calm
    page = Page(html(compose(hostile, mistakes=60)))
    assert all((a["src"] or "").startswith("data:") for tag, a in page.tags if tag == "img")
    for text in ("<script>document.title='run'</script>", "onerror=alert(1)>", "**bold** $x$ &lt; &#60; \\"):
        assert text in page.text
    assert ("span", {"class": "point"}) in page.tags
    for point in ("U+202E", "U+202C", "U+001B", "U+0000", "U+200B"):
        assert point in page.text


def test_users_words_are_text_in_markdown(hostile: RunResults) -> None:
    text = markdown(compose(hostile, mistakes=60))
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    found: dict[str, list[str]] = {}
    for token in reader.parse(text):
        for part in [token, *(token.children or [])]:
            found.setdefault(part.type, []).append(part.content or str(part.attrs.get("src", "")))
    assert "link_open" not in found
    assert "html_inline" not in found
    assert all(re.fullmatch(r"</?details>(<summary>.*</summary>)?\n?", markup) for markup in found["html_block"])
    sources = re.findall(r'<img src="([^"]+)"', reader.render(text))
    assert sorted(sources) == sorted(f"{name}.png" for name in PICTURES)
    assert any("<script>" in part for part in found["code_inline"])
    # A bar in a name parts no cells: every row of every table is as wide as its header.
    for table in re.findall(r"<table>.*?</table>", reader.render(text), flags=re.DOTALL):
        widths = {len(re.findall(r"<t[hd]", row)) for row in re.findall(r"<tr>.*?</tr>", table, flags=re.DOTALL)}
        assert len(widths) == 1


def test_nothing_hidden_is_left_in_either_file(hostile: RunResults) -> None:
    document = compose(hostile, mistakes=60)
    for text in (html(document), markdown(document), *(build.plain(answer) for _, answer in document.verdict)):
        assert not set("\u202e\u202c\x1b\x00\u200b") & set(text)


def test_what_is_undefined_is_said_to_be_with_the_reason(tmp_path: Path) -> None:
    names = ("ham", "spam")
    rows, logits = rows_and_logits(names)
    only = (rows["label"] == "ham").to_numpy()
    right = logits[only].copy()
    right[:, 0] = right[:, 1] + 3  # none is ever answered with spam
    write_run(tmp_path, names, rows[only].reset_index(drop=True), right)
    evidence = RunResults.read(tmp_path)
    text = markdown(compose(evidence))
    assert "ROC-AUC: **undefined** · undefined: every test row has the label `ham`" in text
    assert "| `spam` | undefined | undefined | undefined | undefined | 0 |" in text
    assert "Precision is undefined for a label that is never answered: `spam`." in text
    assert "Recall is undefined for a label that no test row has: `spam`." in text
    assert "No test row is labelled wrongly." in text
    assert "No error in 30 test rows." in text
    assert "there is nothing for confidence to tell apart" in text
    assert "It labels 100.0% of 30 test rows rightly (95% interval 88." in text
    assert not re.search(r"(?i)\bnan\b|\bnone\b(?! of)", text.split("## Data")[0])
    assert "无定义" in markdown(compose(evidence, "zh"))


def test_no_answer_and_no_interval_are_said(evidence: RunResults) -> None:
    assert evidence.confidence is not None
    rule = json.loads(json.dumps(evidence.confidence["abstention"]))
    rule["test"] |= {"answered": 0, "accuracy": None, "accuracy_interval": None, "coverage": 0.0}
    changed = replace(evidence, confidence=evidence.confidence | {"abstention": rule})
    text = chapter(compose(changed), "confidence")
    assert "which no test row reaches" in text
    assert "| test | 60 | 0.0% (" in text
    assert "Where no row is answered, the share of right answers is undefined." in text


def test_a_report_without_optional_parts_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    for file in run.rglob("*"):
        if file.is_file() and file.stem not in OPTIONAL and file.parent.name not in ("costs", "robustness"):
            target = tmp_path / file.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    (tmp_path / "plots/roc.png").unlink()
    whole, document = compose(RunResults.read(run)), compose(RunResults.read(tmp_path))
    assert [part.anchor for part in document.chapters] == [part.anchor for part in whole.chapters]
    answers = [build.plain(answer) for _, answer in document.verdict]
    assert answers[1:] == ["Not measured in this run."] * 3
    for anchor in ("confidence", "robustness", "cheaper", "costs"):
        assert "the stage that measures it left no file" in chapter(document, anchor)
    assert "No worklist was made" in chapter(document, "data")
    assert "The picture `plots/roc.png` is missing." in chapter(document, "quality")
    assert "img" in {tag for tag, _ in Page(html(document)).tags}
    html(compose(RunResults.read(tmp_path), "zh"))


@pytest.mark.parametrize(
    "file", ["metrics/metrics.json", "data/predictions/test.csv", "models/classifier/labeltune.json"]
)
def test_a_report_needs_the_model_and_its_figures(run: Path, tmp_path: Path, file: str) -> None:
    for source in run.rglob("*"):
        if source.is_file() and str(source.relative_to(run)) != file:
            target = tmp_path / source.relative_to(run)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    with pytest.raises(UserError, match=f"{re.escape(file)} is missing.*dvc repro"):
        RunResults.read(tmp_path)


def test_an_untuned_base_model_that_was_not_measured_is_said_not_to_be(evidence: RunResults) -> None:
    assert evidence.comparison is not None
    found = evidence.comparison | {"baseline_model": None, "improvement": None, "baseline_missing": "an <encoder>"}
    text = chapter(compose(replace(evidence, comparison=found)), "cheaper")
    assert "The base model was not measured before fine-tuning: `an <encoder>`" in text


@pytest.mark.parametrize(
    ("difference", "p_value", "english", "chinese"),
    [
        (0.01, 0.7, "Yes, as far as these rows can tell: TF-IDF", "微调模型高 1.0 个百分点"),
        (-0.017, 0.7, "(the fine-tuned model is 1.7 points less accurate;", "微调模型低 1.7 个百分点"),
        (0.0, 1.0, "(the fine-tuned model is as accurate;", "微调模型与之持平"),
        (-0.1, 0.001, "Yes, a cheaper model is better: TF-IDF", "低成本模型更好"),
        (0.1, 0.001, "No, the fine-tuned model is more accurate than the one cheaper model.", "不可以"),
    ],
)
def test_the_verdict_is_worded_by_the_sign_of_the_difference(
    evidence: RunResults, difference: float, p_value: float, english: str, chinese: str
) -> None:
    assert evidence.comparison is not None
    tfidf = evidence.comparison["models"]["tfidf"]
    paired = tfidf["paired"] | {"difference": difference, "p_value": p_value}
    models = {"tfidf": tfidf | {"paired": paired, "training_rows": 512}}
    found = evidence.comparison | {"models": models, "verdict": decide(models, 60).record()}
    lines = {name: build.plain(comparison_sections.verdict(found, Wording(name))) for name in ("en", "zh")}
    assert english in lines["en"]
    assert "fitted to 512 of the 781 training rows" in lines["en"]
    assert chinese in lines["zh"]
    assert "by −" not in lines["en"]
    found["verdict"] = decide(models, 49).record()
    assert "are too few to tell; a verdict takes 50" in build.plain(comparison_sections.verdict(found, Wording("en")))


def test_what_breaks_it_most_surely_costs_accuracy(evidence: RunResults) -> None:
    assert evidence.robustness is not None
    tests = json.loads(json.dumps(evidence.robustness["perturbation_tests"]))
    say: Callable[[], str] = lambda: build.plain(  # noqa: E731
        comparison_sections.falls({"perturbation_tests": tests}, Wording("en"))
    )
    fallen, kept = np.arange(225) < 192, np.arange(225) < 205
    tests["typo_insertion"]["paired"] = paired_test(kept, fallen).record()  # 5.8 points of 225 rows
    tests["case"]["paired"] = paired_test(np.ones(16, bool), np.arange(16) > 1).record()  # 12.5 points of 16 rows
    assert say().startswith("Typos: accuracy falls by 5.8 points (95% interval +")
    tests["word_deletion"]["paired"] = tests["typo_insertion"]["paired"]  # may touch the label
    tests["emoji"] = tests["case"] | {"accuracy": None, "paired": None}  # changed no row
    tests["typo_insertion"]["paired"] = tests["synonym_replace"]["paired"] = paired_test(kept, kept).record()
    assert say().startswith("No loss of accuracy is certain for any of the 4 kinds of change")
    for test in tests.values():
        test["paired"] = None
    assert say() == "No change that keeps the label altered any row."


@pytest.mark.parametrize("language", ["en", "zh"])
def test_texts_in_a_language_without_words_to_change_have_a_report(evidence: RunResults, language: str) -> None:
    texts = ["Позвоните мне завтра, пожалуйста.", "Вы выиграли приз! Нажмите сюда."] * 30
    given = Given(
        ids=[str(place) for place in range(60)], texts=texts, labels=np.arange(60) % 2,
        probabilities=np.tile([[0.9, 0.1], [0.2, 0.8]], (30, 1)), names=LabelSet(names=("a", "b"), words=("a", "b")),
        calibration=NONE,
    )  # fmt: skip
    settings = Robustness()
    trials = plan(given, settings)
    answers = {text: np.array([0.6, 0.4]) for trial in trials for text in trial.texts}
    found = measure(given, trials, answers, settings)
    assert any(test["accuracy"] is None for test in found["perturbation_tests"].values())
    document = compose(replace(evidence, robustness=found), language)
    assert html(document)
    assert Wording(language).text("word.undefined") in chapter(document, "robustness")


def test_the_worst_mistakes_are_the_most_confident_ones(evidence: RunResults) -> None:
    rows = evidence.predictions
    wrong = rows[rows["label"] != rows["prediction"]]
    assert len(wrong) > 2
    text = chapter(compose(evidence, mistakes=2), "mistakes")
    assert f"The 2 most confident of {len(wrong)} mistakes" in text
    shown = re.findall(r"confidence ([\d.]+)%", text)
    assert shown == [f"{100 * value:.1f}" for value in sorted(wrong["confidence"], reverse=True)[:2]]
    assert f"of {len(wrong)} mistakes" in chapter(compose(evidence, mistakes=0), "mistakes")


def test_every_text_is_in_both_languages_with_the_same_places_to_fill() -> None:
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    places = {
        (group, key, language): sorted(
            {name for _, name, _, _ in string.Formatter().parse(text.split("|")[-1]) if name is not None}
        )
        for group, keys in texts.items()
        for key, languages in keys.items()
        for language, text in languages.items()
    }
    for group, keys in texts.items():
        for key, languages in keys.items():
            assert set(languages) == {"en", "zh"}, f"{group}.{key}"
            assert places[group, key, "en"] == places[group, key, "zh"], f"{group}.{key}"
            assert all(text.strip() for text in languages.values()), f"{group}.{key}"


def test_a_chinese_report_is_chinese(evidence: RunResults) -> None:
    document = compose(evidence, "zh")
    assert document.language == "zh-Hans"
    for question, answer in document.verdict:
        assert re.search(r"[\u4e00-\u9fff]", question)
        assert re.search(r"[\u4e00-\u9fff]", build.plain(answer))
    english = set(re.findall(r"[A-Za-z]{4,}", " ".join(part.title for part in document.chapters)))
    assert not english
    assert '<html lang="zh-Hans">' in html(document)


def test_every_text_that_the_code_names_is_there() -> None:
    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    pattern = re.compile(rf'(?:line|text)\(\s*"((?:{"|".join(texts)})\.\w+)"')
    files = set((ROOT / "labeltune/reporting/report").glob("*.py"))
    named = {key for file in files for key in pattern.findall(file.read_text("utf-8"))}
    assert len(named) > 60
    assert all(key.split(".")[1] in texts[key.split(".")[0]] for key in named)


def test_reasons_and_splits_have_names_in_both_languages() -> None:
    from labeltune.data.cleaning import REASONS

    texts = tomllib.loads(TEXTS.read_text(encoding="utf-8"))
    assert set(texts["reason"]) == set(REASONS)
    assert set(data_sections.SPLITS) <= set(texts["split"])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.96888, "96.9%"), (1.0, "100.0%"), (0.9999, "99.99%"), (0.0, "0.0%"), (0.0004, "0.04%"), (None, "undefined")],
)
def test_a_share_is_all_or_nothing_only_if_it_is(value: float | None, shown: str) -> None:
    assert Wording("en").percent(value) == shown


def test_figures_are_written_as_people_write_them() -> None:
    wording = Wording("en")
    assert wording.points(-0.021) == "−2.1"
    assert wording.points(-0.0001) == "0.0"
    assert wording.chance(1e-9).replace("\u00a0", " ") == "p < 0.001"
    assert wording.chance(0.0004999).replace("\u00a0", " ") == "p < 0.001"
    assert wording.p_value(0.0312) == "0.031"
    assert (wording.count("rows", 1), wording.count("rows", 2000)) == ("1 test row", "2,000 test rows")
    assert wording.span({"low": 0.5, "high": 1.0, "method": "exact"}) == "50.0% to 100.0%"
    assert wording.span(None) == "no interval"
    assert (wording.amount(1234.5), wording.amount(0.25), wording.amount(None)) == ("1,234", "0.2", "not measured")


def test_a_temperature_that_does_not_help_is_said_not_to(evidence: RunResults) -> None:
    assert evidence.confidence is not None
    found = json.loads(json.dumps(evidence.confidence))
    wording = Wording("en")
    found["calibration"]["fitted"] = True
    for before, after, words in (
        (0.02, 0.05, "does not help"),
        (0.05, 0.02, "from 5.0 points"),
        (0.02, 0.02, "leaves"),
    ):
        found["calibration"]["before"]["ece"], found["calibration"]["after"]["ece"] = before, after
        assert words in chapter(compose(replace(evidence, confidence=found)), "confidence")
    found["calibration"]["fitted"] = False
    assert "No temperature was asked for" in build.plain(model_sections.temperature(found, wording))


def test_the_confidence_of_each_label_is_shown_and_class_weights_are_told(evidence: RunResults) -> None:
    assert evidence.confidence is not None
    found = json.loads(json.dumps(evidence.confidence))
    after = found["calibration"]["after"]["per_label"]
    first, *_, last = after
    after[first] |= {"answered": 40, "confidence": 0.741, "accuracy": 0.42, "classwise_ece": 0.123}
    after[last] |= {"answered": 0, "confidence": None, "accuracy": None, "accuracy_interval": None}
    found["calibration"] |= {"fitted": True, "bias": dict.fromkeys(after, 0.5)}
    for language, words in (("en", ("label of least cost", "never answered")), ("zh", ("代价最小", "从未被预测"))):
        text = markdown(compose(replace(evidence, confidence=found), language))
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
        (row,) = (row for row in cells if row[1:3] == ["40", "74.1%"])
        assert (row[0].strip("`"), row[3][:5], row[4]) == (first, "42.0%", "0.123")
        assert all(word in text for word in words)


def test_markdown_specials_lose_their_meaning() -> None:
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for text in (*HOSTILE, "a_b_c *d* ~~e~~ [f]: g", "<!-- x -->", "&copy;", "http://example.com"):
        spoken = re.sub(
            r"<[^>]+>", "", reader.renderInline(escape(text)).replace("&lt;", "\ue000").replace("&gt;", ">")
        )
        tags = set(re.findall(r"<(\w+)", reader.renderInline(escape(text))))
        assert not tags, text
        assert spoken
        assert re.fullmatch(r"(?s)<code>.*</code>", reader.renderInline(code(text)))
        assert reader.renderInline(code(text)).count("<code>") == 1


def test_the_size_of_a_picture_is_read_from_its_header(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_bytes(png(900, 600))
    assert size(file, 150) == (576, 384)


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
    assert "How good is it? It labels " in shown
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
    assert "这个分类器有几分可信" in (tmp_path / "plots/report.md").read_text("utf-8")


def test_confusions_are_counted_as_scikit_learn_counts_them() -> None:
    from sklearn.metrics import confusion_matrix

    from labeltune.evaluation import metrics
    from labeltune.reporting.report import model_sections

    rng = np.random.default_rng(3)
    labels, raw = rng.integers(0, 3, 90), rng.random((90, 3))
    given = raw / raw.sum(axis=1, keepdims=True)
    matrix = confusion_matrix(labels, given.argmax(axis=1))
    np.fill_diagonal(matrix, 0)
    place = np.unravel_index(matrix.argmax(), matrix.shape)
    line = build.plain(model_sections.confusions(metrics.summarise(labels, given, ["a", "b", "c"]), Wording("en")))
    first, second = ("abc"[int(position)] for position in place)
    assert line.startswith(f"{matrix.sum()} errors, most often {first} taken for {second} ({matrix.max()})")
