"""Fine-tuning trains what it says and nothing else, and two ranks give the gradient of one."""

import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from jepa_video.data.transforms import Augment, centre
from jepa_video.errors import UserError
from jepa_video.models.encoder import VideoViT
from jepa_video.models.timm_encoder import TimmEncoder
from jepa_video.training.finetune import FineTune
from tests.ranks import run_ranks

STILL = partial(Augment, (1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0)


def encoder() -> VideoViT:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VideoViT(frames=4, image=16, width=24, depth=3, heads=2)


def batch(count: int = 8) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(1)
    video = torch.randint(256, (count, 4, 3, 16, 16), generator=source, dtype=torch.uint8)
    return {"video": video, "labels": torch.arange(count)[:, None] % 3}


def module(**options: object) -> FineTune:
    torch.manual_seed(2)
    made = FineTune(encoder(), 3, augment=STILL, **options)
    made.log_dict = lambda *_, **__: None
    return made


def steps(made: FineTune, count: int = 3) -> dict[str, Tensor]:
    """The weights before some steps of the optimiser."""
    before = {name: weight.detach().clone() for name, weight in made.named_parameters()}
    optimizer = torch.optim.AdamW(made.groups(), made.learning_rate)
    for _ in range(count):
        optimizer.zero_grad()
        made.training_step(batch(), 0)["loss"].backward()
        optimizer.step()
    return before


def moved(made: FineTune, before: dict[str, Tensor]) -> set[str]:
    return {name for name, weight in made.named_parameters() if not weight.equal(before[name])}


def test_full_trains_every_weight() -> None:
    made = module(start="zero", head="attentive")
    assert moved(made, steps(made)) == {name for name, _ in made.named_parameters()}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_last_trains_exactly_the_last_blocks_and_the_head(count: int) -> None:
    made = module(train="last", blocks=count)
    wanted = {f"encoder.blocks.{3 - 1 - i}." for i in range(count)} | {"head."}
    names = [name for name, _ in made.named_parameters()]
    expected = {name for name in names if any(name.startswith(part) for part in wanted)}
    assert moved(made, steps(made)) == expected


@pytest.mark.parametrize("count", [0, 4])
def test_more_blocks_than_there_are_is_a_sentence(count: int) -> None:
    with pytest.raises(UserError, match=f"model.blocks is {count}; expected 1 to 3"):
        module(train="last", blocks=count)


def test_blocks_of_a_timm_vit_are_trained_alike() -> None:
    vit = TimmEncoder("vit_tiny_patch16_224", frames=2, image=16)
    made = FineTune(vit, 3, train="last", blocks=2)
    trained = {n for n, p in made.named_parameters() if p.requires_grad and not n.startswith("h")}
    assert {name.split(".")[2] for name in trained} == {"10", "11"}


def test_lora_trains_adapters_alone_and_leaves_every_bit_of_the_rest() -> None:
    pytest.importorskip("peft")
    made, plain = module(train="lora", lora_rank=2), encoder()
    clip = centre(batch()["video"], 16)
    assert torch.equal(made.encoder(clip), plain(clip)), "an adapter begins as nothing"
    before = steps(made)
    changed = moved(made, before)
    assert changed == {n for n in before if "lora_" in n or n.startswith("head.")}
    for name, weight in plain.state_dict().items():
        owner, _, last = name.rpartition(".")
        part = made.encoder.get_submodule(owner)
        kept = getattr(part, "base_layer", part).state_dict()[last]
        assert torch.equal(kept, weight), name


def test_merged_weights_give_the_features_of_the_adapted_ones() -> None:
    pytest.importorskip("peft")
    made = module(train="lora", lora_rank=2, learning_rate=0.01)
    steps(made, 5)
    made.eval()
    clip = centre(batch()["video"], 16)
    adapted, plain = made.encoder(clip), made.tuned()
    assert (adapted - encoder()(clip)).abs().max() > 0.1, "something was learned"
    torch.testing.assert_close(plain(clip), adapted, rtol=1e-4, atol=1e-5)
    assert plain.state_dict().keys() == encoder().state_dict().keys()
    assert torch.equal(made.encoder(clip), adapted), "merging leaves the module as it was"


def test_lora_without_peft_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'jepa-video\[lora\]'"):
        module(train="lora")


def test_each_layer_below_has_a_smaller_rate() -> None:
    made = module(layer_decay=0.5, learning_rate=1.0)
    names = {id(weight): name for name, weight in made.named_parameters()}
    rates = {names[id(w)]: group["lr"] for group in made.groups() for w in group["params"]}
    assert len(rates) == len(names)
    assert {rates[f"head.{part}"] for part in ("weight", "bias")} == {1.0}
    assert rates["encoder.norm.weight"] == 1.0
    for block, rate in enumerate((0.125, 0.25, 0.5)):
        assert rates[f"encoder.blocks.{block}.mlp.up.weight"] == rate
    assert rates["encoder.embed.weight"] == 0.0625
    decays = {names[id(w)]: g["weight_decay"] for g in made.groups() for w in g["params"]}
    assert decays["encoder.norm.weight"] == 0 and decays["encoder.embed.weight"] == 0.05


def test_a_head_that_starts_at_a_probe_answers_as_the_probe() -> None:
    from jepa_video.evaluation.after_finetune import Frozen
    from jepa_video.evaluation.labels import Target
    from jepa_video.evaluation.probes import fit_linear

    made, data = module(), batch(24)
    x = made.encoder(centre(data["video"], 16)).mean(1).detach()
    fit = fit_linear(x, Target("class", ("a", "b", "c"), data["labels"][:, 0]))
    made = FineTune(encoder(), 4, augment=STILL)
    made.head.start_at(*Frozen(fit, torch.zeros(0)).start(4))
    logits = made.classify(data["video"])
    torch.testing.assert_close(logits[:, :3], fit.model.logits(x).float(), rtol=1e-3, atol=1e-3)
    assert bool((logits[:, 3] < logits[:, :3].amax(1)).all()), "a class nobody has seen is not said"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer_decay": 1.5}, "model.layer_decay must be from 0 to 1"),
        ({"lora_rank": 0}, "model.lora_rank must be 1 or more"),
        ({"label_smoothing": -0.1}, "model.label_smoothing"),
    ],
)
def test_numbers_out_of_range_are_sentences(options: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        module(**options)


# Ranks


def gradients(rows: slice, options: dict[str, str]) -> dict[str, Tensor]:
    made = module(**options)
    some = {name: value[rows] for name, value in batch().items()}
    made.training_step(some, 0)["loss"].backward()
    return {n: p.grad.clone() for n, p in made.named_parameters() if p.grad is not None}


CASES = ({"train": "full", "head": "attentive"}, {"train": "last"})


def on_each_rank() -> list[dict[str, Tensor]]:
    """Three clips here and five there, as when a file of the one turned out to be broken."""
    rows = slice(0, 3) if dist.get_rank() == 0 else slice(3, 8)
    results = []
    for options in CASES:
        found = gradients(rows, options)
        for grad in found.values():
            dist.all_reduce(grad)  # what DDP does with gradients: their mean
            grad /= dist.get_world_size()
        results.append(found)
    return results


def test_two_ranks_with_unequal_parts_give_the_gradient_of_one() -> None:
    ranks = run_ranks(on_each_rank)
    for number, options in enumerate(CASES):
        expected = gradients(slice(None), copy.copy(options))
        largest = max(float(grad.abs().max()) for grad in expected.values())
        for found in ranks:
            assert found[number].keys() == expected.keys()
            for name, grad in expected.items():
                torch.testing.assert_close(
                    found[number][name], grad, rtol=1e-3, atol=1e-5 * largest
                )
