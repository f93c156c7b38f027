"""The figures that scikit-image and NumPy give, by the names of our metrics."""

import numpy as np
from skimage import metrics


def scikit_image_figures(image: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Returns PSNR, SSIM and MAE of float images in [0, 1]."""
    return {
        "psnr": metrics.peak_signal_noise_ratio(reference, image, data_range=1),
        "ssim": metrics.structural_similarity(reference, image, data_range=1, channel_axis=-1),
        "mae": np.abs(image - reference).mean(),
    }
