// Tells how a job goes on outside of the page: progress in the title, and a notification at the end if the user asked for it.
(() => {
  let wasBusy = false;
  let isWanted = false;

  const button = () => document.getElementById("notify");
  const words = () => JSON.parse(button()?.dataset.texts || "{}");

  const show = () => {
    const bar = document.querySelector("#progress .ls-progress");
    const name = words().title;
    if (!name) return;
    button().hidden = !("Notification" in window);
    const percent = bar?.dataset.percent;
    const title = bar ? `${percent || "…"} ${name}` : name;
    if (document.title !== title) document.title = title;
    const message = document.querySelector("#message .ls-message, #message .ls-error");
    if (wasBusy && !bar && message) end(message.firstChild?.textContent || words().ended);
    wasBusy = Boolean(bar) || (wasBusy && !message);
  };

  const end = (sentence) => {
    if (!isWanted || Notification.permission !== "granted") return;
    const note = new Notification(words().title, { body: sentence, tag: "latentsync" });
    note.onclick = () => window.focus();
  };

  const ask = async () => {
    isWanted = !isWanted && (await Notification.requestPermission()) === "granted";
    const isDenied = Notification.permission === "denied";
    const element = button();
    element.dataset.off ??= element.textContent;
    element.textContent = isDenied ? words().denied : isWanted ? words().on : element.dataset.off;
    element.setAttribute("aria-pressed", String(isWanted));
  };

  document.addEventListener("click", (event) => { if (event.target.closest?.("#notify")) ask(); });
  new MutationObserver(show).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
})();
