// Shows a note for files above the limit before they are uploaded; the server refuses them too.
(() => {
  const note = () => document.getElementById("upload-note");

  const check = (event, files) => {
    const element = note();
    if (!element) return;
    const limit = Number(element.dataset.limit);
    const tooBig = [...(files || [])].some((file) => file.size > limit);
    element.textContent = tooBig ? element.dataset.text : "";
    element.hidden = !tooBig;
    if (!tooBig) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.target.value) event.target.value = "";
  };

  document.addEventListener("change", (event) => {
    if (event.target.matches?.("input[type=file]")) check(event, event.target.files);
  }, true);
  document.addEventListener("drop", (event) => check(event, event.dataTransfer?.files), true);
})();
