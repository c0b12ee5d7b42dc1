"""Processes that begin where the test stands, with PyTorch imported, which takes them seconds."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.process import BaseProcess

import torch


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
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    function(*arguments)
