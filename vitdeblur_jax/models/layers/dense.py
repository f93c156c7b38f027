"""The Dense layer of the transformers."""

from collections.abc import Callable

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype
from flax.typing import Initializer
from jaxtyping import Array, Float

from vitdeblur_jax.models.layers.cpu_products import dense_on_cpu


class Dense(nn.Dense):
    """`flax.linen.Dense` with the reference's initialization: Xavier-uniform kernel, zero bias.

    In half precision a CPU uses `cpu_products`; all other platforms use Flax's own layer. The
    attributes are those of `flax.linen.Dense`.
    """

    kernel_init: Initializer = nn.initializers.xavier_uniform()
    promote_dtype: Callable = promote_dtype  # Flax's type cannot be checked at run time

    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch features"]:
        if self.is_initializing():
            return super().__call__(x)
        # Flax checks shapes by tracing the initializers again, and that of a zero is cheap.
        layer = self.clone(parent=None, kernel_init=nn.initializers.zeros)

        def plain(params, x):
            return layer.apply({"params": params}, x, method=nn.Dense.__call__)

        params, x = self.variables["params"], x.astype(self.dtype)
        if x.dtype.itemsize != 2:
            return plain(params, x)
        return jax.lax.platform_dependent(params, x, cpu=dense_on_cpu, default=plain)
