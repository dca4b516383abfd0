"""Processes that begin with everything imported, for tests that kill one, stop it, or look at what it leaves.

A fresh Python takes 5 to 12 seconds to import torch and transformers; a fork of one that has imported them takes none. It is not this
process that forks: the threads of DuckDB, OpenMP, autograd and a test's server would be missing in the fork, with whatever they hold. A
process of its own does, which imports, waits, and starts no thread: this file, run as a script, started by the first test that asks.

A fork is a Python process like any other from its first line on: signals, exit status, what it says of an exception.
"""

import atexit
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

CODES = Path(__file__).resolve().parents[1] / "codes"


class Forked:
    """A fork that runs `code`; otherwise as subprocess.Popen.

    `forks_workers`: the processes that it starts for several devices are forks of it, too, not fresh processes by torch's launcher.
    """

    def __init__(self, code: str, *arguments: str, environment: dict[str, str] | None = None, forks_workers: bool = False):
        self.returncode = None
        asked = {"code": code, "argv": ["-c", *arguments], "environment": os.environ | (environment or {}), "forks_workers": forks_workers}
        pipes = [os.pipe() for _ in range(2)]
        try:
            self.pid = ask_server(asked, [write for _, write in pipes])
        finally:
            for _, write in pipes:
                os.close(write)
        self.said: list[list[str]] = [[], []]
        self.readers = [threading.Thread(target=read_all, args=(pipe[0], said), daemon=True) for pipe, said in zip(pipes, self.said, strict=True)]
        for reader in self.readers:
            reader.start()

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = ask_server({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("fork", timeout)
            time.sleep(0.005)
        return self.returncode

    def send_signal(self, number: int):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """Output and errors; returns when neither it nor any process that it started holds them open any more."""
        end = time.monotonic() + timeout
        for reader in self.readers:
            reader.join(max(0.0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("fork", timeout, output="".join(self.said[0]), stderr="".join(self.said[1]))
        self.wait(max(1.0, end - time.monotonic()))
        output, errors = ("".join(said) for said in self.said)
        return output, errors


def read_all(pipe: int, said: list[str]):
    with open(pipe, errors="replace") as file:
        said.append(file.read())


@functools.cache
def start_server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, "-P", __file__, str(theirs.fileno())]  # -P: the folders of tests have the names of those of codes
        environment = {name: value for name, value in os.environ.items() if name != "RANK"} | {"PYTHONPATH": str(CODES)}
        server = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])

    def end():
        ours.close()  # it ends when no one can ask it any more, however the tests' process ended
        server.wait()

    atexit.register(end)
    return ours


def ask_server(asked: dict, files: list[int] | None = None) -> int | None:
    message = json.dumps(asked).encode()
    server = start_server()
    if server.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < 2 * len(message):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * len(message))
    socket.send_fds(server, [message], files or [])
    return json.loads(server.recv(100))


# ---- the process that forks ----------------------------------------------------------------------------------


def serve(server: socket.socket) -> str:
    """Fork as asked, and say of forks how they ended. Returns in the fork alone, with the code that it is to run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests' process, whose end ends this one
    while True:
        message, files, _, _ = socket.recv_fds(server, 2**22, 2)
        if not message:
            os._exit(0)
        asked = json.loads(message)
        if "poll" in asked:
            pid, status = os.waitpid(asked["poll"], os.WNOHANG)
            server.send(json.dumps(os.waitstatus_to_exitcode(status) if pid else None).encode())
            continue
        pid = os.fork()
        if not pid:
            server.close()
            for own, given in zip((1, 2), files, strict=True):
                os.dup2(given, own)
                os.close(given)
            become(asked)
            return asked["code"]
        for file in files:
            os.close(file)
        server.send(json.dumps(pid).encode())


def become(asked: dict):
    """What a fresh process would have found at its start."""
    import torch

    from medrep import contract

    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(asked["environment"])
    contract.ROOT = contract.REPOSITORY / os.environ.get("MEDREP_ROOT", "")
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    sys.argv = asked["argv"]
    if asked["forks_workers"]:
        from torch.distributed.launcher import api

        api.elastic_launch = ForkingLauncher


class ForkingLauncher:
    """Stands for torch's launcher: the same environment for each process of the script, which is forked, not started anew."""

    def __init__(self, setup, _python):
        self.count = setup.nproc_per_node

    def __call__(self, script: str, *arguments: str):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        sys.stdout.flush()
        workers = {}
        for rank in range(self.count):
            pid = os.fork()
            if not pid:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(self.count), "LOCAL_WORLD_SIZE": str(self.count)}
                os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
                os._exit(run_worker(script, arguments))
            workers[pid] = rank
        while workers:
            pid, status = os.wait()
            rank = workers.pop(pid)
            if status:
                for other in workers:
                    os.kill(other, signal.SIGKILL)
                raise RuntimeError(f"process {rank} ended with {os.waitstatus_to_exitcode(status)}")


def run_worker(script: str, arguments: tuple[str, ...]) -> int:
    import runpy

    import torch

    torch.set_num_threads(1)  # the threads of whoever forked are not here
    sys.argv = [script, *arguments]
    return exit_status(lambda: runpy.run_path(script, run_name="__main__"))


def exit_status(run) -> int:
    """Of a process that ends with `run`, having said what Python says of an exception.

    Whoever asks ends by os._exit: Python's own way would take down all that was imported, for seconds.
    """
    status = 0
    try:
        run()
    except SystemExit as problem:
        if not isinstance(problem.code, int | None):
            print(problem.code, file=sys.stderr)
        status = 1 if not isinstance(problem.code, int | None) else problem.code or 0
    except BaseException as problem:
        sys.excepthook(*sys.exc_info())
        if isinstance(problem, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def import_all():
    """What the stages import when they are at work, some of it late, and matplotlib's fonts, which the first picture reads."""
    import io

    import accelerate  # noqa: F401
    import openai  # noqa: F401
    import torch.distributed.launcher.api  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401
    import transformers.models.deberta.modeling_deberta  # noqa: F401
    from matplotlib import pyplot  # noqa: F401

    from experiments import medgemma, pretrain  # noqa: F401
    from medrep.vectors import hub
    from representation import definitions, description, encoder  # noqa: F401

    hub.quiet_transformers().Trainer  # noqa: B018  # imported when it is first named
    pyplot.switch_backend("Agg")
    pyplot.title("fonts")
    pyplot.savefig(io.BytesIO())
    pyplot.close("all")


if __name__ == "__main__":
    import_all()
    gc.collect()
    gc.freeze()  # in the forks, too: what was imported is no garbage
    code = serve(socket.socket(fileno=int(sys.argv[1])))
    status = exit_status(lambda: exec(compile(code, "<fork>", "exec"), {"__name__": "__main__"}))
    atexit._run_exitfuncs()
    os._exit(status)
