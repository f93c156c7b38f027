"""The data sets: their sources, their folder layouts and their configs."""

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from vitdeblur_jax.data.defocus.settings import SynthesisSettings
from vitdeblur_jax.data.image_io import left_out, list_images
from vitdeblur_jax.data.records.base import DefocusBuilder, DefocusConfig, array_feature
from vitdeblur_jax.data.sources import SyntheticSource
from vitdeblur_jax.utils.errors import UserError
from vitdeblur_jax.utils.output import tell

_DPDD_HOMEPAGE = "https://github.com/Abdullah-Abuolaim/defocus-deblurring-dual-pixel"
_DPDD_CITATION = """\
@inproceedings{abuolaim2020defocus,
  title={Defocus Deblurring Using Dual-Pixel Data},
  author={Abuolaim, Abdullah and Brown, Michael S.},
  booktitle={European Conference on Computer Vision},
  pages={111--126},
  year={2020}
}"""
_VIEWS = {"single": "", "dual_pixel": "_dual_pixel"}
_PATCHES = {"": "whole images", "all": "train patches", "sharpest": "sharpest train patches"}


class Dpdd(DefocusBuilder):
    """DPDD: 350, 74 and 76 pairs from a Canon camera with dual pixels, 1680 x 1120 pixels."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""\
    Download DPDD from {_DPDD_HOMEPAGE} and put its {{train,val,test}}_{{c,l,r}} folders, or
    Restormer's repack with its {{train,val,test}}/DPDD, into this folder.
    """
    BUILDER_CONFIGS: ClassVar = [
        DefocusConfig(
            name=f"{views}_{bits}bit" + (f"_{patches}_patches" if patches else ""),
            description=f"{views.replace('_', ' ')}, {bits} bits, {_PATCHES[patches]}",
            layout=f"dpdd{_VIEWS[views]}",
            bit_depth=bits,
            train_patches=patches,
        )
        for views, bits, patches in product(_VIEWS, (8, 16), _PATCHES)
    ]
    ABOUT: ClassVar = {
        "description": "DPDD: each scene has an image with defocus blur, taken at a wide aperture, "
        "its left and right dual-pixel views, and a sharp image taken at a narrow aperture. "
        "`blurred` has 3 channels for the combined view and 6 channels for both views.",
        "homepage": _DPDD_HOMEPAGE,
        "citation": _DPDD_CITATION,
    }


class Realdof(DefocusBuilder):
    """RealDOF: 50 test pairs from two cameras behind one lens."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Download RealDOF by the link on https://github.com/codeslake/IFAN and put its source and target
    folders into this folder.
    """
    BUILDER_CONFIGS: ClassVar = [DefocusConfig(name="8bit", layout="realdof")]
    ABOUT: ClassVar = {
        "description": "RealDOF: pairs of a defocused and a sharp image, taken at the same time by "
        "two cameras behind one lens.",
        "homepage": "https://github.com/codeslake/IFAN",
        "citation": """\
@inproceedings{lee2021iterative,
  title={Iterative Filter Adaptive Network for Single Image Defocus Deblurring},
  author={Lee, Junyong and Son, Hyeongseok and Rim, Jaesung and Cho, Sunghyun and Lee, Seungyong},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2021}
}""",
    }


class Lfdof(DefocusBuilder):
    """LFDOF: 11,261 and 725 images of 790 and 50 light-field scenes, 1008 x 688 pixels."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Download LFDOF from https://sweb.cityu.edu.hk/miullam/AIFNET/ and put its train_data and
    test_data folders, or input and ground_truth, into this folder.
    """
    BUILDER_CONFIGS: ClassVar = [DefocusConfig(name="8bit", layout="lfdof")]
    ABOUT: ClassVar = {
        "description": "LFDOF: light-field scenes, refocused at several depths and apertures. All "
        "examples of a scene have the same all-in-focus image as `sharp`.",
        "homepage": "https://sweb.cityu.edu.hk/miullam/AIFNET/",
        "citation": """\
@article{ruan2021aifnet,
  title={{AIFNet}: All-in-Focus Image Restoration Network Using a Light Field-Based Dataset},
  author={Ruan, Lingyan and Chen, Bin and Li, Jizhou and Lam, Miu-Ling},
  journal={IEEE Transactions on Computational Imaging},
  volume={7},
  pages={675--688},
  year={2021},
  doi={10.1109/TCI.2021.3092891}
}""",
    }


class Cuhk(DefocusBuilder):
    """CUHK: 704 defocused images without sharp images."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Download CUHK from http://www.cse.cuhk.edu.hk/~leojia/projects/dblurdetect/ and put its
    out-of-focus images directly into this folder.
    """
    BUILDER_CONFIGS: ClassVar = [DefocusConfig(name="8bit", layout="images")]
    HAS_SHARP = False
    ABOUT: ClassVar = {
        "description": "CUHK: the out-of-focus images of a blur detection data set. There are no "
        "sharp images.",
        "homepage": "http://www.cse.cuhk.edu.hk/~leojia/projects/dblurdetect/",
        "citation": """\
@inproceedings{shi2014discriminative,
  title={Discriminative Blur Detection Features},
  author={Shi, Jianping and Xu, Li and Jia, Jiaya},
  booktitle={IEEE Conference on Computer Vision and Pattern Recognition},
  year={2014}
}""",
    }


class Pixeldp(DefocusBuilder):
    """PixelDP: 13 images from a Pixel 4 without sharp images."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""\
    Download PixelDP (the Pixel 4 images) from {_DPDD_HOMEPAGE} and put its test_c, test_l and
    test_r folders into this folder.
    """
    BUILDER_CONFIGS: ClassVar = [
        DefocusConfig(
            name=f"{views}_{bits}bit",
            description=f"{views.replace('_', ' ')}, {bits} bits",
            layout=f"pixeldp{_VIEWS[views]}",
            bit_depth=bits,
        )
        for views, bits in product(_VIEWS, (8, 16))
    ]
    HAS_SHARP = False
    ABOUT: ClassVar = {
        "description": "PixelDP: dual-pixel images from a Pixel 4 smartphone, rotated by 90 "
        "degrees. There are no sharp images.",
        "homepage": _DPDD_HOMEPAGE,
        "citation": _DPDD_CITATION,
    }


class PairedFolder(DefocusBuilder):
    """Any two folders of blurred and sharp images."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Put the blurred images into a folder source, input, blurred or blur, and the sharp images, with
    the same names, into a folder target, ground_truth, sharp or gt.
    """
    BUILDER_CONFIGS: ClassVar = [
        DefocusConfig(name=f"{bits}bit", layout="pairs", bit_depth=bits) for bits in (8, 16)
    ]
    ABOUT: ClassVar = {
        "description": "Your own pairs of blurred and sharp images.",
        "license": "That of the images.",
    }


@dataclass(eq=False)
class SyntheticConfig(DefocusConfig):
    """A config of synthetic defocus.

    Attributes:
        settings: The distribution of scenes, lenses and cameras. With two views, `layout` is
            "dual_pixel".
        seed: Random seed, 0 or greater.
    """

    settings: SynthesisSettings = field(default_factory=SynthesisSettings)
    seed: int = 0


class SyntheticDefocus(DefocusBuilder):
    """Synthetic defocus pairs from any folder of sharp images."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put sharp images directly into this folder."
    BUILDER_CONFIGS: ClassVar = [
        SyntheticConfig(name="single"),
        SyntheticConfig(
            name="dual_pixel", layout="dual_pixel", settings=SynthesisSettings(dual_pixel=True)
        ),
    ]
    ABOUT: ClassVar = {
        "description": "Your own sharp images, blurred by the thin-lens model of "
        "`vitdeblur_jax.data.defocus.synthesis`.",
        "license": "That of the images.",
    }

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Returns the features of an example, including the defocus radius."""
        return {**super().features(), "radius": array_feature((None, None), np.float32)}

    def sources(self, root: Path) -> dict[str, SyntheticSource]:
        """Returns the examples of the only split, train."""
        config = self.builder_config
        try:
            images = list_images(root)
            if line := left_out(root):
                tell(line)
        except UserError as error:
            raise UserError(f"{error}. {self.instructions()}") from error
        return {"train": SyntheticSource(images, config.settings, config.seed)}
