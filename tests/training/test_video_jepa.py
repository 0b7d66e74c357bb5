"""Claims of the pretraining module, on clips small enough for a fraction of a second."""

import inspect
from functools import partial

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from jepa_video.data.masks import MultiBlock, PastToFuture
from jepa_video.data.transforms import Augment, centre
from jepa_video.energies.contrastive import Hinge, InfoNCE, NoContrast
from jepa_video.energies.regularizers import NoRegularizer, SIGReg, VCReg, VICReg
from jepa_video.errors import UserError
from jepa_video.models.conv import ConvEncoder
from jepa_video.models.encoder import VideoViT
from jepa_video.models.expander import Expander
from jepa_video.models.latent import GaussianLatent
from jepa_video.models.predictor import MaskedPredictor
from jepa_video.training.video_jepa import VideoJEPA

SMALL = partial(VideoViT, width=24, depth=1, heads=2, frames=4, image=16, patch=4)
STILL = partial(Augment, (1.0, 1.0), (1.0, 1.0), 0.0, 0.0, 0.0, 0.0)


def jepa(**options) -> VideoJEPA:
    torch.manual_seed(0)
    predictor = partial(MaskedPredictor, hidden=16, depth=1)
    return VideoJEPA(**{"encoder": SMALL, "predictor": predictor, "augment": STILL, **options})


def videos(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, 4, 3, 16, 16), generator=generator, dtype=torch.uint8)


def step(module: VideoJEPA, n=6) -> dict[str, torch.Tensor]:
    module.log_dict = lambda values, **_: module.__dict__.setdefault("logged", {}).update(values)
    return module.training_step({"video": videos(n)}, 0)


def fit(module: VideoJEPA, n=24, **options) -> L.Trainer:
    data = [{"video": v} for v in videos(n)]
    trainer = L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, DataLoader(data, batch_size=4))
    return trainer


def test_the_loss_is_the_formula_written_out():
    module = jepa(regularizer=partial(VCReg, 2.0, 0.5), regularize=("tokens",))
    out = step(module)
    clip = centre(videos(), 16)
    context, future = torch.arange(16).expand(6, -1), torch.arange(16, 32).expand(6, -1)
    s_x = module.encoder(clip, context)
    y = F.layer_norm(module.target(clip)[:, 16:], (24,))
    energy = (module.predictor(s_x, context, future) - y).abs().mean()
    v = s_x.reshape(-1, 24)
    covariance = torch.cov(v.T)
    hinge = torch.relu(1 - (covariance.diagonal() + 1e-4).sqrt()).mean()
    off = (covariance - covariance.diagonal().diag()).square().sum() / 24
    torch.testing.assert_close(out["loss"], energy + 2.0 * hinge + 0.5 * off)


def test_the_step_reads_like_the_paper():
    assert len(inspect.getsource(VideoJEPA.training_step).splitlines()) <= 25


def test_gradient_reaches_the_target_only_where_it_is_shared():
    ema, shared = jepa(regularizer=NoRegularizer), jepa(regularizer=NoRegularizer, target="shared")
    for module in (ema, shared):
        step(module)["loss"].backward()
    assert all(p.grad is None for p in ema.target.parameters())
    assert shared.target is shared.encoder
    # The same loss at the start, another gradient: the target's share is in it.
    one, other = ema.encoder.embed.weight.grad, shared.encoder.embed.weight.grad
    assert not torch.allclose(one, other, rtol=1e-2)


def test_what_clips_share_at_a_place_satisfies_no_variance_around_places():
    module = jepa(regularizer=partial(VCReg, 2.0, 0.5), regularize=("places",))
    terms = {}
    for name, scenery in (("bare", 0.0), ("shared", 50.0)):
        draw = torch.Generator().manual_seed(0)
        s = torch.randn(6, 16, 24, generator=draw)
        context = torch.stack([torch.randperm(16, generator=draw) for _ in range(6)])
        shared = scenery * torch.randn(16, 24, generator=draw)
        terms[name] = module.regularization(s + shared[context], s, context)
        v = s - torch.stack([s[context == place].mean(0) for place in range(16)])[context]
        covariance = torch.cov(v.flatten(0, 1).T)
        hinge = torch.relu(1 - (covariance.diagonal() + 1e-4).sqrt()).mean()
        torch.testing.assert_close(
            terms[name]["reg/places/variance"], 2 * hinge, rtol=1e-3, atol=1e-4
        )
    torch.testing.assert_close(terms["bare"], terms["shared"], rtol=1e-3, atol=1e-4)
    lone = module.regularization(s[:1], s[:1], context[:1])
    assert all(float(value) == 0 for value in lone.values())


def test_what_stands_still_in_a_clip_satisfies_no_variance_around_times():
    module = jepa(regularizer=partial(VCReg, 2.0, 0.5), regularize=("times",))
    _, high, wide = module.grid
    cells, draw = high * wide, torch.Generator().manual_seed(0)
    context = torch.stack([torch.randperm(2 * cells, generator=draw) for _ in range(6)])
    context = context[:, : 2 * cells - 3]  # three tokens of two slots are not seen
    terms = {}
    for name, scenery in (("bare", 0.0), ("still", 50.0)):
        draw = torch.Generator().manual_seed(1)
        s = torch.randn(6, context.shape[1], 24, generator=draw)
        still = scenery * torch.randn(6, cells, 24, generator=draw)  # other scenes of each clip
        seen = s + torch.stack([one[at % cells] for one, at in zip(still, context, strict=True)])
        terms[name] = module.regularization(seen, s, context)
        rows = [[seen[b, context[b] % cells == c] for c in range(cells)] for b in range(6)]
        v = torch.cat([part - part.mean(0) for clip in rows for part in clip])
        hinge = torch.relu(1 - (v.var(0) + 1e-4).sqrt()).mean()
        torch.testing.assert_close(
            terms[name]["reg/times/variance"], 2 * hinge, rtol=1e-3, atol=1e-3
        )
    torch.testing.assert_close(terms["bare"], terms["still"], rtol=1e-2, atol=1e-3)
    assert float(terms["bare"]["reg/times/variance"]) > 0.1
    with pytest.raises(UserError, match="regularize times needs two or more time slots"):
        jepa(encoder=partial(ConvEncoder, 2, 16, 2, 8), regularize=("times",))
    with pytest.raises(UserError, match="backdrop is of world models"):
        jepa(encoder=partial(ConvEncoder, 2, 16, backdrop=True))
    known = ConvEncoder(2, 16, 2, backdrop=True)
    known.backdrop.fit([torch.randn(2, 3, 2, 16, 16)])
    assert torch.equal(jepa(encoder=lambda: known).target.backdrop.mean, known.backdrop.mean)


def test_separate_encoders_both_learn_and_are_both_regularised():
    module = jepa(target="separate", regularizer=partial(VCReg, 1.0, 0.0), regularize=("tokens",))
    assert module.target is not module.encoder
    assert not torch.equal(module.target.embed.weight, module.encoder.embed.weight)
    out = step(module)
    tokens = [out[name].reshape(-1, 24) for name in ("s_x", "s_y")]
    hinges = [torch.relu(1 - (s.var(0) + 1e-4).sqrt()).mean() for s in tokens]
    torch.testing.assert_close(module.logged["reg/tokens/variance"], sum(hinges))
    out["loss"].backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in module.target.blocks.parameters())


@pytest.mark.parametrize("contrast", [Hinge, InfoNCE])
def test_contrast_acts_on_the_mean_tokens_of_prediction_and_target(contrast):
    module = jepa(regularizer=NoRegularizer, contrast=contrast, target="shared")
    out = step(module)
    clip = centre(videos(), 16)
    context, future = torch.arange(16).expand(6, -1), torch.arange(16, 32).expand(6, -1)
    y = F.layer_norm(module.encoder(clip)[:, 16:], (24,))
    y_hat = module.predictor(module.encoder(clip, context), context, future)
    push = contrast()(y_hat.mean(1), y.mean(1))["contrastive"]
    torch.testing.assert_close(out["loss"], (y_hat - y).abs().mean() + push)


@pytest.mark.parametrize("target", ["ema", "shared", "separate"])
@pytest.mark.parametrize("regularizer", [NoRegularizer, VCReg, VICReg, SIGReg])
@pytest.mark.parametrize("latent", [None, GaussianLatent])
@pytest.mark.parametrize("contrast", [NoContrast, Hinge])
def test_every_parameter_that_trains_gets_a_gradient(target, regularizer, latent, contrast):
    """What DDP demands without `find_unused_parameters`."""
    options = {"contrast": contrast} if latent is None else {"contrast": contrast, "latent": latent}
    module = jepa(
        target=target, regularizer=regularizer, expander=partial(Expander, hidden=12), **options
    )
    step(module)["loss"].backward()
    idle = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle


def test_terms_are_logged_under_their_own_names_and_sum_to_the_loss():
    module = jepa(latent=partial(GaussianLatent, weight=0.1), masks=MultiBlock)
    out = step(module)
    parts = {k: v for k, v in module.logged.items() if k not in ("loss", "latent/bits")}
    assert set(parts) == {
        "energy",
        "latent/cost",
        *(f"reg/{level}/{t}" for level in ("tokens", "clips") for t in ("variance", "covariance")),
    }
    torch.testing.assert_close(sum(parts.values()), out["loss"].detach())


def test_several_mask_groups_count_equally():
    both = jepa(masks=MultiBlock, regularizer=NoRegularizer)
    out = step(both)
    clip, groups = centre(videos(), 16), both.masks((2, 4, 4), 6, _rewound(both))
    y = both.normalised(both.target(clip))
    each = []
    for mask in groups:
        y_hat = both.predictor(both.encoder(clip, mask.context), *mask)
        each.append((y_hat - y.gather(1, mask.target[..., None].expand(-1, -1, 24))).abs().mean())
    torch.testing.assert_close(out["loss"], torch.stack(each).mean())


def _rewound(module):
    from jepa_video.randomness import MASK

    return module.generator(MASK)


def test_draws_repeat_for_the_same_counter_only():
    module = jepa(augment=Augment, masks=MultiBlock)
    first, _ = module.draw(videos())
    second, _ = module.draw(videos())
    module.draws = 0
    again, _ = module.draw(videos())
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_under_accumulation_the_target_moves_once_for_each_optimiser_step():
    """Momentum 0 makes the target the online encoder after each step: it moves, and not more."""
    moves = []

    class Watched(VideoJEPA):
        def on_train_batch_end(self, *_):
            moves.append(self.target.embed.weight.sum().item())

    torch.manual_seed(0)
    module = Watched(SMALL, partial(MaskedPredictor, hidden=16), momentum=(0.5, 0.5))
    fit(module, max_steps=3, accumulate_grad_batches=2)
    assert len(moves) == 6
    assert moves[0] != moves[1] and moves[1] == moves[2] and moves[3] == moves[4]


def test_schedules_reach_their_ends_in_the_run():
    module = jepa(weight_decay=(0.1, 0.4), learning_rate=0.01, final_learning_rate=0.1)
    trainer = fit(module, max_steps=12, max_epochs=-1)
    decayed, free = trainer.optimizers[0].param_groups
    assert decayed["weight_decay"] == pytest.approx(0.4, rel=0.02) and free["weight_decay"] == 0
    assert decayed["lr"] == pytest.approx(0.001, rel=0.05)
    assert all(p.ndim <= 1 for p in free["params"])


def test_compile_compiles_the_step():
    """The three networks run as compiled graphs, in training, with the loss of the eager run."""
    graphs = []

    def counting(graph, _):
        def run(*arguments):
            graphs.append(graph)
            return graph.forward(*arguments)

        return run

    torch._dynamo.reset()
    plain, compiled = jepa(), jepa(compile=counting)
    compiled.setup("fit")
    expected, loss = step(plain)["loss"], step(compiled)["loss"]
    torch.testing.assert_close(loss, expected)
    assert len({id(g) for g in graphs}) == 3
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    loss.backward()
    torch._dynamo.reset()


def test_masks_and_batches_of_many_sizes_stay_compiled():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True):
        module = jepa(compile="eager")
        module.setup("fit")
        for batch, kept in ((2, 3), (1, 1), (4, 5)):
            clip = torch.randn(batch, 3, 4, 16, 16)
            for mode in (True, False):
                module.train(mode)
                for keep in (None, torch.arange(kept).expand(batch, -1)):
                    for encoder in (module.encoder, module.target):
                        with torch.set_grad_enabled(mode):
                            encoder(clip, keep)
    torch._dynamo.reset()


def test_shuffled_pairs_cost_more_once_the_predictor_has_learned():
    module = jepa(learning_rate=5e-3, warmup=0.0, regularizer=partial(VCReg, 1.0, 0.1))
    still = videos(16)[:, :1].expand(-1, 4, -1, -1, -1).contiguous()
    module.log_dict = lambda *_, **__: None
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        module.training_step({"video": still}, 0)["loss"].backward()
        optimizer.step()
    true, shuffled = module.eval().energies(still)
    assert (shuffled - true).mean() > 5 * (shuffled - true).std() / 4


def test_a_flat_energy_has_no_gap():
    """Collapse: encoders that say the same of every clip give every pair the same energy."""
    module = jepa().eval()
    for encoder in (module.encoder, module.target):
        torch.nn.init.zeros_(encoder.norm.weight)
    true, shuffled = module.energies(videos())
    torch.testing.assert_close(true, shuffled)


def test_frozen_features_take_no_gradient_and_no_augmentation():
    module = jepa(augment=Augment)
    one, two = module.encode(videos()), module.encode(videos())
    assert torch.equal(one, two) and not one.requires_grad
    assert not torch.equal(one, VideoJEPA(SMALL).encode(videos()))


def test_the_past_hides_the_future_from_the_context():
    module = jepa(masks=PastToFuture)
    (mask,) = module.masks(module.encoder.grid, 2, torch.Generator())
    assert mask.context.max() < mask.target.min()
