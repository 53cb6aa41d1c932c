// Tables sort by a click on a column's name, or by Enter or Space on it.
"use strict";

// The number that a cell starts with: "−2.5 [−4.0, −1.0]" is -2.5, "< 0.001" is 0.001; null where it starts with none.
function number(words) {
  const found = words.replace("−", "-").match(/^(?:< )?([+-]?\d+(?:\.\d+)?)/);
  return found ? Number(found[1]) : null;
}

function missing(words) {
  return words === "" || words === "–" || words === "too few";
}

function sort(table, place, direction) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => ({ row, words: row.cells[place].textContent.trim() }));
  const known = rows.filter(({ words }) => !missing(words));
  const numbers = known.every(({ words }) => number(words) !== null);
  const compare = numbers
    ? (a, b) => number(a.words) - number(b.words)
    : (a, b) => a.words.localeCompare(b.words, "en", { numeric: true });
  known.sort((a, b) => direction * compare(a, b));
  // What is missing stays last in both directions.
  body.append(...known.concat(rows.filter(({ words }) => missing(words))).map(({ row }) => row));
}

for (const table of document.querySelectorAll("table")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, place) => {
    if (head.textContent.trim() === "") return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sort(table, place, ascending ? 1 : -1);
    });
  });
}
