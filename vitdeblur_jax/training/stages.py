"""The stages of a run: the crop and batch size of each step."""

from typing import NamedTuple

import ml_collections


class Stage(NamedTuple):
    """A part of the training with one crop and batch size.

    Attributes:
      first_step: The first step of the stage.
      first_example: Number of examples taken before it.
      crop: Side of the crops, pixels.
      batch_size: Batch size over all devices.
    """

    first_step: int
    first_example: int
    crop: int
    batch_size: int

    @property
    def shape(self) -> str:
        """The shape of its batches, in words."""
        return f"{self.batch_size} crops of {self.crop} x {self.crop} pixels"


def stages(config: ml_collections.ConfigDict) -> list[Stage]:
    """Returns the stages given by `crop`, `batch_size` and `progressive`; at least one."""
    plan = [Stage(0, 0, config.crop, config.batch_size)]
    for first_step, crop, batch_size in config.progressive:
        taken = (first_step - plan[-1].first_step) * plan[-1].batch_size
        plan.append(Stage(first_step, plan[-1].first_example + taken, crop, batch_size))
    return plan
