"use strict";
// Plain JavaScript, no library. The grid holds only the rows that are on the screen: of 100,000
// videos some twenty cells exist, and rows come from the server by the page.

const $ = id => document.getElementById(id);
const make = (name, attributes = {}, ...children) => {
  const element = name === "svg" || attributes.svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key === "class") element.setAttribute("class", value);
    else if (key !== "svg") element.setAttribute(key, value);
  element.append(...children);
  return element;
};
const ask = async (what, given = {}) => {
  const answer = await fetch(what + "?" + new URLSearchParams(given));
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
};
const clockOf = t => `${Math.floor(t / 60)}:${(t % 60).toFixed(2).padStart(5, "0")}`;
const percent = share => `${(100 * share).toFixed(1)} %`;
const pictureOf = (item, track, more = {}) => "picture?" + new URLSearchParams({ item, track, ...more });

let about = null;
const query = { state: "all", label: "", taken: "", by: "", text: "", recipe: "", order: "name" };

/* The grid: cells are placed by hand in a space as high as all rows would be. Browsers end at some
   17 million px, so the space is cut at 8 million and scrolling is stretched beyond. */
const PAGE = 60, MOST_HEIGHT = 8e6, SETTLED_MS = 90;
const grid = $("grid"), space = $("space");
let total = 0, selected = 0, pages = new Map(), shape = { columns: 1, width: 300, height: 200 };
let cells = new Map(), settled = 0, generation = 0;

function measure() {
  const width = grid.clientWidth;
  shape.columns = Math.max(1, Math.floor((width - 16) / (width < 640 ? 175 : 292)));
  shape.width = (width - 16) / shape.columns;
  shape.height = Math.round((shape.width - 20) * 108 / 288 + 67);
  const rows = Math.ceil(total / shape.columns);
  shape.full = rows * shape.height + 16;
  shape.real = Math.min(shape.full, MOST_HEIGHT);
  space.style.height = shape.real + "px";
}
const stretch = () => {
  const room = shape.real - grid.clientHeight;
  return room > 0 ? (shape.full - grid.clientHeight) / room : 1;
};
const topOf = () => grid.scrollTop * (shape.full > shape.real ? stretch() : 1);

function draw() {
  const top = topOf(), first = Math.max(0, Math.floor(top / shape.height) - 1);
  const last = Math.ceil((top + grid.clientHeight) / shape.height) + 1;
  const shift = grid.scrollTop - top;
  const from = first * shape.columns, to = Math.min(total, last * shape.columns);
  for (const [place, cell] of cells)
    if (place < from || place >= to) { cell.querySelector("img")?.removeAttribute("src"); cell.remove(); cells.delete(place); }
  for (let place = from; place < to; place++) {
    let cell = cells.get(place);
    if (!cell) {
      cell = make("div", { class: "cell", role: "option", id: "cell-" + place, "aria-posinset": place + 1,
        "aria-setsize": total });
      cell.dataset.place = place;
      cells.set(place, cell);
      space.append(cell);
    }
    cell.style.width = shape.width + "px";
    cell.style.height = shape.height + "px";
    cell.style.left = 8 + (place % shape.columns) * shape.width + "px";
    cell.style.top = 8 + shift + Math.floor(place / shape.columns) * shape.height + "px";
    cell.setAttribute("aria-selected", place === selected);
    if (!cell.firstChild) fill(cell, place);
  }
  grid.setAttribute("aria-activedescendant", cells.has(selected) ? "cell-" + selected : "");
  clearTimeout(settled);
  settled = setTimeout(load, SETTLED_MS);
}

function fill(cell, place) {
  const row = rowAt(place);
  if (!row) return;
  const picture = make("div", { class: "picture" });
  if (row.failure) picture.append(make("div", { class: "none" }, row.failure));
  else if (!about.has_pictures) picture.append(make("div", { class: "none" }, "no cache and no videos given"));
  else picture.append(make("img", { alt: "", draggable: "false" }));
  const said = make("p", { class: "said" });
  const truth = row.labels.join(", ");
  if (row.said !== undefined && row.right === false)
    said.append(make("span", {}, truth ? truth + " → " : "", make("span", { class: "mark" }, row.said)));
  else said.append(make("span", {}, truth || row.said || row.recipe || ""));
  if (row.suspicions) said.append(make("span", { class: "mark", title: row.suspicions.join("\n") }, "look"));
  if (row.score !== undefined) said.append(make("i", { class: row.right ? "good" : row.right === false ? "mark" : "" },
    (row.right ? "✓ " : row.right === false ? "✗ " : "") + row.score.toFixed(2)));
  const name = make("p", { title: row.name }, row.name);
  cell.append(make("div", {}, picture, make("div", { class: "words" }, name, said)));
  cell.dataset.item = row.item;
  cell.setAttribute("aria-label", [row.name, truth, row.right === false ? "taken for " + row.said : "", row.failure || ""]
    .filter(Boolean).join(", "));
}

const rowAt = place => {
  const page = pages.get(Math.floor(place / PAGE));
  return page && page.rows ? page.rows[place % PAGE] : null;
};

async function page(number) {
  if (pages.has(number)) return pages.get(number).waiting;
  const mine = generation, slot = {};
  pages.set(number, slot);
  slot.waiting = ask("rows", { ...query, start: number * PAGE, count: PAGE }).then(answer => {
    if (mine !== generation) return;
    slot.rows = answer.rows;
    if (answer.total !== total) { total = answer.total; measure(); }
  }).catch(error => { if (mine === generation) { pages.delete(number); say(error.message); } });
  return slot.waiting;
}

async function load() {
  const places = [...cells.keys()];
  if (!places.length) return;
  const mine = generation;
  const wanted = [...new Set(places.map(place => Math.floor(place / PAGE)))];
  await Promise.all(wanted.map(page));
  if (mine !== generation) return;
  for (const [place, cell] of cells) {
    if (!cell.firstChild) fill(cell, place);
    const image = cell.querySelector("img");
    if (image && !image.getAttribute("src") && cell.dataset.item !== undefined) {
      image.onload = () => image.classList.add("there");
      image.onerror = () => { if (image.getAttribute("src")) image.replaceWith(make("div", { class: "none" }, "no picture")); };
      image.src = pictureOf(cell.dataset.item, "thumbnail");
    }
  }
  document.body.dataset.ready = "yes";
}

function say(text) {
  $("count").textContent = text;
  if (query.state === "all" && !query.label && !query.taken && !query.text && !query.recipe) return;
  const button = make("button", { type: "button" }, "clear");
  button.onclick = () => {
    Object.assign(query, { state: "all", label: "", taken: "", text: "", recipe: "" });
    for (const name of ["label", "text", "recipe"]) $(name).value = "";
    change();
  };
  $("count").append(button);
}

async function refresh(keep = false) {
  generation++;
  pages = new Map();
  for (const cell of cells.values()) cell.remove();
  cells = new Map();
  const mine = generation;
  let answer;
  try { answer = await ask("rows", { ...query, start: 0, count: PAGE }); }
  catch (error) { return say(error.message); }
  if (mine !== generation) return;
  total = answer.total;
  pages.set(0, { rows: answer.rows, waiting: Promise.resolve() });
  if (!keep) { selected = 0; grid.scrollTop = 0; }
  space.querySelector(".empty")?.remove();
  measure();
  if (!total) space.append(make("p", { class: "empty" }, query.state === "suspicious" && about.checked < 1
    ? "Nothing suspicious so far; the entries are being looked at." : "No video is left by these filters."));
  const scanning = query.state === "suspicious" && about.checked < 1 ? `, ${percent(about.checked)} looked at` : "";
  say((total === about.total ? `${total.toLocaleString("en")} ${about.total === 1 ? "row" : "rows"}`
    : `${total.toLocaleString("en")} of ${about.total.toLocaleString("en")}`) + scanning
    + (query.taken ? ` · ${query.label} taken for ${query.taken}` : ""));
  draw();
}

function select(place, open = false) {
  if (!total) return;
  selected = Math.min(total - 1, Math.max(0, place));
  const top = Math.floor(selected / shape.columns) * shape.height, view = topOf();
  const factor = shape.full > shape.real ? stretch() : 1;
  if (top < view) grid.scrollTop = top / factor;
  else if (top + shape.height + 16 > view + grid.clientHeight) grid.scrollTop = (top + shape.height + 16 - grid.clientHeight) / factor;
  draw();
  if (open) openSelected();
}

async function openSelected() {
  await page(Math.floor(selected / PAGE));
  const row = rowAt(selected);
  if (row) location.hash = "video=" + row.item;
}

grid.addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
grid.addEventListener("click", event => {
  const cell = event.target.closest(".cell");
  if (cell) select(+cell.dataset.place, true);
});
grid.addEventListener("keydown", event => {
  const screen = Math.max(1, Math.floor(grid.clientHeight / shape.height)) * shape.columns;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: shape.columns, ArrowUp: -shape.columns,
    PageDown: screen, PageUp: -screen, Home: -total, End: total };
  if (event.key in moves && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); select(selected + moves[event.key]); }
  else if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(selected, true); }
});
new ResizeObserver(() => { const place = selected; measure(); draw(); if (place) select(place); }).observe(grid);

/* Filters */
const STATES = { all: "All", wrong: "Wrong", unsure: "Unsure", suspicious: "Suspicious", failed: "Failed" };

function showStates() {
  $("states").replaceChildren(...Object.entries(about.states).map(([state, count]) => {
    const unknown = state === "suspicious" && about.checked === 0;
    const button = make("button", { type: "button", "aria-pressed": query.state === state },
      STATES[state], make("b", {}, unknown ? "?" : count.toLocaleString("en")));
    button.title = { wrong: "the likeliest class is not the true one; of localisations: a true stretch not found at tIoU .5",
      unsure: "the runner-up is within .2; of findings: the best scores below .5",
      suspicious: "what a person should look at: clipped, still, hardly moving, gaps in time, damaged" }[state] || "";
    button.onclick = () => { query.state = state; if (state === "suspicious") watch(); change(); };
    return button;
  }));
}

const options = (select, rows, value) => {
  select.replaceChildren(...rows.map(([key, text]) => new Option(text, key, false, key === value)));
  select.closest("label").hidden = rows.length < 2;
};

async function learn(given = {}) {
  about = await ask("about", { by: query.by, ...given });
  document.title = `${about.title} · flowpipe view`;
  $("kind").textContent = `${about.kind} · flowpipe view`;
  $("title").textContent = about.title;
  $("title").title = about.title;
  showStates();
  options($("label"), Object.keys(about.classes).length > 1
    ? [["", "all"], ...Object.entries(about.classes).map(([name, count]) => [name, `${name} (${count.toLocaleString("en")})`])] : [], query.label);
  options($("recipe"), [["", "all"], ...Object.entries(about.recipes)].slice(Object.keys(about.recipes).length > 1 ? 0 : -1), query.recipe);
  options($("by"), about.answered_by.map(name => [name, name]), query.by || about.answered_by[0]);
  $("order").closest("label").hidden = !about.answered_by.length;
  $("notes").replaceChildren(...about.notes.map(note => make("li", {}, note)));
  $("show-confusion").hidden = !about.confusion;
  $("show-facts").hidden = !about.facts.length;
  facts($("all-facts"), about.facts);
}

const facts = (body, pairs) => body.replaceChildren(...pairs.map(([name, value]) =>
  make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value))));

async function watch() {
  await learn({ scan: 1 });
  if (query.state === "suspicious") await refresh(true);
  if (about.checked < 1) setTimeout(watch, 700);
}

function change() { showStates(); refresh(); }

for (const name of ["label", "recipe", "order"])
  $(name).onchange = event => { query[name] = event.target.value; query.taken = ""; change(); };
$("by").onchange = async event => { query.by = event.target.value; await learn(); change(); };
let typing = 0;
$("text").oninput = event => { clearTimeout(typing); typing = setTimeout(() => { query.text = event.target.value; change(); }, 150); };
$("filters").onsubmit = event => { event.preventDefault(); grid.focus(); };

/* Dialogs */
for (const button of document.querySelectorAll("dialog .close"))
  button.onclick = () => button.closest("dialog").close();
for (const dialog of document.querySelectorAll("dialog"))
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
$("show-facts").onclick = () => $("facts").showModal();
$("show-keys").onclick = () => $("keys").showModal();
$("show-confusion").onclick = () => { showConfusion(); $("confusion").showModal(); };

function openCell(truth, taken) {
  Object.assign(query, { label: truth, taken, state: "all" });
  $("label").value = truth;
  $("confusion").close();
  change();
  grid.focus();
}

function showConfusion() {
  const { classes, cells: counts, worst } = about.confusion;
  if (worst) {
    $("matrix").replaceChildren(make("table", { class: "pairs" }, make("tbody", {}, ...worst.map(([row, column, count]) => {
      const button = make("button", { type: "button" }, `${classes[row]} → ${classes[column]}`);
      button.onclick = () => openCell(classes[row], classes[column]);
      return make("tr", {}, make("th", { scope: "row" }, String(count)), make("td", {}, button));
    }))));
    return;
  }
  const sums = classes.map((_, row) => counts.filter(cell => cell[0] === row).reduce((sum, cell) => sum + cell[2], 0));
  const found = new Map(counts.map(([row, column, count]) => [row + " " + column, count]));
  const head = make("tr", {}, make("td", {}), ...classes.map(name => make("th", { scope: "col" }, make("span", {}, name))));
  const body = classes.map((truth, row) => make("tr", {}, make("th", { scope: "row" }, truth), ...classes.map((taken, column) => {
    const count = found.get(row + " " + column);
    if (!count) return make("td", {}, make("i"));
    const share = count / sums[row], color = row === column ? "var(--accent)" : "var(--wrong)";
    const button = make("button", { type: "button", class: share > .45 ? "dark" : "",
      "aria-label": `${truth} taken for ${taken}: ${count}`, title: `${truth} taken for ${taken}: ${count}` }, String(count));
    button.style.background = `color-mix(in srgb, ${color} ${Math.round(15 + 85 * share)}%, var(--paper))`;
    button.onclick = () => openCell(truth, taken);
    return make("td", {}, button);
  })));
  $("matrix").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

/* One video */
const SCALES = [.5, 1, 2, 5, 10, 20, 40];
let clip = null, at = 0, playing = 0, slider = null, drawn = 0;

addEventListener("hashchange", route);
function route() {
  const number = /^#video=(\d+)$/.exec(location.hash);
  if (number) show(+number[1]);
  else if ($("clip").open) $("clip").close();
}
$("clip").addEventListener("close", () => {
  stop();
  clip = null;
  if (location.hash) history.pushState(null, "", location.pathname);
  if (document.activeElement === document.body) grid.focus();
});

async function show(item) {
  stop();
  let found;
  try { found = await ask("video", { item, by: query.by }); } catch (error) { return say(error.message); }
  clip = found;
  at = 0;
  $("clip-name").textContent = clip.name;
  const said = $("clip-said");
  said.replaceChildren();
  if (clip.labels.length) said.append(clip.labels.join(", "));
  if (clip.said !== undefined) {
    const verb = about.kind === "run" ? "answered " : "surest ";
    said.append((clip.labels.length ? " · " : "") + verb,
      make("b", { class: clip.right === false ? "mark" : clip.right ? "good" : "" }, clip.said), ` ${clip.score.toFixed(2)}`,
      clip.right === false && about.kind !== "run" ? " · a true stretch is missed" : "");
  }
  $("clip-notes").replaceChildren(...[clip.failure, clip.problem, ...(clip.suspicions || [])].filter(Boolean).map(text => make("li", {}, text)));
  const frames = clip.times_s.length > 0, hasFrame = clip.tracks.includes("frame"), hasFlow = clip.tracks.includes("flow");
  $("frame-figure").hidden = !(frames && hasFrame);
  $("flow-figure").hidden = !(frames && hasFlow);
  $("player").hidden = !frames;
  for (const name of ["frame", "flow"]) $(name).removeAttribute("src");
  if (hasFlow) {
    const own = clip.scale_px, rows = [...new Set([own, ...SCALES])].sort((a, b) => a - b);
    $("scale").replaceChildren(...rows.map(px => new Option(`${px} px${px === own ? " *" : ""}`, px, false, px === own)));
  }
  showAxis();
  showStreams();
  facts($("clip-facts"), clip.facts || []);
  $("made").hidden = !(clip.facts || []).length;
  if (!$("clip").open) $("clip").showModal();
  $("clip").scrollTop = 0;
  ($("player").hidden ? $("next") : $("play")).focus();
  if (frames) step(0);
  if (hasFlow) motion(item);
}

const lengthOf = () => Math.max(clip.length_s || 0, 1e-3);

function lane(name, ...children) {
  const box = make("div", { class: "lane" }, ...children, make("u"));
  box.addEventListener("click", event => {
    const place = box.getBoundingClientRect();
    seek(lengthOf() * (event.clientX - place.left) / place.width);
  });
  $("axis").append(make("span", { title: name }, name), box);
  return box;
}

function ticks() {
  const length = lengthOf(), steps = [.05, .1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
  const step = steps.find(step => length / step <= (innerWidth < 640 ? 5 : 8)) || 7200, row = make("div", { class: "ticks" });
  for (let t = 0; t <= length * 1.0001; t += step) {
    if (t > 0 && (length - t) / length < (innerWidth < 640 ? .2 : .08)) break;
    const tick = make("span", {}, step < 1 ? t.toFixed(step < .1 ? 2 : 1) : step < 60 && length < 100 ? String(Math.round(t)) : clockOf(t).slice(0, -3));
    tick.style.left = 100 * t / length + "%";
    row.append(tick);
  }
  const end = make("span", {}, `${length.toFixed(length < 10 ? 2 : 1)} s`);
  end.style.left = "100%";
  row.append(end);
  return row;
}

function showAxis() {
  $("axis").replaceChildren();
  slider = null;
  if (clip.times_s.length) {
    slider = make("input", { type: "range", min: 0, max: clip.times_s.length - 1, value: 0, "aria-label": "Frame" });
    slider.oninput = () => { stop(); go(+slider.value); };
    $("axis").append(make("span", {}, "time"), slider);
  }
  const colors = new Map();
  const colorOf = label => { if (!colors.has(label)) colors.set(label, colors.size % 5); return colors.get(label); };
  const curves = clip.curves || [];
  if (curves.length) {
    const highest = Math.max(1, ...curves.flatMap(curve => curve.points.map(point => point[1])));
    const box = lane("score", svgOf(curves.map(curve => [colorOf(curve.label), curve.points]), highest));
    box.classList.add("tall");
    $("axis").append(make("div", { class: "legend" }, ...curves.map(curve =>
      make("span", {}, make("b", { class: "k" + colorOf(curve.label) }), curve.label))));
  }
  const found = clip.found || [], known = clip.true || [];
  for (const label of [...new Set([...known, ...found].map(row => row.label))].slice(0, 12)) {
    const bars = [];
    for (const [kind, rows] of [["true", known], ["found", found]])
      for (const row of rows.filter(row => row.label === label)) {
        const bar = make("i", { class: kind === "found" ? "found k" + colorOf(label) : "true",
          title: `${kind === "true" ? "truth" : "found"}: ${label} ${row.start_s.toFixed(2)} to ${row.end_s.toFixed(2)} s${kind === "found" ? ", score " + row.score : ""}` });
        bar.style.left = 100 * row.start_s / lengthOf() + "%";
        bar.style.width = Math.max(.3, 100 * (row.end_s - row.start_s) / lengthOf()) + "%";
        if (kind === "found") bar.style.opacity = Math.max(.15, Math.min(1, row.score));
        bars.push(bar);
      }
    lane(label, ...bars);
  }
  if (clip.features) {
    const strip = make("img", { alt: "features over time: channels down", src: pictureOf(clip.item, "features") });
    const box = lane(`features ${clip.features.join("×")}`, strip);
    box.classList.add("tall");
    const [first, last] = [clip.spans_s[0], clip.spans_s.at(-1)];
    if (first) {
      strip.style.left = 100 * first[0] / lengthOf() + "%";
      strip.style.width = 100 * (last[1] - first[0]) / lengthOf() + "%";
    }
  }
  if (clip.tracks.includes("flow")) lane("motion").id = "motion";
  if (clip.length_s) $("axis").append(make("span"), ticks());
  mark();
}

function svgOf(curves, highest) {
  const picture = make("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const [color, points] of curves)
    picture.append(make("polyline", { svg: 1, class: "k" + color, points:
      points.map(([t, value]) => `${(1000 * t / lengthOf()).toFixed(1)},${(96 - 90 * value / highest).toFixed(1)}`).join(" ") }));
  return picture;
}

async function motion(item) {
  const points = await ask("motion", { item }).catch(() => []);
  if (!clip || clip.item !== item || !points.length || !$("motion")) return;
  const highest = Math.max(...points.map(point => point[1]), .01);
  $("motion").classList.add("tall");
  $("motion").prepend(svgOf([[0, points]], highest));
  $("motion").title = `mean magnitude of the flow, up to ${highest} px`;
  $("motion").previousElementSibling.textContent = `motion ≤ ${highest.toFixed(2)} px`;
}

function showStreams() {
  $("streams").replaceChildren(...(clip.streams || []).map(stream => make("section", {}, make("h3", {}, stream.name),
    ...stream.best.map(([label, share]) => {
      const bar = make("i");
      bar.style.width = Math.max(.5, 100 * share) + "%";
      return make("div", { class: "share" + (clip.labels.includes(label) ? " truth" : "") },
        make("span", {}, label), bar, make("b", {}, share.toFixed(3)));
    }))));
}

const sources = number => ({
  frame: pictureOf(clip.item, "frame", { at: number }),
  flow: pictureOf(clip.item, "flow", { at: number, scale: $("scale").value }),
});

// A picture is put in place when it has come, so that nothing flickers; one that comes late is left out.
function step(number) {
  at = Math.min(clip.times_s.length - 1, Math.max(0, number));
  mark();
  const mine = ++drawn, urls = sources(at), tracks = clip.tracks;
  const waits = tracks.map(track => new Promise(done => {
    const image = new Image();
    image.onload = () => { if (mine === drawn && clip) place(track, image); done(); };
    image.onerror = done;
    image.src = urls[track];
  }));
  for (const ahead of [1, 2, 3])
    if (at + ahead < clip.times_s.length)
      for (const track of tracks) new Image().src = sources(at + ahead)[track];
  return Promise.all(waits);
}
function place(track, image) {
  const box = $(track).parentNode, share = image.naturalWidth / image.naturalHeight;
  box.style.aspectRatio = share;
  box.style.width = `min(${innerWidth < 640 ? 46 : 34 / Math.max(1, clip.tracks.length - 1)}vw, calc(50dvh * ${share}), 66rem)`;
  $(track).src = image.src;
}
addEventListener("resize", () => {
  if (!clip || !clip.times_s.length) return;
  for (const track of clip.tracks) if ($(track).naturalWidth) place(track, $(track));
  $("axis").querySelector(".ticks")?.replaceWith(ticks());
});
const go = number => { if (clip && clip.times_s.length) return step(number); };
const seek = time => {
  if (!clip.times_s.length) return;
  stop();
  let best = 0;
  clip.times_s.forEach((t, number) => { if (Math.abs(t - time) < Math.abs(clip.times_s[best] - time)) best = number; });
  go(best);
};

function mark() {
  const time = clip.times_s[at] || 0;
  for (const line of $("axis").querySelectorAll("u")) line.style.left = 100 * time / lengthOf() + "%";
  if (slider) { slider.value = at; slider.setAttribute("aria-valuetext", `frame ${at}, ${clockOf(time)}`); }
  $("clock").textContent = `${clockOf(time)} · frame ${at} of ${clip.times_s.length}`;
  showBoxes(time);
}

function showBoxes(time) {
  const svg = $("boxes");
  svg.replaceChildren();
  const here = (clip.boxes || []).filter(box => "frame" in box ? box.frame === at + 1 : Math.abs(box.time_s - time) <= box.half_s);
  if (!here.length) return;
  const relative = clip.boxes.every(box => box.box.every(value => value <= 1.01));
  const [height, width] = relative || !clip.size ? [1, 1] : clip.size;
  const labels = [...new Set(clip.boxes.map(box => box.label))];
  for (const { box: [x1, y1, x2, y2], label, score } of here) {
    const color = `var(--c${labels.indexOf(label) % 5})`;
    const rect = make("rect", { svg: 1, x: `${100 * x1 / width}%`, y: `${100 * y1 / height}%`,
      width: `${100 * (x2 - x1) / width}%`, height: `${100 * (y2 - y1) / height}%` });
    rect.style.stroke = color;
    const text = make("text", { svg: 1, x: `${100 * x1 / width + .6}%`, y: `${Math.max(5, 100 * y1 / height - 1)}%` },
      `${label}${score < 1 ? " " + score.toFixed(2) : ""}`);
    svg.append(rect, text);
  }
}

async function play() {
  if (!clip || !clip.times_s.length) return;
  const mine = ++playing;
  $("play").textContent = "❚❚";
  $("play").setAttribute("aria-label", "Stop");
  if (at >= clip.times_s.length - 1) await step(0);
  while (mine === playing && clip && at < clip.times_s.length - 1) {
    const wait = 1000 * Math.min(.5, Math.max(.02, clip.times_s[at + 1] - clip.times_s[at]));
    const [begun] = [performance.now()];
    await step(at + 1);
    await new Promise(done => setTimeout(done, Math.max(0, wait - (performance.now() - begun))));
  }
  if (mine === playing) stop();
}
function stop() {
  playing++;
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "Play");
}
const toggle = () => $("play").textContent === "▶" ? play() : stop();
const neighbour = async by => {
  const place = selected + by;
  if (place < 0 || place >= total) return;
  select(place);
  await openSelected();
};

$("play").onclick = toggle;
$("back").onclick = () => { stop(); go(at - 1); };
$("on").onclick = () => { stop(); go(at + 1); };
$("previous").onclick = () => neighbour(-1);
$("next").onclick = () => neighbour(1);
$("scale").onchange = () => go(at);
$("clip").addEventListener("keydown", event => {
  if (event.target.matches("select") || event.ctrlKey || event.metaKey || event.altKey || !clip) return;
  const far = event.shiftKey ? 10 : 1, end = clip.times_s.length;
  const moves = { ArrowLeft: -far, ArrowRight: far, Home: -end, End: end };
  if (event.key in moves) { event.preventDefault(); stop(); go(at + moves[event.key]); }
  else if (event.key === " " && !event.target.matches("summary, button:not(#play)")) { event.preventDefault(); toggle(); }
  else if (event.key === "n") neighbour(1);
  else if (event.key === "p") neighbour(-1);
});
addEventListener("keydown", event => {
  if (event.key === "/" && !document.querySelector("dialog[open]") && !event.target.matches("input, select")) {
    event.preventDefault();
    $("text").focus();
  }
});

(async () => {
  const given = new URLSearchParams(location.search);
  for (const key of Object.keys(query)) if (given.has(key)) query[key] = given.get(key);
  $("text").value = query.text;
  $("order").value = query.order;
  try {
    await learn(query.state === "suspicious" ? { scan: 1 } : {});
    await refresh();
    if (about.total <= 5000 && "suspicious" in about.states) watch();
    route();
    if (!$("clip").open) grid.focus();
  } catch (error) { say(error.message); }
})();
