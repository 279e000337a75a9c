"""torch.matrix_exp of float16 and bfloat16 on the CPU: numbers without any meaning for 2 x 2 matrices and larger.

exp of v times the unit matrix is exp(v) on the diagonal. 1 x 1 matrices, which take another path, are right. Beside
it: float32 has five digits near v = 0.5 and seven elsewhere, as if a polynomial were cut a term too early there.
"""

import math

import torch

print("torch", torch.__version__)
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    for n in (1, 2):
        for value in (0.5, 0.9, 2.0):
            got = torch.matrix_exp((value * torch.eye(n)).to(dtype))[0, 0].item()
            what = f"matrix_exp({value:g} * unit matrix), {n} x {n}, {dtype}"
            print(f"{what}: expected {math.exp(value):.8g}, got {got:.8g}")
