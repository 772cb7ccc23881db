// What Gradio's components lack for keyboards and screen readers: a group of radio buttons is one stop of the Tab key, arrow keys move
// within it, and names of fields say what is written on them.
(() => {
  const GROUP = "fieldset, [role=radiogroup], .block";
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

  document.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step || !event.target.matches?.("input[type=radio]")) return;
    const group = [...(event.target.closest(GROUP)?.querySelectorAll("input[type=radio]") || [])];
    const next = group[(group.indexOf(event.target) + step + group.length) % group.length];
    if (!next || next === event.target) return;
    event.preventDefault();
    next.focus();
    next.click();
  });

  // Gradio gives each button of a group a name of its own, so that each would be a group.
  const join = () => {
    const groups = new Set([...document.querySelectorAll("input[type=radio]")].map((radio) => radio.closest(GROUP)));
    for (const group of groups) {
      const radios = [...(group?.querySelectorAll("input[type=radio]") || [])];
      const stop = radios.find((radio) => radio.checked) || radios[0];
      radios.forEach((radio) => { radio.tabIndex = radio === stop ? 0 : -1; });
    }
  };

  const name = () => {
    join();
    document.querySelectorAll("div.empty[aria-label]:not([role])").forEach((empty) => empty.setAttribute("role", "img"));
    document.querySelectorAll("button.upload-container[aria-label], button[aria-dropeffect][aria-label]").forEach((field) => {
      if (field.innerText.trim()) field.removeAttribute("aria-label");
    });
    document.querySelectorAll("button.playback[aria-label]").forEach((button) => {
      const [text, label] = [button.innerText.trim(), button.getAttribute("aria-label")];
      if (!label.includes(`${text}:`)) button.setAttribute("aria-label", `${text}: ${label}`);
    });
  };

  new MutationObserver(name).observe(document.documentElement, {
    childList: true, subtree: true, characterData: true, attributes: true, attributeFilter: ["aria-checked"],
  });
})();
