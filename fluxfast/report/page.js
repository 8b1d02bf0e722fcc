"use strict";
const one = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const announce = (text) => { one("#announcement").textContent = text; };

// Charts take their colours from the page, so a change of theme renders them again.
function chartColours() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const [ink, muted, line] = ["--ink", "--muted", "--line"].map(colour);
  const kinds = [1, 2, 3, 4, 5, 6].map((n) => colour(`--c${n}`));
  return {
    background: "transparent",
    font: "system-ui, 'Segoe UI', Roboto, sans-serif",
    view: { stroke: null },
    axis: { labelColor: ink, titleColor: muted, gridColor: line, domainColor: line, tickColor: line,
            labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal",
            tickCount: 6, labelOverlap: true },
    legend: { layout: { top: { anchor: "end" } }, // a long legend extends over the names of the bars
              labelColor: ink, titleColor: muted, labelFontSize: 12, titleFontWeight: "normal", symbolBaseFillColor: muted, symbolBaseStrokeColor: muted },
    range: { category: kinds },
    bar: { color: kinds[0] }, line: { color: kinds[0] }, point: { color: kinds[0] },
    rule: { color: muted }, text: { color: ink, fontSize: 12 },
  };
}

async function render(box) {
  const spec = JSON.parse(one(`#${CSS.escape(box.dataset.spec)}`).textContent);
  spec.config = chartColours();
  spec.autosize = { type: "fit-x", contains: "padding" };
  box.finalize?.();
  const embedded = await vegaEmbed(box, spec, { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
  box.finalize = embedded.finalize;
  // Screen readers get the label of the box and the table below it.
  one("svg", box)?.setAttribute("aria-hidden", "true");
}

const isShown = (box) => !box.closest("[hidden]");
async function renderAll() {
  document.documentElement.dataset.rendered = "no";
  await Promise.all(all(".chart").filter(isShown).map(render));
  document.documentElement.dataset.rendered = "yes";
}

for (const select of all("select[data-picks]")) {
  const pick = () => {
    for (const figure of all(":scope > figure", one(`#${CSS.escape(select.dataset.picks)}`))) {
      figure.hidden = figure.dataset.title !== select.value;
      if (!figure.hidden && document.documentElement.dataset.rendered) render(one(".chart", figure));
    }
  };
  select.addEventListener("change", pick);
  pick();
}

// Sorting: numbers are compared as numbers, rows without a figure come last.
const table = one("#cases");
const cases = all("tbody", table); // one tbody a case, with the reason of its verdict
all("thead th", table).forEach((head, index) => {
  one("button", head)?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of all("thead th[aria-sort]", table)) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (body) => body.rows[0].cells[index].dataset.sort;
    const isNumber = head.classList.contains("number");
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const sign = isNumber ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
      return down ? -sign : sign;
    };
    table.append(...cases.sort(order));
    announce(`sorted by ${one("button", head).textContent}, ${down ? "largest" : "smallest"} first`);
  });
});

// Filters: a case must contain every word, and none that begins with a minus.
function filter() {
  const words = one("#filter-text").value.toLowerCase().split(/[\s,]+/).filter(Boolean);
  const chosen = all("[data-filter]").filter((select) => select.value);
  let shown = 0;
  for (const body of cases) {
    const text = body.dataset.text.toLowerCase();
    const fits = words.every((word) => /^[-−]./.test(word) ? !text.includes(word.slice(1)) : text.includes(word));
    body.hidden = !(fits && chosen.every((select) => body.dataset[select.dataset.filter] === select.value));
    shown += !body.hidden;
  }
  one("#shown").textContent = `${shown} of ${cases.length} cases`;
}
for (const event of ["input", "change"]) one(".filters").addEventListener(event, filter);
one(".filters").addEventListener("submit", (event) => event.preventDefault());

for (const button of all(".copy")) {
  const label = button.innerHTML;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "copied";
      announce("copied");
    } catch {
      // A browser may deny a local page the clipboard: show the command to copy by hand.
      window.prompt("Copy this command", button.dataset.copy);
    }
    setTimeout(() => { button.innerHTML = label; }, 1500);
  });
}

const themes = ["", "light", "dark"];
const names = { "": "system", light: "light", dark: "dark" };
one("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const next = themes[(themes.indexOf(root.dataset.theme ?? "") + 1) % themes.length];
  if (next) root.dataset.theme = next; else delete root.dataset.theme;
  one("#theme").textContent = `Theme: ${names[next]}`;
  renderAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", renderAll);
renderAll();
