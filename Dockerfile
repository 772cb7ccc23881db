# The app in the browser, and the commands, in a container:
#   docker build -t latentsync .                        # --build-arg TORCH=cuda for NVIDIA GPUs
#   docker run --rm -p 127.0.0.1:7860:7860 -v latentsync:/data latentsync
#   docker run --rm -v "$PWD:/files" latentsync run --video_path /files/talk.mp4 --audio_path /files/new.wav --video_out_path /files/out.mp4
# docs/install.md describes it.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
COPY . /src
WORKDIR /src
RUN python -m pip wheel --quiet --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim
ARG TORCH=cpu
# libraries that OpenCV loads
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
# the usual build of PyTorch brings 4 GB of libraries for NVIDIA GPUs
RUN if [ "$TORCH" = cpu ]; then \
        python -m pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch torchvision; \
    fi \
    && python -m pip install --no-cache-dir "latentsync[web] @ file://$(ls /wheels/latentsync-*.whl)" \
    && rm -r /wheels
RUN useradd --create-home --uid 1000 latentsync && install --directory --owner latentsync /data /files
USER latentsync
ENV LATENTSYNC_HOME=/data PYTHONUNBUFFERED=1
RUN latentsync download faces
VOLUME /data
WORKDIR /files
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
ENTRYPOINT ["latentsync"]
CMD ["serve", "--host", "0.0.0.0"]
