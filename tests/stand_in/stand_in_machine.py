"""The GPUs behind the stand-in: one whose kernels do nothing, and one that the emulator runs."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np


class Refused(Exception):
    """A text that does not load: the result of cuModuleLoadDataEx, and its log."""

    def __init__(self, code: int, log: str) -> None:
        super().__init__(log)
        self.code = code


class Fault(Exception):
    """What a kernel did wrong, as the driver's error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class Function:
    """An entry. sizes: bytes of each parameter. threads: of a block at most. shared, dynamic: bytes."""

    name: str
    sizes: tuple[int, ...]
    threads: int = 1024
    shared: int = 0
    dynamic: int = 0
    made: Any = None  # what the machine runs


class Machine:
    """Memory, and kernels that do nothing."""

    def __init__(self, target: str, memory: int) -> None:
        self.target = target
        self._blocks: dict[int, bytearray] = {}
        self._next = 0x7F00_0000_0000

    def alloc(self, size: int) -> int:
        address = self._next
        self._next += (size + 511) // 512 * 512 + 512
        self._blocks[address] = bytearray(size)
        return address

    def free(self, address: int) -> None:
        del self._blocks[address]

    def _find(self, address: int, size: int) -> tuple[bytearray, int]:
        for start, block in self._blocks.items():
            if start <= address and address + size <= start + len(block):
                return block, address - start
        raise KeyError(f"{size} bytes at {address:#x}: nobody's")

    def write(self, address: int, data: bytes) -> None:
        block, offset = self._find(address, len(data))
        block[offset : offset + len(data)] = data

    def read(self, address: int, size: int) -> bytes:
        block, offset = self._find(address, size)
        return bytes(block[offset : offset + size])

    def load(self, text: str) -> dict[str, Function]:
        """The entries of a text. Raises Refused."""
        if ".entry" not in text:
            raise Refused(218, "ptxas application ptx input, line 1; fatal   : no entry")
        functions = {}
        for name, parameters in re.findall(r"\.entry\s+(\w+)\s*\(([^)]*)\)", text):
            sizes = tuple(int(bits) // 8 for bits in re.findall(r"\.param\s+\.[a-z](\d+)", parameters))
            functions[name] = Function(name, sizes)
        return functions

    def launch(
        self,
        function: Function,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        shared: int,
        values: list[bytes],
        cluster: tuple[int, ...] | None,
    ) -> None:
        """Raises Fault."""


class EmulatedMachine(Machine):
    """The emulator. Whatever it finds is the fault that hardware would have, or one that hardware would hide."""

    # Kinds of findings for which hardware has an error of its own; any other is 719, "launch failed".
    CODES: ClassVar[dict[str, int]] = {
        "out of bounds": 700,
        "wild address": 700,
        "misaligned": 716,
        "endless loop": 702,
        "trap": 715,
    }

    def __init__(self, target: str, memory: int) -> None:
        from hal_nvidia_ptx.emulator.memory import Arena

        super().__init__(target, memory)
        self._arena = Arena(4 * memory)  # freed blocks are kept aside for a while

    def alloc(self, size: int) -> int:
        return self._arena.alloc(size).start

    def free(self, address: int) -> None:
        self._arena.free(address)

    def write(self, address: int, data: bytes) -> None:
        self._arena.write(address, np.frombuffer(data, np.uint8))

    def read(self, address: int, size: int) -> bytes:
        return self._arena.read(address, size).tobytes()

    def load(self, text: str) -> dict[str, Function]:
        from hal_nvidia_ptx.emulator.program import build
        from hal_nvidia_ptx.emulator.source import parse
        from hal_nvidia_ptx.emulator.syntax import PtxError

        try:
            module = parse(text)
            return {name: self._function(name, build(module, name, self.target)) for name in module.entries}
        except PtxError as error:
            code = 209 if "is for .target" in str(error) else 218
            raise Refused(code, f"ptxas application ptx input, {str(error).splitlines()[0]}") from None

    def _function(self, name: str, program: Any) -> Function:
        most = program.function.directives.get("maxntid") or program.function.directives.get("reqntid") or (1024,)
        sizes = tuple(variable.nbytes for variable in program.function.params)
        return Function(name, sizes, prod(most), program.shared_static, made=program)

    def launch(
        self,
        function: Function,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        shared: int,
        values: list[bytes],
        cluster: tuple[int, ...] | None,
    ) -> None:
        from hal_nvidia_ptx.emulator.machine import Shape, launch

        shape = Shape(grid, block, cluster or (1, 1, 1), shared)  # type: ignore[arg-type]
        outcome = launch(function.made, self._arena, shape, values)
        for finding in outcome.findings:
            print(finding.render(), file=sys.stderr)
            raise Fault(self.CODES.get(finding.kind, 719), finding.render())
