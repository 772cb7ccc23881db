// <synced-player>: the original and the result side by side, driven by one set of controls.
// Attributes: original, result (URLs), length (bounce, loop or hold: how the original continues after its end), fps, start (second
// of the original at which the result begins), mouths (JSON: [seconds, x, y, width of the face in px] of the result), texts (JSON).
// The original follows the clock of the result. In the comparison "wipe" the result lies on the original, cut at a divider.
(() => {
  const APART_SEC = 0.12; // while playing, a larger difference makes the original seek
  const STILL_SEC = 0.02;
  const ZOOM = 0.5; // part of the picture that a face's width fills in close-up
  const BACKWARDS_MS = 90; // between frames of an original that plays backwards

  const make = (tag, attributes = {}, text = "") => {
    const element = document.createElement(tag);
    Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
    element.textContent = text;
    return element;
  };

  const clock = (seconds) => {
    const whole = Math.floor(seconds || 0);
    return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
  };

  class SyncedPlayer extends HTMLElement {
    connectedCallback() {
      if (this.result) return;
      this.texts = JSON.parse(this.getAttribute("texts"));
      this.setAttribute("role", "group");
      this.setAttribute("aria-label", this.texts.label);
      this.original = this.addVideo("original");
      this.result = this.addVideo("result");
      this.mouths = JSON.parse(this.getAttribute("mouths") || "[]");
      this.fps = Number(this.getAttribute("fps")) || 25;
      this.start = Number(this.getAttribute("start")) || 0;
      const pictures = make("div", { class: "sp-pictures" });
      pictures.append(this.original.closest("figure"), this.result.closest("figure"));
      this.append(pictures, this.controls(), this.comparison());
      this.unmute("result");
      this.addListeners();
    }

    disconnectedCallback() {
      cancelAnimationFrame(this.tick);
      [this.original, this.result].forEach((video) => video && video.pause());
    }

    addVideo(name) {
      const figure = make("figure");
      const video = make("video", { src: this.getAttribute(name), preload: "auto", playsinline: "", tabindex: "-1" });
      video.className = `sp-${name}`;
      video.setAttribute("aria-label", this.texts[name]);
      const caption = make("figcaption", {}, this.texts[name]);
      video.addEventListener("error", () => { caption.textContent = `${this.texts[name]}. ${this.texts.unplayable}`; });
      const picture = make("div", { class: "sp-picture" });
      picture.append(video);
      figure.append(picture, caption);
      return video;
    }

    controls() {
      const row = make("div", { class: "sp-controls" });
      this.button = make("button", { type: "button", class: "sp-play" }, this.texts.play);
      this.seek = make("input", { type: "range", min: 0, max: 1000, value: 0, "aria-label": this.texts.seek });
      this.time = make("span", { class: "sp-time" }, "0:00 / 0:00");
      this.sound = make("button", { type: "button", class: "sp-sound" });
      this.repeat = make("button", { type: "button", class: "sp-loop", "aria-pressed": "false" }, this.texts.loop);
      row.append(this.button, this.seek, this.time, this.sound, this.repeat);
      return row;
    }

    comparison() {
      const row = make("div", { class: "sp-controls", role: "group", "aria-label": this.texts.compare });
      this.wipe = make("button", { type: "button", class: "sp-wipe", "aria-pressed": "false" }, this.texts.wipe);
      this.divider = make("input", { type: "range", min: 0, max: 100, value: 50, class: "sp-divider", "aria-label": this.texts.divider });
      this.divider.hidden = true;
      this.zoom = make("button", { type: "button", class: "sp-zoom", "aria-pressed": "false" }, this.texts.zoom);
      this.zoom.hidden = !this.mouths.length;
      this.back = make("button", { type: "button", class: "sp-back", "aria-label": this.texts.back, title: this.texts.back }, "◂|");
      this.on = make("button", { type: "button", class: "sp-on", "aria-label": this.texts.on, title: this.texts.on }, "|▸");
      this.full = make("button", { type: "button", class: "sp-full" }, this.texts.full);
      this.full.hidden = !this.requestFullscreen;
      row.append(this.back, this.on, this.wipe, this.zoom, this.full, this.divider);
      return row;
    }

    addComparison() {
      this.wipe.addEventListener("click", () => {
        const wipes = this.classList.toggle("sp-wiping");
        this.wipe.setAttribute("aria-pressed", String(wipes));
        this.wipe.textContent = wipes ? this.texts.sides : this.texts.wipe;
        this.divider.hidden = !wipes;
      });
      this.divider.addEventListener("input", () => this.style.setProperty("--divider", `${this.divider.value}%`));
      this.zoom.addEventListener("click", () => {
        this.zooms = !this.zooms;
        this.zoom.setAttribute("aria-pressed", String(this.zooms));
        this.update();
      });
      this.back.addEventListener("click", () => this.step(-1));
      this.on.addEventListener("click", () => this.step(1));
      this.full.addEventListener("click", () => {
        if (document.fullscreenElement === this) document.exitFullscreen();
        else this.requestFullscreen();
      });
    }

    // Shows the middle of the frame that is `count` frames away.
    step(count) {
      this.result.pause();
      const frame = Math.floor(this.result.currentTime * this.fps + 0.001) + count;
      const last = Math.max(0, Math.round((this.result.duration || 0) * this.fps) - 1);
      this.result.currentTime = (Math.min(last, Math.max(0, frame)) + 0.5) / this.fps;
    }

    // Enlarges both pictures around the mouth, which they show at the same place, and as far as there is room without bars.
    enlarge() {
      const time = this.result.currentTime;
      const mouth = this.mouths.findLast((place) => place[0] <= time) || this.mouths[0];
      const [width, height] = [this.result.videoWidth, this.result.videoHeight];
      for (const video of [this.original, this.result]) {
        const box = [video.offsetWidth, video.offsetHeight];
        if (!this.zooms || !mouth || !width || !box[0] || !box[1]) {
          video.style.transform = "";
          continue;
        }
        const fit = Math.min(box[0] / width, box[1] / height); // the picture is in the middle of its box
        const scale = Math.max(1, (ZOOM * width) / mouth[3], box[0] / (width * fit), box[1] / (height * fit));
        const [x, y] = [[mouth[1], width, box[0]], [mouth[2], height, box[1]]].map(([place, length, side]) => {
          const [first, seen] = [(side - length * fit) / 2, side / scale];
          const wanted = first + place * fit - seen / 2;
          return Math.min(first + length * fit - seen, Math.max(first, wanted));
        });
        video.style.transform = `scale(${scale}) translate(${-x}px, ${-y}px)`;
      }
    }

    addListeners() {
      this.addComparison();
      this.button.addEventListener("click", () => (this.result.paused ? this.result.play() : this.result.pause()));
      this.seek.addEventListener("input", () => {
        this.result.currentTime = (this.seek.value / 1000) * (this.result.duration || 0);
      });
      this.sound.addEventListener("click", () => this.unmute(this.audible === "result" ? "original" : "result"));
      this.repeat.addEventListener("click", () => {
        this.result.loop = !this.result.loop;
        this.repeat.setAttribute("aria-pressed", String(this.result.loop));
      });
      for (const name of ["play", "pause", "ended", "seeked", "loadedmetadata", "timeupdate"]) {
        this.result.addEventListener(name, () => this.update());
      }
      this.original.addEventListener("loadedmetadata", () => this.update());
    }

    unmute(name) {
      this.audible = name;
      this.result.muted = name !== "result";
      this.original.muted = name !== "original";
      this.sound.textContent = name === "result" ? this.texts.soundResult : this.texts.soundOriginal;
    }

    // Time of the original when the result is at `time`, and whether it plays backwards there.
    place(time) {
      const end = this.original.duration;
      time += this.start;
      if (!end || !Number.isFinite(end) || time < end) return [time, false];
      const how = this.getAttribute("length");
      if (how === "hold") return [end, false];
      const rest = time % (how === "bounce" ? 2 * end : end);
      return rest > end ? [2 * end - rest, true] : [rest, false];
    }

    update() {
      const playing = !this.result.paused && !this.result.ended;
      this.button.textContent = playing ? this.texts.pause : this.texts.play;
      const end = this.result.duration || 0;
      this.seek.value = end ? (1000 * this.result.currentTime) / end : 0;
      this.seek.setAttribute("aria-valuetext", `${clock(this.result.currentTime)} / ${clock(end)}`);
      this.time.textContent = `${clock(this.result.currentTime)} / ${clock(end)}`;
      this.follow(playing);
      this.enlarge();
      cancelAnimationFrame(this.tick);
      if (playing) this.tick = requestAnimationFrame(() => this.update());
    }

    follow(playing) {
      const [time, backwards] = this.place(this.result.currentTime);
      const apart = Math.abs(this.original.currentTime - time);
      const runs = playing && !backwards && time < (this.original.duration || 0);
      if (runs && this.original.paused) this.original.play().catch(() => {});
      if (!runs && !this.original.paused) this.original.pause();
      const now = performance.now();
      const rests = this.original.seeking || (backwards && now - (this.set || 0) < BACKWARDS_MS);
      if (apart > (runs ? APART_SEC : STILL_SEC) && !rests) {
        this.original.currentTime = time;
        this.set = now;
      }
    }
  }

  if (!customElements.get("synced-player")) customElements.define("synced-player", SyncedPlayer);
})();
