"""Kinds of question asked of pictures and messages, a file each, all of one shape.

    PRIMARY                                     the metric a gate looks at; higher is better in all of them
    ACT                                         a card's words: what the model does
    BESIDE                                      the baseline that damaged items are shown to as well
    asked(items) -> Items                       those that were looked at by whoever annotates
    truth(items) -> Truth                       what is true of each item, by `about.json`'s names
    counts(items) -> [C]                        how often each label occurs
    ask(predictor) -> Ask                       how the bundle answers
    baselines(fit) -> name -> Ask               fitted on what the model may have seen: training and validation
    score(answer, truth, names) -> metrics
    points(answer, truth, names) -> Points      sums that any group of items adds up to
    by_class(answer, truth, names) -> name -> metrics
    said(answer, names) -> [N, C]               answers as counts of each label, which flow back as a series
    wrong(answer, truth) -> [N]                 how bad each answer is, for the worst to be shown

An `Ask` takes inputs (pixels uint8 [N, S, S, 3], or N texts) and the Items they are of: damaged inputs are of the same
items. Answers and truths are lists or arrays of one entry an item.
"""

import importlib
from typing import Any


def load(objective: str) -> Any:
    """The sibling of an objective: classify, tag or locate."""
    return importlib.import_module(f"pipelines.models.items.questions.{objective}")
