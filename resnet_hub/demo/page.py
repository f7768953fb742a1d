"""The page: upload an image, see its most probable classes and where the model looked."""

import html
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from resnet_hub.cards.model_card import text
from resnet_hub.demo.about import About, about_model
from resnet_hub.errors import ModelError, naming_the_extra
from resnet_hub.images.decoding import BadImageError, open_image
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.classify import class_names_of, most_probable, predict_probabilities
from resnet_hub.prediction.gradcam import gradcam_over_photo
from resnet_hub.results import probability_text

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported, and reports to nobody
with naming_the_extra():
    import gradio as gr

TOP_K = 5

# The page fetches nothing and reports nothing: fonts of the visitor's system, no public link, no history, no
# second server that renders.
LAUNCH_OPTIONS: dict[str, Any] = {
    "share": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "run_history": False,
    "enable_monitoring": False,
    "footer_links": [],
    "max_file_size": "64mb",
    "css": """
.answer h2 { margin: 0 0 0.6rem; overflow-wrap: anywhere; }
.answer p { display: flex; justify-content: space-between; gap: 1rem; margin: 0.5rem 0 0.15rem; }
.answer p span:first-child { overflow-wrap: anywhere; }
.answer p span:last-child { white-space: nowrap; }
.answer section > div { border-radius: 0.2rem; background: var(--border-color-primary); overflow: hidden; }
.answer section > div > div { height: 0.4rem; background: var(--color-accent); }
.seen img { width: 100%; height: auto; object-fit: contain; }
""",
}

Answer = Callable[[str | None], tuple[dict[str, float] | None, Image.Image | None]]


def build_page(
    model: nn.Module, *, title: str, examples: Sequence[Path] = (), about: About | None = None
) -> gr.Blocks:
    """The page for a model, ready to launch with LAUNCH_OPTIONS and `theme()`.

    Raises:
        ModelError: the model does not bring the names of its classes.
    """
    answer = answering(model)

    def show(path: str | None) -> tuple[dict[str, float] | None, Image.Image | None, str]:
        labels, overlay = answer(path)
        return labels, overlay, _bars(labels or {})

    about = about or about_model(model)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(_heading(title, about, num_classes=len(class_names_of(model))))
        with gr.Row():
            with gr.Column():
                image = _image_input()
                if examples:
                    gr.Examples([[str(path)] for path in examples], inputs=[image], cache_examples=False)
            with gr.Column():
                bars = gr.HTML(label="Most probable classes", show_label=True, container=True, padding=True)
                seen = gr.Image(
                    label="Grad-CAM: what speaks for the first",
                    interactive=False,
                    buttons=[],
                    elem_classes="seen",
                )
        if about.card:
            with gr.Accordion("Model card", open=False):
                gr.Markdown(about.card)
        labels = gr.Label(visible=False)  # the answer for programs
        image.change(show, inputs=[image], outputs=[labels, seen, bars], api_name="classify")
    return page


def _heading(title: str, about: About, *, num_classes: int) -> str:
    facts = [
        f"Model {text(about.name)}",
        f"{num_classes:,} classes",
        text(about.score or "no score recorded"),
    ]
    if about.card_url:
        facts.append(f"[model card]({about.card_url})")
    return (
        f"# {text(title)}\n{', '.join(facts)}.\n\n"
        "Pictures go to the machine that serves this page, no further."
    )


def _bars(labels: Mapping[str, float]) -> str:
    """The most probable class as a heading, and a bar for each; empty without any."""
    rows = [
        f'<section data-testid="{html.escape(name)}-confidence-set"><p><span>{html.escape(name)}</span>'
        f"<span>{html.escape(probability_text(share))}</span></p>"
        f'<div><div style="width: {100 * share:.1f}%"></div></div></section>'
        for name, share in labels.items()
    ]
    best = f'<h2 data-testid="label-output-value">{html.escape(next(iter(labels), ""))}</h2>'
    return f'<div class="answer">{best}{"".join(rows)}</div>' if rows else ""


def _image_input() -> gr.Image:
    """The upload field; the page gets the uploaded file unchanged, as `classify` would."""
    # With a mode (default: RGB) gradio rewrites files of other modes: transparent pixels become black, and
    # images of 16 bits white.
    return gr.Image(
        type="filepath", image_mode=None, sources=["upload", "clipboard"], label="Image", height=320
    )


def answering(model: nn.Module) -> Answer:
    """The page's function: path of an image -> its most probable classes, and the Grad-CAM picture."""
    preprocessing = Preprocessing.of_model(model.eval())
    names = _distinct(class_names_of(model))

    def answer(path: str | None) -> tuple[dict[str, float] | None, Image.Image | None]:
        if path is None:  # the image was taken away
            return None, None
        try:
            image = open_image(Path(path), mode=preprocessing.mode)
        except BadImageError as error:
            raise gr.Error(f"This image {error}", print_exception=False) from error
        (best,) = most_probable(predict_probabilities(model, [image]), names, TOP_K)
        return dict(best), _overlay(model, image, preprocessing)

    return answer


def theme() -> Any:
    """Gradio's own look in the fonts of the visitor's system."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


def _overlay(model: nn.Module, image: Image.Image, preprocessing: Preprocessing) -> Image.Image | None:
    try:
        return gradcam_over_photo(model, image, preprocessing)
    except ModelError:  # a network without feature maps has no such picture
        return None


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with their number where two classes share one, as ImageNet's two cranes do."""
    counts = Counter(names)
    return [f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names)]
