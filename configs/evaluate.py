r"""Evaluates a checkpoint on a data set.

    python evaluate.py --config=configs/evaluate.py:LAYOUT --config.checkpoint=CHECKPOINT \
        --config.data_dir=FOLDER --workdir=RESULTS

LAYOUT is the layout of the data on disk, `pairs` if omitted:

- dpdd: `test_c/{source,target}`, or Restormer's `test/DPDD/{inputC,target}`
- dpdd_dual_pixel: the left and right views instead, for a model with two views
- realdof: `{source,target}`
- lfdof: `test_data/input/SCENE/*.png` with `ground_truth/SCENE.png`, or both flat
- pixeldp: `test_c`; no targets
- pixeldp_dual_pixel: `test_l` and `test_r`, beside `test_c`; no targets
- pairs: a folder `source`, `input`, `blurred` or `blur`, and a folder `target`, `ground_truth`,
  `sharp` or `gt`
- images: a folder of images without targets

By default, images are read as 8 bits and restored in float32. On an accelerator,
`--config.dtype=bfloat16` or `--config.precision=default` is faster and slightly less exact.

`--config.profile=NAME` evaluates as the published code of a system does: aifnet, dpdnet, drbnet,
gkmnet, ifanet, kpac, mdp, nrknet, restormer or vitdeblur; see docs/score.md. Without it, all
networks are evaluated in the same way.

| key | meaning |
|---|---|
| checkpoint | a file, a folder (also of a run) or an address; empty: the bundled model |
| network | such as base, or module:attribute; empty: as the checkpoint says |
| data_dir, layout, split | the folder of the data, its layout, and train, val or test |
| profile | the system whose published code to follow; empty: none |
| bit_depth | 16-bit files are read as 8 or 16 bits; 0: as the profile, or 8 |
| stride | step between windows in pixels; 0: the model's, 94 for the published one |
| tile | side of a tile without its halo in pixels; 0: the network's |
| batch_size | windows or tiles at once; 0: the default of `vitdeblur --batch-size` |
| dtype, precision | of the computation, as in `vitdeblur_jax.models.networks` |
| metrics | see docs/metrics.md, or all; empty: the profile's, or psnr,ssim,mae |
| metric_weights | folder of the weights of metrics; empty: in the user's cache |
"""

import ml_collections


def get_config(layout: str = "pairs") -> ml_collections.ConfigDict:
    """Returns the evaluation's settings for one layout."""
    return ml_collections.ConfigDict(
        {
            "checkpoint": "",
            "network": "",
            "data_dir": "",
            "layout": layout,
            "split": "test",
            "profile": "",
            "bit_depth": 0,
            "stride": 0,
            "tile": 0,
            "batch_size": 0,
            "dtype": "float32",
            "precision": "highest",
            "metrics": "",
            "metric_weights": "",
        }
    )
