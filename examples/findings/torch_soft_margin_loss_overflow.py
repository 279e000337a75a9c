"""torch.nn.functional.soft_margin_loss overflows where its result is an ordinary number.

log(1 + exp(-y x)) with y x = -12 is 12.000006. exp(12) = 162755 exceeds float16's 65504, so the result is
inf; in float32 the same happens from 88.73 on. softplus(-y x) is the same function and does not overflow.
"""

import torch
from torch.nn import functional

print("torch", torch.__version__)
for dtype, value in (
    (torch.float16, -12.0),
    (torch.float32, -100.0),
    (torch.bfloat16, -100.0),
    (torch.float64, -800.0),
):
    x, y = torch.tensor([value], dtype=dtype), torch.tensor([1.0], dtype=dtype)
    got, other = functional.soft_margin_loss(x, y).item(), functional.softplus(-x * y).item()
    print(f"soft_margin_loss({value:g}, 1), {dtype}: expected {-value:g}, got {got}; softplus gives {other}")
