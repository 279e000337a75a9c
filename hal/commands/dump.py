"""An explanation as plain values and as files: what `hal explain` prints as JSON and --dump writes.

`0_<entry>.cl` and so on are the sources as the device's compiler gets them; launch.json has all that is needed to
launch them from another program: entry, grid, block, shared bytes, and the arguments in order.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hal.kernel import Argument, In, Kernel, KernelPlan, Launch, Out, Scratch
from hal.op import Op
from hal.planning import Explanation

READING = (
    "grid counts blocks, block the threads of one; an input, an output or scratch is an address, which is memory and a "
    "byte offset: OpenCL kernels of hal take it as two arguments, a buffer and a long"
)
LANGUAGES = ((re.compile(r"^\s*\.version\s", re.MULTILINE), ".ptx"), (re.compile(r"\b(__)?kernel\b"), ".cl"))


def describe(explained: Explanation) -> dict[str, Any]:
    """Everything that was decided. The same keys for every device."""
    plan, device = explained.plan, explained.device
    document: dict[str, Any] = {
        "op": str(explained.op),
        "call": explained.op.to_json(),
        "device": device.name,
        "name": device.info.name,
        "compiles_source": isinstance(plan, KernelPlan),
    }
    if not isinstance(plan, KernelPlan):
        document["note"] = f"device {device.name} does not compile source text: there is no kernel to show"
        return {**document, "plan": plan.describe(), "kernels": [], "launches": [], "rejected": []}
    return {
        **document,
        "plan": {"config": str(plan.config)},
        "config": {"name": plan.config.name, "values": dict(plan.config.values)},
        "reading": READING,
        "scratch_bytes": plan.schedule.scratch_bytes,
        "kernels": [
            {
                "entry": kernel.entry,
                "file": file_name(i, kernel),
                "parameters": list(kernel.parameters),
                "options": list(kernel.options),
            }
            for i, kernel in enumerate(plan.kernels)
        ],
        "launches": [
            describe_launch(launch, plan.kernels[launch.kernel], explained.op) for launch in plan.schedule.launches
        ],
        "rejected": list(plan.rejected),
    }


def describe_launch(launch: Launch, kernel: Kernel, op: Op) -> dict[str, Any]:
    """One launch; each argument with the name that the kernel has for it."""
    names = [*kernel.parameters, *[""] * (len(launch.arguments) - len(kernel.parameters))]
    return {
        "kernel": launch.kernel,
        "entry": kernel.entry,
        "grid": list(launch.grid),
        "block": list(launch.block),
        "shared_bytes": launch.shared_bytes,
        "arguments": [
            {"parameter": name, **describe_argument(argument, op)}
            for name, argument in zip(names, launch.arguments, strict=True)
        ],
    }


def describe_argument(argument: Argument, op: Op) -> dict[str, Any]:
    """Which operand's address, which place in scratch memory, or which number."""
    match argument:
        case In(index):
            role, spec = op.inputs[index]
            return {"kind": "input", "index": index, "role": role, "tensor": str(spec)}
        case Out(index):
            role, spec = op.outputs[index]
            return {"kind": "output", "index": index, "role": role, "tensor": str(spec)}
        case Scratch(offset):
            return {"kind": "scratch", "offset": offset}
        case number:
            return {"kind": type(number).__name__.lower(), "value": number.value}


def file_name(index: int, kernel: Kernel) -> str:
    """`0_matmul.cl`: numbered, since two kernels may share an entry's name."""
    suffix = next((suffix for pattern, suffix in LANGUAGES if pattern.search(kernel.source)), ".txt")
    return f"{index}_{re.sub(r'[^0-9A-Za-z_]', '_', kernel.entry)}{suffix}"


def dump(explained: Explanation, document: dict[str, Any], folder: Path) -> list[str]:
    """Write the files; their names. Other files in the folder stay."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    if isinstance(explained.plan, KernelPlan):
        for index, kernel in enumerate(explained.plan.kernels):
            written.append(file_name(index, kernel))
            (folder / written[-1]).write_text(kernel.source, encoding="utf-8")
    (folder / "launch.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return [*written, "launch.json"]
