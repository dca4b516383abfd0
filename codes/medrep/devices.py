"""Devices and processes: which device a command runs on, the processes of several devices, and what accelerate is told of them.

Other modules take a torch.device from here and do not ask which devices there are.
"""

import argparse
import ctypes
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import TensorBoardTracker, get_available_trackers
from accelerate.utils import LoggerType

from medrep import config, locks
from medrep.errors import UserError
from medrep.progress import is_main_process, print_line

FAILED_ENV = "MEDREP_FAILED"  # names the file that the first of several processes that fails makes, with its exit status
CHECKPOINT_INTERVAL_S = 120  # that processes have after SIGTERM
SECONDS_BETWEEN_LOOKS = 0.1
KNOWN_TRACKERS = {tracker.value for tracker in LoggerType} - {"all"}


def check_devices(devices: list[str], flag: str):
    """Refuse devices that are not here, and say which are. Worker processes skip this: the launcher has checked."""
    if is_worker_process():
        return
    there = [str(i) for i in range(torch.cuda.device_count())]
    cpu = [device for device in devices if device == "cpu"]
    missing = [device for device in devices if device != "cpu" and device not in there]
    if missing:
        raise UserError(f"{flag} {' '.join(missing)}: there is no such GPU here (devices: {', '.join([*there, 'cpu'])}); {flag} cpu runs on the CPU")
    if cpu and len(cpu) < len(devices):
        raise UserError(f"{flag} {' '.join(devices)}: the CPU and GPUs can't train together; name one kind")
    if len(set(devices) - {"cpu"}) < len(devices) - len(cpu):
        raise UserError(f"{flag} {' '.join(devices)}: a GPU is named twice")


def add_device_argument(parser: argparse.ArgumentParser):
    parser.add_argument("--gpu-devices", nargs="+", metavar="N", help="GPU numbers, or cpu; default: the first GPU, or the CPU if there is none")


def default_device() -> str:
    """The first GPU's number, or cpu if there is none here."""
    return "0" if torch.cuda.is_available() else "cpu"


def requested_devices(args: argparse.Namespace) -> list[str]:
    devices = args.gpu_devices or [default_device()]
    check_devices(devices, "--gpu-devices")
    return devices


def add_tracker_argument(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--report-to",
        nargs="+",
        default=["tensorboard"],
        metavar="TRACKER",
        help="any that accelerate knows, or none; default tensorboard, in the run's folder",
    )


def is_worker_process() -> bool:
    """Whether launch_workers or torchrun started this process."""
    return "RANK" in os.environ


def launch_workers(devices: list[str], script: str, arguments: list[str]) -> int | None:
    """Start one process a device and give their exit status; None if this process should go on. If one fails, all stop.

    torch's own launcher, as in `torchrun`; over several machines torchrun runs the same script: its processes find RANK in
    their environment and go on. SIGTERM is handed on, and the processes have time to write a checkpoint.
    """
    if is_worker_process() or len(devices) == 1:
        return None
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the process that failed has said why
    with tempfile.TemporaryDirectory() as scratch:
        given = {
            FAILED_ENV: str(Path(scratch) / "failed"),
            locks.COVERED_ENV: "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(devices)))),
        }
        if devices[0] != "cpu":
            given["CUDA_VISIBLE_DEVICES"] = cuda_visible_devices(devices)
        before = dict(os.environ)
        os.environ.update(given)
        setup = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=len(devices),
            run_id=str(os.getpid()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            shutdown_timeout=CHECKPOINT_INTERVAL_S,
        )
        try:
            elastic_launch(setup, sys.executable)(script, *arguments)
        except ChildFailedError as problem:
            status = problem.get_first_failure()[1].exitcode
            return status if status > 0 else 128 - status
        except SignalException as stopped:
            return 128 + stopped.sigval
        finally:
            os.environ.clear()
            os.environ.update(before)
    return 0


def first_decides(decide: Callable[[], bool]) -> bool:
    """Of the processes that torchrun started the first decides, once; the others wait for what it says, as it may have to wait for another command
    first. Those of launch_workers decide for themselves: who started them has waited.
    """
    if not is_worker_process() or locks.COVERED_ENV in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        return decide()
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store = PrefixStore("medrep", next(rendezvous("env://"))[0])
    if is_main_process():
        decided = decide()
        store.set("decided", str(decided))
        wait_for_key(store, "all know")  # the store may be of this process, and end with it
        return decided
    wait_for_key(store, "decided")
    decided = store.get("decided") == b"True"
    if store.add("know", 1) == int(os.environ["WORLD_SIZE"]) - 1:
        store.set("all know", "")
    return decided


def wait_for_key(store, name: str):
    """For as long as it takes: a launcher that sees a process fail ends those that wait for it."""
    while not store.check([name]):
        time.sleep(SECONDS_BETWEEN_LOOKS)


def cuda_visible_devices(devices: list[str]) -> str:
    """CUDA_VISIBLE_DEVICES for a process that is to see these of the devices that this one sees."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return ",".join(seen[int(device)] if seen else device for device in devices)


def run_main(main: Callable[[], None]):
    """Run a script's main. Of several processes only the first that fails says why, and none outlives the one that started them."""
    if not is_worker_process():
        main()
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: Linux ends this process with its parent
    try:
        main()
        if torch.distributed.is_initialized():  # ended with the interpreter, its threads now and then abort a process that is done
            torch.distributed.destroy_process_group()
    except BaseException as problem:
        status = problem.code if isinstance(problem, SystemExit) else 1
        if status in (0, None) or FAILED_ENV not in os.environ:
            raise
        try:
            with open(os.environ[FAILED_ENV], "x") as file:
                file.write(str(status if isinstance(status, int) else 1))
        except FileExistsError:
            sys.exit(status if isinstance(status, int) else 1)
        raise


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; others do it slower than in fp32 by far."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def make_accelerator(devices: list[str], precision: str = "auto", report_to: Sequence[str] = (), folder: Path | None = None) -> Accelerator:
    """The accelerator of this process. `precision`: of settings.PRECISIONS; `report_to`: trackers that accelerate knows, writing below `folder`."""
    report_to = [tracker for tracker in report_to if tracker != "none"]
    if unknown := [tracker for tracker in report_to if tracker not in KNOWN_TRACKERS]:
        raise UserError(f"--report-to {' '.join(unknown)}: accelerate knows {', '.join(sorted(KNOWN_TRACKERS))}; none reports nowhere")
    if missing := [tracker for tracker in report_to if LoggerType(tracker) not in get_available_trackers()]:
        raise UserError(f"--report-to {' '.join(missing)}: its package is not installed here; pip install {' '.join(missing)}")
    # TensorBoard's files lie in a folder of that name; what accelerate makes itself are called by the project
    own = [TensorBoardTracker("tensorboard", folder) if tracker == "tensorboard" and folder else tracker for tracker in report_to]
    trackers = {"log_with": own, "project_dir": folder} if report_to else {}
    on_gpu = devices[0] != "cpu"
    if on_gpu:
        set_visible_devices(devices)
    mixed = "bf16" if config.resolve_precision(precision, on_gpu) == "bf16" else "no"
    if mixed == "bf16" and not on_gpu and not cpu_has_bf16():
        print_line("this CPU has no instructions for bf16: fp32 is faster by far")
    return Accelerator(cpu=not on_gpu, mixed_precision=mixed, **trackers)


def set_visible_devices(devices: list[str]):
    """Make the GPU that was named the one of accelerate, and so of transformers' Trainer."""
    if devices[0] != "cpu" and not is_worker_process():
        torch.cuda.set_device(int(devices[0]))
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", f"cuda:{devices[0]}")


def torch_device(devices: list[str]) -> torch.device:
    """The device of this process, for work without steps that others wait for."""
    if devices[0] == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) if is_worker_process() else int(devices[0]))


def peak_gib(device: torch.device) -> float:
    """Of GPU memory that this process had, of main memory that it has where there is no GPU."""
    return (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss) / 2**30
