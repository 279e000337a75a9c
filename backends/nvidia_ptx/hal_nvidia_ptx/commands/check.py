"""`hal ptx check`: run PTX on the CPU under every timing; findings like a compiler's diagnostics."""

from __future__ import annotations

import argparse

from hal.terminal import patience, write_json
from hal_nvidia_ptx.checking import MODES, check
from hal_nvidia_ptx.commands.launching import BadText, add_launch, pointing, read_text
from hal_nvidia_ptx.target import TARGETS

SUMMARY = "run a kernel on the CPU under every timing, and say what is wrong with it"
EXAMPLES = (
    "hal ptx check softmax.ptx --grid 64 --block 256 --arg x:f32[64x1024]=random --arg y:f32[64x1024] --arg n:s32=1024",
    "hal ptx check gemm.ptx --grid 4,4 --block 128 --arg a:tma:bf16[128x256]:box=64x64:swizzle=128=random ...",
    "hal ptx check big.ptx --grid 65536 --block 256 --ctas first,last,16 --trips 10 --arg x:f32[16777216]=ones",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hal ptx check`."""
    add_launch(parser)
    parser.add_argument("--target", metavar="SM", choices=sorted(TARGETS), help="such as sm_90a (default: the text's)")
    parser.add_argument(
        "--ctas", metavar="WORDS", help="run only some blocks: first, last, and a number of them spread over the grid"
    )
    parser.add_argument("--trips", type=int, metavar="N", help="end every loop after N trips")
    parser.add_argument(
        "--mode", action="append", choices=MODES, help="run in this mode only; may be repeated (default: all three)"
    )
    parser.add_argument("--counters", action="store_true", help="count instructions, bank conflicts, sectors, barriers")


def run(args: argparse.Namespace) -> int:
    """0 without findings, 1 with, 2 where it cannot run."""
    text = read_text(args.file)
    try:
        with patience("running the kernel"), pointing(args.file, text, args.json):
            report = check(
                text,
                args.grid,
                args.block,
                args.arg,
                target=args.target,
                entry=args.entry,
                shared=args.shared,
                cluster=args.cluster,
                ctas=args.ctas,
                trips=args.trips,
                modes=args.mode or MODES,
                counters=args.counters,
            )
    except BadText as bad:
        return bad.code
    report.file = str(args.file)
    if args.json:
        write_json(report.to_json())
    else:
        print(report.render())
    return report.exit_code
