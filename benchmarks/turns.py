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

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(answers: dict[str, Callable]) -> None:
    """Answer each word that is read with what its function returns."""
    for line in sys.stdin:
        print(json.dumps(answers[line.strip()]()), flush=True)


def take_turns(
    ways: dict[str, tuple[str, ...]], works: list[str], rounds: int, processes: int
) -> tuple[dict[tuple[str, str], list[float]], dict[str, Server]]:
    """
    Each way, given as its server's arguments, does each of the works in `rounds` rounds, in `processes` processes one
    after the other: where in memory a process came to lie can make it a third slower than the next one.

    Returns:
        (seconds by (way, work), without the first round of each process; the last servers, still serving).
    """
    times = {(way, work): [] for way in ways for work in works}
    servers = {}
    for _ in range(processes):
        for server in servers.values():
            server.close()
        servers = {way: Server(*what) for way, what in ways.items()}
        for number in range(rounds + 1):
            for (way, work), measured in times.items():
                taken = servers[way].ask(work)
                if number:
                    measured.append(taken)
    return times, servers


def seconds(work: Callable) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
