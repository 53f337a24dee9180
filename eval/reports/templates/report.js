"use strict";
// Tables sort by a click, or by Enter or Space, on a heading; without scripts they stand as they were written.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const first = [...body.rows];
  const value = (row, column) => {
    const cell = row.cells[column];
    return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent.trim();
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) {
      return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
    }
    return 0;
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    const numbers = first.some((row) => "sort" in row.cells[column].dataset);
    // In a column of numbers a cell without one has nothing to be sorted by, and stays at the end.
    const empty = (row) => numbers && !("sort" in row.cells[column].dataset);
    button.addEventListener("click", () => {
      const state = head.getAttribute("aria-sort");
      const next = state === "ascending" ? "descending" : state === "descending" ? "none" : "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", next);
      const sign = next === "descending" ? -1 : 1;
      const rows = [...first];
      if (next !== "none") {
        rows.sort((a, b) => empty(a) - empty(b) || sign * compare(value(a, column), value(b, column)));
      }
      body.append(...rows);
      const words = next === "none" ? "in the first order" : "by " + button.textContent.trim() + ", " + next;
      document.getElementById("sorted").textContent = "Sorted " + words;
    });
  });
}
