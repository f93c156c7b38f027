"""Recognizes a data set by the layout of its folder."""

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitdeblur_jax.data.image_io import list_images, subfolders
from vitdeblur_jax.data.layouts import (
    ALL,
    SOURCE_FOLDERS,
    SPLITS,
    TARGET_FOLDERS,
    contents,
    dpdd_folders,
    pixeldp_folders,
    split_named_in,
)
from vitdeblur_jax.utils.errors import UserError, one_line

_REALDOF_NAMES = {f"{number:02}" for number in range(1, 51)}
_LOOKED_FOR = (
    "{train,val,test}_c (DPDD, PixelDP), {train,val,test}/DPDD/inputC (DPDD, Restormer's repack), "
    "{train,test}_data/input (LFDOF), two folders "
    f"({' or '.join(SOURCE_FOLDERS)}, with {' or '.join(TARGET_FOLDERS)}), or images"
)


@dataclass(frozen=True)
class Part:
    """A split of a data set on disk.

    Attributes:
        split: "train", "val" or "test"; "all" if unknown.
        layouts: The names in `layouts.LAYOUTS` that read it, one view before two views.
        folders: The folders of its images by side: "blurred" (for dual-pixel data the combined
            view), "left", "right", "sharp"; "images" if unknown. Some may be missing.
    """

    split: str
    layouts: tuple[str, ...]
    folders: dict[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Recognized:
    """A data set.

    Attributes:
        dataset: "DPDD", "DPDD repack" (Restormer's), "RealDOF", "LFDOF", "LFDOF sample" (the
            authors' flat sample), "CUHK", "PixelDP", "pairs" or "images".
        parts: The splits found, at least one.
    """

    dataset: str
    parts: tuple[Part, ...]


def recognize(root: str | os.PathLike[str]) -> Recognized:
    """Recognizes a data set, its layout and its splits by file and folder names.

    Three data sets have no layout of their own. Two folders are RealDOF if the root has that name,
    or if most of the names 01 to 50 exist. Images are CUHK if the root has that name, or if all are
    named `out_of_focus…`. `test_c` without targets is PixelDP, unless its images have DPDD's names,
    `1P0A…`.

    Raises:
        UserError: The root is missing or cannot be listed, or no layout is recognized; the error
            lists the layouts and the content of the root.
    """
    root = Path(os.path.abspath(root))
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    try:
        for look in (_pixeldp, _dpdd, _lfdof, _two_folders, _images):
            found = look(root)
            if found:
                return found
        raise UserError(
            f"no data set recognized in {root}: looked for {_LOOKED_FOR}; it contains "
            f"{contents(root)}"
        )
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be listed ({one_line(error)})") from error


def images_in(folders: Sequence[Path]) -> list[Path]:
    """Lists the images in folders, without subfolders. Folders may be missing or empty."""
    found = []
    for folder in folders:
        with contextlib.suppress(UserError):
            found += list_images(folder)
    return found


def _pixeldp(root: Path) -> Recognized | None:
    try:
        combined, left, right = pixeldp_folders(root)
    except UserError:
        return None
    base = combined.parent if combined.name == "test_c" else combined.parents[1]
    of_dpdd = any((base / name).is_dir() for name in ("test_c/target", "train_c", "val_c"))
    if of_dpdd or any(path.name.startswith("1P0A") for path in images_in([combined])):
        return None
    sides = {"blurred": (combined,), "left": (left,), "right": (right,)}
    return Recognized("PixelDP", (_dual_pixel_part("test", "pixeldp", sides),))


def _dpdd(root: Path) -> Recognized | None:
    found = {}
    for split in SPLITS:
        with contextlib.suppress(UserError):
            found[split] = dpdd_folders(root, split)
    if not found:
        return None
    if len(found) == len(SPLITS) and len(set(found.values())) == 1:  # one part of an unknown split
        found = {ALL: found["test"]}
    parts = []
    for split, folders in found.items():
        sides = {
            side: (folder,)
            for side, folder in zip(("blurred", "left", "right", "sharp"), folders, strict=True)
        }
        parts.append(_dual_pixel_part(split, "dpdd", sides))
    is_repack = any(folders[0].name == "inputC" for folders in found.values())
    return Recognized("DPDD repack" if is_repack else "DPDD", tuple(parts))


def _dual_pixel_part(split: str, layout: str, sides: dict[str, tuple[Path, ...]]) -> Part:
    """Returns a part with the views that exist: the combined view, both single views, or all."""
    has_views = any(sides[view][0].is_dir() for view in ("left", "right"))
    has_combined = sides["blurred"][0].is_dir() or not has_views
    missing = (set() if has_views else {"left", "right"}) | (set() if has_combined else {"blurred"})
    layouts = (layout,) * has_combined + (f"{layout}_dual_pixel",) * has_views
    return Part(split, layouts, {side: f for side, f in sides.items() if side not in missing})


def _lfdof(root: Path) -> Recognized | None:
    bases = {split: root / f"{split}_data" for split in SPLITS}
    bases = {split: base for split, base in bases.items() if base.is_dir()}
    if not bases and all((root / name).is_dir() for name in ("input", "ground_truth")):
        bases = {split_named_in(root): root}
    parts = [_lfdof_part(split, base) for split, base in bases.items()]
    if any(len(part.folders["blurred"]) > 1 for part in parts):
        return Recognized("LFDOF", tuple(parts))
    names = [path.stem for part in parts for path in images_in(part.folders["blurred"])]
    if names and all(re.fullmatch(r"IMG_\d+.*", name) for name in names):
        return Recognized("LFDOF sample", tuple(parts))
    return None


def _lfdof_part(split: str, base: Path) -> Part:
    inputs = base / "input"
    scenes = subfolders(inputs) if inputs.is_dir() else []
    # Images next to the scene folders are an error. They are listed so that the check reports them.
    sides = {"blurred": (inputs, *scenes), "sharp": (base / "ground_truth",)}
    return Part(split, ("lfdof",), sides)


def _two_folders(root: Path) -> Recognized | None:
    sources = [root / name for name in SOURCE_FOLDERS if (root / name).is_dir()]
    targets = [root / name for name in TARGET_FOLDERS if (root / name).is_dir()]
    if not sources or not targets:
        return None
    sides = {"blurred": (sources[0],), "sharp": (targets[0],)}
    if (sources[0].name, targets[0].name) == ("source", "target"):
        names = {path.stem for path in images_in((sources[0], targets[0]))}
        has_its_names = names <= _REALDOF_NAMES and len(names) > len(_REALDOF_NAMES) / 2
        if has_its_names or "realdof" in root.name.lower():
            return Recognized("RealDOF", (Part("test", ("realdof",), sides),))
    return Recognized("pairs", (Part(ALL, ("pairs",), sides),))


def _images(root: Path) -> Recognized | None:
    paths = images_in([root])
    if not paths:
        return None
    if "cuhk" in root.name.lower() or all(p.name.startswith("out_of_focus") for p in paths):
        return Recognized("CUHK", (Part("test", ("images",), {"blurred": (root,)}),))
    return Recognized("images", (Part(ALL, ("images",), {"images": (root,)}),))
