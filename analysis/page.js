"use strict";

// A click on a column's name sorts by it: ascending, descending, then the order the page came in.
const NEXT = { none: "ascending", ascending: "descending", descending: "none" };
const collator = new Intl.Collator("en", { numeric: true });

for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = NEXT[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", order);
      body.append(...(order === "none" ? original : sorted(original, column, order === "ascending" ? 1 : -1)));
    });
  });
}

// Numbers before words before empty cells, whichever the direction: it holds within each of the three.
function sorted(rows, column, direction) {
  const keys = new Map(rows.map((row) => [row, key(row.cells[column])]));
  return [...rows].sort((a, b) => {
    const [one, other] = [keys.get(a), keys.get(b)];
    if (one.rank !== other.rank) return one.rank - other.rank;
    return direction * (one.rank === 0 ? one.value - other.value : collator.compare(one.value, other.value));
  });
}

function key(cell) {
  if (cell.dataset.value !== undefined) return { rank: 0, value: Number(cell.dataset.value) };
  return { rank: cell.classList.contains("empty") ? 2 : 1, value: cell.textContent };
}

// A table wider than its box says so, keeps the names of its rows in sight, and can be reached and scrolled by keyboard.
const observer = new ResizeObserver((entries) => {
  for (const { target: box } of entries) {
    const wide = box.scrollWidth > box.clientWidth;
    box.classList.toggle("wide", wide);
    box.previousElementSibling.hidden = !wide;
    if (wide) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".scroll").forEach((box) => observer.observe(box));

// Paper has nothing to click on.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
