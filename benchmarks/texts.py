"""Messages with few labels: a task's joined data in folds, ours against what is plain, several seeds.

A seed draws folds (near-duplicates stay together), and is the seed of the training. Each message is answered once a
seed, by models that were fitted without its fold; of the rest an eighth is validation. Settings, one row each: `ours`
(fine-tuned from the backbone), `scratch` (the same without its weights and its words' rarity), `prior` (the bags of
words alone), `tfidf` (logistic regression on TF-IDF of runs of characters; which runs, penalty and class weights chosen
by folds inside the training), `majority`. The backbone saw no labels.

    python benchmarks/texts.py --root my_city --task civic --folds 5 --seeds 0 1 2 --set steps=150 learning_rate=3e-4
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipelines.core import files, log, metrics, params, tokens
from pipelines.core.paths import Paths
from pipelines.models.items.held import Items

Array = np.ndarray[Any, Any]
SETTINGS = ("ours", "scratch", "prior", "tfidf", "majority")
RUNS = ((1, 2), (1, 3), (2, 4))
PENALTIES = (0.3, 3.0, 30.0, 300.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="a city's folder, with joined data and a backbone")
    parser.add_argument("--task", required=True, help="of objective classify, on messages")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--set", nargs="*", default=[], help="settings of `finetune`, KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path(".cityloop/benchmarks/texts"), help="answers so far")
    given = parser.parse_args()
    log.setup()
    more = {k: yaml.safe_load(v) for k, _, v in (pair.partition("=") for pair in given.set)}
    items = Items.open(Paths(given.root).joined(given.task), given.task)
    labels = np.array([items.names.index(label) for label in items.column("label")])
    answers: dict[str, list[Array]] = {}
    seconds: dict[str, float] = {}
    for seed in given.seeds:
        for row in given.rows:
            began = time.monotonic()
            answers.setdefault(row, []).append(_folds(given, row, seed, items, labels, more))
            seconds[row] = seconds.get(row, 0.0) + time.monotonic() - began
    print(table(answers, labels, items.group, len(items.names), seconds))


def _folds(given: Any, row: str, seed: int, items: Items, labels: Array, more: dict[str, Any]) -> Array:
    """Class numbers of all messages, each from a model fitted without its fold. What is finished is kept."""
    from sklearn.model_selection import StratifiedGroupKFold

    out = np.full(len(labels), -1)
    cut = StratifiedGroupKFold(given.folds, shuffle=True, random_state=seed)
    backbone = Paths(given.root).backbone(params.load(given.root).task(given.task).backbone) / "weights.safetensors"
    of = files.sha256_json([files.sha256_file(backbone), more if row in ("ours", "scratch") else {}, given.folds])
    for fold, (rest, test) in enumerate(cut.split(labels, labels, items.group)):
        path = given.out / f"{given.task}-{row}-{seed}-{fold}-{of[:12]}.json"
        if not path.exists():
            files.write_json(path, _answers(given, row, seed, items, labels, rest, test, more))
        out[test] = files.read_json(path)
    return out


def _answers(
    given: Any, row: str, seed: int, items: Items, labels: Array, rest: Array, test: Array, more: dict[str, Any]
) -> Array:
    texts = np.array(items.column("text"), object)
    if row == "majority":
        return np.full(len(test), np.bincount(labels[rest]).argmax())
    if row == "tfidf":
        return tfidf(list(texts[rest]), labels[rest], items.group[rest], list(texts[test]))
    from sklearn.model_selection import StratifiedGroupKFold

    held = next(StratifiedGroupKFold(8, shuffle=True, random_state=seed).split(rest, labels[rest], items.group[rest]))[
        1
    ]
    split = np.full(len(labels), "train", object)
    split[test], split[rest[held]] = "test", "validation"
    return _ours(given, row, seed, split, texts[test], more)


def _ours(given: Any, row: str, seed: int, split: Array, texts: Array, more: dict[str, Any]) -> Array:
    from pipelines.models.text import export, tuning

    paths = Paths(given.root)
    task = params.load(given.root).task(given.task)
    settings = {**more, "seed": seed, "scratch": row == "scratch"}
    if row == "prior":
        settings |= {"method": "head", "steps": 1, "learning_rate": 1e-12}
    finetune = params.Finetune.model_validate({**task.finetune.model_dump(), **settings})
    joined = given.out / "joined"
    table = pq.read_table(paths.joined(given.task) / "items.parquet", partitioning=None)
    at = table.column_names.index("split")
    files.write_table(joined / "items.parquet", table.set_column(at, "split", pa.array(split, pa.string())))
    files.write_bytes(joined / "about.json", (paths.joined(given.task) / "about.json").read_bytes())
    task = task.model_copy(update={"finetune": finetune})
    made = tuning.finetune(given.task, task, joined, paths.backbone(task.backbone), None, Paths(given.out / "state"))
    made.forget()
    ask = export.session(made.contents["model.onnx"])
    tokenizer = tokens.load(made.contents["tokenizer.json"])
    found = [ask(*tokens.encode(tokenizer, [text], made.config["max_tokens"]))[0].argmax() for text in texts]
    return np.array(found)


def tfidf(texts: list[str], labels: Array, groups: Array, asked: list[str]) -> Array:
    """The plain way, tuned inside the training: macro F1 over three folds of it chooses."""
    from sklearn.model_selection import StratifiedGroupKFold

    best: tuple[float, Any] = (-1.0, None)
    cut = list(StratifiedGroupKFold(3, shuffle=True, random_state=0).split(labels, labels, groups))
    for run in RUNS:
        parts = [reduced(run, [texts[i] for i in fit], [texts[i] for i in held]) for fit, held in cut]
        for penalty in PENALTIES:
            for weigh in (None, "balanced"):
                said = np.zeros_like(labels)
                for (a, b), (fit, held) in zip(parts, cut, strict=True):
                    said[held] = _logistic(a, labels[fit], penalty, weigh).predict(b)
                score = float(metrics.macro_f1(_tables(said, labels).sum(0)))
                if score > best[0]:
                    best = (score, (run, penalty, weigh))
    run, penalty, weigh = best[1]
    a, b = reduced(run, texts, asked)
    return np.asarray(_logistic(a, labels, penalty, weigh).predict(b))


def reduced(run: tuple[int, int], texts: list[str], asked: list[str]) -> tuple[Array, Array]:
    """TF-IDF of both, turned into the coordinates of the space that `texts` span.

    A penalised regression's answer lies in that space, so that it is the same, and found in a fraction of the time.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = TfidfVectorizer(analyzer="char", ngram_range=run, sublinear_tf=True)
    a, b = made.fit_transform(texts), made.transform(asked)
    value, vector = np.linalg.eigh((a @ a.T).toarray())
    kept = value > 1e-9
    turn = vector[:, kept] / np.sqrt(value[kept])
    return (a @ a.T) @ turn, (b @ a.T) @ turn


def _logistic(features: Array, labels: Array, penalty: float, weigh: str | None) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=penalty, class_weight=weigh, max_iter=1000).fit(features, labels)


def _tables(said: Array, labels: Array, classes: int | None = None) -> Array:
    """A table of true by given class of each message, flattened: [N, C · C]."""
    count = classes or int(labels.max()) + 1
    return np.eye(count * count)[labels * count + said]


def table(
    answers: dict[str, list[Array]], labels: Array, groups: Array, classes: int, seconds: dict[str, float]
) -> str:
    """Markdown: macro F1 and accuracy (mean over seeds, and their spread), and ours less each other with 95 %."""
    lines = ["| | macro F1 | accuracy | ours − this, 95 % | seconds a seed |", "|---|---|---|---|---|"]
    first = next(iter(answers))
    block = np.unique(groups, return_inverse=True)[1]
    for row, seeds in answers.items():
        scores = np.array([metrics.macro_f1(_tables(said, labels, classes).sum(0)) for said in seeds])
        right = np.array([(said == labels).mean() for said in seeds])
        spread = f" ± {scores.std(ddof=1):.3f}" if len(scores) > 1 else ""
        gap = "" if row == first else _interval(answers[first], seeds, labels, block, classes)
        each = seconds[row] / len(seeds)
        lines.append(f"| {row} | {scores.mean():.3f}{spread} | {right.mean():.3f} | {gap} | {each:.0f} |")
    return "\n".join(lines)


def _interval(ours: list[Array], theirs: list[Array], labels: Array, block: Array, classes: int) -> str:
    """Difference of macro F1, mean over seeds; groups are drawn again, the same ones for both and for all seeds."""

    def sums(answers: list[Array]) -> Array:
        out = np.zeros((block.max() + 1, len(answers), classes * classes))
        for seed, said in enumerate(answers):
            np.add.at(out[:, seed], block, _tables(said, labels, classes))
        return out.reshape(len(out), -1)

    def value(table: Array) -> Array:
        return metrics.macro_f1(table.reshape(*table.shape[:-1], len(ours), -1)).mean(-1)

    gap = metrics.paired(sums(ours), sums(theirs), value, 2000)
    return f"{gap['difference']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}]"


if __name__ == "__main__":
    main()
