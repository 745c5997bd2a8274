"""What a Hugging Face Space runs: the page on the model and the examples beside it."""

if __name__ == "__main__":
    from captioning import process

    process.set_up()  # before torch loads

import app

if __name__ == "__main__":
    app.main({"app": app.CONFIG | {"model_path": "model.onnx", "examples": "examples"}})
