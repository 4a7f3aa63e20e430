"""A model as one GGUF file: for llama.cpp and the programs around it, and for `transformers`.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import gguf
import numpy as np

from scratchgpt.config import ModelConfig
from scratchgpt.model.formats.base import GPT2_CHOICES, Known, require_known, unknown
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from scratchgpt.tokenizer import BPETokenizer, Tokenizer, end_of_text

KNOWN: Known = {"bias": (True, False), "tie_word_embeddings": (True, False)}
"""The choices of GGUF's architecture gpt2. Its activation is GELU, and its head has no bias."""

OUTSIDE = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
}
OF_A_LAYER = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write(
    path: Path,
    config: ModelConfig,
    params: Array,
    tokenizer: Tokenizer,
    *,
    ends: Sequence[int] = (),
    progress: Callable[[int, int], None] = lambda _n_bytes, _of: None,
) -> bool:
    """Write a model with flat parameters (P,) float32; return whether the file has its vocabulary, too.

    Of the ids that end its texts, `ends`, the file holds the first; without these, that of <|endoftext|>.
    `progress` is told of bytes written, and of how many there are. Raises UsageError and OSError.
    """
    others = "" if unknown(config, GPT2_CHOICES) else "; use --onnx instead"
    require_known(config, KNOWN, "A GGUF file", others)
    has_vocabulary = isinstance(tokenizer, BPETokenizer) and tokenizer.is_plain and bool(tokenizer.merges)
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.inner_size)
    writer.add_block_count(config.n_layer)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.norm_epsilon)
    if has_vocabulary:
        _add_vocabulary(writer, tokenizer.padded(config.vocab_size), next(iter(ends), end_of_text(tokenizer)))
    else:
        writer.add_tokenizer_model("none")
    tensors = _tensors(config, params)
    n_bytes = sum(tensor.nbytes for tensor in tensors.values())
    for name, tensor in tensors.items():
        writer.add_tensor_info(name, tensor.shape, tensor.dtype, tensor.nbytes)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors.values():
            writer.write_tensor_data(np.ascontiguousarray(tensor))
            progress(tensor.nbytes, n_bytes)
    finally:
        writer.close()
    return has_vocabulary


def _tensors(config: ModelConfig, params: Array) -> dict[str, Array]:
    """Return what the file holds, by its names: matrices are (out, in), and biases that the model has not are zeros."""
    with_biases = Layout(ModelConfig(**(vars(config) | {"bias": True}))).leaves
    views = Layout(config).views(params)
    tensors = {leaf.name: views.get(leaf.name, np.zeros(leaf.shape, params.dtype)) for leaf in with_biases}
    return {_name(name): tensor.T if tensor.ndim == 2 and ".h." in name else tensor for name, tensor in tensors.items()}


def _name(name: str) -> str:
    """Return GGUF's name of a tensor: of transformer.h.0.mlp.c_fc.bias, blk.0.ffn_up.bias."""
    part, _, kind = name.rpartition(".")
    if part in OUTSIDE:
        return f"{OUTSIDE[part]}.{kind}"
    _, _, layer, of_a_layer = part.split(".", 3)
    return f"blk.{layer}.{OF_A_LAYER[of_a_layer]}.{kind}"


def _add_vocabulary(writer: gguf.GGUFWriter, tokenizer: Tokenizer, end: int | None) -> None:
    """Write tokens, merges, and the id that ends a text."""
    model = tokenizer.to_json()["model"]
    words = {index: word for word, index in model["vocab"].items()}
    types = dict.fromkeys(tokenizer.special.values(), gguf.TokenType.CONTROL)
    types |= dict.fromkeys(tokenizer.unused, gguf.TokenType.UNUSED)
    ids = range(tokenizer.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    # Each row of the model has a token in a GGUF file. llama.cpp's own converter names those without one so.
    writer.add_token_list([words.get(index, f"[PAD{index}]") for index in ids])
    writer.add_token_types([types.get(index, gguf.TokenType.NORMAL) for index in ids])
    writer.add_token_merges(model["merges"])
    writer.add_add_bos_token(False)  # noqa: FBT003 - gguf's signature
    if end is not None:
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
