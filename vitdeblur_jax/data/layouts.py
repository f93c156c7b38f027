"""The folder layouts of data sets: which files form a pair."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from vitdeblur_jax.data.image_io import images_in, list_images, subfolders
from vitdeblur_jax.data.pairing import Pairing, pair_in_order, pair_names
from vitdeblur_jax.data.pairs import Pair, UnpairedError
from vitdeblur_jax.utils.buckets import is_remote
from vitdeblur_jax.utils.errors import UserError, known
from vitdeblur_jax.utils.natural_order import natural_key, some

SPLITS = ("train", "val", "test")
ALL = "all"
_DPDD_ROOTS = ("", "dd_dp_dataset_canon", "dd_dp_dataset_png", "DPDD")
_PIXELDP_ROOTS = ("", "dd_dp_dataset_pixel", "PixelDP")
SOURCE_FOLDERS = ("source", "input", "blurred", "blur")
TARGET_FOLDERS = ("target", "ground_truth", "sharp", "gt")
DPDD_COUNTS = {"train": 350, "val": 74, "test": 76}  # as published


def find_pairs(root: str | os.PathLike[str], layout: str, split: str = "test") -> list[Pair]:
    """Finds the pairs of a data set, in the natural order of their names.

    `pairing` explains the rule that pairs files; `pairs.describe` reports how they were paired.

    Args:
        root: The folder of the data set.
        layout: One of `LAYOUTS`.
        split: The split of DPDD ("train", "val" or "test") or of LFDOF ("train" or "test"). The
            other layouts have no splits. The root may also be a single split of LFDOF.

    Raises:
        UnpairedError: Images have no partner.
        UserError: The layout is unknown, a folder is missing, there are no images, two sources have
            the same name, or names contradict each other.
    """
    known("layout", layout, LAYOUTS)
    if not os.path.isdir(root):
        advice = "; mount the bucket, see docs/pods.md" if is_remote(root) else ""
        raise UserError(f"{layout}: {root} is not a folder{advice}")
    try:
        pairs = LAYOUTS[layout](Path(root), split)
        _refuse_twins((pair.name for pair in pairs), Path(root))
    except UserError as error:
        error.args = (f"{layout}: {error}",)
        raise
    except OSError as error:
        raise UserError(f"{layout}: {error.filename}: {error.strerror}") from error
    return sorted(pairs, key=lambda pair: natural_key(pair.name))


def _dpdd(root: Path, split: str) -> list[Pair]:
    combined, _, _, target = dpdd_folders(root, split)
    return _pair_folders([combined, target], whole=DPDD_COUNTS.get(split))


def _dpdd_dual_pixel(root: Path, split: str) -> list[Pair]:
    _, left, right, target = dpdd_folders(root, split)
    return _pair_folders([left, right, target], whole=DPDD_COUNTS.get(split))


def dpdd_folders(root: Path, split: str) -> tuple[Path, Path, Path, Path]:
    """Returns DPDD's folders of the combined, left and right views and of the sharp images.

    Raises:
        UserError: There is no folder of this split, or the folder has the name of another split.
    """
    for base in (root / name for name in _DPDD_ROOTS):
        if (base / f"{split}_c").is_dir():
            combined, left, right = (base / f"{split}_{view}" / "source" for view in "clr")
            return combined, left, right, base / f"{split}_c" / "target"
    for base in (root / split / "DPDD", root / "DPDD", root):  # as repacked by other projects
        if any((base / view).is_dir() for view in ("inputC", "inputL", "inputR")):
            named = split_named_in(base)
            if named not in (ALL, split):
                raise UserError(f"{base} is the split {named!r}, not {split!r}")
            return base / "inputC", base / "inputL", base / "inputR", base / "target"
    raise UserError(
        f"no {split}_c/source or {split}/DPDD/inputC in {root}, which contains {contents(root)}"
    )


def split_named_in(root: Path) -> str:
    """Returns the split in the name of a folder ("…/test/DPDD", "…/train_data"), or "all"."""
    for name in (root.name, root.parent.name):
        if name.removesuffix("_data") in SPLITS:
            return name.removesuffix("_data")
    return ALL


def _pixeldp(root: Path, split: str) -> list[Pair]:
    return _pair_folders(pixeldp_folders(root)[:1], has_target=False)


def _pixeldp_dual_pixel(root: Path, split: str) -> list[Pair]:
    return _pair_folders(pixeldp_folders(root)[1:], has_target=False)


def pixeldp_folders(root: Path) -> tuple[Path, Path, Path]:
    """Returns PixelDP's folders of the combined, left and right views.

    Raises:
        UserError: There is no test_c.
    """
    for base in (root / name for name in _PIXELDP_ROOTS):
        if (base / "test_c").is_dir():
            combined, left, right = (
                view / "source" if (view / "source").is_dir() else view
                for view in (base / f"test_{letter}" for letter in "clr")
            )
            return combined, left, right
    raise UserError(f"no test_c in {root}, which contains {contents(root)}")


def _lfdof(root: Path, split: str) -> list[Pair]:
    part = root / f"{split}_data"
    base = part if part.is_dir() else root
    inputs, truths = _folder(base, ("input",)), _by_stem(_folder(base, ("ground_truth",)))
    scenes = subfolders(inputs)
    if scenes:
        if loose := images_in(inputs):
            raise UserError(
                f"{inputs} contains scene folders and also {some(path.name for path in loose)}; "
                "move these images to the folders of their scenes"
            )
        views = [(scene.name, path) for scene in scenes for path in list_images(scene)]
        names = [f"{scene}_{path.stem}" for scene, path in views]
    else:  # the authors' sample has one image per scene
        views = list(_by_stem(inputs).items())
        names = [stem for stem, _ in views]
    found = pair_names(list(dict(views)), list(truths))
    if found.by == "order":  # scenes must have the names of their ground truth
        found = Pairing((), "name", (*dict(views), *truths))
    truth_of = {scene: truths[truth] for scene, truth in found.pairs}
    pairs = [
        Pair(name, (path,), truth_of[scene], found.by)
        for name, (scene, path) in zip(names, views, strict=True)
        if scene in truth_of
    ]
    if found.unpaired:
        unpaired = some(found.unpaired)
        message = f"{base}: not in both input and ground_truth: {unpaired}"
        raise UnpairedError(message, pairs)
    return pairs


def _two_folders(root: Path, split: str) -> list[Pair]:
    return _pair_folders([_folder(root, SOURCE_FOLDERS), _folder(root, TARGET_FOLDERS)])


def _realdof(root: Path, split: str) -> list[Pair]:
    return _pair_folders([_folder(root, ("source",)), _folder(root, ("target",))])


def _images(root: Path, split: str) -> list[Pair]:
    return [Pair(stem, (path,), None) for stem, path in _by_stem(root).items()]


LAYOUTS: dict[str, Callable[[Path, str], list[Pair]]] = {
    "dpdd": _dpdd,
    "dpdd_dual_pixel": _dpdd_dual_pixel,
    "realdof": _realdof,
    "lfdof": _lfdof,
    "pixeldp": _pixeldp,
    "pixeldp_dual_pixel": _pixeldp_dual_pixel,
    "pairs": _two_folders,
    "images": _images,
}


def _pair_folders(
    folders: Sequence[Path], *, has_target: bool = True, whole: int | None = None
) -> list[Pair]:
    """Pairs the images of the folders. The pairs have the names of the first folder.

    Args:
        folders: The folders of the views, then that of the sharp images.
        has_target: Whether there are sharp images.
        whole: The published number of images, for a data set whose authors pair by order. If the
            folders have exactly this many images, they are paired by order even if some numbers
            occur on both sides.
    """
    files = [_by_stem(_folder(folder.parent, (folder.name,))) for folder in folders]
    names = list(files[0])
    found = [Pairing(tuple((name, name) for name in names), "")]
    for folder, others in zip(folders[1:], files[1:], strict=True):
        found.append(_pair_two(names, list(others), len(names) == whole, folders[0], folder))
    partners = [dict(pairing.pairs) for pairing in found]
    by = "order" if any(pairing.by == "order" for pairing in found) else found[-1].by
    pairs = []
    for name in names:
        if all(name in of for of in partners):
            paths = [file[of[name]] for file, of in zip(files, partners, strict=True)]
            target = paths.pop() if has_target else None
            pairs.append(Pair(name, tuple(paths), target, by))
    for folder, others, pairing in zip(folders, files, found, strict=True):
        if pairing.unpaired:
            counts = f"{len(names)} in {folders[0]}, {len(others)} in {folder}"
            unpaired = f"without a partner: {some(pairing.unpaired)}"
            unpaired = unpaired if pairing.pairs else "none of their names match"
            raise UnpairedError(f"{counts}; {unpaired}", pairs)
    return pairs


def _pair_two(left: list[str], right: list[str], order_is_known: bool, *folders: Path) -> Pairing:
    order_is_known = order_is_known and len(left) == len(right)
    try:
        found = pair_names(left, right)
    except UserError as error:
        if not order_is_known:
            raise UserError(f"{folders[0]} and {folders[1]}: {error}") from error
        return pair_in_order(left, right)
    return pair_in_order(left, right) if order_is_known and found.unpaired else found


def _folder(root: Path, names: Sequence[str]) -> Path:
    """Returns the first named folder that exists in the root."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(names)
    if not root.is_dir():
        raise UserError(
            f"no folder {root / wanted}; {root.parent} contains {contents(root.parent)}"
        )
    raise UserError(f"no folder {wanted} in {root}, which contains {contents(root)}")


def contents(folder: Path) -> str:
    """Returns the first names in a folder, or "nothing"."""
    return some(path.name for path in folder.iterdir()) or "nothing"


def _by_stem(folder: Path) -> dict[str, Path]:
    paths = list_images(folder)
    _refuse_twins((path.stem for path in paths), folder)
    return {path.stem: path for path in paths}


def _refuse_twins(names: Iterable[str], folder: Path) -> None:
    twins = [name for name, count in Counter(names).items() if count > 1]
    if twins:
        raise UserError(f"several images with the same name in {folder}: {some(twins)}")
