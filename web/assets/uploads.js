// Uploads: a note for files above the limit before they are sent (the server refuses them too), and a job that is asked for
// while a file is still being cut or sent is started when it has arrived.
(() => {
  const STARTERS = "#check, #preview, #run, #run-all";
  const SETTLE_MS = 400; // until the page knows the file that has arrived
  const LONGEST_CUT_MS = 120_000;
  const note = () => document.getElementById("upload-note");
  let coming = 0;
  let cutUntil = 0; // a cut file is expected until then
  let readyAt = 0;
  let wanted = null; // the button that was pressed meanwhile

  const tell = (text) => {
    const element = note();
    if (!element) return;
    element.textContent = text;
    element.hidden = !text;
  };

  const check = (event, files) => {
    const limit = Number(note()?.dataset.limit || Infinity);
    const tooBig = [...(files || [])].some((file) => file.size > limit);
    tell(tooBig ? note().dataset.text : "");
    if (!tooBig) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.target.value) event.target.value = "";
  };

  const isBusy = () => coming > 0 || performance.now() < cutUntil || performance.now() < readyAt;

  const start = () => {
    if (!wanted) return;
    if (isBusy()) {
      setTimeout(start, 100);
      return;
    }
    const button = wanted;
    wanted = null;
    tell("");
    button.click();
  };

  document.addEventListener("change", (event) => {
    if (event.target.matches?.("input[type=file]")) check(event, event.target.files);
  }, true);
  document.addEventListener("drop", (event) => check(event, event.dataTransfer?.files), true);

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button");
    if (!button) return;
    if (button.closest("#audio") && button.innerText.trim() === "Trim") cutUntil = performance.now() + LONGEST_CUT_MS;
    if (!button.matches(STARTERS) || !isBusy()) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    const isFirst = !wanted;
    wanted = button;
    tell(note()?.dataset.wait || "");
    if (isFirst) start();
  }, true);

  const send = window.fetch;
  window.fetch = async (...request) => {
    const url = String(request[0]?.url || request[0]);
    if (!/\/gradio_api\/upload(\?|$)/.test(url)) return send(...request);
    coming += 1;
    try {
      return await send(...request);
    } finally {
      coming -= 1;
      cutUntil = 0;
      readyAt = performance.now() + SETTLE_MS;
    }
  };
})();
