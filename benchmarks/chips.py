"""Published peak figures of accelerators.

Sources for Cloud TPU: the tables on docs.cloud.google.com/tpu/docs/v4, v5e, v5p and v6e. Sources
for NVIDIA: the data sheets of H100 SXM, H200 SXM and A100 80GB SXM, products without sparsity. Link
rates are for one direction, half of the published bidirectional rates. Machines with GPUs are
assumed to have one InfiniBand NDR adapter per GPU, 400 Gbit/s.
"""

from typing import NamedTuple

from vitdeblur_jax.utils.errors import known

GIB = 2**30
GPUS_A_MACHINE = 8


class Chip(NamedTuple):
    """Peak figures of a chip.

    Attributes:
      peak: FLOP/s for each kind of product of `benchmarks.flops`.
      memory: Bytes of HBM.
      memory_rate: Bytes per second between the chip and its HBM.
      link_rate: Bytes per second that all links of the chip can send to neighbouring chips.
      network_rate: Bytes per second that it can send to another machine; None if the links connect
        the machines.
    """

    peak: dict[str, float]
    memory: int
    memory_rate: float
    link_rate: float
    network_rate: float | None = None


def _tpu(bfloat16: float) -> dict[str, float]:
    """Returns peaks on a TPU, where XLA computes a float32 product as 1, 3 or 6 bfloat16 ones."""
    return {
        "bfloat16": bfloat16,
        "default": bfloat16,
        "high": bfloat16 / 3,
        "highest": bfloat16 / 6,
    }


def _gpu(bfloat16: float, tf32: float, float32: float) -> dict[str, float]:
    return {"bfloat16": bfloat16, "default": tf32, "high": tf32, "highest": float32}


_NDR = 50e9

CHIPS = {
    "v4": Chip(_tpu(275e12), 32 * GIB, 1200e9, 300e9),
    "v5e": Chip(_tpu(197e12), 16 * GIB, 819e9, 200e9),
    "v5p": Chip(_tpu(459e12), 95 * GIB, 2765e9, 600e9),
    "v6e": Chip(_tpu(918e12), 32 * GIB, 1600e9, 400e9),
    "A100": Chip(_gpu(312e12, 156e12, 19.5e12), 80 * 10**9, 2039e9, 300e9, _NDR),
    "H100": Chip(_gpu(989e12, 494e12, 67e12), 80 * 10**9, 3350e9, 450e9, _NDR),
    "H200": Chip(_gpu(989e12, 494e12, 67e12), 141 * 10**9, 4800e9, 450e9, _NDR),
}


def chip(name: str) -> Chip:
    """Returns the figures of a chip; raises `UserError` for an unknown name."""
    return CHIPS[known("chip", name, CHIPS)]
