"""torch.log_softmax of float16 and bfloat16 on the CPU keeps the sum, or its logarithm, in 16 bits.

70000 equal numbers: each result is -log 70000 = -11.156. In float16 it is -inf: the sum 70000 exceeds 65504,
although torch.softmax of the same tensor is right. In bfloat16 the result is a unit in the last place off,
and so are a few percent of the elements of ordinary rows: rounding once at the end gives
log_softmax(x.float()).to(x.dtype).
"""

import math

import torch

print("torch", torch.__version__)
for dtype in (torch.float16, torch.bfloat16):
    ones = torch.ones(70000, dtype=dtype)
    expected = torch.tensor(-math.log(70000), dtype=torch.float64).to(dtype).item()
    print(f"log_softmax of 70000 ones, {dtype}: expected {expected}, got {torch.log_softmax(ones, 0)[0].item()}")
    x = (3 * torch.randn(100, 257, generator=torch.Generator().manual_seed(0))).to(dtype)
    exact = torch.log_softmax(x.double(), -1)
    nearest = exact.to(dtype).abs()
    unit = torch.nextafter(nearest, torch.tensor(torch.inf, dtype=dtype)).double() - nearest.double()
    for name, got in (
        ("log_softmax(x)", torch.log_softmax(x, -1)),
        ("log_softmax(x.float()).to(dtype)", torch.log_softmax(x.float(), -1).to(dtype)),
    ):
        wrong = ((got.double() - exact).abs() > 0.55 * unit).sum().item()
        print(f"{name}, {dtype}, 100 x 257: expected 0 elements off by more than 0.55 units, got {wrong}")
