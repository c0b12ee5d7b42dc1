"""End a command that is told to from outside as Ctrl-C ends it: what it has is kept."""

import signal

__all__ = ["stop_as_interrupted"]


def stop_as_interrupted() -> None:
    """Let SIGTERM and SIGHUP interrupt this process, unless they are ignored, as under nohup."""
    # Windows has no SIGHUP
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
