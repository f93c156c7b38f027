"""The data sets: whom they are from, how they have to lie, in which versions they are built."""

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
    """DPDD: 350, 74 and 76 pairs of a Canon camera with dual pixels, 1680 x 1120."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""\
    DPDD is to be downloaded from {_DPDD_HOMEPAGE}: put its {{train,val,test}}_{{c,l,r}} folders, or
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
        "description": "DPDD: images of scenes at a wide aperture, blurred by defocus, with "
        "their left and right dual-pixel views, and at a narrow one, sharp. The combined view has "
        "3 channels in `blurred`, the two views have 6.",
        "homepage": _DPDD_HOMEPAGE,
        "citation": _DPDD_CITATION,
    }


class Realdof(DefocusBuilder):
    """RealDOF: 50 pairs from two cameras behind one lens, for testing."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    RealDOF is to be downloaded by the link on https://github.com/codeslake/IFAN: put its source and
    target folders into this folder.
    """
    BUILDER_CONFIGS: ClassVar = [DefocusConfig(name="8bit", layout="realdof")]
    ABOUT: ClassVar = {
        "description": "RealDOF: defocused images and sharp ones of the same moment, taken by "
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
    """LFDOF: 11,261 and 725 images of 790 and 50 light-field scenes, 1008 x 688."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    LFDOF is to be downloaded from https://sweb.cityu.edu.hk/miullam/AIFNET/: put its train_data and
    test_data folders, or input and ground_truth, into this folder.
    """
    BUILDER_CONFIGS: ClassVar = [DefocusConfig(name="8bit", layout="lfdof")]
    ABOUT: ClassVar = {
        "description": "LFDOF: light-field scenes, refocused at several depths and apertures, each "
        "with one all-in-focus image, which all examples of a scene hold as `sharp`.",
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
    """CUHK: 704 defocused images without sharp ones."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    CUHK is to be downloaded from http://www.cse.cuhk.edu.hk/~leojia/projects/dblurdetect/: put its
    out-of-focus images right into this folder.
    """
    BUILDER_CONFIGS: ClassVar = [DefocusConfig(name="8bit", layout="images")]
    HAS_SHARP = False
    ABOUT: ClassVar = {
        "description": "CUHK: the out-of-focus images of a set made for blur detection; there "
        "are no sharp ones.",
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
    """PixelDP: 13 images of a Pixel 4 without sharp ones."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = f"""\
    PixelDP (the Pixel 4 images) is to be downloaded from {_DPDD_HOMEPAGE}: put its test_c, test_l
    and test_r folders into this folder.
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
        "description": "PixelDP: dual-pixel images of a Pixel 4 smartphone, which lie on "
        "their side; there are no sharp ones.",
        "homepage": _DPDD_HOMEPAGE,
        "citation": _DPDD_CITATION,
    }


class PairedFolder(DefocusBuilder):
    """Any two folders of blurred and sharp images."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = """\
    Put the blurred images into a folder source, input, blurred or blur, the sharp ones, with
    the same names, into target, ground_truth, sharp or gt.
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
    """How defocus is drawn.

    Attributes:
        settings: See there. Two views have the layout "dual_pixel".
        seed: 0 or above.
    """

    settings: SynthesisSettings = field(default_factory=SynthesisSettings)
    seed: int = 0


class SyntheticDefocus(DefocusBuilder):
    """Any folder of sharp images, put out of focus."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put sharp images right into this folder."
    BUILDER_CONFIGS: ClassVar = [
        SyntheticConfig(name="single"),
        SyntheticConfig(
            name="dual_pixel", layout="dual_pixel", settings=SynthesisSettings(dual_pixel=True)
        ),
    ]
    ABOUT: ClassVar = {
        "description": "Your own sharp images, put out of focus by the thin-lens model of "
        "`vitdeblur_jax.data.defocus.synthesis`.",
        "license": "That of the images.",
    }

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Return what an example holds: the radius, too."""
        return {**super().features(), "radius": array_feature((None, None), np.float32)}

    def sources(self, root: Path) -> dict[str, SyntheticSource]:
        """Return the one split, train."""
        config = self.builder_config
        try:
            images = list_images(root)
            if line := left_out(root):
                tell(line)
        except UserError as error:
            raise UserError(f"{error}. {self.instructions()}") from error
        return {"train": SyntheticSource(images, config.settings, config.seed)}
