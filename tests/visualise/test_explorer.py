"""The explorer in a real browser computes what PyTorch computes, under free and under moved light."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import strict_page
from PIL import Image
from torch import Tensor

import caption_image
from caption import checkpoint, explore, exported
from caption.captioner import Captioner
from caption.config import DecoderConfig, EncoderConfig, ImageConfig, SearchConfig
from caption.data.photos import load_photo
from caption.data.vocabulary import END, SPECIALS, START, UNKNOWN, Vocabulary
from caption.errors import UserError
from caption.files import PRETRAINED
from caption.search import search
from caption.visualise.explorer import tensor_entry

TOLERANCE = 1e-4
WORDS = [*SPECIALS, *(f"w{n}" for n in range(20))]
DRAWING = Path(__file__).parents[2] / "examples" / "photos" / "shapes.png"
# Each with other parts: a score, an attention, how its checkpoint was stored.
MODELS: dict[str, dict[str, Any]] = {
    "additive": {"score": "additive"},
    "concat, hard": {"score": "concat", "attention": "hard"},
    "dot, hard": {"score": "dot", "attention": "hard", "hidden_dim": 128},
    "general, flat": {"score": "general", "temperature": 2.0},
    "scaled dot, tied, half": {"score": "scaled_dot", "tie_embeddings": True},
}


def make_captioner(**options: Any) -> Captioner:
    """A random captioner of images of 32 x 32, whose weights are wide enough for a wrong step to show."""
    torch.manual_seed(0)
    config = DecoderConfig(**{"embedding_dim": 12, "hidden_dim": 10, "attention_dim": 9, **options})
    encoder = EncoderConfig(name="small_cnn", finetune_from="all")
    captioner = Captioner(ImageConfig(32, "squash"), encoder, config, Vocabulary(WORDS)).eval()
    for parameter in captioner.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    captioner.decoder.output.bias.data[END] += 2  # short captions
    return captioner


def make_image(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)).save(path)
    return path


def open_explorer(page: Any, captioner: Captioner, image: Path, folder: Path) -> None:
    path = folder / "explorer.html"
    path.write_text(explore.page(captioner, load_photo(image, captioner.image), "an image"), encoding="utf-8")
    page.goto(path.as_uri())


@torch.inference_mode()
def encode(captioner: Captioner, image: Path) -> Any:
    return captioner.encode(torch.from_numpy(load_photo(image, captioner.image).square[None]))


FIELDS = ["e", "alpha", "weights", "z", "i", "f", "o", "g", "c", "h", "deep", "logits", "logProbabilities", "Ey"]


def read_steps(page: Any) -> list[dict[str, Any]]:
    """The steps of the page, its vectors as arrays."""
    steps = page.evaluate(
        """(fields) => explorer.steps.map((taken) => ({
            word: taken.word, next: taken.next, beta: taken.beta, fBeta: taken.fBeta,
            hBefore: Array.from(taken.before.h), cBefore: Array.from(taken.before.c),
            ...Object.fromEntries(fields.map((name) => [name, Array.from(taken[name])])),
        }))""",
        FIELDS,
    )
    return [{name: np.array(value) for name, value in step.items()} for step in steps]


@torch.inference_mode()
def expected_steps(captioner: Captioner, memory: Any, steps: list[dict[str, Any]], forced: list[Any]) -> list[Any]:
    """Return the steps of PyTorch for the same words; `forced` are the weights to read with at each step, or None."""
    decoder, found = captioner.decoder, []
    state = decoder.start(memory, 1)
    for taken, weights in zip(steps, forced, strict=True):
        light = None if weights is None else torch.tensor(weights).float().view(1, 1, 1, 1, -1)
        before, word = state, torch.tensor([[int(taken["word"])]])
        e = decoder.attention.score(before.hidden, memory.keys)
        logits, state, attended = decoder.step(word, before, memory._replace(forced=light))
        Ey, beta = decoder.embedding(word), attended.gate.unsqueeze(-1)
        z = attended.context
        gates = decoder.word_to_gates(Ey) + decoder.hidden_to_gates(before.hidden)
        i, f, o, g = (gates + decoder.context_to_gates(beta * z)).chunk(4, -1)
        addends = torch.stack([Ey, decoder.hidden_to_output(state.hidden), decoder.context_to_output(beta * z)])
        best = int(taken["next"])
        written = torch.cat([addends.squeeze() @ decoder.output.weight[best], decoder.output.bias[best : best + 1]])
        values: dict[str, Tensor] = {
            "e": e, "alpha": (e / decoder.attention.temperature).softmax(-1), "z": z, "beta": attended.gate,
            "fBeta": decoder.gate(before.hidden), "i": i.sigmoid(), "f": f.sigmoid(), "o": o.sigmoid(), "g": g.tanh(),
            "c": state.cell, "h": state.hidden, "deep": addends.sum(0), "logits": logits, "Ey": Ey,
            "logProbabilities": logits.log_softmax(-1), "hBefore": before.hidden, "cBefore": before.cell,
            "addends": written,
        }  # fmt: skip
        locations = attended.sample.location if attended.sample else None
        used = attended.weights if locations is None else torch.nn.functional.one_hot(locations, e.shape[-1])
        found.append(
            {name: np.asarray(value.squeeze().tolist()) for name, value in {**values, "weights": used}.items()}
        )
    return found


def check_equal(captioner: Captioner, memory: Any, steps: list[Any], forced: list[Any] | None = None) -> list[Any]:
    expected = expected_steps(captioner, memory, steps, forced or [None] * len(steps))
    for t, (taken, right) in enumerate(zip(steps, expected, strict=True)):
        for name in right.keys() - {"addends"}:
            assert np.abs(taken[name] - right[name]).max() < TOLERANCE, (t, name)
    return expected


def numbers(text: str) -> list[float]:
    """The numbers of a text of the page, those with a decimal point."""
    superscripts = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    text = re.sub(r" × 10([⁻⁰-⁹¹²³]+)", lambda m: f"e{m[1].translate(superscripts)}", text.replace("−", "-"))
    return [float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


def check_texts(page: Any, t: int, right: dict[str, Any], moved: bool) -> None:
    """Every number that stands on the page at word t, for a region and a unit, is PyTorch's."""
    region, unit = page.evaluate("[explorer.region, explorer.units.H]")
    texts = page.locator(".bars .number").all_text_contents()
    order = ["Ey", "hBefore", "cBefore", "z", "i", "f", "o", "g", "c", "h", "deep"]
    shown = [numbers(text)[0] for text in texts]
    assert shown == pytest.approx([right[name][int(texts[n].split("]")[0][1:]) - 1] for n, name in enumerate(order)], abs=TOLERANCE)  # fmt: skip # noqa: E501
    e, alpha, used = (right[name][region] for name in ("e", "alpha", "weights"))
    here = [e, alpha, used] if moved else [e, alpha]
    assert numbers(page.locator(".readout").text_content()) == pytest.approx(here, abs=TOLERANCE)
    scales = [value for name in ("e", "alpha") for value in (right[name].min(), right[name].max())]
    assert numbers(" ".join(page.locator(".scale span").all_text_contents())) == pytest.approx(scales, abs=TOLERANCE)
    gates = [right[name][unit] for name in "ifog"]
    i, f, o, g = gates
    cell = [f, right["cBefore"][unit], i, g, right["c"][unit], o, right["c"][unit], right["h"][unit]]
    cards = [numbers(text) for text in page.locator(".card .numbers").all_text_contents()]
    assert cards[1] == pytest.approx([e], abs=TOLERANCE) and cards[4] == pytest.approx([float(right["fBeta"]), float(right["beta"])], abs=TOLERANCE)  # fmt: skip # noqa: E501
    assert cards[2] == pytest.approx([alpha, used] if moved else [alpha], abs=TOLERANCE)
    assert cards[5] == pytest.approx(gates, abs=TOLERANCE) and cards[6] == pytest.approx(cell, abs=TOLERANCE)
    assert cards[7] == pytest.approx([right["addends"].sum(), *right["addends"]], abs=TOLERANCE)
    top = np.sort(right["logProbabilities"])[::-1][:10]
    words = page.locator(".words button .number").all_text_contents()
    assert [numbers(text)[0] for text in words] == pytest.approx(np.exp(top), abs=TOLERANCE)
    names = page.locator(".words button .name").all_text_contents()
    assert names == [WORDS[n] for n in np.argsort(-right["logProbabilities"])[:10]]


@pytest.mark.parametrize("name", MODELS)
def test_every_number_of_the_page_is_pytorchs(page: Any, tmp_path: Path, name: str) -> None:
    """Of every score, soft and hard, weights of float32 and of float16, free light and moved light."""
    captioner, image = make_captioner(**MODELS[name]), make_image(tmp_path / "image.png")
    if "half" in name:
        exported.save(tmp_path / "model", captioner.to_checkpoint(), half=True, card="")
    else:
        checkpoint.save(tmp_path / "best.pt", captioner.to_checkpoint())
    captioner = Captioner.load(tmp_path / ("model" if "half" in name else "best.pt"))
    memory = encode(captioner, image)
    open_explorer(page, captioner, image, tmp_path)
    halves = set(page.evaluate("Object.values(model.weights).map((weights) => weights.half)"))
    assert halves == ({True} if "half" in name else {False})
    expected = check_equal(captioner, memory, read_steps(page))
    check_texts(page, 0, expected[0], moved=False)
    page.keyboard.press("ArrowRight")
    check_texts(page, 1, expected[1], moved=False)
    page.evaluate("explorer.moveSpot({ x: 1.2, y: 2.4 })")
    steps = read_steps(page)
    forced = [None, *(taken["weights"] for taken in steps[1:])]
    assert steps[1]["weights"] == pytest.approx(spot(captioner, 1.2, 2.4, 0.8), abs=1e-9)
    check_texts(page, 1, check_equal(captioner, memory, steps, forced)[1], moved=True)
    if captioner.decoder.stochastic:
        page.get_by_role("button", name="free all light and words").click()
        page.get_by_label("the most probable region, eq. 9").check()
        hard = memory._replace(sample_rows=torch.ones(1, 1, dtype=torch.bool), argmax=True)
        expected = check_equal(captioner, hard, read_steps(page))
        assert all(step["weights"].max() == 1 for step in expected)
        check_texts(page, 1, expected[1], moved=True)


def spot(captioner: Captioner, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = captioner.encoder.grid
    r, c = np.divmod(np.arange(rows * columns), columns)
    weights = np.exp(-((c - x) ** 2 + (r - y) ** 2) / (2 * radius**2))
    return weights / weights.sum()


@pytest.fixture(scope="module")
def shapes_model() -> Captioner:
    return Captioner.load(PRETRAINED / "shapes")


def greedy(captioner: Captioner, memory: Any, forced: list[Any] | None = None) -> list[int]:
    """PyTorch's greedy caption, under Memory.forced if weights [T, L] are given."""
    if forced is not None:
        memory = memory._replace(forced=torch.tensor(np.array(forced)).float().view(1, 1, len(forced), 1, -1))
    return search(captioner.decoder, memory, SearchConfig(beam_size=1))[0][0].words


def written(page: Any) -> list[int]:
    return [word for word in page.evaluate("explorer.steps.map((taken) => taken.next)") if word != END]


def test_the_caption_under_a_moved_light_is_that_of_greedy_search(
    page: Any, tmp_path: Path, shapes_model: Captioner
) -> None:
    """The last weights of Memory.forced stand for all steps after them, as a light from a word on does."""
    memory = encode(shapes_model, DRAWING)
    open_explorer(page, shapes_model, DRAWING, tmp_path)
    free = greedy(shapes_model, memory)
    assert written(page) == free
    own = [taken["weights"] for taken in read_steps(page)]
    one_hot, even = np.eye(64), np.full(64, 1 / 64)
    lights = {"region 30": one_hot[30], "even": even, "spot": spot(shapes_model, 5.5, 3.0, 0.8)}
    captions = set()
    for t in (0, 4):
        for name, weights in lights.items():
            page.evaluate("t => { explorer.reset(); explorer.choose(t); }", t)
            act = {"even": "setLight('even')", "spot": "moveSpot({ x: 5.5, y: 3 })"}.get(name, "lightRegion(30)")
            page.evaluate(f"explorer.{act}")
            assert written(page) == greedy(shapes_model, memory, [*own[:t], weights]), (t, name)
            captions.add(tuple(written(page)))
    assert len(captions) > 3 and tuple(free) not in captions
    page.evaluate("explorer.reset(); explorer.choose(1); explorer.onward = false; explorer.lightRegion(30);")
    used = [taken["weights"] for taken in read_steps(page)]
    assert np.array_equal(used[1], one_hot[30]) and used[2].max() < 1
    assert written(page) == greedy(shapes_model, memory, used)
    page.evaluate("explorer.reset()")
    assert written(page) == free


def test_a_freed_caption_that_is_shorter_shows_its_last_word(
    page: Any, tmp_path: Path, shapes_model: Captioner
) -> None:
    open_explorer(page, shapes_model, DRAWING, tmp_path)
    free = page.locator(".word").count()
    page.evaluate("explorer.lightRegion(7)")
    assert page.locator(".word").count() > free
    page.evaluate("explorer.choose(1000)")
    page.get_by_role("button", name="free all light and words").click()
    assert page.locator(".word").count() == free
    assert page.locator(".word[aria-pressed=true]").count() == 1
    assert page.locator(".position").inner_text().startswith(f"word {page.evaluate('explorer.t') + 1} of ")


def test_a_light_chosen_again_acts_again(page: Any, tmp_path: Path, shapes_model: Captioner) -> None:
    """First for a word alone, then from it on."""
    open_explorer(page, shapes_model, DRAWING, tmp_path)
    page.get_by_label("this word alone").check()
    page.get_by_role("radio", name="even").check()
    assert [float(step["weights"].max()) == 1 / 64 for step in read_steps(page)[:3]] == [True, False, False]
    page.get_by_label("from this word on").check()
    page.get_by_role("radio", name="even").click()
    assert all(step["weights"].max() == 1 / 64 for step in read_steps(page))


def test_the_caption_goes_on_from_a_word_that_was_chosen(page: Any, tmp_path: Path, shapes_model: Captioner) -> None:
    """As PyTorch's does after that word; <unknown> cannot be chosen, nor <end> as the first word."""
    memory, words = encode(shapes_model, DRAWING), shapes_model.vocabulary.words
    open_explorer(page, shapes_model, DRAWING, tmp_path)
    page.locator(".explorer .word").nth(2).click()
    button = page.locator(".words button:not([aria-pressed=true]):enabled").first
    word = words.index(button.locator(".name").text_content())
    before = written(page)
    button.click()
    inputs, found = [START, *before[:2], word], before[:2] + [word]
    with torch.inference_mode():
        state = shapes_model.decoder.start(memory, 1)
        while len(found) < 30:
            logits, state, _ = shapes_model.decoder.step(torch.tensor([[inputs.pop(0)]]), state, memory)
            if inputs:
                continue
            logits[..., [0, START, UNKNOWN]] = -torch.inf
            if (best := int(logits.argmax())) == END:
                break
            found.append(best)
            inputs.append(best)
    assert written(page) == found != before
    assert page.locator(".word .mark").nth(2).text_content() == "✎"
    page.get_by_role("button", name="free all light and words").click()
    assert written(page) == before
    assert page.evaluate("[mayWrite(END, 0), mayWrite(END, 1), mayWrite(UNKNOWN, 1)]") == [False, True, False]


STOPS = "button, input, summary, [role=gridcell], [role=slider]"


def test_a_session_by_keyboard_alone(page: Any, tmp_path: Path, shapes_model: Captioner) -> None:
    """Words, the spot, one region, the scope, a number of a vector and another word; what has the focus is outlined.
    Tab stops at nothing without a purpose, such as a box that could be scrolled."""
    open_explorer(page, shapes_model, DRAWING, tmp_path)
    focused = "document.activeElement.getAttribute('role') || document.activeElement.className || document.activeElement.tagName"  # noqa: E501

    def tab_to(what: str) -> None:
        for _ in range(30):
            page.keyboard.press("Tab")
            assert page.evaluate(f"document.activeElement.matches({json.dumps(STOPS)})"), page.evaluate(focused)
            if page.evaluate(f"document.activeElement.matches({json.dumps(what)})"):
                style = "(() => { const e = document.activeElement, s = getComputedStyle(e.type === 'radio' ? e.parentElement : e); return s.outlineStyle + s.outlineWidth; })()"  # noqa: E501
                assert page.evaluate(style) == "solid3px", what
                return
        raise AssertionError(f"{what} is not reached, but {page.evaluate(focused)}")

    caption = "explorer.sentence(explorer.steps)"
    free = page.evaluate(caption)
    tab_to(".word")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[explorer.t, document.activeElement.textContent]") == [2, "red"]
    page.keyboard.press("ArrowLeft")
    tab_to("[role=gridcell]")
    start = page.evaluate("explorer.region")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("[explorer.region, explorer.t]") == [start - 8, 1]
    page.keyboard.press("Enter")
    assert page.evaluate("[explorer.lights[1].kind, explorer.lights[1].region, explorer.lights[9].kind]") == [
        "cell",
        start - 8,
        "cell",
    ]
    tab_to("input[type=radio]")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("explorer.lights[1].kind") == "spot"
    page.keyboard.press("Shift+Tab")
    place = page.evaluate("explorer.lights[1].spot")
    page.keyboard.press("ArrowUp")
    moved = page.evaluate("explorer.lights[1].spot")
    assert page.evaluate("explorer.lights[1].kind") == "spot" and moved != place
    tab_to("input[value=onward]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("explorer.onward") is False
    tab_to("[role=slider]")
    page.keyboard.press("PageDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("explorer.units.E") == 1
    assert page.locator("[role=slider]").first.get_attribute("aria-valuetext").startswith("[2] ")
    tab_to(".words button:not([aria-pressed=true])")
    page.keyboard.press("Enter")
    assert page.evaluate(caption) != free
    assert page.get_by_role("status").text_content().startswith("word 2 of ")


def test_the_explorer_fits_a_phone(browser: Any, tmp_path: Path, shapes_model: Captioner) -> None:
    """Nothing is wider than the screen, targets are large, and a tap lights one region. The image stays where it is
    while a finger drags the spot, whatever becomes of the caption; on its side, the phone shows all of the image."""
    with strict_page(browser, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True) as page:
        open_explorer(page, shapes_model, DRAWING, tmp_path)
        width = "document.documentElement.scrollWidth"
        assert page.evaluate(width) == 360
        for target in page.locator("button:visible, .choice label:visible, [role=slider]:visible").all():
            box = target.bounding_box()
            assert box["height"] >= 35 and box["width"] >= 24, target.text_content()
        page.locator(".stage .window").scroll_into_view_if_needed()
        box = page.locator(".stage .window").bounding_box()
        page.touchscreen.tap(box["x"] + 5.5 / 8 * box["width"], box["y"] + 3.5 / 8 * box["height"])
        assert page.evaluate("[explorer.lights[0].kind, explorer.lights[0].region]") == ["cell", 3 * 8 + 5]
        assert page.locator(".stage .window").bounding_box() == box
        page.get_by_label("spot", exact=True).tap()
        box = page.locator(".stage .window").bounding_box()
        page.touchscreen.tap(box["x"] + 2 / 8 * box["width"], box["y"] + 6 / 8 * box["height"])
        light = page.evaluate("explorer.lights[0]")
        assert (light["kind"], light["spot"]["x"], light["spot"]["y"]) == ("spot", pytest.approx(1.5, abs=0.05), pytest.approx(5.5, abs=0.05))  # fmt: skip # noqa: E501
        assert page.evaluate("getComputedStyle(explorer.frame).touchAction") == "none"
        page.evaluate("scrollTo(0, 0)")
        box, lines = page.locator(".stage .window").bounding_box(), set()
        finger = page.context.new_cdp_session(page)
        for region in (0, 10, 19, 28, 21, 30, 37, 51, 57):
            row, column = divmod(region, 8)
            x, y = (start + (n + 0.5) / 8 * box["width"] for start, n in ((box["x"], column), (box["y"], row)))
            kind = "touchMove" if lines else "touchStart"
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
            follows = "([x, y]) => Math.hypot(explorer.spot.x - x, explorer.spot.y - y) < 0.1"
            page.wait_for_function(follows, arg=[column, row], timeout=10_000)  # a touch arrives with a later frame
            assert page.locator(".stage .window").bounding_box() == box
            lines.add(page.evaluate("explorer.caption.lastChild.offsetTop"))
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        assert len(lines) > 1  # words were written on more lines and on fewer
        assert page.evaluate(width) == 360
        page.set_viewport_size({"width": 640, "height": 320})
        box, bar = (page.locator(part).bounding_box() for part in (".stage .window", ".walk"))
        assert box["width"] > 200 and box["y"] >= 0 and box["y"] + box["height"] <= bar["y"]
        assert page.evaluate(width) == 640


def test_the_image_is_lit_where_the_light_was_dragged(page: Any, tmp_path: Path, shapes_model: Captioner) -> None:
    open_explorer(page, shapes_model, DRAWING, tmp_path)
    box = page.locator(".stage .window").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    assert page.evaluate("explorer.region") == 0
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.move(box["x"] + 6 / 8 * box["width"], box["y"] + 3 / 8 * box["height"], steps=4)
    page.wait_for_function("Math.abs(explorer.spot.x - 5.5) < 0.05 && !explorer.waiting")
    page.mouse.up()
    light = page.evaluate("explorer.lights[0]")
    assert light["kind"] == "spot" and light["spot"]["y"] == pytest.approx(2.5, abs=0.05)
    opacity = page.evaluate(
        "Array.from(explorer.canvas.getContext('2d').getImageData(0, 0, 64, 64).data).filter((_, n) => n % 4 === 3)"
    )
    darkness = np.array(opacity).reshape(64, 64)
    y, x = np.unravel_index(darkness.argmin(), darkness.shape)
    assert abs(x - 48) <= 4 and abs(y - 24) <= 4 and darkness[50:, :20].min() > 150
    page.mouse.click(box["x"] + 5, box["y"] + 5)  # where there is a spot, a click moves it
    assert page.evaluate("[explorer.lights[0].kind, explorer.region]") == ["spot", 0]
    assert page.locator(".stage .window").bounding_box() == box


def test_the_button_on_a_page_of_captions_opens_the_explorer(
    page: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each image its own; closed, the captions are as they were."""
    captioner = make_captioner()
    checkpoint.save(tmp_path / "best.pt", captioner.to_checkpoint())
    images = [make_image(tmp_path / "one.png"), DRAWING]
    flags = ["--checkpoint", str(tmp_path / "best.pt"), "--output", str(tmp_path / "page.html"), "--explore"]
    caption_image.main(["--image", *map(str, images), *flags])
    page.goto((tmp_path / "page.html").as_uri())
    assert page.locator(".explorer").count() == 0
    for n, image in enumerate(images):
        page.get_by_role("button", name="explore the equations").nth(n).click()
        assert not page.locator("article").first.is_visible()
        explorer = page.locator(".explorer:visible")
        assert explorer.get_by_text("greedy search's caption").is_visible()
        words = captioner.vocabulary.decode(greedy(captioner, encode(captioner, image)))
        shown = explorer.locator(".word span:last-child").all_text_contents()
        assert [word for word in shown if word != "<end>"] == words
        page.keyboard.press("ArrowRight")
        assert explorer.locator(".word[aria-pressed=true]").get_attribute("aria-label") == shown[1]
        explorer.get_by_role("button", name="close the explorer").click()
        assert page.locator("article").first.is_visible() and page.locator(".explorer:visible").count() == 0


def test_the_command_writes_a_page_and_names_what_it_cannot_compute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image, model = str(make_image(tmp_path / "image.png")), tmp_path / "best.pt"
    arguments = ["--checkpoint", str(model), "--image", image, "--output", str(tmp_path / "explorer.html")]
    checkpoint.save(model, make_captioner().to_checkpoint())
    explore.main(arguments)
    assert re.fullmatch(r"wrote .*explorer\.html \(0\.\d MB\)\n", capsys.readouterr().out)
    explore.main(arguments)  # a page of ours is replaced
    (tmp_path / "mine.html").write_text("mine")
    for output, message in (("mine.html", "exists already, and is not"), ("page.png", "must be the name of a page")):
        with pytest.raises(UserError, match=message):
            explore.main([*arguments[:-1], str(tmp_path / output)])
    with pytest.raises(UserError, match="--explore puts a button on a page, but --output is ''"):
        caption_image.main([*arguments[:-2], "--explore"])
    for field, value, options in (
        ("name", "luong", {"name": "luong"}),
        ("attention", "draw", {"attention": "draw"}),
        ("score", "multi_head", {"score": "multi_head", "heads": 3, "attention_dim": 9}),
        ("window", "local_m", {"window": "local_m"}),
    ):
        other = DecoderConfig(**{"embedding_dim": 8, "hidden_dim": 8, "attention_dim": 8, **options})
        encoder = EncoderConfig(name="small_cnn", finetune_from="all")
        checkpoint.save(
            model, Captioner(ImageConfig(32, "squash"), encoder, other, Vocabulary(WORDS)).eval().to_checkpoint()
        )
        message = rf"decoder\.{field} is {value}, but the explorer computes .* alone; give another model, or see where"
        with pytest.raises(UserError, match=message):
            explore.main(arguments)
        with pytest.raises(UserError, match=message):
            caption_image.main([*arguments, "--explore"])


def test_numbers_are_stored_in_half_precision_only_where_they_are_exact() -> None:
    for values, half in (([0.5, -2.0], True), ([0.1], False), ([1e5], False), ([2.0**-24], True), ([2.0**-25], False)):
        assert tensor_entry(torch.tensor(values))["half"] is half
