"""Every recipe is parsed by the command line's own parser and built on the meta device."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from jepa_video.cli import agent_job, world_job
from jepa_video.cli.options import build_parser, parse, parser_for
from jepa_video.data.masks import MultiBlock
from jepa_video.errors import UserError
from jepa_video.models.encoder import SIZES
from jepa_video.randomness import generator
from jepa_video.training.video_jepa import VideoJEPA

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted((CONFIGS / "pretrain").rglob("*.yaml"))
CLUSTER = [path for path in RECIPES if "gpu" in path.stem]
LAPTOP = [path for path in RECIPES if path not in CLUSTER]
FIELDS = ("hardware", "time", "memory", "traffic", "result")
VISIBLE = (0.26, 0.06)  # shares of the tokens that the two mask groups leave, see configs README
PEAK, SHARE = 312e12, 0.35  # an A100 in bf16, and how much of it a step is taken to use


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda p: p.stem)


def header(path: Path) -> dict[str, str]:
    """The fields of the comment that opens a recipe."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line)
    found = (re.fullmatch(r"# (\w+) {2,}(\S.*)", line) for line in lines)
    return {"for": lines[0].removeprefix("# ")} | {m[1]: m[2] for m in found if m}


def config_of(path: Path):
    return parse(build_parser(), ["--config", str(path)])


def on_meta(path: Path) -> tuple[VideoJEPA, object, object]:
    """Module, data and options of a recipe; the weights have shapes and no values."""
    parser = build_parser()
    config = parse(parser, ["--config", str(path)])
    with torch.device("meta"):
        made = parser.instantiate(config)
    return made.model, made.data, config


def test_there_are_recipes_for_a_laptop_and_for_a_cluster():
    assert {"default", "ucf10"} <= {path.stem for path in LAPTOP}
    assert len(CLUSTER) >= 5


@named(RECIPES)
def test_a_header_says_what_it_is_for_and_what_it_takes(path):
    told = header(path)
    assert told["for"].endswith(".")
    assert [field for field in FIELDS if field not in told] == []


@named(RECIPES)
def test_the_recipe_is_built_as_it_is_written(path):
    module, data, config = on_meta(path)
    assert all(p.is_meta for p in module.parameters())
    data.suit(module.frames, module.encoder.image)  # refuses clips that are too small
    assert data.frames is None, "the encoder says how long a clip is, and nobody else"
    assert data.settings.frames == module.frames
    written = yaml.safe_load(path.read_text())
    for group in sorted(written.keys() - {"model"}):
        for key, value in written.get(group, {}).items():
            got = getattr(getattr(config, group), key)
            parts = value.items() if isinstance(value, dict) else ()
            for name, asked in parts:
                assert plain(getattr(got, name)) == asked, f"{group}.{key}.{name} got lost"
            assert parts or got == value, f"{group}.{key} got lost"
    for key, value in written["model"].items():
        got = getattr(config.model, key)
        if isinstance(value, dict):
            kept = vars(got.init_args)
            for name, asked in value["init_args"].items():
                assert plain(kept[name]) == asked, f"model.{key}.{name} got lost"
        elif key in ("masks", "regularizer"):
            assert got.class_path.endswith(f".{value}")
        else:
            assert plain(got) == value, f"model.{key} got lost"


def plain(value):
    return list(value) if isinstance(value, tuple) else value


@named(RECIPES)
def test_a_key_that_nobody_reads_is_an_error(path, tmp_path):
    text = path.read_text()
    for group in ("model:\n", "data:\n"):
        spoilt = tmp_path / path.name
        spoilt.write_text(text.replace(f"\n{group}", f"\n{group}  frmes: 3\n", 1))
        assert spoilt.read_text() != text
        with pytest.raises(UserError, match="frmes"):
            config_of(spoilt)


def test_the_default_recipe_is_the_verb_without_options():
    parser = build_parser()
    bare, recipe = parse(parser, []), config_of(CONFIGS / "pretrain" / "default.yaml")
    recipe.config = None
    assert parser.dump(bare, format="json") == parser.dump(recipe, format="json")


def first(text: str) -> float:
    return float(re.search(r"[\d.]+", text)[0])


def forward(parameters: int, depth: int, width: int, tokens: float) -> float:
    """Operations of a forward pass: matrices, and the two products of attention."""
    return 2 * parameters * tokens + 4 * depth * width * tokens**2


@named(CLUSTER)
def test_the_figures_on_paper_follow_from_the_formulas(path):
    module, _, config = on_meta(path)
    told, options = header(path), config.trainer
    sizes = config.model.predictor.init_args
    width, depth, *_ = SIZES[config.model.encoder.init_args.size]
    assert config.model.encoder.init_args.checkpointing and sizes.checkpointing
    p = sum(w.numel() for w in module.encoder.parameters())
    q = sum(w.numel() for w in module.predictor.parameters())
    n, batch, world = module.encoder.num_tokens, config.data.batch_size, options.devices
    seen = [share * n for share in VISIBLE]
    targets = sum(n - k for k in seen)

    held = 22 * p + 18 * q + (4 * (p + q) if world > 1 else 0)
    blocks = 2 * width * depth * sum(seen) + 2 * sizes.hidden * sizes.depth * len(seen) * n
    at_work = 44 * max(width * max(seen), sizes.hidden * n)
    memory = held + batch * (blocks + at_work + 20 * width * targets + 4 * width * n)
    assert first(told["memory"]) == pytest.approx(memory / 1e9, abs=0.6)
    smallest = first(told["hardware"].split("GPU", 1)[1])
    assert memory / 1e9 + 2 < 0.85 * smallest, "no room for fragments on the smallest card named"

    inner = forward(q, sizes.depth, sizes.hidden, n)
    work = sum(4 * (forward(p, depth, width, k) + inner) for k in seen)
    work += forward(p, depth, width, n)
    clips = options.max_steps * options.accumulate_grad_batches * batch  # on each GPU
    assert first(told["time"]) == pytest.approx(clips * work / PEAK / SHARE / 86400, abs=0.06)

    if world == 1:
        assert told["traffic"] == "none"
    else:
        sent = 2 * (world - 1) / world * 4 * (p + q)
        assert first(told["traffic"]) == pytest.approx(sent / 1e9, abs=0.06)


@named(CLUSTER)
def test_the_rate_goes_with_the_root_of_the_batch(path):
    _, _, config = on_meta(path)
    options = config.trainer
    total = config.data.batch_size * options.devices * options.accumulate_grad_batches
    assert config.model.learning_rate == pytest.approx(5.25e-4 * (total / 3072) ** 0.5, rel=0.05)
    comments = re.search(r"learning_rate:.*sqrt\((\d+) / 3072\)", path.read_text())
    assert int(comments[1]) == total


def test_the_shares_of_visible_tokens_are_those_of_the_masks():
    grid, draws = (8, 16, 16), 200
    seen = torch.zeros(2)
    for draw in range(draws):
        for group, mask in enumerate(MultiBlock()(grid, 8, generator(0, draw))):
            seen[group] += mask.context.shape[1] / (8 * 16 * 16) / draws
    torch.testing.assert_close(seen, torch.tensor(VISIBLE), atol=0.015, rtol=0)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        *(("encoder", name) for name in ("VideoViT", "TimmEncoder")),
        *(("masks", name) for name in ("PastToFuture", "MultiBlock", "Mixture")),
        *(("regularizer", name) for name in ("VCReg", "VICReg", "SIGReg", "NoRegularizer")),
        *(("contrast", name) for name in ("NoContrast", "Hinge", "InfoNCE")),
        *(
            ("latent", f"{name}Latent")
            for name in ("No", "Gaussian", "Sparse", "Noisy", "Discrete")
        ),
    ],
)
def test_every_part_can_be_named_by_its_class(part, name):
    chosen = getattr(parse(build_parser(), [f"--model.{part}", name]).model, part)
    assert chosen.class_path.split(".")[-1] == name


@pytest.mark.parametrize("verb", ["world", "agent"])
def test_recipes_for_control_are_parsed_and_say_what_they_take(verb):
    job = {"world": world_job, "agent": agent_job}[verb]
    paths = sorted((CONFIGS / verb).glob("*.yaml"))
    assert paths
    for path in paths:
        told = header(path)
        assert {"for", "hardware", "time", "result"} <= told.keys(), path
        config = parse(job.build_parser(), ["--config", str(path)])
        told = yaml.safe_load(path.read_text())
        if verb == "agent":
            assert (path.parent / told.pop("world")).resolve().parent == CONFIGS / "world"
            assert (path.parent / config.world).is_file()
        for room, options in told.items():
            for name, value in options.items():
                assert holds(config[room][name], value), (path, room, name)


def holds(read, written) -> bool:
    """Whether what was read is what the file says, as far as it says something."""
    if not isinstance(written, dict):
        return read == written
    return all(holds(read[name], value) for name, value in written.items())


def test_a_class_that_a_file_or_a_word_names_begins_with_its_own_defaults(tmp_path):
    """A convolution of three maps, since the ViT has three colours, learned next to nothing."""
    told = {"model": {"encoder": {"class_path": "ConvEncoder", "init_args": {"frames": 4}}}}
    (tmp_path / "conv.yaml").write_text(yaml.safe_dump(told))
    own = {"channels": 16, "tubelet": 1, "image": 64}
    for words in (["--config", str(tmp_path / "conv.yaml")], ["--model.encoder", "ConvEncoder"]):
        made = parse(parser_for(words), words).model.encoder.init_args
        assert {name: made[name] for name in own} == own
    recipe = ["--config", str(CONFIGS / "pretrain" / "two_rooms.yaml")]
    assert parse(parser_for(recipe), recipe).model.encoder.init_args.channels == 16
    words = ["--model.regularizer", "VICReg", "--model.regularizer.covariance", "2"]
    made = parse(parser_for(words), words).model.regularizer.init_args
    assert (made.variance, made.covariance) == (25.0, 2.0)
