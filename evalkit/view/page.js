// The page: its state, which the address holds, filters and keys.

const $ = (id) => document.getElementById(id);
const EMPTY = { task: "", subject: "", verdict: "", change: "", failed: "", q: "", page: "1", sample: "" };
const about = JSON.parse($("about").textContent);
const { runs } = about;
const many = runs.length > 1;
const narrow = matchMedia("(max-width: 899px)");
let state = { ...EMPTY };
let data = { prefixes: [], samples: [] };
let byKey = new Map();
let found = { matching: [], counts: null };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(Object.entries(EMPTY).map(([name, value]) => [name, given.get(name) ?? value]));
}

function address(changes, from = state) {
  const all = Object.entries({ ...from, ...changes }).filter(([name, value]) => value !== EMPTY[name]);
  return "#" + new URLSearchParams(all).toString();
}

function go(changes, { push = false } = {}) {
  const refilter = Object.keys(changes).some((name) => !["page", "sample"].includes(name));
  state = { ...state, ...changes, ...(refilter ? { page: "1", sample: changes.sample ?? "" } : {}) };
  history[push ? "pushState" : "replaceState"](null, "", address({}));
  render(refilter);
}

function render(refilter) {
  if (refilter) {
    found = filter(data.samples, state);
    showFilters();
  }
  const selected = byKey.get(state.sample);
  if (selected && refilter !== null && !onPage(selected)) state.page = pageOf(selected) ?? state.page;
  showList();
  showDetail(selected);
}

const pages = () => Math.max(1, Math.ceil(found.matching.length / PAGE));
const pageNumber = () => Math.min(pages(), Math.max(1, Number.parseInt(state.page, 10) || 1));
const shown = () => found.matching.slice((pageNumber() - 1) * PAGE, pageNumber() * PAGE);
const onPage = (sample) => shown().includes(sample);

function pageOf(sample) {
  const at = found.matching.indexOf(sample);
  return at < 0 ? null : String(Math.floor(at / PAGE) + 1);
}

// --- filters

function fillSelect(select, all, counts, chosen) {
  const total = [...counts.values()].reduce((a, b) => a + b, 0);
  const option = (value, label, count) => el("option", { value, selected: value === chosen }, `${label} (${count.toLocaleString("en")})`);
  select.replaceChildren(option("", "All", total), ...all.map((value) => option(value, plain(value), counts.get(value) ?? 0)));
}

function choices(name, legend, words, counts) {
  const option = (value, label, count) => {
    const input = el("input", { type: "radio", name, value, checked: state[name] === value, onchange: () => go({ [name]: value }) });
    return el(
      "label",
      { class: `pill ${value}` },
      input,
      el("span", {}, label, count === null ? "" : el("b", {}, count.toLocaleString("en"))),
    );
  };
  const present = Object.keys(words).filter((value) => counts.has(value) || state[name] === value);
  return el(
    "fieldset",
    {},
    el("legend", {}, legend),
    option("", "All", null),
    present.map((value) => option(value, words[value], counts.get(value) ?? 0)),
  );
}

function showFilters() {
  const tasks = [...new Set(data.samples.map((sample) => sample.task))];
  const subjects = [...new Set(data.samples.filter((sample) => !state.task || sample.task === state.task).map((sample) => sample.group))];
  fillSelect($("task"), tasks, found.counts.task, state.task);
  fillSelect($("subject"), subjects, found.counts.subject, state.subject);
  const focused = document.activeElement?.name && [document.activeElement.name, document.activeElement.value];
  $("choices").replaceChildren(
    choices("verdict", many ? "Verdict in either run" : "Verdict", VERDICTS, found.counts.verdict),
    ...(many ? [choices("change", "From A to B", CHANGES, found.counts.change)] : []),
  );
  if (focused) document.querySelector(`input[name="${CSS.escape(focused[0])}"][value="${CSS.escape(focused[1])}"]`)?.focus();
  $("failed").checked = Boolean(state.failed);
  $("failed-count").textContent = found.counts.failed.toLocaleString("en");
  if ($("search").value !== state.q) $("search").value = state.q;
  $("reset").disabled = address({ page: "1", sample: "" }) === "#";
}

// --- detail

function showDetail(sample) {
  const detail = $("detail");
  $("panes").classList.toggle("reading", Boolean(sample));
  const tools =
    sample &&
    el(
      "nav",
      { class: "tools", "aria-label": "Samples before and after" },
      el("button", { type: "button", onclick: close }, "Back to the list"),
      el("button", { type: "button", onclick: () => step(-1) }, "\u2039 Previous"),
      el("button", { type: "button", onclick: () => step(1) }, "Next \u203a"),
    );
  detail.replaceChildren(
    ...(sample
      ? [tools, detailOf(sample, data, runs, state)]
      : [overview(found.matching, runs, (changes) => address({ ...changes, page: "1", sample: "" }))]),
  );
  detail.scrollTop = 0;
  if (sample && narrow.matches) window.scrollTo(0, $("panes").offsetTop);
}

function close() {
  const key = state.sample;
  go({ sample: "" });
  link(key)?.focus();
}

// --- keys

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const typing = event.target.matches("input[type=search], select, input[type=text]");
  if (event.key === "Escape") {
    if (event.target === $("search")) $("list").querySelector("a")?.focus();
    else if (narrow.matches && state.sample) close();
    else link(state.sample)?.focus();
    return;
  }
  if (typing) return;
  if ($("list").contains(event.target) && ["ArrowDown", "ArrowUp"].includes(event.key)) {
    event.preventDefault();
    step(event.key === "ArrowDown" ? 1 : -1);
    return;
  }
  if (!$("single-keys").checked) return;
  const actions = {
    j: () => step(1),
    k: () => step(-1),
    n: () => pageNumber() < pages() && turn(1),
    p: () => pageNumber() > 1 && turn(-1),
    o: () => go({ sample: "" }),
    "/": () => $("search").select(),
    "?": () => $("help").showModal(),
  };
  if (Object.hasOwn(actions, event.key)) {
    event.preventDefault();
    actions[event.key]();
  }
}

// --- start

function wire() {
  for (const name of ["task", "subject"])
    $(name).addEventListener("change", (event) => go({ [name]: event.target.value, ...(name === "task" ? { subject: "" } : {}) }));
  $("failed").addEventListener("change", (event) => go({ failed: event.target.checked ? "1" : "" }));
  let timer;
  $("search").addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => go({ q: event.target.value }), 150);
  });
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("reset").addEventListener("click", clear);
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("page-before").addEventListener("click", () => turn(-1));
  $("page-after").addEventListener("click", () => turn(1));
  $("skip").addEventListener("click", (event) => {
    event.preventDefault();
    $("list").querySelector("a")?.focus();
  });
  document.addEventListener("keydown", keys);
  window.addEventListener("hashchange", () => {
    state = readAddress();
    render(true);
  });
}

async function start() {
  const names = runs.map((run) => plain(run.model.spec ?? run.name));
  document.title = `${names.join(" against ")} \u00b7 evalkit view`;
  $("runs").append(
    ...(many ? [el("h1", { class: "visually-hidden" }, `${names[0]} and ${names[1]}, sample by sample`)] : []),
    ...runs.map((run, i) => runLine(run, i, many)),
  );
  $("figures-body").append(
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures" }, figureTable(runs)),
    inFull(runs, many),
  );
  if (innerHeight < 700 || innerWidth < 900) $("figures").open = false;
  try {
    data = await unpack($("samples").textContent);
  } catch (error) {
    const old = typeof DecompressionStream === "undefined";
    $("count").textContent = old
      ? "This browser can't unpack the samples; use one of 2023 or later."
      : `The samples can't be read: ${error.message}`;
    return;
  }
  byKey = new Map(data.samples.map((sample) => [sample.key, sample]));
  state = readAddress();
  wire();
  render(true);
  document.documentElement.dataset.ready = "1";
}

start();
