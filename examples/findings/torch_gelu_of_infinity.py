"""torch.nn.functional.gelu of +infinity is NaN in vectors of float32 and bfloat16, and infinity in scalars.

gelu(x) = x * Phi(x) with Phi(inf) = 1, so gelu(inf) = inf * 1 = inf: IEEE arithmetic gives that without any
limit. One element gives inf, eight and more give NaN, so the vectorised code differs from the scalar one. At
-inf the formula is -inf * 0, which IEEE has as NaN; the function's limit is 0, as silu's, mish's and
hardswish's is.
"""

import torch
from torch.nn import functional

print("torch", torch.__version__)
for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
    for n in (1, 8, 32):
        got = functional.gelu(torch.full((n,), float("inf"), dtype=dtype))[0].item()
        print(f"gelu(inf), {dtype}, {n} elements: expected inf, got {got}")
for name in ("gelu", "silu", "mish", "hardswish"):
    got = getattr(functional, name)(torch.tensor([-float("inf")])).item()
    print(f"{name}(-inf), float32: expected 0.0 (the limit), got {got}")
