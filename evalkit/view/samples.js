// The samples: unpacked, described in the words that the filters use, and filtered.

const VERDICTS = { right: "Right", wrong: "Wrong", graded: "Graded", unscored: "Unscored" };
const SIGNS = { right: "\u2713", wrong: "\u2717", graded: "\u223c", unscored: "?", none: "\u00b7" };
const CHANGES = {
  disagree: "Any difference",
  lost: "Right \u2192 wrong",
  gained: "Wrong \u2192 right",
  answer: "Other answer",
  right: "Both right",
  wrong: "Both wrong",
  alone: "Only in one run",
};
const PAGE = 100; // samples a page of the list

async function unpack(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const { prefixes, samples } = await new Response(stream).json();
  samples.forEach((sample, index) => Object.assign(sample, describe(sample), { index, key: `${sample.task}:${sample.id}` }));
  return { prefixes, samples };
}

function describe(sample) {
  const present = sample.runs.filter(Boolean);
  return {
    verdicts: new Set(present.map((run) => run.verdict)),
    failed: present.some((run) => run.failed),
    changes: sample.runs.length === 2 ? changesOf(sample.runs) : new Set(),
  };
}

// Of two runs. A graded score that fell counts as lost, one that rose as gained.
function changesOf([a, b]) {
  if (!a || !b) return new Set(["alone", "disagree"]);
  const found = new Set();
  if (a.score !== null && b.score !== null && a.score > b.score) found.add("lost");
  if (a.score !== null && b.score !== null && a.score < b.score) found.add("gained");
  if (a.extracted !== b.extracted) found.add("answer");
  if (found.size || a.verdict !== b.verdict || a.failed !== b.failed) found.add("disagree");
  if (a.verdict === b.verdict && (a.verdict === "right" || a.verdict === "wrong")) found.add(a.verdict);
  return found;
}

// The requests that run number `i` was sent.
function requestsOf(sample, i) {
  return sample.requests[Math.min(i, sample.requests.length - 1)] ?? [];
}

function* searched(sample) {
  yield sample.id;
  yield sample.target;
  for (const requests of sample.requests) {
    for (const request of requests ?? []) {
      if (request.context) yield request.context;
      for (const message of request.messages ?? []) yield String(message[1] ?? message.content ?? "");
    }
  }
  for (const run of sample.runs) {
    if (!run) continue;
    yield run.extracted;
    for (const response of run.responses) if (response.text) yield String(response.text);
  }
}

function contains(sample, hits) {
  for (const text of searched(sample)) {
    hits.lastIndex = 0;
    if (hits.test(text)) return true;
  }
  return false;
}

// What matches, and for each filter how many samples each of its choices would leave, the other filters staying as they are.
function filter(samples, state) {
  const hits = pattern(state.q);
  const matching = [];
  const counts = { task: new Map(), subject: new Map(), verdict: new Map(), change: new Map(), failed: 0 };
  const add = (map, key) => map.set(key, (map.get(key) ?? 0) + 1);
  for (const sample of samples) {
    const misses = [];
    if (state.task && sample.task !== state.task) misses.push("task");
    if (state.subject && sample.group !== state.subject) misses.push("subject");
    if (state.verdict && !sample.verdicts.has(state.verdict)) misses.push("verdict");
    if (state.change && !sample.changes.has(state.change)) misses.push("change");
    if (state.failed && !sample.failed) misses.push("failed");
    if (misses.length > 1 || (hits && !contains(sample, hits))) continue;
    const counted = (name) => !misses.length || misses[0] === name;
    if (!misses.length) matching.push(sample);
    if (counted("task")) add(counts.task, sample.task);
    if (counted("subject")) add(counts.subject, sample.group);
    if (counted("verdict")) for (const verdict of sample.verdicts) add(counts.verdict, verdict);
    if (counted("change")) for (const change of sample.changes) add(counts.change, change);
    if (counted("failed") && sample.failed) counts.failed += 1;
  }
  return { matching, counts };
}
