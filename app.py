"""The page: drop, paste or photograph pictures, and read what a model says about them.

    python app.py                                           # http://127.0.0.1:7860 on the shipped models
    python app.py --model_path exports/mobile_int8.onnx     # on another; several are a choice on the page
    python app.py --host 0.0.0.0 --allowed_hosts my.host    # for other machines, which know this one as my.host
    make space                                              # -> exports/space, a Hugging Face Space as it stands

Reads   the models (.safetensors, .onnx, https://..., hf://owner/name) and the example pictures
Writes  nothing but what visitors upload, to a temporary folder: bounded, kept for an hour, gone when the page ends

Needs requirements-app.txt; a .safetensors model needs torch as well. Labels are English or Korean, as the visitor's
browser asks. docs/deploy.md shows the page's endpoint for programs.
"""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads
    process.require("requirements-app.txt", "gradio", "onnxruntime")

import io
import json
import os
import signal
import socket
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from caption import Captioner
from captioning import cli
from captioning.data.images import highlight, read_image
from captioning.data.names import IMAGE_SUFFIXES
from captioning.deploy.downloads import SHIPPED
from captioning.page import picker, results
from captioning.page.gate import Gate
from captioning.page.labels import GRADIO, TEXT, TOASTS, language_of
from captioning.page.service import CONTROLS, OWN_PENALTY, Service, paths_of
from captioning.page.uploads import Uploads, upload_folder
from captioning.page.worker import Worker
from captioning.search.options import SETTINGS

CONFIG = {
    # what
    "model_path": ["photos", "aerial", "pictograms"],  # shipped models (in int8), .safetensors, .onnx, https, hf://...
    "examples": "examples",  # folder with a folder of pictures for each model; "" = none
    # where
    "host": "",  # address to listen on; "" = this machine only (a Space sets its own)
    "port": 7860,  # TCP port; 0 = the first free one from 7860 on
    "allowed_hosts": [""],  # names under which browsers reach this machine; localhost and IP addresses always do
    # bounds
    "max_upload_mb": 20,  # megabytes of one uploaded file
    "max_uploads_mb": 1024,  # megabytes of all uploads together; the oldest go first
    "max_megapixels": 40.0,  # megapixels of one picture
    "max_pictures": 16,  # pictures captioned in one request
    "max_seconds": 30.0,  # seconds of captioning of one request; then it is stopped, and others go on
    "queue_size": 64,  # requests that wait; further ones are refused
    # speed
    "num_threads": 0,  # threads of onnxruntime; 0 = one per core
}

LIMITS = {
    "port": (0, 65535),
    "max_upload_mb": (1, 1024),
    "max_uploads_mb": (1, 1_000_000),
    "max_megapixels": (0.01, 100),
    "max_pictures": (1, 256),
    "max_seconds": (0.1, 3600),
    "queue_size": (1, 10_000),
    "num_threads": (0, 256),
}
# Of the settings that are no numbers.
TYPES = dict.fromkeys(("examples", "host"), str)
TYPES |= dict.fromkeys(("model_path", "allowed_hosts"), list)

ROOT = Path(__file__).resolve().parent
FIRST_PORT, NUM_PORTS = 7860, 100  # where a free one is looked for
TERMINATED = 143  # exit code, 128 + SIGTERM
THUMBNAIL, MAP_SIZE = 256, 96  # pixels a side: of a card's picture, of the pictures that show where the model looked
MAX_SESSIONS = 100  # visitors whose controls Gradio remembers, 40 kB each; the page does not need it
NUM_BEST = 3  # captions of a picture, at first
NUM_CLASSES = 12  # of a model, that are named where it is chosen

# Runs in the browser, at the beginning and to clear: what a screen reader should know, and that there is nothing yet.
ON_LOAD = """() => {
  document.documentElement.lang = navigator.language.toLowerCase().split('-')[0] === 'ko' ? 'ko' : 'en';
  const own = (text) => (TOASTS)[document.documentElement.lang]?.[text.trim()] ?? text;
  const tidy = () => {  // what Gradio says in English alone
    for (const one of document.querySelectorAll('input[aria-label]'))
      one.ariaLabel = one.ariaLabel.replace(/^(number input|range slider) for /, '');
    for (const icon of document.querySelectorAll('#examples img:not([alt=""])')) icon.alt = '';
    for (const toast of document.querySelectorAll('[data-testid="toast-body"]')) {
      const texts = document.createTreeWalker(toast, NodeFilter.SHOW_TEXT);
      while (texts.nextNode()) {
        const text = texts.currentNode, said = own(text.data);
        if (said !== text.data) text.data = said;  // else it would be announced again
      }
      for (const one of toast.querySelectorAll('[aria-label]')) one.ariaLabel = own(one.ariaLabel);
      for (const one of toast.querySelectorAll('[role="button"]'))  // a button around the one that closes it
        for (const name of ['role', 'tabindex']) one.removeAttribute(name);
    }
  };
  tidy();
  window.tidied ??= new MutationObserver(tidy).observe(document.body, {childList: true, subtree: true}) ?? true;
  return ['[]', EMPTY[document.documentElement.lang]];
}"""

CSS = """
@media (max-width: 767px) {
  #columns {flex-direction: column}
  #results {order: -1}
}
h1 {font-size: 1.5rem !important}
:lang(ko) {word-break: keep-all}
#examples {display: grid; grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); gap: .6rem}
#examples button {flex-direction: column; gap: .3rem; padding: .4rem}
#examples button img {width: 4rem; height: 4rem; object-fit: cover; border-radius: .35rem; margin: 0}
footer {display: none !important}
:lang(ko) .progress-text {display: none}  /* "queue: 1/2" in English alone; screen readers are told in Korean */
"""
LOOK = {"primary_hue": "blue", "font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}  # others are Google's
COLOURS = {  # Gradio's own are too faint to be read by all
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_600",
    "button_primary_text_color": "white",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "block_title_text_color": "*neutral_800",
    "block_title_text_color_dark": "*neutral_100",
    "block_label_text_color": "*neutral_800",
    "block_label_text_color_dark": "*neutral_100",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
}


def load_models(sources, num_threads):
    """Read models: ({name: what the page tells of it}, caption_pictures of these models). For a Worker.

    sources: name -> what Captioner.load takes
    """
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # captioning.data.images has its own bound
    captioners = {name: Captioner.load(source, num_threads=num_threads) for name, source in sources.items()}
    about = {
        name: {"classes": captioner.model.classes, "length_penalty": captioner.search_options().length_penalty}
        for name, captioner in captioners.items()
    }

    def caption_pictures(model, paths, settings, max_pixels):
        """Return a result for each picture file, as captioning.page.results.show takes it; {} if it is unreadable."""
        captioner = captioners[model]
        options = captioner.search_options(**settings)
        return [caption_picture(captioner, path, options, max_pixels) for path in paths]

    return about, caption_pictures


def caption_picture(captioner, path, options, max_pixels):
    """Return what captioning.page.results.show takes of one picture file, but for its name; {} if it is unreadable."""
    try:
        picture = read_image(path, max_pixels)
    except ValueError:  # its reason would name a path of the server
        return {}
    ((_, caption),) = captioner.stream([picture], options)
    result = {"records": [one.record() for one in (caption, *caption.alternatives)]}
    if captioner.has_attention:
        ((seen, maps),) = captioner.attend([picture], [caption.text])
        words = zip(captioner.vocabulary.words(caption.text), maps, strict=False)
        result["looked"] = [(word, to_jpeg(mark(seen, weights), MAP_SIZE)) for word, weights in words]
    return result | {"thumbnail": to_jpeg(picture, THUMBNAIL)}


def mark(picture, weights):
    """Return the PIL picture of what the model saw, bright where it looked."""
    side = (MAP_SIZE, MAP_SIZE)
    return Image.fromarray((255 * highlight(picture, weights)).astype(np.uint8)).resize(side)


def to_jpeg(picture, side):
    """Return a PIL picture as a JPEG of at most `side` pixels a side."""
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return file.getvalue()


def find_models(sources):
    """Return {name: source} of the models; a shipped one is read in its int8 form, which needs no torch.

    Raises ValueError if two have the same name.
    """
    models = {}
    for source in sources:
        name = source if source in SHIPPED else Path(source.partition("#")[0]).stem
        if name in models:
            raise ValueError(f"--model_path: {source} and {models[name]} are both named {name!r}, names must differ")
        models[name] = str(Path("checkpoints") / f"{source}_int8.onnx") if source in SHIPPED else source
    return models


def find_examples(folder, models):
    """Return (path, model) of each picture of folder/<model>/; a relative folder may also stand beside this script."""
    if not folder:
        return []
    folder = next((path for path in (Path(folder), ROOT / folder) if path.is_dir()), Path(folder))
    return [
        (str(path), model)
        for model in models
        for path in sorted((folder / model).glob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]


def choice_label(name, about, label):
    """Return what the choice of a model says: what it knows."""
    if name in SHIPPED:
        return label(name)
    return f"{name}: {', '.join(about['classes'][:NUM_CLASSES])} ..." if about["classes"] else name


def build_page(service, queue_size):
    """Return the Gradio page: a Service behind the controls, and as an endpoint for programs."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import: nobody is told that the page was opened
    import gradio as gr

    label = gr.I18n(**{language: words | GRADIO[language] for language, words in TEXT.items()})
    models = service.models
    first = next(iter(models))

    def show(pictures, model, beam_size, num_best, max_len, length_penalty, request: gr.Request):
        settings = dict(zip(CONTROLS, (beam_size, num_best, max_len, length_penalty), strict=True))
        language = language_of(request.headers.get("accept-language"))
        return service.show(paths_of(pictures), model, settings, language)

    # Gradio reads the types of an endpoint from its hints.
    def caption(
        pictures: list[dict],
        model: str = first,
        beam_size: int = SETTINGS["beam_size"],
        num_best: int = 1,
        max_len: int = SETTINGS["max_len"],
        length_penalty: float = OWN_PENALTY,
    ) -> list[dict]:
        """Caption uploaded pictures: for each the caption, its confidence and the alternatives."""
        settings = dict(zip(CONTROLS, (beam_size, num_best, max_len, length_penalty), strict=True))
        try:
            return service.answer(paths_of(pictures), model, settings)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    with gr.Blocks(title="Image captioning", analytics_enabled=False) as page:
        gr.Markdown(label("title"))
        gr.Markdown(label("intro"))
        with gr.Row(elem_id="columns"):
            with gr.Column():
                named = [(choice_label(name, about, label), name) for name, about in models.items()]
                model = gr.Radio(named, value=first, label=label("model"), elem_id="model")
                pictures = gr.HTML("[]", html_template=picker.TEMPLATE, js_on_load=picker.script(), elem_id="pictures")
                with gr.Row():
                    clear = gr.Button(label("clear"), min_width=120, elem_id="clear")
                    submit = gr.Button(label("submit"), variant="primary", min_width=120, elem_id="submit")
                if service.examples:
                    gr.Markdown(label("examples"))
                with gr.Row(elem_id="examples"):
                    names = [Path(path).stem for path, _ in service.examples]
                    examples = [
                        gr.Button(label(name) if name in TEXT["en"] else name, icon=path, size="sm", min_width=80)
                        for name, (path, _) in zip(names, service.examples, strict=True)
                    ]
                with gr.Accordion(label("settings"), open=False):
                    values = (SETTINGS["beam_size"], NUM_BEST, SETTINGS["max_len"], models[first]["length_penalty"])
                    controls = [
                        gr.Slider(
                            least, most, value, step=step, label=label(name), info=label(f"{name}_info"), buttons=[]
                        )
                        for (name, (least, most, step)), value in zip(CONTROLS.items(), values, strict=True)
                    ]
            with gr.Column(elem_id="results"):
                captions = gr.HTML(label=label("captions"), elem_id="captions", js_on_load=results.SCRIPT)

        # One at a time: onnxruntime and torch use all cores for one call.
        one_at_a_time = {"concurrency_id": "caption", "concurrency_limit": 1}
        call = {"fn": show, "inputs": [pictures, model, *controls], "outputs": captions, "api_visibility": "private"}
        call |= one_at_a_time | {"trigger_mode": "always_last"}
        # What captions nothing is left to the browser, so that a full queue does not stop it.
        in_browser = {"fn": None, "api_visibility": "private"}
        changed = [slider.input for slider in controls]
        running = [gr.on([submit.click, pictures.upload, *changed], **call, scroll_to_output=True)]
        penalties = {name: about["length_penalty"] for name, about in models.items()}
        penalty = f"(name) => ({json.dumps(penalties)})[name]"
        running.append(model.input(inputs=model, outputs=controls[-1], js=penalty, **in_browser).then(**call))
        for button, (path, name) in zip(examples, service.examples, strict=True):
            chosen = json.dumps([json.dumps([{"path": path}]), name, penalties[name]])
            filled = button.click(outputs=[pictures, model, controls[-1]], js=f"() => {chosen}", **in_browser)
            running.append(filled.then(**call, scroll_to_output=True))
        empty = json.dumps({language: service.show([], first, {}, language) for language in TEXT})
        in_browser["js"] = ON_LOAD.replace("EMPTY", empty).replace("TOASTS", json.dumps(TOASTS))
        page.load(outputs=[pictures, captions], **in_browser)
        clear.click(outputs=[pictures, captions], **in_browser, cancels=running)
        gr.api(caption, api_name="caption", **one_at_a_time)
        known = {pictures._id: "pictures", model._id: "model"}
        known |= {slider._id: name for slider, name in zip(controls, CONTROLS, strict=True)}
    page.queue(max_size=queue_size)
    inputs = {number: [known.get(block._id, "") for block in fn.inputs] for number, fn in page.fns.items()}
    # The endpoint is called by its name, and by gradio_client by its number.
    inputs |= {key: ["pictures", "model", *CONTROLS] for key in (None, len(inputs) - 1)}
    return page, label, inputs


def host_of(config):
    """Return the address to listen on, "" for this machine only."""
    return config["host"] or os.environ.get("GRADIO_SERVER_NAME", "")


def open_port(host, port):
    """Return a TCP port that can be listened on. Raises ValueError if it is taken."""
    ports = [port] if port else range(FIRST_PORT, FIRST_PORT + NUM_PORTS)
    for number in ports:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host.strip("[]") or "127.0.0.1", number))
            except OSError as error:
                reason = error.strerror
            else:
                return number
    where = f"port {port}" if port else f"ports {ports[0]} to {ports[-1]}"
    raise ValueError(f"{where} of {host or '127.0.0.1'}: {reason}; choose another with --port, 0 = a free one")


def serve(service, uploads, config):
    """Start the server of the page: (the Gradio page, its address)."""
    import gradio as gr
    from starlette.middleware import Middleware

    page, label, inputs = build_page(service, config["queue_size"])
    hosts = [*filter(None, (*config["allowed_hosts"], config["host"], os.environ.get("SPACE_HOST", "")))]
    max_upload = config["max_upload_mb"] * 2**20
    gate = {"uploads": Uploads(uploads, config["max_uploads_mb"] * 2**20), "max_upload": max_upload, "hosts": hosts}
    gate["check"] = lambda body: service.check_call(body, inputs)
    host = host_of(config)
    _, address, _ = page.launch(
        server_name=host or None,
        server_port=open_port(host, config["port"]),
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        run_history=False,
        mcp_server=False,
        enable_monitoring=False,
        state_session_capacity=MAX_SESSIONS,
        footer_links=[],
        max_file_size=max_upload,
        i18n=label,
        css=CSS + picker.CSS + results.CSS,
        theme=gr.themes.Default(**LOOK).set(**COLOURS),
        app_kwargs={"openapi_url": None, "middleware": [Middleware(Gate, **gate)]},
    )
    return page, address


def main(config):
    """Load the models and serve the page until it is stopped."""
    config = cli.settings_of(config, "app")
    open_port(host_of(config), config["port"])  # a taken port is told now, not after the models
    models = find_models(config["model_path"])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # so that the folder of uploads goes, too
    with upload_folder() as uploads:
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        worker = Worker(load_models, models, config["num_threads"])
        service = Service(worker, find_examples(config["examples"], models), uploads, config)
        page, address = serve(service, uploads, config)
        print(f"the page is open: {address} (Ctrl-C ends it)")
        page.block_thread()


if __name__ == "__main__":
    cli.run(main, {"app": LIMITS | TYPES}, app=CONFIG)
