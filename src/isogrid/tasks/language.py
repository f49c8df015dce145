"""Debian package descriptions by section: a small transformer trained from scratch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from isogrid.errors import MissingDependencyError
from isogrid.tasks import debian_packages
from isogrid.tasks.debian_packages import Corpus
from isogrid.tasks.language_batches import PADDING, TextTask, TokenTexts
from isogrid.tasks.task import Recipe, Split

_LONGEST = 64
"""Tokens that a text is cut to."""


@dataclass(frozen=True)
class Size:
    """How much data a setting takes (None for all), and how large its model is."""

    train: int | None
    measured: int | None
    vocabulary: int
    width: int
    layers: int
    heads: int


class Language(TextTask):
    """57,000 one-line descriptions in 35 sections, a transformer of a few layers over word pieces.

    The word pieces (byte-pair encoding, Sennrich, Haddow and Birch 2016, arXiv:1508.07909) are learned from the
    training split.  The data and its splits: `isogrid.tasks.debian_packages`.
    """

    name = "language"
    summary = "Debian package descriptions by section (apt-cache); a small transformer from scratch"
    batch_size = 128
    settings: ClassVar[Mapping[str, Recipe]] = {
        "smoke": Recipe(epochs=8, rung_epochs=3, lr=4e-3, ladder=(0.5, 0.75)),
        "fast": Recipe(epochs=3, rung_epochs=2, lr=2e-3, distill=0.5, ladder=(0.5, 0.75)),
        "full": Recipe(
            epochs=10,
            rung_epochs=4,
            lr=1.5e-3,
            distill=0.5,
            teachers=2,
            ladder=(0.5, 0.75, 0.85, 0.9, 0.93, 0.95, 0.97),
        ),
    }
    recipe = settings["fast"]
    sizes: ClassVar[Mapping[str, Size]] = {
        "smoke": Size(train=1500, measured=400, vocabulary=600, width=32, layers=1, heads=2),
        "fast": Size(train=10_000, measured=2000, vocabulary=4000, width=96, layers=2, heads=4),
        "full": Size(train=None, measured=None, vocabulary=8000, width=192, layers=3, heads=6),
    }
    # With the tables, which are most of the model.
    targets: ClassVar[Sequence[str] | None] = (r".*\.weight",)

    @property
    def size(self) -> Size:
        """That of the setting."""
        return self.sizes[self.setting or "fast"]

    def model(self) -> nn.Module:
        size = self.size
        pieces = self.tokenizer().get_vocab_size()
        return TextClassifier(pieces, len(self.class_names()), size.width, size.layers, size.heads)

    def tokenizer(self) -> Any:
        """The ``tokenizers.Tokenizer`` of the setting; ``tokenizer().save(path)`` keeps it beside the model."""
        return _tokenizer(debian_packages.corpus(), self.size)

    def texts(self, split: Split) -> tuple[TokenTexts, Tensor]:
        return _texts(debian_packages.corpus(), self.size, split)

    def input_names(self, group: str) -> list[str] | None:
        tokenizer = self.tokenizer()
        pieces = range(tokenizer.get_vocab_size())
        return [tokenizer.id_to_token(piece) for piece in pieces] if group == "pieces" else None

    def class_names(self) -> Sequence[str]:
        return debian_packages.corpus().sections


class TextClassifier(nn.Module):
    """Word pieces and positions, transformer blocks, the mean over a text's tokens, and a linear classifier.

    Args:
        pieces, classes: how many.
        width, layers, heads: of the blocks; the hidden layer of each is four times as wide.
    """

    def __init__(self, pieces: int, classes: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.pieces = nn.Embedding(pieces, width, padding_idx=PADDING)
        self.positions = nn.Embedding(_LONGEST, width)
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, classes)
        for table in (self.pieces, self.positions):
            nn.init.normal_(table.weight, std=0.02)  # rows that hardly a text reaches stay small, and go first
        with torch.no_grad():
            self.pieces.weight[PADDING].zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        """Scores ``[batch, classes]`` of ``tokens``, int64 ``[batch, length]``."""
        real = tokens != PADDING
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.pieces(tokens) + self.positions(places))
        for block in self.blocks:
            x = block(x, real)
        scores: Tensor = self.classes(masked_mean(self.norm(x), real))
        return scores


class Block(nn.Module):
    """A transformer block with the norm first (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.attention_norm, self.hidden_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.hidden, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """``x``, ``[batch, length, width]``, where ``real``, bool ``[batch, length]``, tells tokens from padding."""
        normed = self.attention_norm(x)
        query, key, value = (self._split(layer(normed)) for layer in (self.query, self.key, self.value))
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=real[:, None, None, :])
        x = x + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        change: Tensor = self.dropout(self.back(functional.gelu(self.hidden(self.hidden_norm(x)))))
        return x + change

    def _split(self, x: Tensor) -> Tensor:
        """``[batch, heads, length, width / heads]``."""
        return x.view(*x.shape[:2], self._heads, -1).transpose(1, 2)


def masked_mean(x: Tensor, real: Tensor) -> Tensor:
    """The mean of ``x``, ``[batch, length, width]``, over the places where ``real`` is True; every text has one.

    >>> masked_mean(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[3.]])
    """
    weights = real.unsqueeze(2).to(x.dtype)
    return (x * weights).sum(dim=1) / weights.sum(dim=1)


@lru_cache(maxsize=4)
def _tokenizer(corpus: Corpus, size: Size) -> Any:
    try:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    except ImportError:
        raise MissingDependencyError(
            "The task language cuts texts into word pieces with tokenizers, which is not installed; install it with: "
            "pip install tokenizers."
        ) from None
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of its own would take the training's
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))  # noqa: S106 - a word piece
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary, special_tokens=["[PAD]", "[UNK]", "[CLS]"], show_progress=False
    )
    tokenizer.train_from_iterator(corpus.splits["train"].first(size.train).texts, trainer)
    # The first token stands for the text, so that no text is empty.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]"))]
    )
    tokenizer.enable_truncation(_LONGEST)
    return tokenizer


@lru_cache(maxsize=12)
def _texts(corpus: Corpus, size: Size, split: Split) -> tuple[TokenTexts, Tensor]:
    chosen = corpus.splits[split].first(size.train if split == "train" else size.measured)
    encoded = _tokenizer(corpus, size).encode_batch(list(chosen.texts))
    return TokenTexts([entry.ids for entry in encoded]), torch.tensor(chosen.labels)
