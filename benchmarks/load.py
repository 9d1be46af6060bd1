"""The service under load on this machine: `python -m benchmarks.load [CLASSIFIER]`; needs wrk and the extra `serve`.

Texts are sent one a request: by one client that waits for each answer, by many at once, by more than the service lets
in, and by one client again. Prints answers per second, latency, refusals and the service's memory after each.
"""

import argparse
import csv
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from labeltune.console import terminal
from labeltune.modeling import device
from labeltune.runtime import errors
from labeltune.runtime.errors import UserError

CLIENTS = (1, 8, 32)
IN_FLIGHT = 64
"""Requests that the service lets in here."""
CROWD = 256
"""Clients of the overload."""
PATIENCE = 300
"""Seconds in which the service has to be up."""
SCRIPT = """
local bodies = {BODIES}
local place, threads = 0, {}
function setup(thread) table.insert(threads, thread) end
function init() statuses = "" counts = {} end
function request()
  place = place % #bodies + 1
  return wrk.format("POST", "/predict", {["Content-Type"] = "application/json"}, bodies[place])
end
function response(status)
  counts[status] = (counts[status] or 0) + 1
  statuses = ""
  for code, count in pairs(counts) do statuses = statuses .. code .. "=" .. count .. " " end
end
function done(summary, latency)
  local all = ""
  for _, thread in ipairs(threads) do all = all .. thread:get("statuses") end
  local errors = summary.errors
  print(string.format("FOUND %d %d %d %d %s", summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.timeout, all))
end
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("classifier", nargs="?", type=Path, default=Path("models/classifier"))
    parser.add_argument("--texts", type=Path, default=Path("data/prepared/test.csv"), help="a CSV file; %(default)s")
    parser.add_argument("--seconds", type=int, default=15, help="of each step; default: %(default)s")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise UserError("wrk is not here: apt install wrk")
    with options.texts.open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream)]
    steps = [("one at a time", CLIENTS[0]), *((f"{count} clients", count) for count in CLIENTS[1:])]
    steps += [(f"{CROWD} clients, {IN_FLIGHT} let in", CROWD), ("one at a time again", 1)]
    shown = []
    with TemporaryDirectory() as folder, _service(options.classifier) as (port, process):
        script = _script(Path(folder) / "texts.lua", texts)
        for name, clients in steps:
            found = _send(script, port, clients, options.seconds)
            memory = process.memory_info().rss >> 20
            answered, refused = (found["statuses"].pop(code, 0) for code in (200, 429))
            shown.append(
                [
                    name,
                    f"{answered / found['seconds']:.1f}",
                    f"{found['p50'] * 1e3:,.0f} / {found['p99'] * 1e3:,.0f}",
                    f"{refused:,}",
                    sum(found["statuses"].values()) + found["errors"],
                    f"{memory:,}",
                ]
            )
            _drained(port)
    terminal.say(f"{device.cpu_name()}, {device.cores()} cores; wrk on the same machine, {options.seconds} s a step")
    terminal.table("load", ["step", "answers/s", "p50 / p99 ms", "429", "other failures", "MiB after"], shown)


@contextmanager
def _service(classifier: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A service of its own process, ready for requests."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-c", "from labeltune.cli import entry; entry()", "serve", str(classifier)]
    started = time.perf_counter()
    with subprocess.Popen([*command, "--port", str(port), "--max-in-flight", str(IN_FLIGHT)]) as process:
        try:
            while _get(port, "/ready") is None:
                if process.poll() is not None or time.perf_counter() - started > PATIENCE:
                    raise UserError("the service did not start")
                time.sleep(0.1)
            terminal.say(f"ready after {time.perf_counter() - started:.1f} s")
            yield port, psutil.Process(process.pid)
        finally:
            process.terminate()


def _get(port: int, path: str) -> str | None:
    """The body, None where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return str(response.read(), "utf-8")
    except (urllib.error.URLError, OSError):
        return None


def _drained(port: int) -> None:
    """Wait until no request is left of the step before."""
    while "labeltune_in_flight 0.0" not in (_get(port, "/metrics") or ""):
        time.sleep(0.1)


def _script(path: Path, texts: list[str]) -> Path:
    """What wrk sends, in Lua; its long brackets take a text as it is."""
    bodies = ", ".join(f"[===[{json.dumps({'texts': [text]})}]===]" for text in texts)
    path.write_text(SCRIPT.replace("BODIES", bodies), encoding="ascii")
    return path


def _send(script: Path, port: int, clients: int, seconds: int) -> dict[str, Any]:
    """Let clients send for some seconds; each sends its next text once it has an answer."""
    command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script)]
    address = f"http://127.0.0.1:{port}"
    shown = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout
    duration, p50, p99, errors, *statuses = shown.split("FOUND ")[1].split()
    counts: dict[int, int] = {}
    for part in statuses:
        code, count = map(int, part.split("="))
        counts[code] = counts.get(code, 0) + count
    million = 1_000_000
    return {
        "seconds": int(duration) / million, "p50": int(p50) / million, "p99": int(p99) / million,
        "errors": int(errors), "statuses": counts,
    }  # fmt: skip


if __name__ == "__main__":
    errors.run(main)
