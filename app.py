"""The page: drop, paste or photograph pictures, and read what the model says about them.

    python app.py                                                # http://127.0.0.1:7860 on the shipped checkpoint
    python app.py --model_path exports/pictograms_int8.onnx      # without torch
    make space                                                   # -> exports/space, a Hugging Face Space as it stands

Reads   the model (.safetensors, .onnx, https://..., hf://owner/name) and the example pictures
Writes  nothing; what visitors upload is deleted after an hour

Needs requirements-app.txt. Labels are English or Korean, as the visitor's browser asks.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import base64
import html
import io
import os
import signal
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from caption import Captioner
from captioning import cli
from captioning.data.annotations import IMAGE_SUFFIXES
from captioning.data.images import highlight
from captioning.search.options import SETTINGS

CONFIG = {
    # what
    "model_path": "checkpoints/pictograms.safetensors",  # .safetensors | .onnx | https://... | hf://owner/name
    "examples": "data/pictograms/test",  # folder of example pictures; "" = none
    # where
    "host": "",  # address to listen on; "" = this machine only (a Space sets its own)
    "port": 7860,  # TCP port; 0 = the first free one from 7860 on
    # bounds
    "max_upload_mb": 20,  # megabytes of one uploaded file
    "max_megapixels": 40.0,  # megapixels of one picture
    "max_pictures": 16,  # pictures captioned in one request
    "queue_size": 64,  # requests that wait; further ones are refused
    # speed
    "num_threads": 0,  # threads of onnxruntime; 0 = one per core
}

LIMITS = {
    "port": (0, 65535),
    "max_upload_mb": (1, 1024),
    "max_megapixels": (0.01, 100),
    "max_pictures": (1, 256),
    "queue_size": (1, 10_000),
    "num_threads": (0, 256),
}

NUM_EXAMPLES = 6
TERMINATED = 143  # exit code, 128 + SIGTERM
MAX_BEAMS = 10
MAP_SIZE = 96  # pixels a side of the picture that shows where the model looked

TEXT = {
    "en": {
        "title": "# What is in the picture?",
        "intro": "Drop, paste or photograph one picture or several. The model says what it sees.",
        "pictures": "Pictures",
        "examples": "Examples",
        "settings": "Settings",
        "beam_size": "Beams",
        "beam_size_info": "Captions that are tried side by side. 1 takes the likeliest word each time; "
        "more find better captions and take longer.",
        "num_best": "Captions for each picture",
        "num_best_info": "The best one first. At most as many as there are beams.",
        "max_len": "Longest caption",
        "max_len_info": "In words, its end counted as one. A longer caption is cut off.",
        "length_penalty": "Liking for long captions",
        "length_penalty_info": "0 prefers short ones, since every word makes a caption less likely; 1 is even.",
        "submit": "Caption",
        "clear": "Clear",
        "captions": "Captions",
        "empty": "Add a picture first.",
        "picture": "Picture {number}",
        "confidence": "confidence {value:.0%}",
        "confidence_info": "Confidence is the mean probability of a word, as the model sees it. "
        "It says nothing about pictures unlike those that it was trained on.",
        "looked": "Where the model looked for each word: the brighter, the more.",
        "unreadable": "This file is not a picture that can be read. JPEG, PNG, GIF, BMP, WebP and TIFF are, "
        "up to {megapixels:g} megapixels.",
        "too_many": "At most {count} pictures at once: the others were left out.",
    },
    "ko": {
        "title": "# 사진에 무엇이 있나요?",
        "intro": "사진을 한 장 또는 여러 장 끌어다 놓거나, 붙여 넣거나, 카메라로 찍으세요. 모델이 본 것을 말합니다.",
        "pictures": "사진",
        "examples": "예시",
        "settings": "설정",
        "beam_size": "빔 수",
        "beam_size_info": "나란히 시도하는 캡션의 수입니다. 1이면 매번 가장 그럴듯한 단어를 고르고, "
        "클수록 더 좋은 캡션을 찾지만 오래 걸립니다.",
        "num_best": "사진마다 보여 줄 캡션 수",
        "num_best_info": "가장 좋은 것부터 보여 줍니다. 빔 수보다 많을 수 없습니다.",
        "max_len": "캡션의 최대 길이",
        "max_len_info": "단어 수이며 문장의 끝도 하나로 셉니다. 더 긴 캡션은 잘립니다.",
        "length_penalty": "긴 캡션 선호도",
        "length_penalty_info": "단어가 늘수록 확률이 줄기 때문에 0이면 짧은 캡션을 고르고, 1이면 길이와 무관합니다.",
        "submit": "캡션 만들기",
        "clear": "지우기",
        "captions": "캡션",
        "empty": "먼저 사진을 넣어 주세요.",
        "picture": "사진 {number}",
        "confidence": "확신도 {value:.0%}",
        "confidence_info": "확신도는 모델이 보는 단어의 평균 확률입니다. 학습한 사진과 다른 사진에는 의미가 없습니다.",
        "looked": "단어마다 모델이 본 곳: 밝을수록 더 많이 보았습니다.",
        "unreadable": "읽을 수 있는 사진이 아닙니다. {megapixels:g}메가픽셀 이하의 JPEG, PNG, GIF, BMP, WebP, TIFF만 "
        "읽을 수 있습니다.",
        "too_many": "한 번에 {count}장까지만 됩니다. 나머지는 제외했습니다.",
    },
}

CSS = """
.captions {display: flex; flex-direction: column; gap: .75rem}
.captions article {border: 1px solid var(--border-color-primary); border-radius: .5rem; padding: .75rem 1rem}
.captions h3 {margin: .1rem 0 .3rem; font-size: 1.15rem; overflow-wrap: anywhere}
.captions small, .captions li span {opacity: .75}
.captions ol {margin: .4rem 0 0; padding-left: 1.2rem; list-style: decimal}
.captions .looked {display: flex; flex-wrap: wrap; gap: .4rem}
.captions figure {margin: 0; text-align: center; font-size: .8rem}
.captions figure img {border-radius: .25rem}
.captions meter {width: 100%; height: .6rem}
.captions .problem {border-left: .3rem solid #b3261e}
footer {display: none !important}
"""


def language_of(accept_language):
    """Return "ko" where a browser's Accept-Language asks for Korean before English, else "en"."""
    for part in (accept_language or "").lower().split(","):
        language = part.strip()[:2]
        if language in TEXT:
            return language
    return "en"


def caption_pictures(captioner, paths, options, *, max_pixels, max_pictures, text):
    """Return the HTML of the captions of picture files, a card each; a sentence where there is none."""
    if not paths:
        return f'<div class="captions">{problem(text["empty"])}</div>'
    found = list(captioner.stream(paths[:max_pictures], options, max_pixels=max_pixels))
    cards, captioned = [], False
    for number, (path, caption) in enumerate(found, start=1):
        title = text["picture"].format(number=number) if len(found) > 1 else ""
        if isinstance(caption, ValueError):  # its reason would name a path of the server
            cards.append(problem(text["unreadable"].format(megapixels=max_pixels / 1e6), title))
        else:
            captioned = True
            looked = captioner.attend([path], [caption.text])[0] if captioner.has_attention else ()
            cards.append(card(caption, looked, title, text))
    if len(paths) > max_pictures:
        cards.append(problem(text["too_many"].format(count=max_pictures)))
    note = f"<small>{html.escape(text['confidence_info'])}</small>" if captioned else ""
    return f'<div class="captions">{"".join(cards)}{note}</div>'


def card(caption, looked, title, text):
    """Return the HTML of one picture's captions; looked: of Captioner.attend, () = the model has no attention."""
    others = "".join(f"<li>{html.escape(c.text)} <span>{confidence(c, text)}</span></li>" for c in caption.alternatives)
    return (
        f"<article><small>{html.escape(title)}</small><h3>{html.escape(caption.text)}</h3>"
        f'<meter min="0" max="1" value="{caption.confidence:.3f}"></meter> <small>{confidence(caption, text)}</small>'
        + (heat_maps(caption.text.split(), *looked, text) if looked else "")
        + (f'<ol start="2">{others}</ol>' if others else "")
        + "</article>"
    )


def heat_maps(words, picture, maps, text):
    """Return the HTML of a small picture for each word, bright where the model looked for it."""
    figures = []
    for word, weights in zip(words, maps, strict=False):
        seen = Image.fromarray((255 * highlight(picture, weights)).astype(np.uint8)).resize((MAP_SIZE, MAP_SIZE))
        buffer = io.BytesIO()
        seen.save(buffer, "JPEG", quality=80)
        source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        figures.append(f'<figure><img src="{source}" alt=""><figcaption>{html.escape(word)}</figcaption></figure>')
    return f'<p><small>{html.escape(text["looked"])}</small></p><div class="looked">{"".join(figures)}</div>'


def confidence(caption, text):
    """Return the confidence of a Caption in words."""
    return html.escape(text["confidence"].format(value=caption.confidence))


def problem(sentence, title=""):
    """Return the HTML of a sentence that tells what is wrong."""
    return (
        f'<article class="problem" role="alert"><small>{html.escape(title)}</small>'
        f"<h3>{html.escape(sentence)}</h3></article>"
    )


def is_below(path, folders):
    """Return whether a path, its links followed, lies in one of the folders."""
    try:
        resolved = Path(path).resolve()
    except (OSError, ValueError):  # a loop of links, a null byte
        return False
    return any(resolved.is_relative_to(Path(folder).resolve()) for folder in folders)


def find_examples(folder):
    """Return the paths of a few pictures below a folder, spread over it; [] if it is not there."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES) if folder else []
    return [str(path) for path in paths[:: max(1, len(paths) // NUM_EXAMPLES)][:NUM_EXAMPLES]]


def build_page(captioner, config):
    """Return (the Gradio page, what its launch needs): captioner behind the controls, within the bounds of `config`."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import: nobody is told that the page was opened
    import gradio as gr

    label = gr.I18n(**TEXT)
    # A request sent by hand can name any path of this machine; Gradio checks those alone that it marked itself.
    folders = [gr.utils.get_upload_folder(), *filter(None, [config["examples"]])]
    bounds = {"max_pixels": int(config["max_megapixels"] * 1e6), "max_pictures": config["max_pictures"]}

    def caption(pictures, beam_size, num_best, max_len, length_penalty, request: gr.Request):
        beams = int(beam_size)
        options = captioner.search_options(
            beam_size=beams, num_best=min(int(num_best), beams), max_len=int(max_len), length_penalty=length_penalty
        )
        paths = [path if is_below(path, folders) else "" for path, _ in pictures or []]
        text = TEXT[language_of(request.headers.get("accept-language"))]
        return caption_pictures(captioner, paths, options, text=text, **bounds)

    with gr.Blocks(title="Image captioning", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(label("title"))
        gr.Markdown(label("intro"))
        with gr.Row():
            with gr.Column():
                pictures = gr.Gallery(
                    label=label("pictures"),
                    type="filepath",
                    file_types=["image"],
                    sources=["upload", "clipboard", "webcam"],
                    interactive=True,
                    columns=2,
                    fit_columns=False,
                    object_fit="contain",
                    elem_id="pictures",
                )
                with gr.Row():
                    clear = gr.ClearButton([pictures], value=label("clear"))
                    submit = gr.Button(label("submit"), variant="primary", elem_id="submit")
                with gr.Accordion(label("settings"), open=False):
                    controls = [
                        gr.Slider(low, high, value, step=step, label=label(name), info=label(f"{name}_info"))
                        for name, low, high, value, step in (
                            ("beam_size", 1, MAX_BEAMS, SETTINGS["beam_size"], 1),
                            ("num_best", 1, MAX_BEAMS, 3, 1),
                            ("max_len", 2, 60, SETTINGS["max_len"], 1),
                            ("length_penalty", 0, 2, captioner.search_options().length_penalty, 0.1),
                        )
                    ]
            with gr.Column():
                captions = gr.HTML(label=label("captions"), elem_id="captions")
                shown = find_examples(config["examples"])
                examples = (
                    gr.Examples([[[path]] for path in shown], pictures, label=label("examples")) if shown else None
                )
        clear.add(captions)
        call = {"fn": caption, "inputs": [pictures, *controls], "outputs": captions}
        # One at a time: onnxruntime and torch use all cores for one call.
        call |= {"concurrency_id": "caption", "concurrency_limit": 1}
        gr.on([submit.click, pictures.change], **call, api_name="caption")
        if examples:
            examples.load_input_event.then(**call, api_visibility="private")
    page.queue(max_size=config["queue_size"])
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # others come from Google
    launch = {
        "max_file_size": config["max_upload_mb"] * 2**20,
        "i18n": label,
        "css": CSS,
        "theme": gr.themes.Default(**fonts),
        "footer_links": [],
    }
    return page, launch


def main(config):
    """Load the model and serve the page until it is stopped."""
    config = config["app"]
    captioner = Captioner.load(config["model_path"], num_threads=config["num_threads"])
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # captioning.data.images has its own bound
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that the folder below goes, too
    # Uploads of this process alone: those of others lie elsewhere, and none stays behind.
    with tempfile.TemporaryDirectory(prefix="captioning-page-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        page, launch = build_page(captioner, config)
        page.launch(server_name=config["host"] or None, server_port=config["port"] or None, **launch)


if __name__ == "__main__":
    cli.run(main, {"app": LIMITS}, app=CONFIG)
