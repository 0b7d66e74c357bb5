"""Claims about the page of a run: what it shows, what it never does, and what it survives."""

from __future__ import annotations

import csv
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jepa_video.errors import UserError
from jepa_video.evaluation.album import Picture, Plate, load_album, save_album
from jepa_video.evaluation.charts import Series, line_chart, number, thin
from jepa_video.evaluation.report import write_report
from jepa_video.evaluation.runfiles import measure_of, read_columns
from jepa_video.evaluation.words import collapse_remark, headline

DIRECTION = {
    "probe_top1": 0.5234375,
    "probe_top1_interval": [0.4801, 0.5662],
    "probe_top1_untrained": 0.271484375,
    "probe_top1_untrained_interval": [0.2341, 0.3123],
    "probe_top1_pixels": 0.1796875,
    "probe_top1_motion": 0.4107,
    "probe_top1_gain": 0.251953125,
    "probe_top1_gain_interval": [0.2012, 0.3033],
    "knn_top1": 0.3828125,
    "knn_top1_untrained": 0.1640625,
    "chance": 0.125,
}
SUMMARY = {
    "status": "finished",
    "steps": 1000,
    "probe_label": "direction",
    **DIRECTION,
    "labels": {
        "shape": {"probe_top1": 0.6112, "probe_top1_untrained": 0.6001, "chance": 0.25},
        "direction": DIRECTION,
    },
    "rankme": 41.237,
    "energy_gap": 0.18342,
    "energy_gap_stderr": 0.00451,
    "clips_per_second": 148.3,
    "data_wait": 0.0312,
}
VOID = {"meta", "img", "br", "link", "input", "hr", "source"}
# The page may say these addresses, but must load none of them.
LOADS = ("src", "srcset", "href", "poster", "data", "action", "xlink:href")


class Page(HTMLParser):
    """Checks nesting while it collects what the tests ask for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.loads: list[str] = []
        self.ids: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.data: list[tuple[float, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"never closed: {tag}" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.loads += [value or "" for name, value in attrs if name in LOADS]
        if "id" in named:
            self.ids.add(named["id"] or "")
        if tag == "img":
            self.images.append(named)
        if tag == "data":
            self.data.append((float(named["value"] or "nan"), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # <path/> and the like inside SVG

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"closed out of order: {tag}")

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] == "data":
            self.data[-1] = (self.data[-1][0], text)
        if not self.open or self.open[-1] != "style":
            self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def write_csv(path: Path, rows: list[dict[str, object]]) -> None:
    heads = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, heads, restval="")
        writer.writeheader()
        writer.writerows(rows)


def metric_rows(steps: int = 1000) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for step in range(0, steps, 10):
        part = step / steps
        noise = math.sin(step * 12.9898) * 0.02
        row: dict[str, object] = {
            "step": step,
            "loss": 0.35 + 0.6 * math.exp(-6 * part) + noise,
            "energy/held_out": 0.32 + 0.5 * math.exp(-5 * part),
            "energy": 0.30 + 0.5 * math.exp(-5 * part) + noise,
            "reg/tokens/variance": 0.04 * math.exp(-3 * part),
            "reg/tokens/covariance": 0.01 + 0.02 * part,
            "lr": 1e-3 * math.cos(part * math.pi / 2),
            "momentum": 0.9995 + 0.0005 * part,
        }
        if step % 100 == 0:
            row |= {"std/context": 0.9 - 0.2 * part, "std/target": 0.8 - 0.1 * part}
            row |= {"rankme/context": 20 + 25 * part, "rankme/target": 18 + 20 * part}
            row |= {"energy_gap": 0.2 * part, "energy_gap_stderr": 0.012, "probe/direction": part}
        rows.append(row)
    return rows


def fabricate(folder: Path) -> Path:
    """A finished run without pictures."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model:\n  target: ema\ndata:\n  root: synthetic\n")
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    write_csv(folder / "metrics.csv", metric_rows())
    clocks: list[dict[str, object]] = [
        {"step": step, "clips_per_second": 150 - step / 100, "data_wait": 0.03}
        for step in range(0, 1000, 50)
    ]
    write_csv(folder / "timings.csv", clocks)
    write_csv(folder / "unreadable.csv", [{"path": "a/cut.mp4", "reason": "no frame decodes"}])
    (folder / "encoder").mkdir()
    (folder / "encoder" / "encoder.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fabricate(tmp_path / "runs" / "first")


def read(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_page_is_well_formed_and_its_links_lead_somewhere(run: Path) -> None:
    page = read(run)
    assert page.faults == []
    anchors = [link[1:] for link in page.loads if link.startswith("#")]
    assert len(anchors) >= 5 and set(anchors) <= page.ids


def test_page_asks_the_network_and_the_disk_for_nothing(run: Path) -> None:
    (run / "pictures").mkdir()
    (run / "pictures" / "a.png").write_bytes(b"\x89PNG")
    save_album(run / "pictures", [Plate("Title", "Caption", ((Picture("a.png", "words"),),))])
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.images) == 1
    assert [link for link in page.loads if not link.startswith(("#", "data:image/"))] == []
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1]
    assert "<script" not in text and "<iframe" not in text and "<link" not in text


def test_every_number_of_the_summary_stands_on_the_page_unrounded(run: Path) -> None:
    told = [value for value, _ in read(run).data]
    for name in ("probe_top1", "probe_top1_untrained", "probe_top1_pixels", "knn_top1"):
        assert SUMMARY[name] in told
    assert SUMMARY["rankme"] in told and SUMMARY["energy_gap"] in told
    assert 0.6112 in told and 0.6001 in told  # of another label


def test_shown_percentages_are_the_stored_shares(run: Path) -> None:
    shown = [(value, text) for value, text in read(run).data if text.endswith("%")]
    assert len(shown) >= 10
    for value, text in shown:
        assert float(text.rstrip(" %")) == pytest.approx(100 * value, abs=0.0501)


def test_headline_compares_with_every_baseline(run: Path) -> None:
    assert (
        "a linear probe of direction on the frozen encoder is right 52.3 % of the time, against "
        "27.1 % with the untrained encoder, 18.0 % with raw pixels and 41.1 % with hand-made "
        "motion features. Pretraining gained 25.2 points (95 % interval +20.1 to +30.3)."
        in read(run).text
    )


def test_labels_have_a_row_each_and_that_of_the_headline_comes_first(run: Path) -> None:
    text = read(run).text
    rows = re.findall(r"(direction|shape) (?:52.3|61.1|38.3) %", text)
    assert rows == ["direction", "shape", "direction"]  # linear probe, then neighbours
    assert "12.5 % +25.2 +20.1 to +30.3" in text


def test_the_verdict_of_the_summary_is_the_last_word(run: Path) -> None:
    told = {**SUMMARY, "verdict": "collapsed: Nothing is left. What helps: patience."}
    (run / "summary.json").write_text(json.dumps(told))
    assert "Collapsed. Nothing is left. What helps: patience." in read(run).text


def test_headline_says_harm_and_chance() -> None:
    worse = {"probe_top1": 0.2, "probe_top1_untrained": 0.3}
    assert "did harm" in headline(worse) and "10.0 points" in headline(worse)
    vague = {
        "probe_top1": 0.32,
        "probe_top1_untrained": 0.3,
        "probe_top1_gain_interval": [-0.1, 0.1],
    }
    assert "can be chance" in headline(vague) and "gained" not in headline(vague)
    assert "Without labels" in headline({"rankme": 30.0, "energy_gap": 0.1})


MISSING = {
    "config.yaml": "config.yaml is missing",
    "metrics.csv": "metrics.csv is missing",
    "timings.csv": "timings.csv is missing",
    "summary.json": "There is no summary.json",
    "unreadable.csv": "unreadable.csv is missing",
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_file_is_named_and_the_rest_is_still_there(run: Path, name: str) -> None:
    whole = read(run).text
    assert MISSING[name] not in whole
    (run / name).unlink()
    page = read(run)
    assert MISSING[name] in page.text and page.faults == []
    assert "Use the encoder" in page.text


def test_a_run_killed_at_its_first_step_has_a_page(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "killed"
    run.mkdir(parents=True)
    (run / "metrics.csv").write_text("step,loss\n")
    page = read(run)
    assert page.faults == [] and "not finished" in page.text and "No pictures yet" in page.text
    assert "nothing to load" in page.text


def test_files_cut_short_are_named_not_fatal(run: Path) -> None:
    (run / "summary.json").write_text('{"probe_top1": 0.5')
    with (run / "metrics.csv").open("a") as file:
        file.write("1000,0.3,0.2\n1010,0.\0\0\0")
    (run / "pictures").mkdir()
    (run / "pictures" / "album.json").write_text('[{"title": "x"')
    page = read(run)
    assert page.faults == []
    assert "summary.json is not valid JSON" in page.text
    assert page.text.count("Damaged file.") == 2


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a run"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        write_report(tmp_path / "nowhere")


def test_hostile_names_are_shown_not_obeyed(run: Path) -> None:
    evil = "<script>alert(1)</script>&\"'.mp4"
    write_csv(run / "unreadable.csv", [{"path": evil, "reason": "<b>bold</b>"}])
    write_csv(
        run / "metrics.csv", [{"step": 0, "x/<img src=q>": 1}, {"step": 1, "x/<img src=q>": 2}]
    )
    (run / "summary.json").write_text(json.dumps({"<i>": "<u>", "verdict": "</section>"}))
    text = write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert "<script" not in text and page.images == [] and page.faults == []
    assert evil in page.text


def test_unknown_columns_are_drawn(run: Path) -> None:
    write_csv(run / "metrics.csv", [{"step": i, "brand_new/thing": i * i} for i in range(5)])
    page = read(run)
    assert "brand new" in page.text and "thing" in page.text


def test_the_price_of_the_mean_token_stands_beside_the_energy(run: Path) -> None:
    rows: list[dict[str, object]] = [
        {"step": i, "energy": 0.5, "energy_of_mean": 0.8, "seconds": i} for i in range(3)
    ]
    write_csv(run / "metrics.csv", rows)
    text = write_report(run).read_text(encoding="utf-8")
    assert text.count("<figure class='chart'>") == 1 + 2  # one for energy, two for speed


def test_a_diverged_run_is_told_so(run: Path) -> None:
    rows: list[dict[str, object]] = [{"step": i, "loss": "nan" if i > 5 else i} for i in range(10)]
    write_csv(run / "metrics.csv", rows)
    assert "4 logged values are not finite" in read(run).text


@pytest.mark.parametrize(
    ("gap", "rank", "kind"),
    [(0.2, 40.0, "good"), (0.01, 40.0, "warn"), (0.2, 1.2, "bad"), (math.nan, 40.0, "bad")],
)
def test_remark_on_collapse_follows_the_last_figures(gap: float, rank: float, kind: str) -> None:
    columns = {
        "energy_gap": {0.0: 0.2, 10.0: gap},
        "energy_gap_stderr": {0.0: 0.01, 10.0: 0.01},
        "rankme/target": {0.0: 40.0, 10.0: rank},
    }
    assert collapse_remark(columns, 96)[0] == kind


def test_remark_without_a_width_says_nothing_about_rank() -> None:
    columns = {
        "rankme/target": {0.0: 30.0},
        "energy_gap": {0.0: 0.2},
        "energy_gap_stderr": {0.0: 0.01},
    }
    assert "directions" in collapse_remark(columns, 96)[2]
    assert "directions" not in collapse_remark(columns, None)[2]


def test_remark_without_measurements_claims_nothing() -> None:
    assert collapse_remark({"loss": {0.0: 1.0}}, 96)[1] == "Unknown."


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "encoder/config.json",
            '{"encoder": {"class": "VideoViT", "size": "tiny", "width": null}}',
        ),
        (
            "config.yaml",
            "model:\n  encoder:\n    init_args:\n      size: tiny\n      width: null\n",
        ),
        ("config.yaml", "model:\n  encoder:\n    init_args:\n      size: nano\n      width: 192\n"),
    ],
)
def test_width_comes_from_the_export_or_the_config(run: Path, name: str, text: str) -> None:
    assert "of 192 directions" not in read(run).text
    (run / name).write_text(text)
    assert "of 192 directions" in read(run).text


def test_a_config_that_is_no_yaml_is_shown_all_the_same(run: Path) -> None:
    (run / "config.yaml").write_text("a: [1, 2")
    assert "a: [1, 2" in read(run).text


def test_a_checkpoint_is_enough_to_load_and_to_go_on(run: Path) -> None:
    (run / "encoder" / "encoder.safetensors").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "step-00000500.ckpt").write_bytes(b"")
    text = read(run).text
    assert 'load_encoder("runs/first")' in text and "--resume runs/first" in text


def test_a_summary_that_is_not_final_is_not_sold_as_a_result(run: Path) -> None:
    (run / "summary.json").write_text(json.dumps({**SUMMARY, "status": "running"}))
    assert "The run has not finished" in read(run).text
    (run / "summary.json").write_text(json.dumps({**SUMMARY, "status": "finished"}))
    assert "has not finished" not in read(run).text


def test_the_later_of_two_rows_for_a_step_counts_and_a_torn_row_does_not(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss,probe\n1,5,\n2,4,0.5\n1,3,\n3,0.")
    assert read_columns(path, []) == {"loss": {1.0: 3.0, 2.0: 4.0}, "probe": {2.0: 0.5}}


def test_names_of_measures_are_split_from_their_baseline() -> None:
    assert measure_of("probe_top1") == ("probe_top1", "")
    assert measure_of("labels/speed/probe_top1_untrained") == (
        "labels/speed/probe_top1",
        "untrained",
    )
    assert measure_of("probe_top1_interval") is None
    assert measure_of("probe_top1_gain") is None and measure_of("labels/x/chance") is None
    assert measure_of("probe_top1_untrained_interval") is None
    assert measure_of("rankme") is None


def test_thinning_keeps_mean_and_extremes() -> None:
    values = [math.sin(i) for i in range(5000)]
    points = thin(Series("x", list(range(5000)), values), bins=100)
    assert len(points) == 100
    assert max(p.high for p in points) == max(values) and min(p.low for p in points) == min(values)
    assert sum(p.mean for p in points) / 100 == pytest.approx(sum(values) / 5000)


def test_a_chart_says_in_words_what_it_shows() -> None:
    figure = line_chart("Loss", [Series("loss", [0, 10], [2.0, 0.5])])
    assert "Loss: loss goes from 2.00 at step 0 to 0.500 at step 10" in figure


def test_numbers_keep_three_digits_that_mean_something() -> None:
    told = [number(v) for v in (0.0, 0.05123, 12.345, 1540.2, 5e-6, float("nan"))]
    assert told == ["0", "0.0512", "12.3", "1,540", "5.00e-06", "not a number"]


def test_an_album_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    row = (Picture("a.webp", "alt", "label", "a.png"), Picture("b.png", "other"))
    plates = [Plate("Masks", "Caption with äöü", (row, row[:1]), ("one", "two"))]
    save_album(tmp_path, plates)
    assert load_album(tmp_path) == plates
