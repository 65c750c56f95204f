// The header: the model, and every figure with its protocol, interval, n and data. The overview: the matching samples by subject.

const LETTERS = ["A", "B"];

function letter(i, many) {
  return many ? el("span", { class: `letter run-${LETTERS[i]}` }, LETTERS[i]) : null;
}

function short(hash) {
  const digest = String(hash).replace(/^sha256:/u, "");
  return el("code", { title: plain(hash) }, plain(digest.slice(0, 12)));
}

// "2026-01-31 12:00 +00:00" of an ISO time.
function minute(time) {
  return plain(time ?? "").replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)[:.\d]*(.*)$/u, "$1 $2 $3");
}

function inFull(runs, many) {
  const lines = runs.flatMap((run, i) => {
    const hashes = Object.entries(run.tasks).map(([task, entry]) => [`data of ${task}`, entry.data?.sha256]);
    const facts = [["command", run.command], ["model", run.model.fingerprint], ["evalkit commit", run.git], ...hashes];
    return facts
      .filter(([, value]) => value)
      .map(([name, value]) => el("div", {}, el("dt", {}, letter(i, many), plain(name)), el("dd", {}, el("code", {}, plain(value)))));
  });
  return folded("Commands and whole hashes", () => el("dl", { class: "full" }, lines));
}

function runLine(run, i, many) {
  const model = run.model;
  const facts = [model.engine, model.dtype, model.device, minute(run.started)]
    .filter(Boolean)
    .map((fact) => plain(fact))
    .join(" \u00b7 ");
  return el(
    "div",
    { class: "run" },
    el(many ? "p" : "h1", { class: "name" }, letter(i, many), el("bdi", {}, plain(model.spec ?? "unnamed model"))),
    el(
      "p",
      { class: "facts" },
      el("bdi", {}, plain(run.name)),
      " \u00b7 model ",
      model.fingerprint ? short(model.fingerprint) : "without a recorded fingerprint",
      facts && ` \u00b7 ${facts}`,
    ),
    run.status === "incomplete" && el("p", { class: "notice" }, "This run is incomplete: only its finished tasks are here."),
    run.status.startsWith("shard") && el("p", { class: "notice" }, `This is ${run.status} of a run: only its documents are here.`),
    (run.notes ?? []).map((note) => el("p", { class: "notice" }, el("bdi", {}, plain(note)))),
  );
}

function figureTable(runs) {
  const many = runs.length > 1;
  const rows = runs.flatMap((run, i) => Object.entries(run.tasks).map(([task, entry]) => ({ run, i, task, entry })));
  const order = [...new Set(rows.map((row) => row.task))];
  rows.sort((a, b) => order.indexOf(a.task) - order.indexOf(b.task) || a.i - b.i);
  const noted = rows.some(({ entry }) => Object.keys(entry.counts ?? {}).length);
  const heads = [many && "Run", "Task", "Protocol", "Metric", "Value", "95% interval", "n", "Data", noted && "Remarks"].filter(Boolean);
  return el(
    "table",
    {},
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        heads.map((head) => el("th", { scope: "col", class: ["Value", "n"].includes(head) ? "number" : null }, head)),
      ),
    ),
    el(
      "tbody",
      {},
      rows.map(({ i, task, entry }) => figureRow(many ? i : null, task, entry)),
    ),
  );
}

function figureRow(i, task, entry) {
  const share = [entry.value, ...(entry.ci95 ?? [])].every((value) => typeof value === "number" && Math.abs(value) <= 1);
  const number = (value) => (typeof value !== "number" ? plain(value ?? "-") : share ? (100 * value).toFixed(1) + "%" : value.toFixed(3));
  const whole = entry.n_total === entry.n || entry.n_total == null;
  const words = {
    extraction_failed: "extractions failed; they count as wrong",
    empty: "documents have an empty answer",
    unanswered: "documents were refused by the server; they count as wrong",
    truncated: "prompts did not fit and were truncated",
    cut_by_protocol: "prompts cut to the length that the protocol allows",
    boundary_merged: "tokens merged across prompt and continuation",
    stopped_by_length: "stopped by length",
    unscored: "unscored",
  };
  const notes = Object.entries(entry.counts ?? {}).map(
    ([what, count]) => `${Number(count).toLocaleString("en")} ${words[what] ?? plain(what)}`,
  );
  const data = entry.data ?? {};
  return el(
    "tr",
    {},
    i !== null && el("td", {}, letter(i, true)),
    el("th", { scope: "row" }, plain(task)),
    el("td", {}, plain(entry.protocol)),
    el("td", {}, plain(entry.metric)),
    el("td", { class: "number strong" }, number(entry.value)),
    el("td", {}, entry.ci95 ? `${number(entry.ci95[0])} to ${number(entry.ci95[1])}` : "not recorded"),
    el("td", { class: "number" }, Number(entry.n).toLocaleString("en"), whole ? "" : ` of ${Number(entry.n_total).toLocaleString("en")}`),
    el("td", {}, plain(data.source ?? "-"), " ", data.sha256 ? short(data.sha256) : ""),
    el("td", { class: "notes" }, notes.join("; ")),
  );
}

// A bar of this share, with the figure as text beside it.
function share(part, side = "") {
  const fill = el("span", { class: "fill" });
  fill.style.width = `${100 * part}%`;
  return el("span", { class: `bar-box ${side}`, "aria-hidden": "true" }, fill);
}

// Counts, not scores: a score needs its interval, and these change with every filter.
function overview(samples, runs, link) {
  const many = runs.length > 1;
  const groups = new Map();
  for (const sample of samples) {
    const key = `${sample.task}\n${sample.group}`;
    const row = groups.get(key) ?? { task: sample.task, group: sample.group, n: 0, right: [0, 0], lost: 0, gained: 0 };
    groups.set(key, row);
    row.n += 1;
    sample.runs.forEach((run, i) => (row.right[i] += run?.verdict === "right" ? 1 : 0));
    row.lost += sample.changes.has("lost") ? 1 : 0;
    row.gained += sample.changes.has("gained") ? 1 : 0;
  }
  const rows = [...groups.values()].sort(
    (a, b) => (many ? b.lost + b.gained - a.lost - a.gained : 0) || a.right[0] / a.n - b.right[0] / b.n,
  );
  const heads = [
    "Subject",
    "Samples",
    ...runs.map((_, i) => (many ? `Right in ${LETTERS[i]}` : "Right")),
    ...(many ? ["Right \u2192 wrong", "Wrong \u2192 right"] : []),
  ];
  const tasks = new Set(rows.map((row) => row.task)).size > 1;
  return el(
    "div",
    {},
    el("h2", { id: "title", tabindex: -1 }, "Overview"),
    el(
      "p",
      { class: "muted" },
      "The matching samples by subject, ",
      many ? "most changed first" : "fewest right first",
      ". Choose one on the left to read it.",
    ),
    el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Samples by subject" },
      el(
        "table",
        { class: "overview" },
        el(
          "thead",
          {},
          el(
            "tr",
            {},
            heads.map((head, i) => el("th", { scope: "col", class: i ? "number" : null }, head)),
          ),
        ),
        el(
          "tbody",
          {},
          rows.map((row) =>
            el(
              "tr",
              {},
              el(
                "th",
                { scope: "row" },
                el(
                  "a",
                  { href: link({ task: row.task, subject: row.group }) },
                  tasks ? `${plain(row.task)} \u00b7 ` : "",
                  plain(row.group),
                ),
              ),
              el("td", { class: "number" }, row.n.toLocaleString("en")),
              runs.map((_, i) => el("td", { class: "number" }, share(row.right[i] / row.n), row.right[i].toLocaleString("en"))),
              many && [el("td", { class: "number" }, String(row.lost)), el("td", { class: "number" }, String(row.gained))],
            ),
          ),
        ),
      ),
    ),
  );
}
