// One sample in full: verdict, what was extracted, the prompt, each run's response, the document.

const LONG = 1500; // characters of a prompt that are shown without folding

function detailOf(sample, data, runs, state) {
  const hits = pattern(state.q);
  const about = runs.map((run) => run.tasks[sample.task]).find(Boolean) ?? {};
  return el(
    "article",
    { "aria-labelledby": "title" },
    el("h2", { id: "title", tabindex: -1 }, el("bdi", {}, plain(sample.id))),
    el(
      "p",
      { class: "facts" },
      plain(sample.task),
      "@",
      plain(about.protocol ?? ""),
      sample.group !== "all" && [" \u00b7 ", el("bdi", {}, plain(sample.group))],
    ),
    outcomes(sample, runs, about.metric, hits),
    exchanges(sample, data, runs, hits),
    judgments(sample, runs, hits),
    documentOf(sample, hits),
  );
}

// Names with their values, in small print.
function settings(facts) {
  const listed = Object.entries(facts).filter(([, value]) => value !== null);
  if (!listed.length) return null;
  return el(
    "p",
    { class: "settings" },
    listed.map(([name, value]) => el("span", {}, `${plain(name)} `, el("code", {}, plain(JSON.stringify(value))))),
  );
}

function outcomes(sample, runs, headline, hits) {
  const many = runs.length > 1;
  const target = sample.target.length > 60 || sample.target.includes("\n");
  const cards = sample.runs.map((run, i) => {
    if (!run) return el("div", { class: "card" }, letter(i, many), " ", el("span", { class: "muted" }, "not in this run"));
    const metrics = Object.entries(run.metrics).filter(
      ([name]) => name !== headline || typeof run.metrics[name] !== "number" || run.verdict === "graded",
    );
    return el(
      "div",
      { class: `card ${run.verdict}` },
      el(
        "p",
        { class: "verdict" },
        letter(i, many),
        badge(run.verdict),
        run.failed && el("span", { class: "failed" }, "extraction failed"),
      ),
      el(
        "dl",
        { class: "pairs" },
        pair("Extracted", run.extracted, hits),
        !target && pair("Right answer", sample.target, hits),
        metrics.map(([name, value]) => pair(name, metricText(value), null)),
      ),
    );
  });
  return el(
    "div",
    {},
    el("div", { class: "columns" }, cards),
    target && el("section", {}, el("h3", {}, "Right answer"), block(sample.target, hits, { label: "Right answer" })),
  );
}

function metricText(value) {
  if (Array.isArray(value)) return "counts in the corpus figure only";
  return typeof value === "number" ? String(Math.round(1e4 * value) / 1e4) : String(value ?? "none");
}

function badge(verdict) {
  return el("span", { class: `badge ${verdict}` }, el("span", { "aria-hidden": "true" }, SIGNS[verdict]), " ", VERDICTS[verdict]);
}

function pair(name, value, hits) {
  const text = String(value ?? "");
  const shown =
    text.length > 200
      ? block(text, hits, { label: name })
      : text
        ? el("bdi", {}, ...textNodes(text, hits))
        : el("span", { class: "muted" }, "(nothing)");
  return el("div", {}, el("dt", {}, plain(name)), el("dd", {}, shown));
}

function exchanges(sample, data, runs, hits) {
  const same = sample.requests.length === 1 || !sample.runs.every(Boolean);
  const lists = sample.runs.map((run, i) => (run ? requestsOf(sample, i) : []));
  const answers = sample.runs.map((run) => run?.responses ?? []);
  const count = Math.max(...lists.map((list) => list.length), ...answers.map((list) => list.length));
  const parts = [];
  for (let k = 0; k < count; k++) {
    const number = count > 1 ? ` ${k + 1} of ${count}` : "";
    const asked = same ? [lists.map((list) => list[k]).find(Boolean)] : lists.map((list) => list[k]);
    parts.push(
      el(
        "section",
        {},
        el("h3", {}, `Prompt${number}`),
        !same && k === 0 && el("p", { class: "notice" }, "The two runs had different prompts."),
        el(
          "div",
          { class: "columns" },
          asked.map((request, i) =>
            el(
              "div",
              {},
              !same && letter(i, true),
              request ? prompt(request, data, hits) : el("p", { class: "muted" }, "no prompt recorded"),
            ),
          ),
        ),
        el("h3", {}, `Response${number}`),
        responses(
          sample,
          asked,
          answers.map((list) => list[k]),
          runs,
          hits,
        ),
      ),
    );
  }
  return parts.length ? parts : [el("p", { class: "muted" }, "No prompt: this answer was made elsewhere.")];
}

function prompt(request, data, hits) {
  const { prefix, context, messages, continuations, ...rest } = request;
  const [head, own, words] = split(context, prefix === undefined ? null : data.prefixes[prefix]);
  return el(
    "div",
    {},
    head &&
      folded(`${words}: ${head.length.toLocaleString("en")} characters`, () => block(head, hits, { label: "Beginning of the prompt" })),
    context === null
      ? el("p", { class: "muted" }, "The same prompt as before.")
      : (context || !messages) && block(own, hits, { label: "Prompt" }),
    (messages ?? []).map((message) => {
      const [role, content] = Array.isArray(message) ? message : [message.role, message.content];
      return el(
        "div",
        { class: "message" },
        el("p", { class: "role" }, plain(role)),
        block(content, hits, { label: `Message of ${plain(role)}` }),
      );
    }),
    settings(rest),
  );
}

// The beginning of a prompt that is folded away: what the subject's prompts share, or all but the last paragraph of a long one.
function split(context, shared) {
  if (shared !== null) return [shared, context, "Beginning shared with the subject's other prompts"];
  const at = context === null || context.length < LONG ? -1 : context.trimEnd().lastIndexOf("\n\n") + 2;
  return at < LONG / 2 ? [null, context, ""] : [context.slice(0, at), context.slice(at), "Earlier paragraphs"];
}

// The content is created when it is first opened.
function folded(summary, make) {
  const body = el("div", {});
  return el(
    "details",
    { ontoggle: (event) => event.target.open && !body.hasChildNodes() && body.append(make()) },
    el("summary", {}, summary),
    body,
  );
}

function documentOf(sample, hits) {
  const { doc } = sample;
  const fields = doc && typeof doc === "object" ? Object.entries(doc) : [["document", doc]];
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 1));
  return folded("The document as read", () =>
    el(
      "dl",
      { class: "fields" },
      fields.map(([name, value]) =>
        el("div", {}, el("dt", {}, plain(name)), el("dd", {}, block(text(value), hits, { label: plain(name) }))),
      ),
    ),
  );
}
