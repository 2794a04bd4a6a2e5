"""The report of a run: the grid, the curves, the page, the progress bar."""

import base64
import io
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from support import browser

import dream_accel as da
from dream_accel.cli.progress import watch
from dream_accel.data import ImageSet, Normalization
from dream_accel.evaluation import Evaluation, Protocol, Row
from dream_accel.previews import Previews
from dream_accel.recipes.registry import changed_settings
from dream_accel.report import MAX_COLUMNS, MAX_ROWS, render_curves, render_grid, write_report
from dream_accel.report.page import SHOWN_CLASSES, SHOWN_TIMES
from dream_accel.results import Progress, Result
from dream_accel.synthetic import SyntheticSet

HISTORY = [Progress(i, 20 * i, 5.0 / i, 1000.0, 0.5 * i) for i in range(1, 4)]
ROWS = [
    Row("random <real> images", Evaluation((90.0, 92.0), Protocol(networks=2, epochs=30)), 0.0),
    Row("distilled, DREAM", Evaluation((93.0, 94.0), Protocol(networks=2, epochs=30)), 1.5),
]


def a_result(**changes) -> Result:
    images = torch.rand(3, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    values = {
        "synthetic": SyntheticSet(images),
        "recipe": da.recipe("dream", "imagefolder:<a & b>", ipc=2, factor=1, iterations=9),
        "normalization": Normalization((0.5,) * 3, (0.5,) * 3),
        "class_names": ("cat", "dog", "emu"),
        "history": list(HISTORY),
        **changes,
    }
    return Result(**values)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


class Page(HTMLParser):
    """Collects the text and every attribute that could reach outside, and sees that the tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        assert tag not in ("script", "link", "iframe")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


class TestPage:
    def page(self, tmp_path, result=None, rows=()) -> Page:
        write_report(result or a_result(), tmp_path, rows)
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert text.startswith("<!doctype html>")
        page = Page(text)
        assert page.open == []
        return page

    def test_reaches_nothing_outside_itself(self, tmp_path):
        page = self.page(tmp_path, rows=ROWS)
        assert len(page.links) == 2
        for link in page.links:
            assert link.startswith("data:image/png;base64,")
            assert base64.b64decode(link.partition(",")[2]).startswith(b"\x89PNG")
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert not re.search(r"https?://|url\(|@import", text)

    def test_holds_settings_course_accuracies_and_preview(self, tmp_path):
        result = a_result()
        page = self.page(tmp_path, result, ROWS)
        assert "imagefolder:<a & b>, 2 images per class, dream" in page.text
        assert "3 outer iterations, 60 matching steps" in page.text
        assert "random <real> images\n91.0 ± 1.0" in page.text
        assert "distilled, DREAM\n93.5 ± 0.5" in page.text
        assert "2 networks each, 30 epochs" in page.text
        for setting in ("pixel_lr\n0.005", "clusters\n128", f"torch\n{torch.__version__}"):
            assert setting in page.text
        assert "Interrupted" not in page.text
        preview = base64.b64decode(page.links[-1].partition(",")[2])
        assert preview == (tmp_path / "preview.png").read_bytes()

    def test_says_that_a_run_was_interrupted(self, tmp_path):
        assert "Interrupted after 3 of 9 iterations" in self.page(tmp_path, a_result(interrupted=True)).text

    def test_says_that_a_run_diverged_and_how_it_was_continued(self, tmp_path):
        change = {"after_iteration": 2, "changed": {"pixel_lr": [0.5, 0.1], "device": ["cpu", "cuda:0"]}}
        text = self.page(tmp_path, a_result(diverged=True, changes=[change])).text
        assert "Diverged in iteration 4 of 9: the images are those after iteration 3" in text
        assert "Continued after iteration 2 with pixel_lr 0.1 (before: 0.5), device cuda:0 (before: cpu)." in text

    def test_says_what_is_not_measured(self, tmp_path):
        protocol = Protocol(networks=3, epochs=1)
        rows = [ROWS[0], Row("second", Evaluation((1.0, 2.0), protocol), 0.0)]
        write_report(a_result(), tmp_path, rows, ["second", "third"])
        text = Page((tmp_path / "report.html").read_text(encoding="utf-8")).text
        assert "1.5 ± 0.5 (2 of 3 networks)" in text
        assert "Not measured: second; third." in text

    def test_many_classes_are_bounded(self, tmp_path):
        """matplotlib#16234: a picture of 1000 classes was too tall for matplotlib 3.9."""
        images = torch.rand(MAX_ROWS + 1, 1, 1, 4, 4)
        names = tuple(map(str, range(len(images))))
        result = a_result(
            synthetic=SyntheticSet(images), class_names=names, recipe=da.recipe("dream", "toy", ipc=1, factor=1)
        )
        text = self.page(tmp_path, result).text
        assert pixels((tmp_path / "preview.png").read_bytes()).shape[0] < 2**16
        assert f"the first {MAX_ROWS} classes" in text

    def test_large_images_are_shrunk_for_the_preview(self, tmp_path):
        png = render_grid(torch.rand(2, 3, 400, 200), torch.arange(2), ["a", "b"])
        assert pixels(png).shape[0] < 400

    def test_without_history_and_accuracies_has_neither(self, tmp_path):
        page = self.page(tmp_path, a_result(history=[], interrupted=True))
        assert "Interrupted after 0 of 9" in page.text
        assert "Progress" not in page.text
        assert "Test accuracy" not in page.text
        assert len(page.links) == 1

    def test_draws_every_network_of_an_accuracy_on_one_scale(self, tmp_path):
        write_report(a_result(), tmp_path, ROWS)
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        points = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', text)]
        accuracies = [value for row in ROWS for value in row.evaluation.accuracies]
        assert len(points) == len(accuracies)
        slopes = np.diff(points) / np.diff(accuracies)
        assert np.allclose(slopes, slopes[0], rtol=0.01)
        assert "Points are networks, from 90.0 to 94.0." in text

    def test_one_network_is_drawn_too(self, tmp_path):
        rows = [Row("alone", Evaluation((50.0,), Protocol(networks=1)), 0.0)]
        assert "alone\n50.0 ± 0.0" in self.page(tmp_path, rows=rows).text

    def test_shows_how_the_images_changed(self, tmp_path):
        """The first image of class 0 turns from black to white; every other image stays as it is."""
        previews = Previews()
        for iteration in range(2 * SHOWN_TIMES):
            images = torch.zeros(3, 2, 3, 8, 8)
            images[0, 0] = iteration / (2 * SHOWN_TIMES - 1)
            images[:, 1] = 1
            previews = previews.after(iteration, images)
        page = self.page(tmp_path, a_result(previews=previews))
        assert "The first image of a class along the run\n" in page.text
        strip = pixels(base64.b64decode(page.links[-1].partition(",")[2]))[:, :, 0]
        rows = [row for row in strip if (row < 50).any() and (row == 255).any()]
        brightest = max(rows, key=lambda row: len(np.unique(row)))
        assert len(np.unique(brightest)) >= SHOWN_TIMES - 1

    def test_shows_the_real_images_of_the_last_refresh(self, tmp_path):
        images = torch.zeros(6, 3, 8, 8, dtype=torch.uint8)
        images[4, 0] = 255
        train = ImageSet.from_arrays(images, torch.arange(6) // 2, 3)
        result = a_result(picks=torch.tensor([[0], [2], [4]]))
        write_report(result, tmp_path, train=train)
        page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
        assert "Real images of the last refresh\n" in page.text
        shown = pixels(base64.b64decode(page.links[-1].partition(",")[2]))
        red = (shown == [255, 0, 0]).all(axis=2).nonzero()
        black = (shown == 0).all(axis=2).nonzero()
        assert len(red[0]) > 500
        assert red[0].min() > black[0].max() - 10
        write_report(result, tmp_path)
        assert "Real images" not in (tmp_path / "report.html").read_text(encoding="utf-8")

    def test_many_classes_and_picks_are_cut_and_the_page_says_so(self, tmp_path):
        n = SHOWN_CLASSES + 1
        images = torch.zeros(n * (MAX_COLUMNS + 1), 1, 4, 4, dtype=torch.uint8)
        labels = torch.arange(n).repeat_interleave(MAX_COLUMNS + 1)
        names = tuple(map(str, range(n)))
        result = a_result(
            synthetic=SyntheticSet(torch.rand(n, 2, 1, 4, 4)),
            class_names=names,
            picks=torch.arange(len(images)).view(n, -1),
            previews=Previews().after(0, torch.rand(n, 2, 1, 4, 4)).after(1, torch.rand(n, 2, 1, 4, 4)),
        )
        write_report(result, tmp_path, train=ImageSet.from_arrays(images, labels, n))
        text = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert f"refresh, {MAX_COLUMNS} of {MAX_COLUMNS + 1} per class, the first {SHOWN_CLASSES} classes" in text
        assert f"along the run, the first {SHOWN_CLASSES} classes" in text

    def test_changed_settings_come_first(self, tmp_path):
        recipe = da.recipe("dream", "cifar10", ipc=2, pixel_lr=0.3)
        text = self.page(tmp_path, a_result(recipe=recipe)).text
        usual = da.recipe("dream", "cifar10", ipc=2).pixel_lr
        assert f"pixel_lr\n0.3\n{usual}\n" in text
        assert text.index("pixel_lr") < text.index("All other settings") < text.index("momentum")
        assert text.count("pixel_lr\n") == 1

    def test_unchanged_settings_are_said_to_be_so(self, tmp_path):
        recipe = da.recipe("dream", "cifar10")
        text = self.page(tmp_path, a_result(recipe=recipe)).text
        assert "All settings are those of dream for this data set." in text

    def test_leaves_no_other_files(self, tmp_path):
        self.page(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["preview.png", "report.html"]


class TestChangedSettings:
    SHAPE = (3, 32, 32)

    def test_are_none_of_a_recipe_as_prescribed(self):
        for name in ("dream", "dc", "dm", "idc", "mtt"):
            made = da.recipe(name, "cifar10", **({"experts": "there"} if name == "mtt" else {}))
            assert set(changed_settings(made, self.SHAPE)) <= {"experts"}

    def test_have_the_prescribed_value(self):
        made = da.recipe("dream", "cifar10", clusters=64, ipc=1)
        assert changed_settings(made, self.SHAPE) == {"ipc": 10, "clusters": 128}

    def test_what_the_run_decides_is_no_change(self):
        made = da.recipe("dream", "cifar10")
        decided = replace(made, depth=made.depth_for(self.SHAPE), class_gradients="loop")
        assert changed_settings(decided, self.SHAPE) == {}
        assert changed_settings(replace(made, depth=5), self.SHAPE) == {"depth": 0}


@pytest.mark.slow
@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium in PATH")
class TestBrowser:
    """The page as Chromium shows it; skipped where there is none."""

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    def test_the_page_is_drawn_without_an_error(self, tmp_path, dark):
        previews = Previews().after(0, torch.rand(3, 2, 3, 8, 8)).after(1, torch.rand(3, 2, 3, 8, 8))
        write_report(a_result(previews=previews), tmp_path, ROWS)
        said = browser.screenshot(tmp_path / "report.html", tmp_path / "seen.png", dark=dark)
        assert said == ""
        seen = pixels((tmp_path / "seen.png").read_bytes())
        background, ink = seen[5, 5].mean(), seen[:60].mean(axis=2)
        assert (background < 60) if dark else (background > 240)
        assert (ink > 200).any() if dark else (ink < 60).any()
        # The images of the page, whose colours are no grey.
        assert ((seen.max(axis=2) - seen.min(axis=2)) > 100).sum() > 1000

    def test_an_error_of_a_page_would_be_seen(self, tmp_path):
        (tmp_path / "bad.html").write_text("<html><body><script>missing()</script></body></html>", encoding="utf-8")
        assert "missing is not defined" in browser.screenshot(tmp_path / "bad.html", tmp_path / "seen.png")


class TestGrid:
    def test_shows_every_image_in_the_row_of_its_class(self):
        """Plain colours are found again, class by class from top to bottom, image by image from left to right."""
        colours = torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0]], [[0, 1, 1], [1, 0, 1]]])
        images = colours.view(6, 3, 1, 1).expand(-1, -1, 8, 8)
        shown = pixels(render_grid(images, torch.arange(3).repeat_interleave(2), ("a", "b", "c")))
        centres = []
        for colour in colours.view(6, 3):
            found = (np.abs(shown - 255 * colour.numpy().astype(int)).sum(axis=2) < 20).nonzero()
            assert len(found[0]) > 500
            centres.append((found[0].mean(), found[1].mean()))
        rows = np.array([y for y, _ in centres]).reshape(3, 2)
        columns = np.array([x for _, x in centres]).reshape(3, 2)
        assert (np.abs(np.diff(rows, axis=1)) < 3).all()
        assert (np.diff(rows, axis=0) > 20).all()
        assert (np.abs(np.diff(columns, axis=0)) < 3).all()
        assert (np.diff(columns, axis=1) > 20).all()

    def test_one_channel_is_shown_in_grey(self):
        images = torch.linspace(0, 1, 2 * 64).view(2, 1, 8, 8)
        shown = pixels(render_grid(images, torch.arange(2), ("a", "b")))
        assert (shown[:, :, 0] == shown[:, :, 1]).all()
        assert len(np.unique(shown)) > 60

    def test_labels_are_written(self):
        images = torch.ones(2, 3, 8, 8)
        short, long = (pixels(render_grid(images, torch.arange(2), ("a", name))) for name in ("b", "a long name"))
        assert long.shape[1] > short.shape[1]

    def test_a_wide_set_is_cut_to_what_fits(self):
        images, labels = torch.rand(2 * (MAX_COLUMNS + 5), 1, 4, 4), torch.arange(2).repeat_interleave(MAX_COLUMNS + 5)
        full = torch.arange(2).repeat_interleave(MAX_COLUMNS)
        shown = pixels(render_grid(images, labels, ("a", "b")))
        assert shown.shape == pixels(render_grid(images[: len(full)], full, ("a", "b"))).shape

    @pytest.mark.parametrize("name", ["$\\bad$", "50 % $ & <", "a_b^c", ""])
    def test_any_class_name_can_be_written(self, name):
        assert render_grid(torch.rand(2, 3, 4, 4), torch.arange(2), (name, "b")).startswith(b"\x89PNG")

    def test_columns_have_names_above(self):
        images, labels = torch.zeros(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
        plain, named = (pixels(render_grid(images, labels, ("a", "b"), names)) for names in ((), ("1", "25")))
        assert named.shape[0] > plain.shape[0]

    def test_what_is_no_image_is_transparent(self):
        picture = Image.open(io.BytesIO(render_grid(torch.zeros(3, 1, 8, 8), torch.tensor([0, 0, 1]), ("a", "b"))))
        alpha = np.asarray(picture)[:, :, 3]
        assert picture.mode == "RGBA"
        assert (alpha == 0).any()
        assert (alpha == 255).any()

    def test_rows_of_unequal_length_leave_their_end_empty(self):
        assert render_grid(torch.rand(3, 1, 4, 4), torch.tensor([0, 0, 1]), ("a", "b")).startswith(b"\x89PNG")

    def test_the_global_state_of_matplotlib_is_left_alone(self):
        before = matplotlib.get_backend(auto_select=False) if "matplotlib.pyplot" in sys.modules else None
        render_curves(HISTORY)
        if before is None:
            assert "matplotlib.pyplot" not in sys.modules
        else:
            assert matplotlib.get_backend(auto_select=False) == before


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestProgress:
    def test_is_quiet_where_standard_error_is_no_terminal(self, monkeypatch):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        with watch("distilling", 3) as tick:
            for _ in range(3):
                tick()
        assert stream.getvalue() == ""

    def test_shows_name_count_rate_and_time_left_on_a_terminal(self, monkeypatch):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "120")
        with watch("distilling", 40) as tick:
            for _ in range(40):
                tick()
                torch.rand(100, 100).sum()
        shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
        assert "distilling" in shown
        assert "40/40" in shown
        assert re.search(r"\d+\.\d/s", shown)
        assert re.search(r"\d+:\d\d:\d\d", shown)

    def test_nothing_to_do_shows_nothing(self, monkeypatch):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        with watch("distilling", 0) as tick:
            tick()
        assert stream.getvalue() == ""

    @pytest.mark.parametrize("stream", [Terminal(), io.StringIO()], ids=["terminal", "pipe"])
    def test_an_interruption_passes_through(self, monkeypatch, stream):
        monkeypatch.setattr(sys, "stderr", stream)
        with pytest.raises(KeyboardInterrupt), watch("distilling", 3):
            raise KeyboardInterrupt
