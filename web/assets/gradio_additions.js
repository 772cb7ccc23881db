// What Gradio's components lack for keyboards and screen readers: arrow keys move within a group of radio buttons, and names of
// fields say what is written on them.
(() => {
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

  document.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || !event.target.matches?.("input[type=radio]")) return;
    const group = [...(event.target.closest("fieldset, [role=radiogroup], .block")?.querySelectorAll("input[type=radio]") || [])];
    const next = group[(group.indexOf(event.target) + step + group.length) % group.length];
    if (!next || next === event.target) return;
    event.preventDefault();
    next.focus();
    next.click();
  });

  const name = () => {
    document.querySelectorAll("div.empty[aria-label]:not([role])").forEach((empty) => empty.setAttribute("role", "img"));
    document.querySelectorAll("button.upload-container[aria-label], button[aria-dropeffect][aria-label]").forEach((field) => {
      if (field.innerText.trim()) field.removeAttribute("aria-label");
    });
    document.querySelectorAll("button.playback[aria-label]").forEach((button) => {
      const [text, label] = [button.innerText.trim(), button.getAttribute("aria-label")];
      if (!label.includes(`${text}:`)) button.setAttribute("aria-label", `${text}: ${label}`);
    });
  };

  new MutationObserver(name).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
})();
