"""Weights of V-JEPA 2 in and out: against `transformers` and against the authors' own names.

The authors' format is stated here once more, from the names and shapes of their modules, so that
the key map is checked against something that it did not make.
"""

import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from jepa_video import load_encoder, load_predictor, save_encoder
from jepa_video.errors import UserError
from jepa_video.interop.vjepa2 import halves_to_pairs, pairs_to_halves
from jepa_video.models.encoder import SIZES, VideoViT
from jepa_video.models.rope import grid_positions, rotary_tables, rotate
from jepa_video.models.timm_encoder import TimmEncoder

WIDTH, DEPTH, HEADS, FRAMES, IMAGE = 192, 2, 3, 4, 48
HIDDEN, PRED_HEADS, TOKENS = 384, 12, 2 * 3 * 3


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def split() -> tuple[torch.Tensor, torch.Tensor]:
    """Context and target of two clips, in no order, the same for none."""
    order = torch.stack([noise(seed, TOKENS).argsort() for seed in (5, 6)])
    return order[:, :7], order[:, 7:15]


def shake(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that are neither zero nor one anywhere, so that each has a say."""
    with torch.no_grad():
        for i, weight in enumerate(module.parameters()):
            weight.add_(0.05 * noise(i, *weight.shape))
    return module.eval()


@pytest.fixture(scope="module")
def theirs():
    """`VJEPA2Model` with random weights."""
    transformers = pytest.importorskip("transformers", reason="needs jepa-video[hf]")
    config = transformers.VJEPA2Config(
        hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS, crop_size=IMAGE,
        frames_per_clip=FRAMES, mlp_ratio=48 / 11, pred_hidden_size=HIDDEN,
        pred_num_attention_heads=PRED_HEADS, pred_num_hidden_layers=2, pred_num_mask_tokens=3,
    )  # fmt: skip
    torch.manual_seed(0)
    return shake(transformers.VJEPA2Model(config))


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hf")
    theirs.save_pretrained(path)
    return path


def outputs(model, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and predictor output of a `VJEPA2Model` for a clip `B C T H W`."""
    context, target = split()
    with torch.no_grad():
        out = model(clip.transpose(1, 2), context_mask=[context], target_mask=[target])
    return out.last_hidden_state, out.predictor_output.last_hidden_state


def ours(path: Path, clip: torch.Tensor, **asked) -> tuple[torch.Tensor, torch.Tensor]:
    encoder, predictor = load_encoder(path, **asked), load_predictor(path, **asked)
    context, target = split()
    with torch.no_grad():
        features = encoder(clip)
        s_x = features.gather(1, context[..., None].expand(-1, -1, WIDTH))
        return features, predictor(s_x, context, target)


def close(ones, others, limit: float = 1e-4) -> bool:
    return all((a - b).abs().max() < limit for a, b in zip(ones, others, strict=True))


def test_a_hugging_face_model_gives_the_same_features_and_predictions_here(theirs, folder):
    clip = noise(1, 2, 3, FRAMES, IMAGE, IMAGE)
    expected = outputs(theirs, clip)
    assert close(ours(folder, clip), expected)
    # What the tolerance would have to see: the correct rotation, another epsilon, another token.
    encoder = load_encoder(folder)
    encoder.rotary = "paired"
    with torch.no_grad():
        assert (encoder(clip) - expected[0]).abs().max() > 1e-2
        other = load_predictor(folder, mask_token=0)
        context, target = split()
        s_x = expected[0].gather(1, context[..., None].expand(-1, -1, WIDTH))
        assert (other(s_x, context, target) - expected[1]).abs().max() > 1e-2


def test_rotary_positions_reach_beyond_the_clip_that_the_file_names(theirs, folder):
    """Another length and size than the config's, as the authors' code allows."""
    clip = noise(2, 1, 3, 6, 32, 32)
    encoder = load_encoder(folder, frames=6, image=32)
    config = theirs.config.to_dict() | {"crop_size": 32, "frames_per_clip": 6}
    again = type(theirs)(type(theirs.config).from_dict(config)).eval()
    again.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        expected = again(clip.transpose(1, 2), skip_predictor=True).last_hidden_state
        assert (encoder(clip) - expected).abs().max() < 1e-4


def test_a_model_without_biases_of_queries_and_a_classifier_are_read(tmp_path, theirs):
    transformers = pytest.importorskip("transformers")
    config = transformers.VJEPA2Config.from_dict(theirs.config.to_dict() | {"qkv_bias": False})
    config.num_labels = 5
    model = shake(transformers.VJEPA2ForVideoClassification(config))
    model.save_pretrained(tmp_path, max_shard_size="2MB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    clip = noise(3, 2, 3, FRAMES, IMAGE, IMAGE)
    assert close(ours(tmp_path, clip), outputs(model.vjepa2, clip))


# The authors' checkpoints


def official(theirs) -> dict:
    """The same weights as `torch.save` of the authors' training has them.

    Stated from the modules of facebookresearch/vjepa2 (`VisionTransformer`, its predictor, and the
    wrappers `MultiSeqWrapper` and DistributedDataParallel, which put `module.backbone.` in front).
    """
    weights = theirs.state_dict()
    parts: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "predictor": {}}
    for part, stem, layers in (("encoder", "", DEPTH), ("predictor", "predictor_", 2)):
        out = parts[part]
        for i in range(layers):
            here, there = f"{part}.layer.{i}", f"module.backbone.{stem}blocks.{i}"
            for kind in ("weight", "bias"):
                qkv = [weights[f"{here}.attention.{p}.{kind}"] for p in ("query", "key", "value")]
                out[f"{there}.attn.qkv.{kind}"] = torch.cat(qkv)
                out[f"{there}.attn.proj.{kind}"] = weights[f"{here}.attention.proj.{kind}"]
                for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                    out[f"{there}.{same}.{kind}"] = weights[f"{here}.{same}.{kind}"]
    for kind in ("weight", "bias"):
        e, p = parts["encoder"], parts["predictor"]
        proj = weights[f"encoder.embeddings.patch_embeddings.proj.{kind}"]
        e[f"module.backbone.patch_embed.proj.{kind}"] = proj
        e[f"module.backbone.norm.{kind}"] = weights[f"encoder.layernorm.{kind}"]
        enter = weights[f"predictor.embeddings.predictor_embeddings.{kind}"]
        p[f"module.backbone.predictor_embed.{kind}"] = enter
        p[f"module.backbone.predictor_norm.{kind}"] = weights[f"predictor.layernorm.{kind}"]
        p[f"module.backbone.predictor_proj.{kind}"] = weights[f"predictor.proj.{kind}"]
    for i, token in enumerate(weights["predictor.embeddings.mask_tokens"]):
        parts["predictor"][f"module.backbone.mask_tokens.{i}"] = token
    target = {name: value + 0.5 for name, value in parts["encoder"].items()}
    loop = {"opt": {"state": {}, "param_groups": []}, "scaler": None, "epoch": 9, "loss": 0.5}
    return parts | {"target_encoder": target} | loop


def test_the_authors_checkpoint_gives_what_hugging_face_gives(theirs, tmp_path):
    torch.save(official(theirs), tmp_path / "vitt.pt")
    clip = noise(1, 2, 3, FRAMES, IMAGE, IMAGE)
    size = {"frames": FRAMES, "image": IMAGE}
    assert close(ours(tmp_path / "vitt.pt", clip, **size), outputs(theirs, clip))
    online = load_encoder(tmp_path / "vitt.pt", **size)
    target = load_encoder(tmp_path / "vitt.pt", "target", **size)
    torch.testing.assert_close(target.embed.bias, online.embed.bias + 0.5)
    assert load_encoder(tmp_path / "vitt.pt").grid == (32, 16, 16)  # 64 frames of 256, as released


def test_a_table_of_positions_that_v_jepa_2_does_not_read_is_passed_over(theirs, tmp_path):
    content = official(theirs)
    expected = load_state(content, tmp_path / "a.pt")
    content["encoder"]["module.backbone.pos_embed"] = torch.ones(1, TOKENS, WIDTH)
    token = content["predictor"]["module.backbone.mask_tokens.0"]
    content["predictor"] |= {f"module.backbone.mask_tokens.{i}": token for i in range(3, 10)}
    found = load_state(content, tmp_path / "b.pt")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def load_state(content: dict, path: Path) -> dict[str, torch.Tensor]:
    torch.save(content, path)
    return load_encoder(path, frames=FRAMES, image=IMAGE).state_dict()


@pytest.mark.parametrize(
    ("size", "facts"),
    {
        "large": (1024, 24, 16, 4096),
        "huge": (1280, 32, 16, 5120),
        "giant": (1408, 40, 22, 6144),
    }.items(),
)
def test_the_sizes_of_v_jepa_2_are_ours(size, facts):
    """Widths, depths and heads of `vit_large`, `vit_huge` and `vit_giant_xformers`."""
    width, depth, heads, ratio = SIZES[size]
    assert (width, depth, heads, round(width * ratio)) == facts


# The positions


def test_tiled_positions_are_the_formula_of_v_jepa_2():
    """One head of width 12: two planes an axis; speeds 1 and 0.01 stand as (1, 0.01, 1, 0.01)."""
    x, place = noise(4, 1, 1, 5, 12), torch.randint(9, (5, 3), generator=torch.Generator())
    tables = rotary_tables(place, 12, "vjepa2")
    halves = torch.cat((x[..., 0::2], x[..., 1::2]), dim=-1)
    turned = rotate(halves, tables)
    back = torch.stack(turned.chunk(2, dim=-1), dim=-1).flatten(-2)
    for n in range(5):
        for axis in range(3):
            for i in range(4):
                angle = float(place[n, axis]) * (1.0, 0.01)[i % 2]
                here = 4 * axis + i
                partner = -x[0, 0, n, here + 1] if i % 2 == 0 else x[0, 0, n, here - 1]
                expected = x[0, 0, n, here] * torch.cos(torch.tensor(angle))
                expected = expected + partner * torch.sin(torch.tensor(angle))
                torch.testing.assert_close(back[0, 0, n, here], expected)


def test_tiled_positions_are_no_rotation_and_paired_ones_are():
    place = grid_positions((4, 3, 3))
    x = noise(5, 1, 1, len(place), 24)
    norms = {
        kind: rotate(x, rotary_tables(place, 24, kind)).norm(dim=-1)
        for kind in ("paired", "vjepa2")
    }
    torch.testing.assert_close(norms["paired"], x.norm(dim=-1))
    assert (norms["vjepa2"] - x.norm(dim=-1)).abs().max() > 0.1


def test_rows_go_there_and_back():
    qkv = noise(6, 3 * 24, 7)
    moved = pairs_to_halves(qkv, 2)
    assert torch.equal(halves_to_pairs(moved, 2), qkv)
    assert torch.equal(moved[48:], qkv[48:]) and torch.equal(moved[1], qkv[2])
    assert torch.equal(moved[6], qkv[1])  # the second half begins with the first odd row


# What is refused, and how


def code() -> bytes:
    class Code:
        def __reduce__(self):
            return Path.touch, (Path("it ran"),)

    return pickle.dumps(Code())


def spoil(case: str, theirs, folder: Path, out: Path) -> Path:
    """A path at which one thing is wrong."""
    content = official(theirs)
    file = out / "vitt.pt"
    entries, weights = json.loads((folder / "config.json").read_text()), theirs.state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    for change, edit in {
        "act": {"hidden_act": "silu"},
        "oblong": {"patch_size": [16, 8]},
        "depth": {"num_hidden_layers": 3},
        "width": {"hidden_size": 96},
        "heads": {"num_attention_heads": 5},
        "nonsense": {"hidden_size": "wide"},
        "indivisible": {"crop_size": 50},
        "config": {},
        "cut": {},
        "bin": {},
        "lacks": {},
    }.items():
        if case == change:
            weights.pop("encoder.layer.1.attention.key.bias") if case == "lacks" else None
            (out / "config.json").write_text(json.dumps(entries | edit))
            if case != "bin":
                save_file(weights, out / "model.safetensors")
            if case == "config":
                (out / "config.json").unlink()
                return out / "model.safetensors"
            if case == "cut":
                (out / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{")
            return out
    if case == "code":
        (out / "plain.pt").write_bytes(code())
        return out / "plain.pt"
    if case == "v1":
        content["encoder"]["module.backbone.pos_embed"] = torch.zeros(1, 8, WIDTH)
    if case == "image":
        flat = content["encoder"]["module.backbone.patch_embed.proj.weight"][:, :, 0]
        content["encoder"]["module.backbone.patch_embed.proj.weight"] = flat.clone()
    if case == "unknown width":
        content["encoder"] = {"patch_embed.proj.weight": torch.zeros(100, 3, 2, 16, 16)}
    if case == "missing block":
        del content["encoder"]["module.backbone.blocks.1.attn.qkv.weight"]
    if case == "empty":
        content["encoder"] = {}
    if case == "no encoder":
        del content["encoder"]
    torch.save(content, file)
    return file


SENTENCES = {
    "act": "hidden_act silu; expected square patches and gelu",
    "oblong": r"patch_size \[16, 8\]",
    "depth": r"lacks blocks\.2\.attention\.out\.bias and 11 more",
    "width": r"has embed\.weight of shape \(192, 1536\); its VideoViT needs \(96, 1536\)",
    "heads": "width 192 must split into 5 heads",
    "nonsense": "describes no model",
    "indivisible": "image size 50 is not a multiple of the patch size 16",
    "config": r"model\.safetensors has no config\.json beside it",
    "cut": r"model\.safetensors is not a readable safetensors file",
    "bin": r"has no model\.safetensors: weights in other forms are not read",
    "lacks": r"lacks blocks\.1\.attention\.qkv\.bias",
    "code": "is not a checkpoint, or is damaged",
    "v1": "weights of V-JEPA, whose encoder is another one",
    "image": r"expected patch_embed\.proj\.weight of shape .* found shape \(192, 3, 16, 16\)",
    "unknown width": "an encoder of width 100, and its weights do not say how many heads",
    "missing block": r"lacks blocks\.1\.attention\.qkv\.weight, which its VideoViT needs",
    "empty": "is no encoder of V-JEPA 2: .* found none",
    "no encoder": "has no 'encoder', only predictor and target_encoder",
}


@pytest.mark.parametrize("case", SENTENCES)
def test_every_mistake_has_its_sentence(case, theirs, folder, tmp_path):
    with pytest.raises(UserError, match=SENTENCES[case]) as raised:
        load_encoder(spoil(case, theirs, folder, tmp_path))
    assert "\n" not in str(raised.value)


def test_a_predictor_that_is_not_there_is_said_so(theirs, folder, tmp_path):
    with pytest.raises(UserError, match="holds one encoder alone"):
        load_encoder(folder, "target")
    content = official(theirs)
    del content["predictor"]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="has no 'predictor', only encoder and target_encoder"):
        load_predictor(tmp_path / "a.pt")
    content["predictor"] = {"action_encoder.weight": torch.zeros(2)}
    torch.save(content, tmp_path / "b.pt")
    with pytest.raises(UserError, match="action-conditioned predictor of V-JEPA 2-AC"):
        load_predictor(tmp_path / "b.pt")
    save_encoder(VideoViT(), tmp_path / "e")
    with pytest.raises(UserError, match="holds the online encoder alone; the predictor is in"):
        load_predictor(tmp_path / "e")


# timm


def test_a_folder_of_timm_gives_the_encoder_that_its_weights_make(tmp_path):
    torch.manual_seed(3)
    image = shake(timm.create_model("vit_tiny_patch16_224"))
    save_file(image.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_tiny_patch16_224"}))
    encoder = load_encoder(tmp_path, frames=2)
    assert isinstance(encoder, TimmEncoder) and encoder.image == 224
    # A still clip under inflated filters is the image, but for the class token, which we lack.
    assert torch.equal(encoder.blocks[3].mlp.fc1.weight, image.blocks[3].mlp.fc1.weight)
    still = noise(7, 1, 3, 1, 224, 224).expand(-1, -1, 2, -1, -1)
    with torch.no_grad():
        seen = encoder.project(still).flatten(2).transpose(1, 2)
        torch.testing.assert_close(seen, image.patch_embed(still[:, :, 0]), atol=1e-4, rtol=1e-4)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["blocks.0.mlp.fc1.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"lacks blocks\.0\.mlp\.fc1\.weight, which vit_tiny"):
        load_encoder(tmp_path)
