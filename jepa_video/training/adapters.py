"""Which weights of an encoder are trained on labels: all, the last blocks, or low-rank adapters.

An encoder is taken to have its transformer blocks in `blocks` and its last norm in `norm`, as all
of ours do; what else it has (patches, positions) comes before the first block.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from torch import nn

from ..errors import UserError
from ..models.encoder import VideoEncoder


def blocks_of(encoder: VideoEncoder) -> nn.ModuleList:
    """The transformer blocks.

    Raises:
        UserError: the encoder keeps none in `blocks`.
    """
    blocks = getattr(encoder, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise UserError(f"{type(encoder).__name__} has no blocks that could be trained one by one")
    return blocks


def train_last(encoder: VideoEncoder, count: int) -> None:
    """Freeze all but the last `count` blocks.

    Raises:
        UserError: the encoder has fewer blocks.
    """
    blocks = blocks_of(encoder)
    if not 1 <= count <= len(blocks):
        raise UserError(
            f"model.blocks is {count}; expected 1 to {len(blocks)}, which are the encoder's blocks"
        )
    encoder.requires_grad_(False)
    for block in blocks[-count:]:
        block.requires_grad_(True)


def add_lora(encoder: VideoEncoder, rank: int, alpha: int, dropout: float) -> None:
    """Freeze the encoder and put a low-rank adapter beside each linear map of its blocks.

    LoRA (Hu et al. 2021, arXiv 2106.09685, eq. 3): `W x` becomes `W x + alpha / rank * B A x`, and
    `B` begins at zero, so that nothing has changed yet.

    Raises:
        UserError: peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("LoRA needs peft: pip install 'jepa-video[lora]'") from error
    blocks_of(encoder)
    maps = [
        name
        for name, part in encoder.named_modules()
        if isinstance(part, nn.Linear) and name.startswith("blocks.")
    ]
    encoder.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=maps)
    inject_adapter_in_model(config, encoder)


def merged(encoder: VideoEncoder) -> VideoEncoder:
    """A copy with the adapters added to the weights: the plain encoder that others load."""
    plain = copy.deepcopy(encoder)
    adapted = [name for name, part in plain.named_modules() if hasattr(part, "get_base_layer")]
    for name in adapted:
        owner, _, last = name.rpartition(".")
        part: Any = plain.get_submodule(name)
        part.merge()
        setattr(plain.get_submodule(owner), last, part.get_base_layer())
    return plain.requires_grad_(True)


def layer_of(name: str, depth: int) -> int:
    """The layer of a weight of an encoder: 0 before the blocks, 1 to `depth` in them, then one."""
    if found := re.match(r"blocks\.(\d+)\.", name):
        return int(found[1]) + 1
    return depth + 1 if name.startswith("norm.") else 0
