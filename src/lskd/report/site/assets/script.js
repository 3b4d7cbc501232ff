// Sorting, the choice of theme, the filter of runs; in one file also which page is shown. The pages do without.
"use strict";
(() => {
  const root = document.documentElement;
  const kept = (value) => {
    try { // a page from a disk may have no storage
      if (value !== undefined) localStorage.setItem("lskd-theme", value);
      return localStorage.getItem("lskd-theme");
    } catch { return value ?? null; }
  };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
  const chosen = kept();
  if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;

  function theme() {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      kept(root.dataset.theme);
      show();
    });
    system.addEventListener("change", show);
    show();
  }

  // What a row is sorted by: its number, else its text. Rows of several lines are a tbody each.
  function sorting(table) {
    const grouped = table.classList.contains("grouped");
    const headers = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    let place = 0;
    headers.forEach((header) => {
      const column = place;
      place += header.colSpan;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => {
        const down = header.getAttribute("aria-sort") === "ascending";
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", down ? "descending" : "ascending");
        const items = grouped ? [...table.tBodies] : [...table.tBodies[0].rows];
        const keyed = items.map((item) => [key(grouped ? item.rows[0] : item, column), item]);
        keyed.sort(([a], [b]) => compare(a, b, down ? -1 : 1));
        const parent = grouped ? table : table.tBodies[0];
        keyed.forEach(([, item]) => parent.append(item));
      });
    });
  }
  function key(row, column) {
    let place = 0;
    const cell = [...row.cells].find((one) => (place += one.colSpan) > column);
    if (!cell) return null;
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    if (!cell.classList.contains("number")) return text;
    const number = Number(text.replace("−", "-"));
    return text && Number.isFinite(number) ? number : null;
  }
  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last
    if (typeof a === "number" && typeof b === "number") return sign * (a - b);
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  }

  function filtering() {
    const input = document.getElementById("filter");
    if (!input) return;
    input.closest(".filter").hidden = false;
    const rows = [...document.querySelector("table.runs").tBodies[0].rows];
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      rows.forEach((row) => {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        shown += !row.hidden;
      });
      document.getElementById("filtered").textContent = words.length ? `${shown} of ${rows.length}` : "";
    });
  }

  // A link into something folded unfolds it.
  function unfold() {
    const target = document.getElementById(location.hash.slice(1));
    for (let one = target?.closest("details"); one; one = one.parentElement.closest("details")) one.open = true;
    if (target) target.scrollIntoView();
    return target;
  }
  function moved(first) {
    const target = unfold();
    if (!document.body.classList.contains("one-file")) return;
    const page = target?.closest(".page") ?? document.querySelector(".page");
    document.title = page.dataset.title;
    document.querySelectorAll(".masthead nav a").forEach((link) => {
      if (link.dataset.kind === page.dataset.menu) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
    if (!first && target === page) { // as a new page does
      scrollTo(0, 0);
      document.getElementById("main").focus({ preventScroll: true });
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    theme();
    document.querySelectorAll("table.sortable").forEach(sorting);
    filtering();
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address stays: in one file it names the page
      document.getElementById("main").focus();
    });
    addEventListener("hashchange", () => moved(false));
    addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
    moved(true);
  });
})();
