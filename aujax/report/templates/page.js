// Tables sort by a click on a column's name, or by Enter or Space on it.
"use strict";

// The number at the start of a cell: "−2.5 [−4.0, −1.0]" is -2.5, "< 0.001" is 0.001; null where there is no number.
function number(text) {
  const match = text.replace("−", "-").match(/^(?:< )?([+-]?\d+(?:\.\d+)?)/);
  return match ? Number(match[1]) : null;
}

function missing(text) {
  return text === "" || text === "–" || text === "too few";
}

function sort(table, column, direction) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, text: row.cells[column].textContent.trim() }));
  const known = rows.filter(({ text }) => !missing(text));
  const numeric = known.every(({ text }) => number(text) !== null);
  const compare = numeric
    ? (a, b) => number(a.text) - number(b.text)
    : (a, b) => a.text.localeCompare(b.text, "en", { numeric: true });
  known.sort((a, b) => direction * compare(a, b));
  // Missing values stay last in both directions.
  body.append(...known.concat(rows.filter(({ text }) => missing(text))).map(({ row }) => row));
}

for (const table of document.querySelectorAll("table")) {
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => {
    if (header.textContent.trim() === "") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const ascending = header.getAttribute("aria-sort") !== "ascending";
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, column, ascending ? 1 : -1);
    });
  });
}
