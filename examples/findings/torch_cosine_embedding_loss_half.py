"""torch.nn.functional.cosine_embedding_loss of zero vectors is NaN in float16 and 1 in every other dtype.

The norms are guarded by a constant that is added before the division; it is smaller than 6e-8, the smallest
positive float16, and becomes 0 there, so the quotient is 0 / 0.
"""

import torch
from torch.nn import functional

print("torch", torch.__version__)
for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
    zeros, same = torch.zeros(1, 4, dtype=dtype), torch.ones(1, dtype=dtype)
    got = functional.cosine_embedding_loss(zeros, zeros, same).item()
    print(f"cosine_embedding_loss of zeros, {dtype}: expected 1.0, got {got}")
