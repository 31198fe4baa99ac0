"use strict";
(() => {
  // The table of all examples: only the rows in view are elements, so that it stays fluent at 10,000 rows.
  // Data reaches the page as text nodes alone, never as markup.
  const data = JSON.parse(document.getElementById("data").textContent);
  const ROW = 32, SPARE = 8;
  const byId = (id) => document.getElementById(id);
  const windowed = byId("window"), space = byId("space"), detail = byId("detail");
  const folded = data.text.map((text, k) => (data.id[k] + "\n" + text).toLowerCase());
  const short = (id) => (id.length > 22 ? `${id.slice(0, 8)}…${id.slice(-12)}` : id); // ids often differ at the end
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const name = (k) => (k === null ? "" : data.names[k]);
  const sorting = { column: null, down: false };
  let shown = [], open = null;

  for (const label of data.names) {
    const option = document.createElement("option");
    option.textContent = option.value = label;
    byId("label").append(option);
  }

  // Columns are as wide as the longest of their values, within reason.
  const wide = (values, least, most) =>
    `${Math.min(most, Math.max(least, ...new Set(values.map((value) => value.length))) + 2)}ch`;
  byId("table").style.setProperty("--id", wide(data.id, 8, 22));
  byId("table").style.setProperty("--label", wide(data.names, 8, 18));
  if (data.gold.some((k) => k !== null)) byId("table").style.setProperty("--gold", wide(data.names, 6, 18));

  const kinds = {
    "": () => true,
    wrong: (k) => data.gold[k] !== null && data.label[k] !== null && data.gold[k] !== data.label[k],
    forced: (k) => k in data.forced,
    none: (k) => data.label[k] === null,
  };

  function select() {
    const words = byId("search").value.trim().toLowerCase(), label = byId("label").value;
    const kind = kinds[byId("kind").value];
    shown = data.id.map((_, k) => k).filter(
      (k) => folded[k].includes(words) && (!label || name(data.label[k]) === label) && kind(k));
    if (sorting.column) sort();
    byId("shown").textContent = `${shown.length.toLocaleString("en")} of ${data.id.length.toLocaleString("en")}`;
    space.style.height = `${shown.length * ROW}px`;
    windowed.scrollTop = 0;
    draw();
  }

  function sort() {
    const column = data[sorting.column], named = sorting.column === "label" || sorting.column === "gold";
    const key = named ? (k) => data.names[column[k]] ?? null : (k) => column[k];
    const numbers = new Intl.Collator("en", { numeric: true });
    const sign = sorting.down ? -1 : 1;
    shown.sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === null || y === null) return (x === null) - (y === null); // unknown comes last, either way
      return sign * (typeof x === "number" ? x - y : numbers.compare(x, y));
    });
  }

  function cell(text, kind) {
    const made = document.createElement("div");
    made.setAttribute("role", "cell");
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  function row(k, place) {
    const made = document.createElement("div");
    made.className = k === open ? "row open" : "row";
    made.setAttribute("role", "row");
    made.setAttribute("aria-rowindex", place + 2);
    made.style.top = `${place * ROW}px`;
    made.dataset.example = k;
    const sure = data.confidence[k];
    made.append(
      cell(short(data.id[k]), "id"), cell(name(data.label[k])), cell(sure === null ? "" : percent(sure)),
      cell(name(data.gold[k]), kinds.wrong(k) ? "gold wrong" : "gold"), cell(data.text[k]));
    return made;
  }

  function draw() {
    const first = Math.max(0, Math.floor(windowed.scrollTop / ROW) - SPARE);
    const last = Math.min(shown.length, Math.ceil((windowed.scrollTop + windowed.clientHeight) / ROW) + SPARE);
    space.replaceChildren(...shown.slice(first, last).map((k, i) => row(k, first + i)));
    byId("table").setAttribute("aria-rowcount", shown.length + 1);
  }

  function show(k) {
    open = k;
    const sure = data.confidence[k] === null ? "" : `, ${percent(data.confidence[k])}`;
    const gold = data.gold[k] === null ? "" : `; gold: ${name(data.gold[k])}`;
    const forced = k in data.forced ? `\n\ndecided by a rule: ${data.rules[data.forced[k]]}` : "";
    detail.textContent = `${data.id[k]}: ${name(data.label[k]) || "no label"}${sure}${gold}\n\n${data.text[k]}${forced}`;
    draw();
  }

  function reveal(place) {
    windowed.scrollTop = Math.max(0, place * ROW - windowed.clientHeight / 2);
    show(shown[place]);
  }

  for (const link of document.querySelectorAll("[data-go]")) {
    link.addEventListener("click", () => {
      byId("filters").reset();
      select();
      reveal(shown.indexOf(Number(link.dataset.go)));
      byId("all").scrollIntoView();
    });
  }
  for (const button of document.querySelectorAll("[data-sort]")) {
    button.addEventListener("click", () => {
      const column = button.dataset.sort;
      sorting.down = sorting.column === column && !sorting.down;
      sorting.column = column;
      for (const other of document.querySelectorAll("[data-sort]")) other.removeAttribute("aria-sort");
      button.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
      select();
    });
  }
  for (const event of ["input", "change"]) byId("filters").addEventListener(event, select);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  windowed.addEventListener("scroll", draw);
  windowed.addEventListener("click", (event) => {
    const chosen = event.target.closest(".row");
    if (chosen) show(Number(chosen.dataset.example));
  });
  windowed.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !shown.length) return;
    event.preventDefault();
    reveal(Math.min(shown.length - 1, Math.max(0, shown.indexOf(open) + step)));
  });
  addEventListener("resize", draw);
  select();
})();
