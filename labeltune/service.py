"""`labeltune serve`: the HTTP service as a process."""

import os
from pathlib import Path

import torch
import uvicorn

from labeltune import terminal
from labeltune.errors import UserError
from labeltune.hardware import choose_threads
from labeltune.predict import Classifier
from labeltune.serve import Limits, create_app

KEY = "LABELTUNE_KEY"
HOME = ("127.0.0.1", "localhost", "::1")
WARMING = "a text to warm up with"


def serve(folder: Path, *, host: str, port: int, limits: Limits, chat: bool = False) -> None:
    """Load a classifier and answer until Ctrl-C or SIGTERM; what was accepted is answered first.

    Raises:
        UserError: the classifier is not usable.
    """
    key = os.environ.get(KEY)
    if key is not None and not key.strip():
        raise UserError(f"{KEY} is empty: unset it to let everybody in, or give a key")
    if chat and key is not None:
        raise UserError(f"the chat has no log-in and can't send a key: unset {KEY}, or run `labeltune chat` beside")
    torch.set_num_threads(choose_threads("auto"))
    classifier = Classifier.load(folder)
    classifier.predict([WARMING])
    if host not in HOME and key is None:
        terminal.say(f"anybody who reaches {host}:{port} is answered: set {KEY} to ask for a key")
    terminal.say(f"http://{host}:{port}/predict answers; /docs describes it; Ctrl-C stops")
    app = create_app(classifier, limits, key)
    if chat:
        from labeltune.chat import mount

        mount(app, classifier)
        terminal.say(f"http://{host}:{port}/chat is the page to talk to it in")
    uvicorn.run(
        app,
        host=host,
        port=port,
        log_level="warning",
        timeout_keep_alive=10,
        timeout_graceful_shutdown=round(limits.seconds),
        h11_max_incomplete_event_size=64 << 10,
        server_header=False,
    )
