"""Ways of doing the same work, each in a process of its own, that take turns."""

import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch


class Server:
    """This script once more, with `--serve` and what it shall serve; it answers word by word."""

    def __init__(self, *what: str):
        command = [sys.executable, *sys.argv, "--serve", *what]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, word: str):
        print(word, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"{' '.join(self.process.args)} ended at {word!r}")
        return json.loads(answer)


def serve(answers: dict[str, Callable]) -> None:
    """Answer each word that is read with what its function returns."""
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)


def take_turns(servers: dict[str, Server], works: list[str], rounds: int) -> dict[tuple[str, str], list[float]]:
    """Seconds of each round by (server, work), one round before them left out."""
    times = {(name, work): [] for name in servers for work in works}
    for _ in range(rounds + 1):
        for (name, work), measured in times.items():
            measured.append(servers[name].ask(work))
    return {case: measured[1:] for case, measured in times.items()}


def seconds(work: Callable) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
