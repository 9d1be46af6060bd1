"""The `labeltune` command."""

import argparse
from pathlib import Path
from typing import Any

from labeltune import __version__
from labeltune.config import resolve
from labeltune.console import terminal
from labeltune.runtime.errors import UserError


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "fetch":
        _fetch(options.recipes)
    elif options.command == "compare":
        _compare(options.runs, as_json=options.json, figure=options.figure)
    elif options.command == "doctor":
        from labeltune.cli import doctor

        doctor.examine(options.recipe)
    elif options.command == "init":
        _init(options)
    elif options.command == "serve":
        _serve(options)
    elif options.command == "export":
        from labeltune.export import export

        export.export(
            options.classifier, to=options.to, out=options.out, rows=options.rows, text_column=options.text_column
        )
    elif options.command == "predict":
        _predict(options)
    elif options.command == "chat":
        _chat(options)
    elif options.command in resolve.KINDS:
        _list(options.command)
    else:
        parser.print_help()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="labeltune",
        description="Fine-tune a language model to label text. `dvc repro` runs the pipeline; these commands help.",
    )
    parser.add_argument("--version", action="version", version=f"labeltune {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for kind in resolve.KINDS:
        commands.add_parser(kind, help=f"list the {kind} under conf/{kind}/")
    fetch = commands.add_parser(
        "fetch", help="download what a recipe needs into the cache, to run it without a network"
    )
    fetch.add_argument("recipes", nargs="*", metavar="RECIPE", help="default: the recipe that params.yaml resolves to")
    compare = commands.add_parser("compare", help="report which differences between finished runs are significant")
    compare.add_argument("runs", nargs="+", metavar="EXP", help="experiments, branches, commits, or `workspace`")
    compare.add_argument("--figure", type=Path, metavar="FILE", help="draw the comparison to a PNG, SVG or PDF file")
    compare.add_argument("--json", action="store_true", help="print JSON instead of tables")
    doctor = commands.add_parser("doctor", help="report hardware, missing software, what fits, and how long it takes")
    doctor.add_argument("recipe", nargs="?", metavar="RECIPE", help="default: the recipe that params.yaml resolves to")
    _add_init(commands)
    _add_predict(commands)
    _add_serve(commands)
    _add_chat(commands)
    _add_export(commands)
    return parser


def _add_init(commands: Any) -> None:
    init = commands.add_parser("init", help="inspect your data, and write the files that describe it under conf/")
    init.add_argument("data", metavar="FILE_OR_FOLDER", help="a table, a folder, or owner/name of the Hub")
    init.add_argument("--name", help="name of the data set; default: the name of the file")
    init.add_argument("--text", metavar="COLUMN", help="name of the text column; default: detected")
    init.add_argument("--label", metavar="COLUMN", help="name of the label column; default: detected")
    init.add_argument("--model", help="a base model of `labeltune models`")
    init.add_argument("--force", action="store_true", help="overwrite the files of that name")


def _init(options: argparse.Namespace) -> None:
    from labeltune.cli import init

    dataset, recipe = init.write_settings_files(
        options.data, name=options.name, text=options.text, label=options.label, model=options.model,
        force=options.force,
    )  # fmt: skip
    for line in init.advice(dataset, recipe):
        terminal.say(line)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="label texts, a file, a pipe, or lines that you type")
    predict.add_argument(
        "classifier",
        type=Path,
        metavar="CLASSIFIER",
        help="folder of the trained classifier, such as models/classifier",
    )
    what = predict.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", action="append", metavar="TEXT", help="a text to label; may be given several times")
    what.add_argument("--interactive", action="store_true", help="label the lines that you type")
    what.add_argument("--demo", action="store_true", help="label the examples of the data set")
    what.add_argument(
        "--file", metavar="FILE", help="CSV, TSV, JSON, JSON Lines, Parquet, or one text per line; - for a pipe"
    )
    predict.add_argument(
        "--out", type=Path, metavar="FILE", help="output, the rows with their labels: .csv, .jsonl, .parquet, or -"
    )
    predict.add_argument("--format", metavar="FORMAT", help="format of --file, if its name does not tell")
    predict.add_argument("--text-column", metavar="NAME", help="text column of --file; default: detected")
    predict.add_argument("--encoding", default="utf-8", help="encoding encoding of --file; default: %(default)s")
    predict.add_argument("--batch-tokens", type=int, metavar="N", help="tokens per batch; fewer take less memory")
    predict.add_argument(
        "--escape-formulas",
        action="store_true",
        help="in CSV, write ' before a cell that a spreadsheet would take for a formula",
    )
    predict.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _predict(options: argparse.Namespace) -> None:
    from labeltune.cli import predict

    predict.predict(
        options.classifier,
        texts=options.text,
        demo=options.demo,
        interactive=options.interactive,
        file=options.file,
        out=options.out,
        format=options.format,
        text_column=options.text_column,
        encoding=options.encoding,
        batch_tokens=options.batch_tokens,
        as_json=options.json,
        escape_formulas=options.escape_formulas,
    )


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser("serve", help="serve predictions over HTTP (extra `serve`); LABELTUNE_KEY sets a key")
    serve.add_argument(
        "classifier",
        type=Path,
        metavar="CLASSIFIER",
        help="folder of the trained classifier, such as models/classifier",
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; default: %(default)s, only this machine"
    )
    serve.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    serve.add_argument("--max-texts", type=int, default=32, metavar="N", help="of a request; default: %(default)s")
    serve.add_argument("--max-bytes", type=int, default=2_000_000, metavar="N", help="default: %(default)s")
    serve.add_argument(
        "--max-characters", type=int, default=100_000, metavar="N", help="of a text; default: %(default)s"
    )
    serve.add_argument("--max-in-flight", type=int, default=512, metavar="N", help="requests; default: %(default)s")
    serve.add_argument("--chat", action="store_true", help="also serve the chat, at /chat (extra `chat`)")
    serve.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS", help="default: %(default)s")


def _serve(options: argparse.Namespace) -> None:
    try:
        from labeltune.serving.http_api import Limits, serve
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing: pip install -e '.[serve]'") from None
    limits = Limits(
        texts=options.max_texts,
        bytes=options.max_bytes,
        characters=options.max_characters,
        in_flight=options.max_in_flight,
        seconds=options.timeout,
    )
    serve(options.classifier, host=options.host, port=options.port, limits=limits, chat=options.chat)


def _add_chat(commands: Any) -> None:
    chat = commands.add_parser("chat", help="try a classifier in the browser, and keep corrections")
    chat.add_argument(
        "classifier", type=Path, metavar="FOLDER", help="folder of the trained classifier, such as models/classifier"
    )
    chat.add_argument("--host", default="127.0.0.1", help="address to listen on; default: only this machine")
    chat.add_argument("--port", type=int, default=8001, help="port; port; default: 8001; 0 takes a free one")
    chat.add_argument("--language", choices=["en", "zh"], default="en", help="language of the chat; default: en")
    chat.add_argument("--corrections", type=Path, metavar="FILE", help="default: data/raw/corrections.jsonl")


def _chat(options: argparse.Namespace) -> None:
    from labeltune.serving.chat import app
    from labeltune.serving.chat.messages import KEPT

    app.run(
        options.classifier,
        host=options.host,
        port=options.port,
        language=options.language,
        corrections=options.corrections or KEPT,
    )


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export", help="export and verify a classifier for Transformers, onnxruntime or the Hub"
    )
    export.add_argument(
        "classifier",
        type=Path,
        metavar="CLASSIFIER",
        help="folder of the trained classifier, such as models/classifier",
    )
    export.add_argument(
        "--to",
        required=True,
        choices=("merged", "onnx", "onnx-int8", "hub-folder"),
        help="a Transformers folder; an ONNX graph, also with weights of 8 bits (extra `scale`); a folder to upload",
    )
    export.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder to write, completely or not at all"
    )
    export.add_argument(
        "--rows", type=Path, metavar="FILE", help="rows to verify the export with; default: data/prepared/test.csv"
    )
    export.add_argument("--text-column", metavar="NAME", help="text column of --rows; default: detected")


def _list(kind: str) -> None:
    names = resolve.catalogue(kind)
    if not names:
        raise UserError(f"{resolve.CONF / kind}: no files; run this in the project's top folder")
    terminal.table(kind, ["name", "what it is"], list(names.items()))


def _fetch(recipes: list[str]) -> None:
    """Resolve each recipe as `dvc repro` would, and download its rows, base model and font.

    Lexicons are downloaded for the languages of its texts.
    """
    from labeltune.data.discovery import find_source
    from labeltune.data.loading import pin_revision, read_split
    from labeltune.evaluation.robustness import editing
    from labeltune.modeling.base_models import open_base
    from labeltune.reporting.plots.style import font_families

    for resolved in [resolve.resolve(recipe=name) for name in recipes] or [resolve.resolve()]:
        dataset = pin_revision(find_source(resolved.dataset))
        given = [split for split in ("all", "train", "validation", "test") if getattr(dataset, split) is not None]
        frames = {split: read_split(dataset, split) for split in given}
        names = (
            set(dataset.labels.values())
            if dataset.labels
            else {str(label) for frame in frames.values() for label in frame["label"].dropna()}
        )
        font_families(sorted(names))
        spoken = {editing.language(text) for frame in frames.values() for text in frame["text"].dropna()}
        for lexicon in (each for name in sorted(spoken) for each in editing.LEXICONS.get(name, ())):
            editing.fetch(lexicon)
        base = open_base(resolved.model)
        rows = sum(map(len, frames.values()))
        terminal.say(f"{resolved.recipe}: {rows:,} rows of {dataset.name} and the model {base.name} are in the cache")


def _compare(names: list[str], *, as_json: bool, figure: Path | None) -> None:
    """Compare the runs, with the workspace's settings of the bootstrap, and print or draw the comparison."""
    from labeltune.cli import compare
    from labeltune.reporting.plots.figures import draw_comparison

    settings = resolve.resolve().evaluate
    runs = [compare.read_run(name) for name in names]
    found = compare.compare(runs, seed=settings.seed, resamples=settings.resamples)
    if figure:
        draw_comparison(found.record()["groups"], figure, dpi=150)
    if as_json:
        terminal.print_json(found.record(), indent=2, sort_keys=True)
    else:
        compare.show(found)
        if figure:
            terminal.say(f"drawn in {figure}")
