// Tables are sorted by the button in a column's heading; long things are opened for printing. Without this script the page only lacks that.
"use strict";

function compare(a, b) {
  if (a.blank !== b.blank) return a.blank ? 1 : -1; // what is not there comes last, whichever way round
  return null;
}

function sortBy(heading) {
  const table = heading.closest("table"), body = table.tBodies[0], column = heading.cellIndex;
  const up = heading.getAttribute("aria-sort") !== "ascending";
  const rows = Array.from(body.rows, (row, place) => {
    const cell = row.cells[column];
    return { row, place, text: cell.textContent.trim(), order: cell.dataset.order === undefined ? null : Number(cell.dataset.order) };
  });
  const numbers = rows.some(({ order }) => order !== null);
  for (const row of rows) row.blank = row.text === "" || (numbers && row.order === null); // words among numbers: too few
  rows.sort((a, b) => {
    const empty = compare(a, b);
    if (empty !== null) return empty;
    const found = a.order !== null && b.order !== null ? a.order - b.order : a.text.localeCompare(b.text, "en", { numeric: true });
    return (up ? found : -found) || a.place - b.place;
  });
  for (const { row } of rows) body.append(row);
  for (const other of heading.parentElement.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  document.getElementById("said").textContent = `${table.caption.textContent}: sorted by ${heading.textContent}, ${up ? "ascending" : "descending"}`;
}

for (const button of document.querySelectorAll("th[aria-sort] > button")) button.addEventListener("click", () => sortBy(button.parentElement));

let opened = [];
addEventListener("beforeprint", () => {
  opened = Array.from(document.querySelectorAll("details:not([open])"));
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});

// a link to something inside closed details opens them
function open() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let box = target && target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
}
addEventListener("hashchange", open);
open();
