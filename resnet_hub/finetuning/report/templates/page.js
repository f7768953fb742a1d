"use strict";
// Tables sort by a click on the head of a column: numbers by value, largest first, names by alphabet.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const names = new Intl.Collator(undefined, { numeric: true });
  for (const button of table.querySelectorAll("thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const isNumber = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const descends = before ? before === "ascending" : isNumber;
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descends ? "descending" : "ascending");
      const value = (row) => {
        const cell = row.cells[head.cellIndex];
        return isNumber ? Number(cell.dataset.value) : cell.textContent.trim();
      };
      const rows = [...body.rows].map((row) => [value(row), row]);
      rows.sort(([a], [b]) => (isNumber ? a - b : names.compare(a, b)) * (descends ? -1 : 1));
      body.append(...rows.map(([, row]) => row));
    });
  }
}
for (const input of document.querySelectorAll("input[data-filters]")) {
  const rows = document.getElementById(input.dataset.filters).tBodies[0].rows;
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of rows) row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
  });
}
// On paper nothing can be unfolded.
window.addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
