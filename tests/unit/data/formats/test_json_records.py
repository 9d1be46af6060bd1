"""JSON: the shapes of documents that hold records."""

from pathlib import Path

import pytest

from labeltune.data.formats.json_records import records_of_document
from labeltune.runtime.errors import UserError

ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 2}]


@pytest.mark.parametrize(
    "content",
    [
        '[{"text": "a", "label": 1}, {"text": "b", "label": 2}]',
        '{"text": "a", "label": 1} {"text": "b", "label": 2}',
        '{"version": 3, "data": [{"text": "a", "label": 1}, {"text": "b", "label": 2}], "more": []}',
        '{"text": {"7": "a", "9": "b"}, "label": {"7": 1, "9": 2}}',
        '{"text": ["a", "b"], "label": [1, 2]}',
        '{"columns": ["text", "label"], "data": [["a", 1], ["b", 2]]}',
    ],
)
def test_every_usual_shape_gives_the_same_records(content: str) -> None:
    assert [row for _, row in records_of_document(Path("a.json"), content)] == ROWS


@pytest.mark.parametrize(
    "content", ['{"a": [{"text": "x"}], "b": [{"text": "y"}]}', '{"a": {"x": 1}, "b": {"y": 1}}', "3"]
)
def test_a_document_without_one_list_of_records_is_refused(content: str) -> None:
    with pytest.raises(UserError, match=r"a\.json: expected a list of records"):
        list(records_of_document(Path("a.json"), content))


def test_annotators_who_disagree_give_several_labels() -> None:
    def by(choice: str) -> str:
        return f'{{"result": [{{"type": "choices", "from_name": "mood", "value": {{"choices": ["{choice}"]}}}}]}}'

    for second, moods in (("good", "good"), ("bad", ["good", "bad"])):
        content = f'[{{"data": {{"text": "x"}}, "annotations": [{by("good")}, {by(second)}]}}]'
        assert list(records_of_document(Path("a.json"), content)) == [(1, {"text": "x", "mood": moods})]
