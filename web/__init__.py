"""The web app: a page and an HTTP job API for one pipeline (see `gradio_app.py`)."""
