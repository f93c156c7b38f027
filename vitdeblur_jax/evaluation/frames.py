"""The part of an image that a system restores, saves and measures."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from vitdeblur_jax.utils.errors import UserError

_PLACES = {"end": "at the bottom and right", "start": "at the top and left", "around": "all around"}
_FILLS = {"reflect": "by reflection", "black": "with black"}


class Frame(NamedTuple):
    """How a system fits images to the sizes that it takes.

    Attributes:
      way: "whole" leaves images as they are; "crop" and "pad" make the sides multiples.
      multiple: Of it, in pixels.
      place: Where "pad" pads: "end" (bottom and right), "start" (top and left), or "around" (the
        smaller half first). "crop" crops at the end.
      fill: What "pad" pads with: "reflect" (without the edge pixel) or "black".
      accepts: Takes height and width; returns whether the system takes images of this size.
      wanted: These sizes in words; completes "takes".
    """

    way: str = "whole"
    multiple: int = 1
    place: str = "end"
    fill: str = "reflect"
    accepts: Callable[[int, int], bool] = lambda height, width: True
    wanted: str = ""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Returns height and width of the frame of an image."""
        if self.way == "crop":
            return height - height % self.multiple, width - width % self.multiple
        return tuple(
            before + side + after
            for side, (before, after) in zip(
                (height, width), self.padding(height, width), strict=True
            )
        )

    def padding(self, height: int, width: int) -> list[tuple[int, int]]:
        """Returns the padding before and after an image, for height and width."""
        missing = [-side % self.multiple * (self.way == "pad") for side in (height, width)]
        before = {"end": lambda n: 0, "start": lambda n: n, "around": lambda n: n // 2}[self.place]
        return [(before(n), n - before(n)) for n in missing]

    def fit(
        self, image: Shaped[np.ndarray, "height width channels"]
    ) -> Shaped[np.ndarray, "frame_height frame_width channels"]:
        """Returns the frame of an image."""
        height, width = self.size(*image.shape[:2])
        mode = "reflect" if self.fill == "reflect" else "constant"
        return np.pad(image, [*self.padding(*image.shape[:2]), (0, 0)], mode)[:height, :width]

    def check(self, height: int, width: int, system: str, name: str) -> None:
        """Raises `UserError` unless the system takes images of this size.

        Args:
          height: Height of the image, in pixels.
          width: Its width, in pixels.
          system: Name of the system, for the message.
          name: Name of the image, for the message.
        """
        if not self.accepts(height, width):
            raise UserError(
                f"the profile {system} takes {self.wanted}, and {name} is {width} x {height}; "
                "leave the profile out"
            )

    @property
    def in_words(self) -> str:
        """What happens to images whose sides are no multiples."""
        if self.way == "pad":
            where, what = _PLACES[self.place], _FILLS[self.fill]
            return f"padded to a multiple of {self.multiple} {where} {what}"
        if self.way == "crop":
            return f"cropped to a multiple of {self.multiple} from the top left"
        return "as they are"
