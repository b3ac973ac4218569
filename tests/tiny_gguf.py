"""A language model of a few kilobytes in the GGUF format, with random weights.

What it tells is nonsense, how it is told is not.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
WIDTH, HEADS, LAYERS, INNER = 32, 2, 2, 64


def write_gguf(path: Path, *, context: int = 16_384, template: str | None = PLAIN) -> Path:
    """Its tokens are single bytes and letters; the same weights each time."""
    from gguf import GGUFWriter

    chance = np.random.default_rng(0)

    def random(*shape: int) -> NDArray[np.float32]:
        return (chance.standard_normal(shape) * 0.3).astype(np.float32)

    out = GGUFWriter(path, "llama")
    out.add_context_length(context)
    out.add_embedding_length(WIDTH)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(INNER)
    out.add_head_count(HEADS)
    out.add_head_count_kv(HEADS)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(WIDTH // HEADS)
    special, raw = [b"<unk>", b"<s>", b"</s>"], [b"<0x%02X>" % value for value in range(256)]
    letters = [bytes([value]) for value in range(32, 127)]
    tokens = [*special, *raw, *letters]
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("llama")
    out.add_token_list(tokens)
    out.add_token_scores([0.0] * len(tokens))
    out.add_token_types([2, 3, 3] + [6] * len(raw) + [1] * len(letters))
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_add_space_prefix(False)
    if template is not None:
        out.add_chat_template(template)
    ones = np.ones(WIDTH, np.float32)
    head = random(len(tokens), WIDTH) * 3
    head[2] = 0  # beside these it hardly ever ends by itself
    out.add_tensor("token_embd.weight", random(len(tokens), WIDTH))
    out.add_tensor("output_norm.weight", ones)
    out.add_tensor("output.weight", head)
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        out.add_tensor(at + "attn_norm.weight", ones)
        out.add_tensor(at + "ffn_norm.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            out.add_tensor(f"{at}{name}.weight", random(WIDTH, WIDTH))
        out.add_tensor(at + "ffn_gate.weight", random(INNER, WIDTH))
        out.add_tensor(at + "ffn_up.weight", random(INNER, WIDTH))
        out.add_tensor(at + "ffn_down.weight", random(WIDTH, INNER))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path
