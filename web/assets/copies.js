// Videos that this browser cannot play: first their picture, then the small copy that the server makes (web/copies.py).
(() => {
  const unplayable = new WeakMap(); // video -> its original and, when that is shown, its copy
  const note = () => document.getElementById("copy-note");
  const facts = () => JSON.parse(note()?.dataset.copies || "{}");
  const plain = (url) => decodeURIComponent(new URL(url, document.baseURI).pathname);
  const isBlack = (video) => Boolean(video.error) || (video.readyState > 0 && !video.videoWidth);

  const look = (video) => {
    const address = plain(video.currentSrc || video.src);
    if (unplayable.get(video)?.copy === address) return;
    if (isBlack(video)) unplayable.set(video, { original: address });
    else unplayable.delete(video);
    update();
  };

  const tell = (video, text) => {
    const caption = video.closest("figure")?.querySelector("figcaption");
    const element = caption || note();
    const sentence = caption ? `${video.getAttribute("aria-label")}. ${text}` : text;
    if (element.textContent !== sentence) element.textContent = sentence;
    if (element.hidden) element.hidden = false;
  };

  const update = () => {
    const known = Object.entries(facts());
    if (!known.length) return;
    for (const video of document.querySelectorAll("video")) {
      const state = unplayable.get(video);
      const entry = state && known.find(([url]) => plain(url) === state.original)?.[1];
      if (!entry) continue;
      if (entry.picture && !video.poster) video.poster = entry.picture;
      if (entry.copy && !state.copy) {
        state.copy = plain(entry.copy);
        video.src = entry.copy;
      }
      tell(video, entry.text);
    }
  };

  for (const name of ["error", "loadedmetadata"]) {
    document.addEventListener(name, ({ target }) => { if (target.tagName === "VIDEO") setTimeout(look, 0, target); }, true);
  }
  new MutationObserver(update).observe(document.documentElement, { childList: true, subtree: true });
})();
