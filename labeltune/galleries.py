"""The pictures of a report, each beside what its numbers say."""

from labeltune.blocks import Block, Code, Gallery, Line, Paragraph, Picture
from labeltune.evidence import Evidence
from labeltune.wording import Wording


def gallery(evidence: Evidence, wording: Wording, readings: dict[str, Line | None]) -> list[Block]:
    """Put pictures side by side; one that is missing is said to be.

    Args:
        readings: name of the picture, without `.png` -> the sentence under it; None leaves the picture out.
    """
    wanted = {name: reading for name, reading in readings.items() if reading is not None}
    files = {name: evidence.plots / f"{name}.png" for name in wanted}
    there = [
        Picture(
            file=files[name],
            alt=wording.text(f"picture.{name}"),
            reading=reading,
            dpi=evidence.settings["plot"]["dpi"],
        )
        for name, reading in wanted.items()
        if files[name].is_file()
    ]
    lost = [
        Paragraph((*wording.line("picture.missing", file=Code(f"plots/{name}.png")), *reading))
        for name, reading in wanted.items()
        if not files[name].is_file()
    ]
    return [*([Gallery(there)] if there else []), *lost]
