"""Claims of weights in and out: the same features bit for bit, one sentence for every mistake."""

import json
import os
import pickle
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from jepa_video.data.transforms import MEAN, STD, normalise
from jepa_video.errors import UserError
from jepa_video.interop.weights import load_encoder, save_encoder
from jepa_video.models.encoder import VideoViT
from jepa_video.models.predictor import MaskedPredictor
from jepa_video.models.timm_encoder import TimmEncoder
from jepa_video.training.video_jepa import VideoJEPA

SMALL = partial(VideoViT, width=24, depth=2, heads=2, frames=4, image=16, patch=4, drop_path=0.5)


def clip() -> torch.Tensor:
    return torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(3))


def features(encoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder.eval()(clip())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A module after three steps of a large rate, its run folder with a checkpoint, no export."""
    run = tmp_path_factory.mktemp("run")
    (run / "checkpoints").mkdir()
    (run / "config.yaml").touch()
    torch.manual_seed(1)
    predictor = partial(MaskedPredictor, hidden=16, depth=1)
    module = VideoJEPA(encoder=SMALL, predictor=predictor, learning_rate=0.1, warmup=0.0)
    videos = torch.randint(256, (6, 4, 3, 16, 16), dtype=torch.uint8)
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = L.Trainer(accelerator="cpu", max_steps=3, **quiet)
    trainer.fit(module, DataLoader([{"video": v} for v in videos], batch_size=2))
    trainer.save_checkpoint(run / "checkpoints" / "step-00000003.ckpt")
    return module, run


@pytest.fixture
def export(tmp_path) -> Path:
    torch.manual_seed(2)
    save_encoder(SMALL(), tmp_path / "encoder", None)
    return tmp_path / "encoder"


@pytest.mark.parametrize("ask", ["", "encoder.safetensors", "config.json"])
def test_an_export_gives_the_same_features_bit_for_bit(tmp_path, ask):
    encoder = SMALL()
    save_encoder(encoder, tmp_path / "e", {"run": "heron"})
    loaded = load_encoder(tmp_path / "e" / ask)
    assert not loaded.training
    assert torch.equal(features(loaded), features(encoder))
    assert json.loads((tmp_path / "e" / "config.json").read_text())["run"] == "heron"
    assert [p.name for p in tmp_path.iterdir()] == ["e"]  # nothing half-written stays behind


def test_a_timm_encoder_comes_back_without_its_pretrained_weights_being_fetched(tmp_path):
    encoder = TimmEncoder("vit_tiny_patch16_224", frames=4, image=32, tubelet=2)
    save_encoder(encoder, tmp_path / "e", None)
    loaded = load_encoder(tmp_path / "e")
    video = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(video), encoder.eval()(video))


def test_the_branches_of_a_checkpoint_are_told_apart(trained):
    module, run = trained
    assert not torch.equal(features(module.encoder), features(module.target))
    for path in (run, run / "checkpoints" / "step-00000003.ckpt"):
        assert torch.equal(features(load_encoder(path)), features(module.encoder))
        assert torch.equal(features(load_encoder(path, "target")), features(module.target))


def test_a_run_prefers_its_export_of_the_branch_that_is_asked_for(trained, tmp_path):
    module, run = trained
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    (copy / "config.yaml").touch()
    os.link(run / "checkpoints/step-00000003.ckpt", copy / "checkpoints/step-00000003.ckpt")
    other = SMALL()
    save_encoder(other, copy / "encoder", None)
    assert torch.equal(features(load_encoder(copy)), features(other))
    assert torch.equal(features(load_encoder(copy, "target")), features(module.target))
    save_encoder(other, copy / "encoder", {"branch": "target"})
    assert torch.equal(features(load_encoder(copy, "target")), features(other))
    assert torch.equal(features(load_encoder(copy)), features(module.encoder))


def test_an_earlier_export_is_replaced(export):
    newer = SMALL()
    save_encoder(newer, export, None)
    assert torch.equal(features(load_encoder(export)), features(newer))


def test_a_failed_export_leaves_the_earlier_one(export):
    before = features(load_encoder(export))
    with pytest.raises(TypeError):
        save_encoder(SMALL(), export, {"extra": object()})
    assert torch.equal(features(load_encoder(export)), before)
    assert [p.name for p in export.parent.iterdir()] == ["encoder"]


def test_loading_draws_nothing_from_the_global_generator(export):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_encoder(export)
    assert torch.equal(torch.rand(1), expected)


def test_the_config_tells_others_how_to_prepare_a_clip(export):
    told = json.loads((export / "config.json").read_text())["input"]
    video = torch.randint(256, (1, 2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (torch.tensor(told[k])[:, None, None] for k in ("mean", "std"))
    torch.testing.assert_close(normalise(video), ((video - mean) / std).transpose(1, 2))
    assert len(MEAN) == len(STD) == 3


class Code:
    """Opening a pickle of this with pickle.load makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_with_code_in_it_is_refused_and_does_not_run(tmp_path):
    trace = tmp_path / "it ran"
    torch.save({"encoder_config": Code(trace)}, tmp_path / "code.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Code(trace)))
    with pytest.raises(UserError, match=r"code\.ckpt is refused: .* could run code"):
        load_encoder(tmp_path / "code.ckpt")
    with pytest.raises(UserError, match=r"plain\.ckpt is not a checkpoint"):
        load_encoder(tmp_path / "plain.ckpt")
    assert not trace.exists()


def spoil(case: str, export: Path) -> Path:
    """A path at which one thing is wrong."""
    weights, config = export / "encoder.safetensors", export / "config.json"
    entries, tensors = json.loads(config.read_text()), load_file(weights)
    file = export.parent / "file.ckpt"
    if case == "missing":
        return export / "nowhere"
    if case == "neither":
        (export.parent / "videos").mkdir()
        return export.parent / "videos"
    if case == "no config":
        config.unlink()
    if case == "no weights":
        weights.unlink()
        return config
    if case == "not json":
        config.write_text("{")
    if case == "others":
        config.write_text('{"model_type": "vit"}')
    if case == "class":
        config.write_text(json.dumps({"encoder": {"class": "ResNet"}}))
    if case == "argument":
        config.write_text(json.dumps({"encoder": entries["encoder"] | {"layers": 3}}))
    if case == "architecture":
        config.write_text(json.dumps({"encoder": entries["encoder"] | {"width": 48}}))
    if case == "lacks":
        del tensors["norm.bias"]
        save_file(tensors, weights)
    if case == "unknown":
        save_file(tensors | {"head.weight": torch.zeros(1)}, weights)
    if case == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    if case == "list":
        torch.save([1, 2], file)
        return file
    if case == "text":
        file.write_text("hello\n")
        return file
    if case == "half":
        torch.save({"state_dict": {"a": torch.zeros(99)}}, file)
        file.write_bytes(file.read_bytes()[:-200])
        return file
    return export


SENTENCES = {
    "missing": r"nowhere does not exist: expected a run",
    "neither": r"videos is neither a run .* nor an exported encoder",
    "no config": r"has no config\.json beside it",
    "no weights": r"encoder\.safetensors does not exist beside its config\.json",
    "not json": r"config\.json is not readable as JSON",
    "others": r"config\.json describes no encoder of jepa_video",
    "class": r"class 'ResNet'; expected one of .*VideoViT",
    "argument": r"encoder config that fails: .*'layers'",
    "architecture": r"has embed\.weight of shape \(24, .*needs \(48,",
    "lacks": r"lacks norm\.bias, which its VideoViT needs",
    "unknown": r"has head\.weight, which its VideoViT does not know",
    "cut": r"is not a readable safetensors file",
    "list": r"file\.ckpt is not a checkpoint of jepa_video or V-JEPA 2",
    "text": r"file\.ckpt is not a checkpoint, or is damaged",
    "half": r"file\.ckpt is not a checkpoint, or is damaged",
}


@pytest.mark.parametrize("case", SENTENCES)
def test_every_mistake_has_its_sentence(case, export):
    with pytest.raises(UserError, match=SENTENCES[case]) as raised:
        load_encoder(spoil(case, export))
    assert "\n" not in str(raised.value)


def test_an_export_says_where_the_other_branch_is(export):
    with pytest.raises(UserError, match="holds the online encoder alone"):
        load_encoder(export, "target")
    with pytest.raises(UserError, match="expected online or target"):
        load_encoder(export, "teacher")
