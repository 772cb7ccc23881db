// <synced-player>: the original and the result side by side, driven by one set of controls.
// Attributes: original, result (URLs), length (bounce, loop or hold: how the original continues after its end), texts (JSON).
// The original follows the clock of the result.
(() => {
  const APART_SEC = 0.12; // while playing, a larger difference makes the original seek
  const STILL_SEC = 0.02;
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
      const pictures = make("div", { class: "sp-pictures" });
      pictures.append(this.original.parentElement, this.result.parentElement);
      this.append(pictures, this.controls());
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
      figure.append(video, caption);
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

    addListeners() {
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
