// Scores and hypervolume against cost, and the importance of groups.
const drawProgress = () => {
  if (!byId("progress-plot")) return;
  const unit = byId("cost-axis").value;
  const hours = unit === "seconds";
  const at = (value) => (value === null ? null : hours ? value / 3600 : value);
  const cost = data.progress[unit].map(at);
  const title = hours ? "hours" : "search-split evaluations";
  const rows = data.progress.label.map((label, n) => [label, n]).filter(([label]) => label && own.includes(points.get(label).kind));
  const traces = [
    {
      type: "scatter", mode: "markers", name: "candidates",
      x: rows.map(([, n]) => cost[n]), y: rows.map(([, n]) => data.progress.score[n]),
      customdata: rows.map(([label]) => label),
      hovertext: rows.map(([label]) => described(points.get(label), "search")), hoverinfo: "text",
      marker: { size: 6, color: color("others"), opacity: 0.7 },
    },
    {
      type: "scatter", mode: "lines", name: "best merge so far", x: cost, y: data.progress.best,
      line: { color: color("accent"), width: 2.5, shape: "hv" }, hoverinfo: "skip",
    },
  ];
  const span = [0, Math.max(...cost)];
  const families = new Map();
  for (const point of data.points.filter((p) => !own.includes(p.kind) && p.splits.search)) {
    const family = point.label.split(":")[0];
    const best = families.get(family);
    if (!best || best.splits.search.score.mean < point.splits.search.score.mean) families.set(family, point);
  }
  const dashes = ["dot", "dash", "dashdot", "longdash"];
  [...families.values()].forEach((point, n) => {
    traces.push({
      type: "scatter", mode: "lines", name: shown(point.label, 24), x: span,
      y: [point.splits.search.score.mean, point.splits.search.score.mean],
      customdata: [point.label, point.label], hovertext: described(point, "search"), hoverinfo: "text",
      line: { color: inkOf(point.kind), width: 1.5, dash: dashes[n % dashes.length] },
    });
  });
  const n = data.progress.label.indexOf(chosen);
  if (n >= 0) {
    const ink = color("chosen");
    traces.push({
      type: "scatter", mode: "markers", name: `chosen: ${shown(chosen, 24)}`, x: [cost[n]], y: [data.progress.score[n]],
      error_y: whiskers([points.get(chosen).splits.search.score], ink), hoverinfo: "skip",
      marker: { symbol: "circle-open", size: 14, color: ink, line: { width: 2.5, color: ink } },
    });
  }
  draw("progress-plot", traces, layout({ xaxis: axis(title, { rangemode: "tozero" }), yaxis: axis("score on the search split") }));
  if (data.progress.hypervolume) {
    draw("volume-plot", [
      { type: "scatter", mode: "lines", name: "hypervolume", x: cost, y: data.progress.hypervolume, line: { color: color("accent"), width: 2.5, shape: "hv" } },
    ], layout({
      xaxis: axis(title, { rangemode: "tozero" }), yaxis: axis("hypervolume so far", { rangemode: "tozero" }),
      showlegend: false, margin: { l: narrow() ? 52 : 64, r: 12, t: 30, b: 52 },
    }));
  }
};

const drawDescent = () => {
  if (!byId("descent-plot")) return;
  const { steps, checks } = data.gradients;
  // A line from check to check: a null between two of them breaks it.
  const apart = (values) => values.flatMap((value, n) => (n && steps.checks[n] !== steps.checks[n - 1] ? [null, value] : [value]));
  const known = steps.smoothed.filter((value) => value !== null);
  const top = Math.max(...known);
  const labels = checks.map((check) => data.points.find((point) => point.number === check.number)?.label);
  draw("descent-plot", [
    {
      type: "scatter", mode: "markers", name: "one step", x: steps.evaluations, y: steps.loss,
      hovertext: steps.number.map((number, n) => `trial ${number}, ${steps.examples[n]} examples`), hoverinfo: "text+y",
      marker: { size: 4, color: color("others"), opacity: 0.6 },
    },
    {
      type: "scatter", mode: "lines", name: `mean of ${data.gradients.smoothed} steps`, x: apart(steps.evaluations), y: apart(steps.smoothed),
      line: { color: color("accent"), width: 2.5 }, hoverinfo: "skip",
    },
    {
      type: "scatter", mode: "markers", name: "checks", x: checks.map((check) => check.evaluations), y: checks.map(() => top),
      customdata: labels, hovertext: checks.map((check) => `trial ${check.number}${check.score === null ? "" : `: score ${check.score.toPrecision(4)}`}`), hoverinfo: "text",
      marker: { symbol: "diamond", size: 11, color: color("chosen") },
    },
  ], layout({
    xaxis: axis("search-split evaluations", { rangemode: "tozero" }), yaxis: axis("mean loss"),
    shapes: checks.map((check) => ({ type: "line", x0: check.evaluations, x1: check.evaluations, yref: "paper", y0: 0, y1: 1, line: { color: color("line"), width: 1, dash: "dot" } })),
  }));
};

const drawImportance = () => {
  if (!byId("importance-plot")) return;
  const found = data.importance.targets[byId("target").value];
  const place = byId("importance-plot");
  byId("explained").textContent = found.why || `The fit explains ${percent(Math.max(0, found.explained))} of the variance of held-out points` +
    (found.explained < 0.3 ? ": too little to be reliable." : ".");
  place.hidden = Boolean(found.why);
  byId("importance-table").replaceChildren();
  if (found.why) return;
  const groups = data.importance.groups;
  const names = groups.map((name) => shown(name, narrow() ? 18 : 40));
  const clear = groups.map((_, n) => found.value[n] > found.chance[n]);
  place.style.height = `${Math.max(180, 24 * groups.length + 110)}px`;
  draw("importance-plot", [
    {
      type: "bar", orientation: "h", name: "importance", y: [...groups.keys()], x: found.value,
      marker: { color: clear.map((is) => color(is ? "accent" : "others")) },
      error_x: {
        type: "data", symmetric: false, color: color("ink"), thickness: 1.2, width: 3,
        array: found.value.map((value, n) => Math.max(0, found.high[n] - value)),
        arrayminus: found.value.map((value, n) => Math.max(0, value - found.low[n])),
      },
      hovertext: groups.map((name, n) => `<b>${shown(name)}</b><br>${found.value[n].toPrecision(3)} [${found.low[n].toPrecision(3)}, ${found.high[n].toPrecision(3)}]<br>chance ${found.chance[n].toPrecision(3)}`),
      hoverinfo: "text",
    },
    {
      type: "scatter", mode: "markers", name: "chance", y: [...groups.keys()], x: found.chance, hoverinfo: "skip",
      marker: { symbol: "line-ns", size: 14, line: { width: 2.5, color: color("parent") } },
    },
  ], layout({
    xaxis: axis("importance, in units of the score", { rangemode: "tozero" }),
    yaxis: axis("", { tickvals: [...groups.keys()], ticktext: names, autorange: "reversed", showgrid: false, zeroline: false }),
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" },
    margin: { l: 60, r: 12, t: 40, b: 44 },
  }));
  byId("importance-table").append(table(null, [data.importance.by, "importance", "from", "to", "chance"],
    groups.map((name, n) => [name, ...[found.value, found.low, found.high, found.chance].map((c) => c[n].toPrecision(3))])));
  shorten(byId("importance-table").firstElementChild);
};
