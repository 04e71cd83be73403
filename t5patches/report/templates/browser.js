// The browser of the examples. Texts come from outside: they get into the page as text
// nodes alone. A list of 20,000 has nodes for what is in view.
"use strict";
const get = (id) => document.getElementById(id);
const CONTROLS = ["kind", "fault", "sort", "search"];
const WORD = /[\p{sc=Han}\p{sc=Hira}\p{sc=Kana}\p{sc=Thai}]|[\p{L}\p{M}\p{N}_]+|\S/gu;
const MOST_CELLS = 4e6; // of the table of a comparison; beyond, all counts as changed
let rows, rowHeight, timer;
let shown = []; // the rows that the controls leave, in their order
let at = 0; // the place of the open one there

function element(tag, ...content) {
  const made = document.createElement(tag);
  made.append(...content);
  return made;
}

/** Returns the numbers of the words outside a longest common subsequence. */
function changedWords(old, now) {
  let start = 0, n = old.length, m = now.length;
  while (start < n && start < m && old[start] === now[start]) start++;
  while (n > start && m > start && old[n - 1] === now[m - 1]) n--, m--;
  const gone = [], come = [], width = m - start + 1;
  const cell = (i, j) => (i - start) * width + j - start;
  const size = cell(n, m) + 1;
  // How much the words from i of the old text and from j of the new have in common.
  const common = new Uint16Array(size > MOST_CELLS ? 0 : size);
  if (common.length)
    for (let i = n - 1; i >= start; i--)
      for (let j = m - 1; j >= start; j--)
        common[cell(i, j)] = old[i] === now[j]
          ? common[cell(i + 1, j + 1)] + 1
          : Math.max(common[cell(i + 1, j)], common[cell(i, j + 1)]);
  for (let i = start, j = start; i < n || j < m;) {
    if (common.length && i < n && j < m && old[i] === now[j]) i++, j++;
    else if (j < m && (i === n || common[cell(i, j + 1)] > common[cell(i + 1, j)]))
      come.push(j++);
    else gone.push(i++);
  }
  return [gone, come];
}

/** Returns the changed places of both texts, [start, end] each, and how many words. */
function compare(row) {
  if (row.compared) return row.compared;
  const words = [row.old, row.new].map((text) => [...text.matchAll(WORD)]);
  const changed = changedWords(...words.map((side) => side.map(([word]) => word)));
  const places = changed.map((numbers, side) => {
    const found = [];
    numbers.forEach((number, k) => {
      const { index, 0: word } = words[side][number], end = index + word.length;
      if (number - 1 === numbers[k - 1]) found.at(-1)[1] = end;
      else found.push([index, end]);
    });
    return found;
  });
  row.compared = { places, words: changed[0].length + changed[1].length };
  return row.compared;
}

/** Shows a text with its unwanted spans and its changed places. */
function fill(box, text, spans, changed, tag) {
  // Python counts characters, JavaScript halves of those beyond 0xFFFF.
  const characters = /[\u{10000}-\u{10ffff}]/u.test(text) && [...text];
  const place = (n) => (characters ? characters.slice(0, n).join("").length : n);
  spans = spans.map(([start, end, label]) => [place(start), place(end), label]);
  const ends = [...spans, ...changed].flatMap(([start, end]) => [start, end]);
  const cuts = [...new Set([0, ...ends, text.length])].sort((x, y) => x - y);
  box.replaceChildren(...cuts.slice(1).map((end, number) => {
    const start = cuts[number];
    const around = ([from, to]) => from <= start && end <= to;
    let node = document.createTextNode(text.slice(start, end));
    if (changed.some(around)) node = element(tag, node);
    const span = spans.find(around);
    if (span) {
      node = element("mark", node);
      node.title = span[2];
    }
    return node;
  }));
}

const label = (control, value) =>
  [...get(control).options].find((option) => option.value === value)?.dataset.label
  ?? value;

function amount(row) {
  const { words } = compare(row);
  if (words) return `${words} word${words === 1 ? "" : "s"} changed`;
  return row.old === row.new ? "the same" : "other spaces";
}

/** Draws the rows of the list that are in view. */
function drawList() {
  const list = get("list"), above = list.scrollTop;
  const first = Math.max(0, Math.floor(above / rowHeight) - 4);
  const last = Math.min(
    shown.length, Math.ceil((above + list.clientHeight) / rowHeight) + 4);
  get("space").replaceChildren(...shown.slice(first, last).map((row, number) => {
    const begin = compare(row).places[1][0]?.[0] ?? 0; // Where it gets interesting.
    const from = begin < 40 ? 0 : row.new.lastIndexOf(" ", begin - 25) + 1;
    const text = element("span", (from ? "… " : "") + row.new.slice(from, from + 300));
    text.dir = "auto";
    const made = element("div", element("b", label("kind", row.kind)), ` ${amount(row)}`, text);
    made.className = row.kind;
    made.id = `row-${first + number}`;
    made.style.top = `${(first + number) * rowHeight}px`;
    made.setAttribute("role", "option");
    made.setAttribute("aria-selected", first + number === at);
    made.setAttribute("aria-setsize", shown.length);
    made.setAttribute("aria-posinset", first + number + 1);
    return made;
  }));
  list.setAttribute("aria-activedescendant", `row-${at}`);
}

/** Opens the example at a place of the list. */
function open(place) {
  at = Math.max(0, Math.min(place, shown.length - 1));
  const row = shown[at], list = get("list"), top = at * rowHeight;
  get("example").hidden = !row;
  if (top < list.scrollTop) list.scrollTop = top;
  const below = top + rowHeight - list.clientHeight;
  if (below > list.scrollTop) list.scrollTop = below;
  drawList();
  if (!row) return;
  const { places } = compare(row);
  get("what").textContent = label("kind", row.kind);
  get("what").className = row.kind;
  get("facts").textContent = [
    amount(row),
    row.new_tokens != null && `${row.old_tokens} → ${row.new_tokens} tokens`,
    row.faults.length && `new: ${row.faults.map((f) => label("fault", f)).join(", ")}`,
  ].filter(Boolean).join(" · ");
  get("link").href = `#${new URLSearchParams({ id: row.id })}`;
  get("link").textContent = `id ${row.id}`;
  get("inputs").textContent = row.inputs;
  fill(get("old"), row.old, row.old_spans, places[0], "del");
  fill(get("new"), row.new, row.new_spans, places[1], "ins");
  get("right").hidden = row.reference == null;
  get("reference").textContent = row.reference ?? "";
}

/** Lists what the controls ask for and opens one of it. */
function list(id) {
  const [kind, fault, sort, search] = CONTROLS.map((name) => get(name).value);
  const wanted = search.toLowerCase();
  const holds = (row) => (row.text ??=
    [row.id, row.inputs, row.old, row.new].join("\n").toLowerCase()).includes(wanted);
  shown = rows.filter((row) => (!kind || row.kind === kind)
    && (!fault || row.faults.includes(fault)) && (!wanted || holds(row)));
  if (sort) shown.sort((one, other) => compare(other).words - compare(one).words);
  const found = shown.findIndex((row) => row.id === id);
  const missing = id != null && found < 0 && !rows.some((row) => row.id === id);
  get("count").textContent =
    `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} examples`
    + (missing ? `; none has the id ${id}` : "");
  get("space").style.height = `${shown.length * rowHeight}px`;
  get("list").scrollTop = 0;
  open(Math.max(0, found));
}

/** Notes what is shown in the page's address; browsers allow that not too often. */
function note() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    const asked = CONTROLS.map((name) => [name, get(name).value]);
    asked.push(["id", shown[at]?.id ?? ""]);
    const hash = new URLSearchParams(asked.filter(([, value]) => value));
    history.replaceState(null, "", `#${hash}`);
  }, 300);
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const name of CONTROLS) {
    get(name).value = asked.get(name) ?? "";
    if (get(name).selectedIndex < 0) get(name).selectedIndex = 0;
  }
  list(asked.get("id"));
  if ([...asked].length) get("browser").scrollIntoView();
}

function move(steps) {
  open(at + steps);
  note();
}

function press(event) {
  const inField = event.target.closest("input, select");
  if (event.key === "Escape" && inField) {
    event.preventDefault(); // Browsers empty the field.
    return event.target.blur();
  }
  if (inField || event.ctrlKey || event.metaKey || event.altKey) return;
  const arrows = event.target === get("list") ? { ArrowDown: 1, ArrowUp: -1 } : {};
  const steps = { j: 1, k: -1, ...arrows }[event.key];
  if (steps) move(steps);
  else if (event.key === "/") get("search").focus();
  else return;
  event.preventDefault();
  get("browser").scrollIntoView({ block: "nearest" });
}

function start() {
  rows = JSON.parse(get("rows").textContent);
  rowHeight = 3.75 * parseFloat(getComputedStyle(document.documentElement).fontSize);
  document.documentElement.classList.add("scripted");
  readAddress();
  addEventListener("hashchange", readAddress);
  addEventListener("resize", drawList);
  document.addEventListener("keydown", press);
  get("list").addEventListener("scroll", drawList, { passive: true });
  get("list").addEventListener("click", (event) => {
    const row = event.target.closest("[role=option]");
    if (row) move(Number(row.id.slice(4)) - at);
  });
  get("previous").addEventListener("click", () => move(-1));
  get("next").addEventListener("click", () => move(1));
  for (const name of CONTROLS)
    get(name).addEventListener("input", () => {
      list(shown[at]?.id);
      note();
    });
  performance.mark("started"); // For those who measure.
}

setTimeout(start); // The rest of the page first.
