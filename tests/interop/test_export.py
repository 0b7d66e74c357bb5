"""Weights out: each form gives the features of the encoder, by the reader that it is for."""

import json
import os
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from jepa_video import load_encoder, load_predictor, save_encoder
from jepa_video.cli import main
from jepa_video.errors import UserError
from jepa_video.interop import export as room
from jepa_video.interop.export import export
from jepa_video.interop.start import start_from
from jepa_video.models.encoder import VideoViT
from jepa_video.models.latent import GaussianLatent
from jepa_video.models.predictor import MaskedPredictor
from jepa_video.models.timm_encoder import TimmEncoder
from jepa_video.training.video_jepa import VideoJEPA

THEIRS = {"rotary": "vjepa2", "norm_eps": 1e-6}
SMALL = partial(VideoViT, width=48, depth=2, heads=2, frames=4, image=16, patch=4)
PREDICTOR = partial(MaskedPredictor, hidden=24, depth=1, heads=2)
SUMMARY = {
    "status": "finished", "steps": 3, "seed": 0, "videos": 7, "rankme": 12.5,
    "labels": {"direction": {"probe_top1": 0.348, "probe_top1_untrained": 0.126, "chance": 0.125}},
}  # fmt: skip
quiet = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


def a_run(folder: Path, **settings) -> tuple[VideoJEPA, Path]:
    """A module after three steps of a large rate, in the folder of a run without an export."""
    (folder / "checkpoints").mkdir(parents=True)
    told = {"data": {"root": "~/videos/mine", "frames": 4}, "model": {"target": "ema"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    torch.manual_seed(1)
    module = VideoJEPA(**settings, learning_rate=0.1, warmup=0.0)
    videos = torch.randint(256, (6, 4, 3, 16, 16), dtype=torch.uint8)
    trainer = L.Trainer(accelerator="cpu", max_steps=3, **quiet)
    trainer.fit(module, DataLoader([{"video": v} for v in videos], batch_size=2))
    trainer.save_checkpoint(folder / "checkpoints" / "step-00000003.ckpt")
    return module.eval(), folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    encoder, predictor = partial(SMALL, **THEIRS), partial(PREDICTOR, **THEIRS)
    return a_run(tmp_path_factory.mktemp("runs") / "heron", encoder=encoder, predictor=predictor)


def clip() -> torch.Tensor:
    return torch.randn(5, 3, 4, 16, 16, generator=torch.Generator().manual_seed(3))


def features(encoder) -> torch.Tensor:
    with torch.no_grad():
        return encoder.eval()(clip())


def needs(*names: str):
    missing = [name for name in names if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")


@needs("transformers")
def test_hf_opens_with_automodel_and_comes_back(run, tmp_path, capsys):
    import transformers

    module, path = run
    assert main(["export", str(path), "--to", "hf", "--out", str(tmp_path / "hf")]) == 0
    assert "read by transformers.AutoModel, largest difference" in capsys.readouterr().out
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    context, target = torch.arange(0, 20).expand(5, -1), torch.arange(20, 32).expand(5, -1)
    with torch.no_grad():
        out = theirs(clip().transpose(1, 2), context_mask=[context], target_mask=[target])
        s_x = module.encoder(clip())[:, :20]
        expected = module.predictor(s_x, context, target)
    assert (out.last_hidden_state - features(module.encoder)).abs().max() < 1e-4
    assert (out.predictor_output.last_hidden_state - expected).abs().max() < 1e-4
    for again, first in (
        (load_encoder(tmp_path / "hf"), module.encoder),
        (load_predictor(tmp_path / "hf"), module.predictor),
    ):
        weights = first.state_dict()
        assert all(torch.equal(w, weights[name]) for name, w in again.state_dict().items())
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path / "hf")
    assert processor.crop_size["height"] == 16


@needs("transformers")
def test_a_predictor_that_hf_cannot_express_stays_behind_and_the_card_says_why(tmp_path):
    latent = partial(GaussianLatent, dim=2)
    encoder, predictor = partial(SMALL, **THEIRS), partial(PREDICTOR, **THEIRS)
    _, path = a_run(tmp_path / "z", encoder=encoder, predictor=predictor, latent=latent)
    done = export(path, "hf", tmp_path / "hf")
    assert "conditioned on a latent" in done.notes[0] and "skip_predictor=True" in done.notes[0]
    assert done.notes[0] in (tmp_path / "hf" / "README.md").read_text()
    with pytest.raises(UserError, match="holds no predictor"):
        load_predictor(tmp_path / "hf")


@pytest.mark.parametrize("to", ["safetensors", "torch-export", "onnx"])
def test_the_default_encoder_goes_everywhere_else(to, tmp_path):
    if to == "onnx":
        pytest.importorskip("onnxscript")
    torch.manual_seed(4)
    encoder = SMALL(depth=1)
    save_encoder(encoder, tmp_path / "e")
    done = export(tmp_path / "e", to, tmp_path / "out")
    if to == "safetensors":
        found = features(load_encoder(tmp_path / "out"))
    elif to == "torch-export":
        found = torch.export.load(tmp_path / "out" / "encoder.pt2").module()(clip())
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(tmp_path / "out" / "encoder.onnx")
        (found,) = session.run(None, {"clip": clip().numpy()})
    np.testing.assert_allclose(np.asarray(found.detach() if torch.is_tensor(found) else found),
                               features(encoder).numpy(), atol=1e-4)  # fmt: skip
    assert "largest difference" in done.checked and "README.md" in done.files
    assert sorted(os.listdir(tmp_path)) == ["e", "out"]
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in (tmp_path / "out").iterdir())


@pytest.mark.slow
def test_the_image_model_of_timm_is_a_graph_for_any_number_of_clips(tmp_path):
    encoder = TimmEncoder(mode="frame", frames=2, image=32)
    save_encoder(encoder, tmp_path / "e")
    export(tmp_path / "e", "torch-export", tmp_path / "out")  # compares one clip and two


def test_the_card_tells_data_config_figures_and_licence(run, tmp_path):
    _, path = run
    export(path, "safetensors", tmp_path / "out", branch="target", licence="cc-by-4.0")
    card = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "cc-by-4.0"
    for told in ("* set: mine", "* videos for training: 7", '"rotary": "vjepa2"', "target: ema",
                 "* RankMe: 12.500", "| direction | 34.8 | 12.6 | - | - | 12.5 |",
                 "4 frames of 16 x 16", "The weights: cc-by-4.0"):  # fmt: skip
        assert told in card, told
    assert str(path.parent) not in card and "~/videos" not in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["branch"] == "target"


def test_what_differs_is_not_kept(run, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differs from the encoder .* nothing is written"):
        export(run[1], "safetensors", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


MISTAKES = {
    "nothing": ([], "export needs what to export"),
    "no form": (["RUN"], "export needs --to"),
    "a form": (["RUN", "--to", "gguf"], "'gguf'"),
    "no run": (["RUN/checkpoints", "--to", "onnx"], "export needs --out"),
    "missing": (["nowhere", "--to", "onnx"], "nowhere does not exist"),
    "file": (["RUN", "--to", "onnx", "--out", "RUN/config.yaml"], "is a file; expected a folder"),
    "frames": (["RUN", "--to", "safetensors", "--frames", "3"], "3 frames are not a multiple"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_cost_one_sentence_and_exit_code_2(case, run, capsys):
    words, sentence = MISTAKES[case]
    assert main(["export", *(word.replace("RUN", str(run[1])) for word in words)]) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.count("\n") == 1


def test_an_encoder_that_hf_cannot_express_is_refused_with_the_option_that_would_help(
    tmp_path, capsys
):
    save_encoder(SMALL(), tmp_path / "e")
    words = ["export", str(tmp_path / "e"), "--to", "hf", "--out", str(tmp_path / "hf")]
    assert main(words) == 2
    assert "a run with --model.encoder.rotary vjepa2 can be exported" in capsys.readouterr().err
    save_encoder(TimmEncoder(frames=2, image=32), tmp_path / "t")
    with pytest.raises(UserError, match="TimmEncoder has no counterpart in VJEPA2Model"):
        export(tmp_path / "t", "hf", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


# Pretraining that starts from weights


def test_a_run_starts_from_encoder_average_and_predictor(run):
    module, path = run
    encoder, predictor = partial(SMALL, **THEIRS), partial(PREDICTOR, **THEIRS)
    fresh = VideoJEPA(encoder=encoder, predictor=predictor)
    assert start_from(fresh, path) == f"starts from {path}: encoder and predictor"
    assert torch.equal(fresh.predictor.enter.weight, module.predictor.enter.weight)
    assert torch.equal(features(fresh.encoder), features(module.encoder))
    assert torch.equal(features(fresh.target), features(module.target))
    assert not torch.equal(features(fresh.target), features(fresh.encoder))
    other = VideoJEPA(encoder=encoder, predictor=partial(PREDICTOR, depth=2))
    assert "the predictor starts afresh, since its settings" in start_from(other, path)


def test_a_start_from_another_architecture_names_the_options(run):
    with pytest.raises(UserError, match=r"needs --model\.encoder\.rotary vjepa2$"):
        start_from(VideoJEPA(encoder=partial(SMALL, norm_eps=1e-6), predictor=PREDICTOR), run[1])
    with pytest.raises(UserError, match=r"--model\.encoder\.depth 2, .*width 48"):
        start_from(VideoJEPA(encoder=partial(VideoViT, frames=4, image=32)), run[1])


def test_pretrain_init_starts_where_another_run_ended(run, tmp_path, capsys):
    module, path = run
    words = ["pretrain", "--init", str(path), "--runs", str(tmp_path), "--name", "next"]
    assert main([*words, "--data.root", str(tmp_path / "nowhere")]) == 2
    told = capsys.readouterr().err
    assert "--init" in told and "--model.encoder.rotary vjepa2" in told
    assert "--model.encoder.width 48" in told and not (tmp_path / "next").exists()
