"""jax.nn.standardize takes the variance as the mean of squares minus the square of the mean.

Both are 1e8 for data of mean 1e4, where neighbouring float32 numbers are 8 apart; their difference, which
should be 1, is rounding (and is cut at 0). Results are wrong by factors of hundreds. In float16 squares above
65504 overflow: constant rows of 300 are NaN. jnp.var subtracts the mean first and is right for the same data.
"""

import jax
import jax.numpy as jnp
import numpy as np

print("jax", jax.__version__, jax.devices()[0].platform)
for mean in (0.0, 1e3, 1e4):
    x = (np.random.default_rng(0).standard_normal(1000) + mean).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5)
    got = np.asarray(jax.nn.standardize(jnp.asarray(x)))
    print(f"standardize, 1000 normal numbers of mean {mean:g}: expected {expected[:3]}, got {got[:3]}")
    print(f"  variance: expected {wide.var():.6f}, jnp.var gives {jnp.var(jnp.asarray(x)):.6f}")
print(
    f"standardize of 129 times 300, float16: expected 0.0, got {jax.nn.standardize(jnp.full(129, 300, jnp.float16))[0]}"
)
