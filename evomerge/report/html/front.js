// The front: two tasks as a plane, more as parallel axes.

// What a model is drawn as; the order is that of drawing.
const kinds = [
  ["others", "candidates", "circle", 6],
  ["average", "averages", "diamond", 9],
  ["parent", "parents", "square", 9],
  ["base", "base", "x", 9],
  ["accent", "front", "circle", 9],
  ["winner", "winner", "star", 15],
];
const kindOf = (point, on) => {
  if (point.label === winner) return "winner";
  if (!own.includes(point.kind)) return point.kind;
  return on.on_front ? "accent" : "others";
};
const inkOf = (kind) => color(kind === "winner" ? "accent" : kind);
const grouped = (split) =>
  kinds.map((kind) => [
    kind,
    data.points.filter((point) => point.splits[split] && kindOf(point, point.splits[split]) === kind[0]),
  ]);
// A smooth score counts on the search split only; of the metric that it stands for, larger values are better.
const lowerOn = (task, split) => task.lower_is_better && (split === "search" || !task.smooth);
const direction = (task, split) => {
  const unit = split === "search" && task.smooth ? [task.smooth] : [];
  const said = [...unit, ...(lowerOn(task, split) ? ["lower is better"] : [])].join(", ");
  return said && ` (${said})`;
};
const described = (point, split) => {
  const on = point.splits[split];
  const lines = tasks.map((task) => `${shown(task.name, 24)}: ${estimate(on.tasks[task.name])}`);
  return [`<b>${shown(point.label)}</b>`, ...lines, `score: ${estimate(on.score)}`, `P(front): ${percent(on.probability)}`].join("<br>");
};

const expected = (prediction) => {
  const lines = tasks.map((task) => `${shown(task.name, 24)}: ${estimate(prediction.tasks[task.name])}`);
  return [`<b>${prediction.label}, not measured</b>`, ...lines, `nearest measured: ${shown(prediction.nearest)}`].join("<br>");
};

const named = (kind) => ["parent", "base"].includes(kind);
const whiskers = (values, ink) => {
  const ends = values.map((value) => bounds(value) || [value.mean, value.mean]);
  const [array, arrayminus] = [ends.map(([, high], n) => high - values[n].mean), ends.map(([low], n) => values[n].mean - low)];
  return { type: "data", symmetric: false, color: ink, thickness: 1.5, width: 4, array, arrayminus };
};
const plane = (split, x, y) => {
  const traces = grouped(split).map(([[kind, name, symbol, size], members]) => ({
    type: "scatter",
    mode: named(kind) || members.some((m) => m.label === "uniform") ? "markers+text" : "markers",
    name,
    x: members.map((point) => point.splits[split].tasks[x.name].mean),
    y: members.map((point) => point.splits[split].tasks[y.name].mean),
    text: members.map((p) => (named(kind) || p.label === "uniform" ? shown(p.label.replace("parent:", ""), 16) : "")),
    textposition: "top center",
    textfont: { size: 11, color: inkOf(kind) },
    hovertext: members.map((point) => described(point, split)),
    hoverinfo: "text",
    customdata: members.map((point) => point.label),
    marker: { symbol, size, color: inkOf(kind), opacity: kind === "others" ? 0.6 : 1, line: { width: 1, color: color("paper") } },
    visible: members.length ? true : false,
  }));
  if (split === "search" && data.predictions.length) {
    traces.unshift({
      type: "scatter", mode: "markers", name: "predicted",
      x: data.predictions.map((p) => p.tasks[x.name].mean),
      y: data.predictions.map((p) => p.tasks[y.name].mean),
      hovertext: data.predictions.map(expected),
      hoverinfo: "text",
      customdata: data.predictions.map((p) => p.label),
      marker: { symbol: "circle-open", size: 5, opacity: 0.7, color: color("predicted"), line: { width: 1 } },
    });
  }
  return traces.concat(marked(split, x, y, chosen));
};
// The point under the pointer or chosen, with its intervals.
const marked = (split, x, y, label) => {
  const on = marks(label).map((each) => tasksOn(each, split)).filter(Boolean);
  const ink = color("chosen");
  if (!on.length) return { type: "scatter", x: [], y: [], name: "chosen", showlegend: false };
  const [across, up] = [on.map((each) => each[x.name]), on.map((each) => each[y.name])];
  return {
    type: "scatter", mode: "markers", name: `chosen: ${shown(label, 24)}`,
    x: across.map((value) => value.mean), y: up.map((value) => value.mean),
    error_x: whiskers(across, ink), error_y: whiskers(up, ink),
    marker: { symbol: "circle-open", size: 16, color: ink, line: { width: 2.5, color: ink } },
    hoverinfo: "skip",
  };
};

// The whiskers go to the point under the pointer or the focus, and back to the chosen one.
const peek = (label) => {
  const place = byId("front-plot");
  if (!place || !place.data || !isFlat() || !isKnown(label)) return;
  const { x, y, error_x, error_y } = marked(byId("split").value, ...planeTasks(), label);
  Plotly.restyle(place, { x: [x], y: [y], error_x: [error_x], error_y: [error_y] }, [place.data.length - 1]);
};

// All tasks: every axis from the worst to the best score on it, the better end on top.
const parallel = (split) => {
  const ends = tasks.map((task) => {
    const all = data.points.filter((p) => p.splits[split]).map((p) => p.splits[split].tasks[task.name].mean);
    const [low, high] = [Math.min(...all), Math.max(...all)];
    return lowerOn(task, split) ? [high, low] : [low, high];
  });
  const height = (scores, n) => {
    const [worst, best] = ends[n];
    return best === worst ? 0.5 : (scores[tasks[n].name].mean - worst) / (best - worst);
  };
  const lines = (members, style) => ({
    type: "scatter",
    mode: "lines+markers",
    x: members.flatMap(() => [...tasks.keys(), null]),
    y: members.flatMap(({ label }) => [...tasks.map((_, n) => height(tasksOn(label, split), n)), null]),
    customdata: members.flatMap(({ label }) => [...tasks.map(() => label), null]),
    hovertext: members.flatMap((point) => [...tasks.map(() => (point.splits ? described(point, split) : expected(point))), null]),
    hoverinfo: "text",
    ...style,
  });
  const traces = grouped(split).map(([[kind, name, symbol, size], members]) =>
    lines(members, {
      name,
      visible: members.length ? true : false,
      opacity: { others: 0.35, accent: 0.6 }[kind] || 1,
      line: { color: inkOf(kind), width: kind === "winner" ? 3 : 1.2, dash: named(kind) || kind === "average" ? "dot" : "solid" },
      marker: { symbol, size: Math.min(size, 8), color: inkOf(kind) },
    }));
  if (split === "search" && data.predictions.length) {
    // Thin, under everything that was measured, and the fainter the more there are.
    const ink = color("predicted");
    const opacity = Math.max(0.15, Math.min(0.5, 30 / data.predictions.length));
    const name = { name: "predicted", legendgroup: "predicted" };
    const faint = lines(data.predictions, { ...name, showlegend: false, opacity, line: { color: ink, width: 0.8 }, marker: { size: 3, color: ink } });
    const legible = { type: "scatter", mode: "lines+markers", x: [null], y: [null], line: { color: ink, width: 0.8 }, marker: { size: 5, color: ink } };
    traces.unshift(faint, { ...name, ...legible });
  }
  const wanted = marks(chosen).filter((label) => tasksOn(label, split));
  if (wanted.length) {
    const ink = color("chosen");
    traces.push(lines(wanted.map(known), { name: `chosen: ${shown(chosen, 24)}`, line: { color: ink, width: 3 }, marker: { size: 9, color: ink } }));
  }
  const label = { showarrow: false, font: { size: 11, color: color("soft") }, bgcolor: color("paper"), borderpad: 1 };
  const ticks = tasks.flatMap((task, n) => [
    { ...label, x: n, y: 1, yshift: 12, text: ends[n][1].toPrecision(3) },
    { ...label, x: n, y: 0, yshift: -12, text: ends[n][0].toPrecision(3) },
  ]);
  return [traces, ticks];
};

const isFlat = () => tasks.length === 2 || byId("view").value === "plane";
const planeTasks = () => [tasks[byId("across").value], tasks[byId("up").value]];
const drawFront = () => {
  if (!byId("front-plot")) return;
  const split = byId("split").value;
  const flat = isFlat();
  for (const control of document.querySelectorAll("label.plane")) control.hidden = !flat;
  if (flat) {
    const [x, y] = planeTasks();
    draw("front-plot", plane(split, x, y), layout({
      xaxis: axis(shown(x.name) + direction(x, split), lowerOn(x, split) ? { autorange: "reversed" } : {}),
      yaxis: axis(shown(y.name) + direction(y, split), lowerOn(y, split) ? { autorange: "reversed" } : {}),
    }));
  } else {
    const [traces, annotations] = parallel(split);
    draw("front-plot", traces, layout({
      annotations,
      xaxis: axis("", { tickvals: [...tasks.keys()], ticktext: tasks.map((t) => shown(t.name, narrow() ? 9 : 22) + direction(t, split)), showgrid: true, gridcolor: color("line"), zeroline: false, range: [-0.25, tasks.length - 0.75] }),
      yaxis: axis("worst to best", { showticklabels: false, showgrid: false, zeroline: false, fixedrange: false }),
    }));
  }
};
