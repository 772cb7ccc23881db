"""The web app: a page and an HTTP job API around one pipeline (see `gradio_app.py`)."""
