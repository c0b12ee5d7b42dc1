"""Processes that begin where the test stands, with PyTorch imported, which takes them seconds."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch
from tqdm import tqdm


def fork(function: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a function in a process of its own, on one thread, for none of the others came along.

    What it prints is dropped; an exception is exit code 1.
    """
    process = multiprocessing.get_context("fork").Process(
        target=_silently, args=(function, *arguments)
    )
    process.start()
    return process


def _silently(function: Callable[..., object], *arguments: object) -> None:
    torch.set_num_threads(1)
    # progress bars share a lock with the test, and whoever is killed would take it along
    tqdm.set_lock(threading.RLock())
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    function(*arguments)
