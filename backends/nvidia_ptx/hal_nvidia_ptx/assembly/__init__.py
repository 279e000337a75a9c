"""Machine code without a GPU: PTX assembled by ptxas, disassembled, and its loops read and simulated.

assembler.py   ptxas and nvdisasm of NVIDIA's wheels, found without PATH
sass.py        a kernel's instructions as values
paths.py       the main loop of a kernel; the instructions that one thread runs
pipeline.py    a simulation of one warp scheduler on that loop
occupancy.py   how many blocks fit an SM
"""
