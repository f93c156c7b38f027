"""The model card of a checkpoint that is pushed to the Hugging Face Hub: its `README.md`."""

import json
from typing import NamedTuple

import jax

from vitdeblur_jax.checkpoints.hub_addresses import DEFAULT_REVISION, HubAddress
from vitdeblur_jax.checkpoints.pretrained import Pretrained, saved_config
from vitdeblur_jax.utils.buckets import AnyPath
from vitdeblur_jax.utils.errors import UserError, one_line
from vitdeblur_jax.utils.json_files import parse_json, read_json

_SHOWN = {"psnr": "PSNR (dB)", "ssim": "SSIM", "mae": "MAE"}  # metrics in the log of a run
_DIGITS = 4
_TASK = "image-to-image"
_TAGS = ["jax", "flax", "image-restoration", "deblurring", "defocus-deblurring"]


class Validation(NamedTuple):
    """The last validation of a training run before its checkpoint was saved.

    Attributes:
      step: The step of the checkpoint.
      split: The split that the images are of.
      figures: By data set, the figures of the log: "psnr", "input_psnr" and so on.
    """

    step: int
    split: str
    figures: dict[str, dict[str, float]]


def read_validation(checkpoint: AnyPath) -> Validation | None:
    """Returns the validation of a step of a training run, or None if there is none in its log.

    Args:
      checkpoint: A folder `RUN/checkpoints/STEP`; for any other path the result is None.

    Raises:
      UserError: The run's config or log cannot be read.
    """
    run, step = checkpoint.parent.parent, checkpoint.name
    is_step = checkpoint.parent.name == "checkpoints" and step.isdecimal()
    if not is_step or not (run / "log.jsonl").exists() or not (run / "config.json").exists():
        return None
    config, log = read_json(run / "config.json"), run / "log.jsonl"
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{log}: cannot be read ({one_line(error)})") from error
    records = (parse_json(line, str(log)) for line in lines)
    found = [r for r in records if (r.get("kind"), r.get("step")) == ("validation", int(step))]
    if not found:
        return None
    unnamed = str(config.get("data", {}).get("layout", "validation"))
    split = str(config.get("validation", {}).get("split", ""))
    return Validation(int(step), split, _by_set(found[-1], unnamed))


def _by_set(record: dict, unnamed: str) -> dict[str, dict[str, float]]:
    """Returns the figures by data set; `unnamed` is the name of the set that has none."""
    figures: dict[str, dict[str, float]] = {}
    for key, value in record.items():
        name, _, metric = key.rpartition("/")
        if metric.removeprefix("input_") in _SHOWN and isinstance(value, int | float):
            figures.setdefault(name or unnamed, {})[metric] = value
    return figures


def model_card(
    pretrained: Pretrained, address: HubAddress, license_name: str, validation: Validation | None
) -> str:
    """Returns the text of a model card, with the hub's metadata at its head.

    It holds no paths of this machine.

    Args:
      pretrained: The checkpoint.
      address: Where it is pushed to.
      license_name: Its licence, as the hub names it, such as "apache-2.0".
      validation: Its results, if it is of a training run.
    """
    name = address.repo.partition("/")[2]
    is_own = pretrained.config is None
    option = " --network MODULE:CLASS" if is_own else ""
    argument = ", network=..." if is_own else ""
    size = sum(leaf.size for leaf in jax.tree.leaves(pretrained.variables["params"]))
    short = str(address).replace(f"@{DEFAULT_REVISION}/", "/")
    return "\n".join(
        [
            f"---\n{_metadata(name, license_name, validation)}\n---",
            f"# {name}\n",
            f"{type(pretrained.model).__name__}, {size / 1e6:.2f} M parameters, for "
            "`vitdeblur_jax`: it restores images that are out of focus.\n",
            f"## Use\n\n    vitdeblur IMAGE --checkpoint {short}{option}\n",
            "```python\nimport vitdeblur_jax as vd\n",
            f'restored = vd.deblur(image, vd.load_pretrained("{short}"{argument}))\n```\n',
            *_results(validation),
            "## Network\n",
            f"```json\n{json.dumps(saved_config(pretrained.model), indent=2)}\n```\n",
            f"## Licence\n\n{license_name}\n",
        ]
    )


def _metadata(name, license_name, validation) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_TASK,
            dataset_type=data_set,
            dataset_name=data_set,
            dataset_split=validation.split or None,
            metric_type=metric,
            metric_name=_SHOWN[metric],
            metric_value=round(value, _DIGITS),
        )
        for data_set, figures in (validation.figures.items() if validation else ())
        for metric, value in figures.items()
        if metric in _SHOWN
    ]
    data = ModelCardData(
        license=license_name,
        library_name="vitdeblur_jax",
        pipeline_tag=_TASK,
        tags=_TAGS,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return data.to_yaml()


def _results(validation):
    if validation is None:
        return
    yield f"## Results\n\nValidation after {validation.step} steps, means over the images.\n"
    yield "| data set | metric | blurred | restored |\n|---|---|---|---|"
    for data_set, figures in validation.figures.items():
        for metric, shown in _SHOWN.items():
            if metric in figures:
                before = figures.get(f"input_{metric}")
                shown_before = "" if before is None else f"{before:.{_DIGITS}f}"
                where = f"{data_set}, {validation.split}" if validation.split else data_set
                yield f"| {where} | {shown} | {shown_before} | {figures[metric]:.{_DIGITS}f} |"
    yield ""
