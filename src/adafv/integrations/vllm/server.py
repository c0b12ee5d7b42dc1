"""Run vLLM's server as `adafv serve` starts it: a wrong flag is one sentence, and no usage."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any, NoReturn

from adafv.utils.checks import did_you_mean

__all__ = ["main", "refusal", "refuse_ignored"]

OURS = ("--cache-mb", "--image-cache-mb", "--keep", "--method", "--methods", "--pin", "--tokens")
PLAIN = "vllm serve with adafv's flags (docs/serving.md, With plain vLLM)"
UNKNOWN = "unrecognized arguments: "


def main() -> None:
    """Start the server with the flags on the command line."""
    from vllm.entrypoints.launchers.api_server.entry import main as serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    FlexibleArgumentParser.error = _error
    refuse_ignored(FlexibleArgumentParser)
    serve()


def refuse_ignored(parser: type[ArgumentParser]) -> None:
    """Have a class of parsers refuse what vLLM's server, of one process, reads and ignores.

    That is a model behind flags, several API servers, and none.

    Args:
        parser: the class, which is changed.
    """
    plain = parser.parse_args

    def parse_args(self: ArgumentParser, *given: Any, **options: Any) -> Namespace:
        found = plain(self, *given, **options)
        word = getattr(found, "model_tag", None)
        if word is not None:
            _refuse(f"{word!r} stands behind flags: put MODEL first, as in adafv serve {word} …")
        headless = getattr(found, "headless", False)
        if headless or getattr(found, "api_server_count", None) not in (None, 1):
            flag = "--headless" if headless else "--api-server-count"
            _refuse(f"adafv serve is one API server: leave {flag} out, or start {PLAIN}")
        return found

    parser.parse_args = parse_args  # type: ignore[assignment,method-assign]


def _error(parser: ArgumentParser, message: str) -> NoReturn:
    known = [name for action in parser._actions for name in action.option_strings]
    _refuse(refusal(message, [*known, *OURS]))


def _refuse(sentence: str) -> NoReturn:
    print(f"adafv: error: {sentence}", file=sys.stderr)
    sys.exit(2)


def refusal(message: str, known: list[str]) -> str:
    """Return argparse's message in a sentence, with the flag that was perhaps meant.

    Args:
        message: of argparse.
        known: flags that there are.
    """
    if not message.startswith(UNKNOWN):
        return f"{message}: see python -m vllm.entrypoints.launchers.api_server.entry --help=all"
    flag = message.removeprefix(UNKNOWN).split()[0]
    name = flag.partition("=")[0]
    hint = did_you_mean(name, known, "see adafv serve --help")
    return f"neither adafv serve nor vLLM has {name}: {hint}"


if __name__ == "__main__":
    main()
