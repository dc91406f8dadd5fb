"use strict";
// Sorting and filtering of the tables. The page says everything without it.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const byId = (id) => document.getElementById(id);

  // Sorting: a column of numbers starts with the largest, one of words with the first letter.
  const valueOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = text === "" ? -Infinity : Number(text);
    return Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) => {
    if (typeof a === "number" && typeof b === "number") return a === b ? 0 : a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  const sortBy = (table, heading) => {
    const column = heading.cellIndex;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
    const numeric = rows.every(([value]) => typeof value === "number");
    const before = heading.getAttribute("aria-sort");
    const ascending = before ? before === "descending" : !numeric;
    rows.sort(([a], [b]) => (ascending ? compare(a, b) : compare(b, a)));
    for (const other of all("th[aria-sort]", table.tHead)) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...rows.map(([, row]) => row));
  };
  for (const table of all("table[data-sortable]")) {
    for (const heading of all("th", table.tHead)) {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      button.addEventListener("click", () => sortBy(table, heading));
      heading.append(button);
    }
  }

  // Filtering: rows hold all that the search fields say, and match the selections.
  const textOf = new Map();
  const rowsOf = (id) => all(`#${id} [data-row]`);
  const read = (row) => {
    if (!textOf.has(row)) textOf.set(row, `${row.dataset.text ?? ""} ${row.textContent}`.toLowerCase());
    return textOf.get(row);
  };
  const matches = (row, control) => {
    if (control.dataset.by) return !control.value || row.dataset[control.dataset.by] === control.value;
    return read(row).includes(control.value.trim().toLowerCase());
  };
  const filter = (id) => {
    const controls = all(`[data-filter~="${id}"]`);
    const rows = rowsOf(id);
    for (const row of rows) row.hidden = !controls.every((control) => matches(row, control));
    const counter = document.querySelector(`[data-count="${id}"]`);
    if (counter) counter.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
  };
  const filterAll = (control) => control.dataset.filter.split(" ").filter(byId).forEach(filter);
  for (const control of all("[data-filter]")) {
    control.addEventListener("input", () => filterAll(control));
    if (control.value) filterAll(control); // what the browser kept when the page was loaded again
  }
  for (const tools of all(".tools")) tools.hidden = false;

  // A square of the matrix finds the chains that failed there.
  const search = document.querySelector('input[data-filter~="chain-table"]');
  for (const cell of all("[data-find]")) {
    cell.addEventListener("click", () => {
      search.value = cell.dataset.find;
      filterAll(search);
      byId("failures").scrollIntoView();
    });
  }

  // A video shows its first frame once it is in sight.
  const watch = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      target.preload = "metadata";
      watch.unobserve(target);
    }
  });
  for (const video of all("video")) watch.observe(video);
})();
