"""Scoring a frozen test: every figure of it comes from sums over points, so that any group of them can be resampled."""

LABELS = {
    "model": "model",
    "last_value": "last value",
    "linear": "straight line",
    "profile": "profile",
    "ridge": "ridge",
    "gbt": "boosted trees",
    "none": "empty answers",
    "majority": "commonest label",
    "dictionary": "known phrases",
    "usual": "usual places",
    "logistic": "logistic regression",
}
"""What people read for each method, in the order of a table."""
