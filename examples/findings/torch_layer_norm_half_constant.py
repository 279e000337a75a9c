"""torch.nn.functional.layer_norm of a constant row in float16 and bfloat16 on the CPU is far from 0.

A constant row has mean x and variance 0, so every result is (x - mean) * rstd = 0. float32 gives 0. The
16-bit path seems to compute x * rstd + (-mean * rstd): with x = 60000 and rstd = 1 / sqrt(1e-5) = 316, both
products are 1.9e7, where neighbouring float32 numbers are 2 apart, and what is left of their difference is
rounding. Subtracting the mean first costs as much and is exact here.
"""

import torch
from torch.nn import functional

print("torch", torch.__version__)
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    for value in (1000.0, 60000.0):
        x = torch.full((1, 129), value, dtype=dtype)
        got = functional.layer_norm(x, (129,))[0, 0].item()
        print(f"layer_norm of 129 times {x[0, 0].item():g}, {dtype}: expected 0.0, got {got}")
