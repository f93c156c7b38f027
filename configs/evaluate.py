r"""Evaluates a checkpoint on a data set.

    python evaluate.py --config=configs/evaluate.py:LAYOUT --config.checkpoint=CHECKPOINT \
        --config.data_dir=FOLDER --workdir=RESULTS

LAYOUT is the layout of the data on disk, `pairs` if omitted:

- dpdd: `test_c/{source,target}`, or Restormer's `test/DPDD/{inputC,target}`
- dpdd_dual_pixel: the left and right views instead, for a model with two views
- realdof: `{source,target}`
- lfdof: `test_data/input/SCENE/*.png` with `ground_truth/SCENE.png`, or both flat
- pixeldp, pixeldp_dual_pixel: `test_c`, or `test_l` and `test_r`; no targets
- pairs: a folder `source`, `input`, `blurred` or `blur`, and a folder `target`, `ground_truth`,
  `sharp` or `gt`
- images: a folder of images without targets

The default is the published protocol: 8 bits, stride 94, float32. On an accelerator,
`--config.dtype=bfloat16` or `--config.precision=default` is faster and slightly less exact.

`--config.profile=NAME` evaluates as the published code of a system does: aifnet, dpdnet, drbnet,
gkmnet, ifanet, kpac, mdp, nrknet, restormer or vitdeblur; see docs/score.md. Without it, all
networks are evaluated in the same way.
"""

import ml_collections


def get_config(layout: str = "pairs") -> ml_collections.ConfigDict:
    """Returns the evaluation's settings for one layout."""
    return ml_collections.ConfigDict(
        {
            "checkpoint": "",  # folder (of a run), file, hf://, gs://, ...; empty: bundled
            "network": "",  # such as base, or module:attribute; empty: as the checkpoint says
            "data_dir": "",
            "layout": layout,
            "split": "test",
            "profile": "",  # evaluate as the published code of a system does, such as restormer
            "bit_depth": 0,  # read 16-bit files as 8 bits or as 16; 0: as the profile, or 8
            "stride": 0,  # step between windows, pixels; 0: the model's, 94 for the published one
            "tile": 0,  # side of a tile without its halo, pixels; 0: the network's
            "batch_size": 0,  # windows or tiles at once; 0: the default of `vitdeblur --batch-size`
            "dtype": "float32",
            "precision": "highest",
            "metrics": "",  # see docs/metrics.md, or all; empty: the profile's, or psnr,ssim,mae
            "metric_weights": "",  # where the weights of metrics lie; empty: in the user's cache
        }
    )
