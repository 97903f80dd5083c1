"use strict";

// Without this script everything can be read; it adds sorting and shows the rows one at a time.
for (const part of document.querySelectorAll(".needs-script")) part.hidden = false;

function sortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];

  function compare(column, direction) {
    return (first, second) => {
      const [a, b] = [first.cells[column], second.cells[column]];
      const numeric = [a, b].map((cell) => cell.hasAttribute("data-value"));
      if (numeric[0] !== numeric[1]) return numeric[0] ? -1 : 1; // what has no value stays at the end
      if (numeric[0]) return direction * (Number(a.dataset.value) - Number(b.dataset.value));
      return direction * a.textContent.trim().localeCompare(b.textContent.trim(), undefined, { numeric: true });
    };
  }

  headings.forEach((heading, column) => {
    if (!heading.textContent.trim()) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const next = { ascending: "descending", descending: null }[heading.getAttribute("aria-sort")];
      for (const other of headings) other.removeAttribute("aria-sort");
      const order = next === undefined ? "ascending" : next;
      if (order) heading.setAttribute("aria-sort", order);
      const rows = order ? [...original].sort(compare(column, order === "ascending" ? 1 : -1)) : original;
      body.append(...rows);
    });
  });
}

function viewer(box) {
  const [chooseTask, chooseRow] = [document.getElementById("choose-task"), document.getElementById("choose-row")];
  const tasks = [...box.querySelectorAll(".task")];
  const rowsOf = (task) => [...task.querySelectorAll(".row")];
  const current = () => tasks[chooseTask.selectedIndex];

  function show() {
    const rows = rowsOf(current());
    for (const task of tasks) task.hidden = task !== current();
    rows.forEach((row, index) => {
      const chosen = index === chooseRow.selectedIndex;
      row.hidden = !chosen;
      row.open = chosen;
      row.classList.toggle("chosen", chosen);
    });
    document.getElementById("position").textContent = `Row ${chooseRow.selectedIndex + 1} of ${rows.length}`;
  }

  function fill() {
    chooseRow.replaceChildren(...rowsOf(current()).map((row) => new Option(row.dataset.row)));
    show();
  }

  function step(by) {
    const count = chooseRow.length;
    chooseRow.selectedIndex = (chooseRow.selectedIndex + by + count) % count;
    show();
  }

  chooseTask.replaceChildren(...tasks.map((task) => new Option(task.dataset.task)));
  chooseTask.addEventListener("change", fill);
  chooseRow.addEventListener("change", show);
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "The chosen row; the left and right arrow keys change it");
  document.getElementById("predictions").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const takesArrows = event.target.closest("select, .scroll");
    if (!by || takesArrows || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    step(by);
  });
  fill();
}

document.querySelectorAll("table.sortable").forEach(sortable);
const box = document.getElementById("rows");
if (box) viewer(box);
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("#run details")) part.open = true;
});
