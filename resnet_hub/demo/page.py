"""The page: upload an image, see its most probable classes and where the model looked."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

from resnet_hub.errors import ModelError, naming_the_extra
from resnet_hub.images.decoding import BadImageError, open_image
from resnet_hub.images.preprocessing import Preprocessing
from resnet_hub.prediction.classify import class_names_of, most_probable, predict_probabilities
from resnet_hub.prediction.gradcam import gradcam_overlays

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # gradio reads it when it is imported, and reports to nobody
with naming_the_extra():
    import gradio as gr

TOP_K = 5
_SHOWN_SIDE = 256  # pixels; smaller Grad-CAM pictures are enlarged

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
}

Answer = Callable[[str | None], tuple[dict[str, float] | None, Image.Image | None]]


def build_page(model: nn.Module, *, title: str, examples: Sequence[Path] = ()) -> gr.Blocks:
    """The page for a model, ready to launch with LAUNCH_OPTIONS and `theme()`.

    Raises:
        ModelError: the model does not bring the names of its classes.
    """
    answer = answering(model)
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        count = len(class_names_of(model))
        gr.Markdown(
            f"# {title}\n{count} classes. Pictures go to the machine that serves this page, no further."
        )
        with gr.Row():
            with gr.Column():
                image = _image_input()
                if examples:
                    gr.Examples([[str(path)] for path in examples], inputs=[image], cache_examples=False)
            with gr.Column():
                label = gr.Label(num_top_classes=TOP_K, label="Most probable classes")
                seen = gr.Image(label="Grad-CAM: what speaks for the first", interactive=False, buttons=[])
        image.change(answer, inputs=[image], outputs=[label, seen], api_name="classify")
    return page


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
        (overlay,) = gradcam_overlays(model, preprocessing(image)[None], preprocessing)
    except ModelError:  # a network without feature maps has no such picture
        return None
    factor = -(-_SHOWN_SIDE // min(overlay.size))
    return overlay.resize((overlay.width * factor, overlay.height * factor), Image.Resampling.NEAREST)


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with their number where two classes share one, as ImageNet's two cranes do."""
    counts = Counter(names)
    return [f"{name} ({number})" if counts[name] > 1 else name for number, name in enumerate(names)]
