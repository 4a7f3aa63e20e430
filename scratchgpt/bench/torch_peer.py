"""The same model in plain PyTorch: eager, compiled, and eager under autocast to bfloat16."""

import dataclasses
import os

import numpy as np

# With no pool of compiling processes left over, a compiled model's memory is its own.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody writes it

from scratchgpt.bench import Contender, Workload
from scratchgpt.ops.array import Array


def build_compiled(workload: Workload) -> Contender:
    """Return the model with forward and backward compiled by torch.compile."""
    return build(workload, compiled=True)


def build_bf16(workload: Workload) -> Contender:
    """Return the model under autocast: parameters and AdamW in float32, matrix products in bfloat16."""
    return build(dataclasses.replace(workload, precision="bf16"))


def build(workload: Workload, *, compiled: bool = False) -> Contender:
    """Return the model, ready to train."""
    device = "cpu" if workload.device == "cpu" else workload.device.replace("gpu", "cuda")
    torch.backends.cuda.matmul.allow_tf32 = workload.precision == "tf32"
    config = workload.model
    B, T, C, H, D = workload.batch_size, config.block_size, config.n_embd, config.n_head, config.head_size
    # PyTorch's linear maps are (out, in).
    params = {
        name: torch.tensor(
            np.ascontiguousarray(values.T if ".attn." in name or ".mlp." in name else values), device=device
        ).requires_grad_()
        for name, values in workload.initial().items()
    }

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (C,), params[f"{name}.weight"], params.get(f"{name}.bias"), config.norm_epsilon)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, params[f"{name}.weight"], params.get(f"{name}.bias"))

    def attention(x: torch.Tensor, name: str) -> torch.Tensor:
        q, k, v = (part.view(B, T, H, D).transpose(1, 2) for part in linear(x, f"{name}.c_attn").split(C, dim=2))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return linear(heads.transpose(1, 2).reshape(B, T, C), f"{name}.c_proj")

    def mlp(x: torch.Tensor, name: str) -> torch.Tensor:
        hidden = linear(x, f"{name}.c_fc")
        active = F.relu(hidden) if config.activation == "relu" else F.gelu(hidden, approximate="tanh")
        return linear(active, f"{name}.c_proj")

    def loss(tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        token_table = params["transformer.wte.weight"]
        x = F.embedding(tokens, token_table) + params["transformer.wpe.weight"]
        for layer in range(config.n_layer):
            name = f"transformer.h.{layer}"
            x = x + attention(norm(x, f"{name}.ln_1"), f"{name}.attn")
            x = x + mlp(norm(x, f"{name}.ln_2"), f"{name}.mlp")
        logits = F.linear(
            norm(x, "transformer.ln_f"), params.get("lm_head.weight", token_table), params.get("lm_head.bias")
        )
        return F.cross_entropy(logits.view(B * T, -1), targets.view(B * T))

    recipe = workload.recipe
    matrices = [param for param in params.values() if param.ndim > 1]
    vectors = [param for param in params.values() if param.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.adam_epsilon,
        fused=True,  # on a CPU too it is the fastest, or as fast as foreach
    )
    loss_function = torch.compile(loss) if compiled else loss
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(workload.precision)
    # bfloat16 has float32's exponents, so only float16 needs a loss scale; disabled, the scaler does nothing.
    scaler = torch.amp.GradScaler("cuda", enabled=half is torch.float16)

    def step(tokens: Array, targets: Array) -> float:
        with torch.autocast(torch.device(device).type, half, enabled=half is not None):
            result = loss_function(torch.from_numpy(tokens).to(device), torch.from_numpy(targets).to(device))
        scaler.scale(result).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params.values(), recipe.grad_clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if device != "cpu":
            torch.cuda.synchronize()
        return result.item()

    def device_bytes() -> int | None:
        return None if device == "cpu" else torch.cuda.max_memory_reserved()

    about = {
        "version": f"PyTorch {torch.__version__}",
        "threads": torch.get_num_threads(),
        "precision": workload.precision,
    }
    return Contender(step, about, device_bytes=device_bytes)
