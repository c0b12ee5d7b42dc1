// Sort by a column, filter by its values: nothing is fetched, and without a script all lines show.
{
  const board = document.getElementById("board");
  const heads = Array.from(board.querySelectorAll("th"));
  const body = board.querySelector("tbody");
  const lines = Array.from(body.rows);
  const valueOf = (line, column) => {
    const cell = line.cells.item(column);
    const number = cell.dataset.value;
    return number === undefined ? cell.textContent : Number(number);
  };

  // a head sorts, numbers from the largest on; once more turns the order round
  heads.forEach((head, column) => {
    head.style.cursor = "pointer";
    head.tabIndex = 0;
    const sort = () => {
      const numbers = lines.every((line) => typeof valueOf(line, column) === "number");
      const before = head.getAttribute("aria-sort") || (numbers ? "ascending" : "descending");
      const sign = before === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      lines.sort((one, other) => {
        const a = valueOf(one, column);
        const b = valueOf(other, column);
        return sign * (numbers ? a - b : a.localeCompare(b));
      });
      body.append(...lines);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });

  // a field for each column with few values
  const chosen = new Map();
  const show = () => {
    lines.forEach((line) => {
      const fits = ([column, value]) => !value || line.cells.item(column).textContent === value;
      line.hidden = !Array.from(chosen).every(fits);
    });
  };
  const fields = document.createElement("p");
  board.dataset.filters.split(" ").forEach((name) => {
    const column = heads.findIndex((head) => head.textContent === name);
    const field = document.createElement("select");
    field.setAttribute("aria-label", name);
    field.add(new Option(`every ${name}`, ""));
    const values = new Set(lines.map((line) => line.cells.item(column).textContent));
    const byNumber = (a, b) => a.localeCompare(b, undefined, { numeric: true });
    Array.from(values).sort(byNumber).forEach((value) => field.add(new Option(value, value)));
    field.addEventListener("change", () => {
      chosen.set(column, field.value);
      show();
    });
    fields.append(field, " ");
  });
  board.prepend(fields);
}
