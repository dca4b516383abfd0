"""Concept vectors as the patient models read them: mean 0, no correlation, about the same spread in every direction.

The whitening is fitted on some vectors, and every later one goes through the same.
"""

import numpy as np

from medrep.vectors.nearest import Rows


def fit_whitening(vectors: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (vectors' width,) and matrix (vectors' width, `width`) so that (vectors - mean) @ matrix has about unit covariance.

    Directions with less than a hundredth of the mean variance are noise and are not brought up to full size. Of vectors
    wider than `width` the main directions stay (PCA on the concepts of pretraining, so that no other hospital has a say);
    narrower ones are filled up with zeros. Nothing is learned or drawn in it.
    """
    vectors = vectors.astype(np.float64)
    mean = vectors.mean(axis=0)
    variance, directions = np.linalg.eigh(np.cov(vectors - mean, rowvar=False, bias=len(vectors) == 1))
    scaled = directions / np.sqrt(np.maximum(variance, 0) + (0.01 * variance.mean() or 1))  # equal vectors have no variance
    if len(mean) > width:
        return mean, scaled[:, -width:]  # eigh gives the smallest variance first
    return mean, np.pad(scaled @ directions.T, ((0, 0), (0, width - len(mean))))


class RescaledVectors:
    """An array's rows as the patient model reads them, computed as they are asked for."""

    def __init__(self, array: Rows, fitted_on: np.ndarray):
        self.array, self.shape = array, array.shape
        self.mean, self.whitening = fit_whitening(array[fitted_on], array.shape[1])

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows) -> np.ndarray:
        return (self.array[rows] - self.mean) @ self.whitening
