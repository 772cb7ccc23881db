// <speaking-times>: who speaks when, as bars over the length of the video and as a table to correct. The form's hidden field #spans
// has the rows, [person, start, end] each, and #speaking the length and pictures of the people (web/views.py).
(() => {
  const field = (name) => document.querySelector(`#${name} :is(textarea, input)`);
  const filled = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const made = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  customElements.define("speaking-times", class extends HTMLElement {
    connectedCallback() {
      this.words = JSON.parse(this.getAttribute("texts"));
      this.shown = null;
      setTimeout(() => this.show(field("spans")?.value, field("speaking")?.value)); // when both fields are there
    }

    // Show the rows of the form, unless they are those that were just written here, or older ones; without facts nothing.
    show(text = "[]", facts = "") {
      this.hidden = !facts;
      if (!facts) return;
      if (this.contains(document.activeElement) && text !== field("spans").value) return;
      Object.assign(this, JSON.parse(facts));
      if (text !== this.shown) {
        this.shown = text;
        try { this.rows = JSON.parse(text).filter(Array.isArray); } catch { this.rows = []; }
        this.render();
      } else this.bars.replaceChildren(...this.people());
    }

    keep() {
      this.shown = JSON.stringify(this.rows);
      const kept = field("spans");
      kept.value = this.shown;
      kept.dispatchEvent(new Event("input", { bubbles: true }));
      this.bars.replaceChildren(...this.people());
    }

    change(rows, focus) {
      this.rows = rows;
      this.keep();
      this.render();
      [...this.querySelectorAll(focus)].at(-1)?.focus();
    }

    render() {
      const { words, rows } = this;
      this.bars = made("div", { class: "st-bars" }, ...this.people());
      const last = "tr:last-child td:first-child input";
      const add = this.button(words.add, () => this.change([...this.rows, this.next()], last), "st-add");
      const clear = this.button(words.clear, () => this.change([], ".st-add"));
      const head = made("tr", {}, ...words.head.map((name) => made("th", { scope: "col" }, name)), made("td"));
      const table = made("table", {}, made("thead", {}, head), made("tbody", {}, ...rows.map((_, at) => this.row(at))));
      const title = made("p", {}, made("b", {}, words.label));
      const info = made("p", { class: "st-info" }, rows.length ? words.info : words.empty);
      this.setAttribute("role", "group");
      this.setAttribute("aria-label", words.label);
      this.replaceChildren(title, info, this.bars, ...(rows.length ? [table] : []), add, ...(rows.length ? [clear] : []));
    }

    button(text, act, style = "", label = text) {
      const button = made("button", { type: "button", class: style, "aria-label": label }, text);
      button.addEventListener("click", act);
      return button;
    }

    row(at) {
      const cells = this.words.head.map((name, column) => {
        const label = filled(this.words.field, { name, number: at + 1 });
        const input = made("input", { type: "number", min: column ? 0 : 1, step: column ? "any" : 1, "aria-label": label });
        input.value = this.rows[at][column] ?? "";
        input.addEventListener("input", () => {
          this.rows[at][column] = input.value === "" ? null : Number(input.value);
          this.keep();
        });
        return made("td", {}, input);
      });
      const label = filled(this.words.remove, { number: at + 1 });
      const others = () => this.rows.filter((_, number) => number !== at);
      const remove = this.button("×", () => this.change(others(), ".st-add"), "", label);
      return made("tr", {}, ...cells, made("td", {}, remove));
    }

    // A row to add: a second of the last row's person after its end.
    next() {
      const [person, , stop] = this.rows.at(-1) || [1, 0, 0];
      const start = Math.max(0, Math.min(Number(stop), this.length_sec - 1));
      return [person, Number(start.toFixed(2)), Number(Math.min(start + 1, this.length_sec).toFixed(2))];
    }

    people() {
      const numbers = [...new Set(this.rows.map(([person]) => person))].filter((person) => person > 0);
      return numbers.sort((first, second) => first - second).map((number) => {
        const person = filled(this.words.person, { number });
        const picture = this.pictures[number] ? [made("img", { src: this.pictures[number], alt: person })] : [];
        const spans = this.rows.filter(([other, start, stop]) => other === number && stop > start).map(([, start, stop]) => {
          const title = filled(this.words.span, { person, start, stop });
          const [left, right] = [start, stop].map((sec) => 100 * Math.min(1, Math.max(0, sec / this.length_sec)));
          return made("span", { title, style: `left: ${left}%; width: ${right - left}%` });
        });
        return made("div", { class: "st-person" }, ...picture, made("span", { class: "st-name" }, person),
          made("div", { class: "st-bar" }, ...spans));
      });
    }
  });
})();
