"""How good predictions are."""
import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score


def describe(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """n, positives, auroc, auprc; where a class is missing both are None and `reason` says so."""
    n, positives = len(labels), int(np.sum(labels))
    figures = {"n": n, "positives": positives, "auroc": None, "auprc": None, "reason": ""}
    if positives == 0 or positives == n:
        return figures | {"reason": "no examples" if n == 0 else "no positives" if positives == 0 else "no negatives"}
    return figures | {"auroc": float(roc_auc_score(labels, probabilities)), "auprc": float(average_precision_score(labels, probabilities))}
