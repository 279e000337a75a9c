"""What stands in place of the templates' marks: `@NAME@` and its like, also in the names of files."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence

from hal.porting.functions import FUNCTIONS, VENDORS, Function
from hal.porting.simulator import Simulator
from hal.scaffold.kinds import KINDS

_MARK = re.compile(r"@([A-Z_]+)@")
_WIDTH = 116  # of a line of comments, before it is broken


def marks(name: str, kind: str) -> dict[str, str]:
    """The text for each mark, for a backend of this name and kind."""
    what = KINDS[kind]
    title = name.replace("_", " ").title().replace(" ", "")
    own = {"NAME": name, "TITLE": title, "KIND": kind, "COUNT": str(len(what.functions))}
    width = max(len(fill(path, own)) for path, _ in what.tree)
    return {
        **own,
        "FUNCTIONS": functions(what.functions),
        "TABLE": table(what.functions),
        "TREE": "\n".join(f"{fill(path, own).ljust(width)}   {fill(text, own)}" for path, text in what.tree),
        "ORDER": "\n".join(what.order),
        **{f"DOES_{function.name.upper()}": function.does for function in FUNCTIONS},
        **{f"CALLS_{function.name.upper()}": in_c(function) for function in FUNCTIONS},
    }


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with every mark replaced. Raises KeyError for an unknown one."""
    return _MARK.sub(lambda found: values[found[1]], text)


def functions(wanted: Sequence[Function]) -> str:
    """The body of a Driver: what each function does, what vendors call it, its arguments, and the simulator's."""
    return "\n\n".join(
        "\n".join(
            [
                f"    # TODO {number} of {len(wanted)}: {function.does}",
                *(f"    #   {line}" for line in _wrapped(side_by_side(function), _WIDTH - 8)),
                f"    # def {signature(function.name)}:",
                f"    {function.name} = Simulator.{function.name}",
            ]
        )
        for number, function in enumerate(wanted, 1)
    )


def in_c(function: Function) -> str:
    """What vendors call it, as lines of a comment in C."""
    return "\n     ".join(_wrapped(side_by_side(function), _WIDTH - 5))


def side_by_side(function: Function) -> str:
    """What six public interfaces call it."""
    return " | ".join(f"{vendor} {call}" for vendor, call in zip(VENDORS, function.calls, strict=True))


def signature(name: str) -> str:
    """`alloc(self, nbytes: int) -> int`, from the simulator itself."""
    return name + str(inspect.signature(getattr(Simulator, name))).replace("'", "")


def table(wanted: Sequence[Function]) -> str:
    """The functions and their names as a table in Markdown."""
    rows = [("", *VENDORS), ("---",) * (1 + len(VENDORS))]
    rows += [(f"`{function.name}`", *function.calls) for function in wanted]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width`, broken between vendors."""
    lines = [""]
    for part in text.split(" | "):
        joined = f"{lines[-1]} | {part}" if lines[-1] else part
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return lines
