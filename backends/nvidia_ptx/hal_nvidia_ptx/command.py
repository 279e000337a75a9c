"""`hal ptx`: any PTX checked, run, assembled. The commands behind it are in `commands/`."""

from __future__ import annotations

import argparse

from hal_nvidia_ptx.commands import assemble, check, figures
from hal_nvidia_ptx.commands import run as run_command

SUMMARY = "check, run or assemble kernels written in NVIDIA's PTX, with or without a GPU"
EXAMPLES = (
    "hal ptx check softmax.ptx --grid 64 --block 256 --arg x:f32[64x1024]=random --arg y:f32[64x1024] --arg n:s32=1024",
    "hal ptx run softmax.ptx --device ptx:sm_90a --grid 64 --block 256 --arg x:f32[64x1024]=random ...",
    "hal ptx assemble softmax.ptx --target sm_90a",
)
COMMANDS = {"check": check, "run": run_command, "assemble": assemble, "figures": figures}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The commands below `hal ptx`, each with its options."""
    below = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        examples = getattr(module, "EXAMPLES", ())
        each = below.add_parser(
            name,
            help=module.SUMMARY,
            description=f"{module.SUMMARY[0].upper()}{module.SUMMARY[1:]}.",
            epilog="\n".join(("examples:", *(f"  {line}" for line in examples))) if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        each.add_argument("--traceback", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        module.add_arguments(each)
        each.set_defaults(below=module.run)


def run(args: argparse.Namespace) -> int:
    """The exit code of the command that was chosen."""
    return int(args.below(args))
