"""JAX on the CPU flushes subnormal numbers, in float32 and float64: 1e-40 * 1 is 0.

IEEE 754 has gradual underflow as the default, and the processor and NumPy have it. XLA sets the flush-to-zero
mode for its threads, which may be meant so; a result that is 0 where 7.3e-40 is expected surprises all the
same.
"""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402 - the option has to come first
import numpy as np  # noqa: E402

print("jax", jax.__version__, jax.devices()[0].platform)
small, tiny = np.float32(1e-40), np.float64(1e-310)
print(f"1e-40 * 1, float32: expected {small}, got {jnp.asarray([small])[0] * 1}")
print(
    f"2^-120 * 2^-10, float32: expected {np.float32(2.0**-130)}, got {jnp.float32(2.0**-120) * jnp.float32(2.0**-10)}"
)
print(f"exp(-90), float32: expected {np.exp(np.float32(-90))}, got {jnp.exp(jnp.float32(-90))}")
print(f"1e-310 * 1, float64: expected {tiny}, got {jnp.asarray([tiny])[0] * 1}")
