"""The program `hal`: which commands there are, and what holds for all of them.

A command is a module with two functions, `add_arguments(parser)` and `run(args) -> int`. It is imported only when it
is the one that runs, so `hal --help` and a misspelt command are quick and work whatever is broken elsewhere.

A backend, or any other package, adds commands by entry points of group "hal.commands", whose value is such a module
with two constants beside: SUMMARY, a line in the style of those below, and EXAMPLES, a tuple of command lines.

For every command: exit code 0 is good, 1 a bad result, 2 means that it could not run. Results go to standard output,
all else to standard error. An error that hal raises on purpose is one line and no traceback.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from hal import __version__
from hal.errors import BackendUnavailable, HalError, WrongResult
from hal.terminal import complain, write_json

GOOD, BAD, CANNOT_RUN = 0, 1, 2
GROUP = "hal.commands"


@dataclass(frozen=True, slots=True)
class Command:
    """Where a command is, and what its help says."""

    module: str
    summary: str
    examples: tuple[str, ...]


COMMANDS = {
    "devices": Command(
        "hal.commands.devices",
        "list the devices of this machine, and why a backend has none",
        ("hal devices", "hal devices --json"),
    ),
    "doctor": Command(
        "hal.doctor",
        "say what is installed, what is missing or broken, and the command that mends it",
        ("hal doctor", "hal doctor --json"),
    ),
    "demo": Command(
        "hal.demo",
        "run a real sentence model on every device, each operator call judged",
        ("hal demo", "hal demo --device cpu --file sentences.txt"),
    ),
    "conformance": Command(
        "hal.conformance.command",
        "judge whether every result of every operator on a device is within its bound",
        ("hal conformance cpu", "hal conformance opencl:0 --level full --json report.json"),
    ),
    "probe": Command(
        "hal.conformance.probe.command",
        "measure what a device's arithmetic is: accumulators, rounding, subnormals, exponentials",
        ("hal probe opencl:0", "hal probe torch@cpu --evidence", "hal probe cpu --json"),
    ),
    "repro": Command(
        "hal.conformance.repro",
        "run one failed case again, from the file that a conformance run wrote",
        ("hal repro failure.hal",),
    ),
    "explain": Command(
        "hal.commands.explain",
        "say what a call would do on a device and why; write out its kernels",
        (
            "hal explain matmul --shapes 64x128,128x32",
            "hal explain layernorm --shapes x=8x768,weight=768 --options eps=1e-6",
            "hal explain matmul --shapes 64x128,128x32:T --dtype float16 --device opencl:0 --dump kernels",
        ),
    ),
    "new-backend": Command(
        "hal.scaffold.command",
        "write the package of a backend for a new chip, which can be judged at once",
        ("hal new-backend acme --kind cuda-like", "hal new-backend acme --kind library --dir ~/work"),
    ),
    "abi": Command(
        "hal.commands.abi",
        "say what a backend in C provides, asked in a process of its own",
        ("hal abi ./libacme.so", "hal abi ./libacme.so --json", "hal abi --include"),
    ),
    "cache": Command(
        "hal.commands.cache",
        "show or empty the folder of compiled kernels",
        ("hal cache", "hal cache clear"),
    ),
    "bench": Command(
        "hal.bench",
        "time what a call costs before the device sees it",
        ("hal bench dispatch",),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    make_streams_safe()
    args = argparse.Namespace(json=False, traceback="--traceback" in words)
    try:
        parser = build_parser(next((word for word in words if not word.startswith("-")), None))
        _, unknown = parser.parse_known_args(words, args)
        if unknown:  # in the words of the command, which has the options
            hint = f"; {args.hint}" if "hint" in args else ""
            getattr(args, "usage_error", parser.error)(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        if "run" not in args:
            parser.print_help()
            return CANNOT_RUN
        code = int(args.run(args))
        flush()
        return code
    except BrokenPipeError:  # the reader of `hal … | head` has seen enough
        silence(sys.stdout)
        return 128 + getattr(signal, "SIGPIPE", 13)
    except KeyboardInterrupt:
        complain("interrupted")
        return 128 + signal.SIGINT
    except Exception as error:
        return report(error, args)


def build_parser(chosen: str | None) -> argparse.ArgumentParser:
    """The parser of all commands; only the chosen one is imported and knows its options."""
    parser = argparse.ArgumentParser(
        prog="hal",
        description="Tensor kernels behind one interface, for any accelerator, each result held to a stated bound.",
        epilog="`hal COMMAND --help` has the options of a command and an example. Start with: hal doctor",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"hal-kernels {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    for each in (parser, common):
        each.add_argument(
            "--traceback", action="store_true", default=argparse.SUPPRESS, help="show where in the code an error arose"
        )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in {**COMMANDS, **({} if chosen in COMMANDS else added_commands(chosen))}.items():
        below = commands.add_parser(
            name,
            help=command.summary,
            description=f"{command.summary[0].upper()}{command.summary[1:]}.",
            epilog="\n".join(("examples:", *(f"  {line}" for line in command.examples))),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[common],
            allow_abbrev=False,
        )
        if name == chosen:
            module = importlib.import_module(command.module)
            module.add_arguments(below)
            below.set_defaults(run=module.run, usage_error=below.error)
    return parser


def added_commands(chosen: str | None) -> dict[str, Command]:
    """The commands of other packages. Only the chosen one is imported, so only its summary can be known.

    Raises BackendUnavailable if two packages add the chosen one.
    """
    modules: dict[str, set[str]] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        modules.setdefault(point.name, set()).add(point.value)
    for name in modules.keys() & {chosen}:
        if len(modules[name]) > 1:
            both = " and ".join(sorted(modules[name]))
            raise BackendUnavailable(f"the command {name} is added twice, by {both}; uninstall one of the two packages")
    return {name: _added(min(modules[name]), name == chosen) for name in sorted(modules) if name not in COMMANDS}


def _added(module: str, chosen: bool) -> Command:
    if not chosen:
        return Command(module, f"added by {module.partition('.')[0]}; its --help says what it does", ())
    found = importlib.import_module(module)
    return Command(module, found.SUMMARY, found.EXAMPLES)


def report(error: Exception, args: argparse.Namespace) -> int:
    """Say what went wrong, in the words of the error where hal raised it, with a traceback where it is a bug."""
    absent = isinstance(error, ModuleNotFoundError) and not (error.name or "hal").startswith("hal")
    expected = absent or isinstance(error, (HalError, OSError, MemoryError))
    if args.traceback or not expected:
        traceback.print_exception(error)
    if expected:
        complain((str(error) or type(error).__name__) + ("; `hal doctor` says how to install it" if absent else ""))
    else:
        complain(f"{type(error).__name__} is not what a command should end with: a bug in hal or in a backend")
    if args.json in (True, "-"):  # its reader is owed a document
        try:
            write_json({"error": str(error), "kind": type(error).__name__})
            flush()
        except OSError:  # standard output itself is what failed
            silence(sys.stdout)
    return BAD if isinstance(error, WrongResult) else CANNOT_RUN


def make_streams_safe() -> None:
    """Escapes for what the terminal's encoding lacks: a vendor's trade mark sign must not end a command."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Meet a full disk or a closed pipe here, and not at exit, where Python only mutters."""
    if sys.stdout is not None:
        sys.stdout.flush()


def silence(stream: object) -> None:
    """Let what is still buffered go nowhere."""
    fileno = getattr(stream, "fileno", None)
    if fileno is not None:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, fileno())
        os.close(devnull)
