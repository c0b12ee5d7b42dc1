"""The reference of the command line, made of the commands themselves."""

from typing import Any

import typer
from writing import table

from adafv.cli import app

HEAD = """# Command line

Made from the commands themselves. Lists are comma-separated; `--keep 10%` is `--keep 0.1`; a method
takes its options with it, as `adafv:reserve=0.5`. With `--json` there is one JSON object on stdout
and nothing else. The exit status is 0; 2 for bad input, which is named in one line on stderr, with
the remedy; 1 where `adafv batch` could not answer some lines; 130 when interrupted.
"""
FOOT = """## Variables of the environment

|  |  | default |
| --- | --- | --- |
| `ADAFV_HOME` | Folder of what `adafv fetch` brings. | `~/.cache/adafv` |
| `ADAFV_KERNELS` | triton: select with [kernels](speed.md#kernels). | torch |
| `ADAFV_ENGINE_FOLLOWS` | 1: an engine ends with its server; `adafv serve` sets it. |  |
| `VLLM_PLUGINS` | vLLM's own: plugins that it loads; without `adafv` nothing is pruned. | all |
| `VLLM_NO_USAGE_STATS` | vLLM's own: 1 sends no statistics of use; `adafv serve` sets it. |  |
"""


def commands_page() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(app)
    return "\n".join([HEAD, *(_section(name, cmd) for name, cmd in group.commands.items()), FOOT])


def _section(name: str, command: Any) -> str:
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    usage = [_placeholder(param) for param in arguments]
    options = [param for param in shown if param.param_type_name == "option"]
    rest = " [FLAGS OF VLLM]" if command.ignore_unknown_options else ""
    line = " ".join(["adafv", name, *usage, *(["[OPTIONS]"] if options else [])]) + rest
    rows = []
    for param in arguments:
        rows.append([f"`{_placeholder(param)}`", _cell(param.help), ""])
    for param in options:
        rows.append([_names(param), _cell(param.help), _default(param)])
    heading = f"## `adafv {name}`"
    text = _text(command.help or "")
    return f"{heading}\n\n    {line}\n\n{text}\n\n{table(['', '', 'default'], rows)}\n"


def _text(text: str) -> str:
    """Paragraphs; one that begins with a backspace, which keeps its lines, as a block of code."""
    found = []
    for paragraph in text.split("\n\n"):
        if paragraph.lstrip().startswith("\b"):
            lines = paragraph.split("\b")[1].strip("\n").splitlines()
            found.append("\n".join(f"    {line.strip()}" for line in lines))
        else:
            found.append(" ".join(paragraph.split()))
    return "\n\n".join(found)


def _placeholder(param: Any) -> str:
    text = param.metavar or param.name.upper()
    return text if param.required else f"[{text}]"


def _names(param: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*param.opts, *param.secondary_opts))
    if param.is_flag or param.count:
        return names
    metavar = param.metavar or param.type_descriptor.annotation.__name__
    return f"{names} {_cell(metavar)}"


def _default(param: Any) -> str:
    if param.required:
        return "required"
    # a default that is found only when the command runs
    if isinstance(param.show_default, str):
        return f"`{param.show_default}`"
    plain = isinstance(param.default, str | int | float) and not isinstance(param.default, bool)
    return f"`{param.default}`" if plain and param.default != "" else ""


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")
