"use strict";
// Draws the plots from the data that the page carries, and shows the point that is chosen. Tables need none of this.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tasks = data.study.tasks;
  const points = new Map(data.points.map((point) => [point.label, point]));
  const own = ["candidate", "start", "recommended"];
  const byId = (id) => document.getElementById(id);
  const winner = data.headline.winner;
  let chosen = null;

  // Plotly reads tags in its texts; names in a study are only names.
  const shown = (text, most = 40) => {
    const short = text.length > most ? text.slice(0, most - 1) + "…" : text;
    return short.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  };
  const decimals = (error) => (error > 0 ? Math.max(3, Math.min(6, 1 - Math.floor(Math.log10(error)))) : 3);
  const estimate = (value) => {
    if (!value || value.mean === null) return "-";
    if (value.low === null || value.high === null) return value.mean.toFixed(3);
    const digits = decimals((value.high - value.low) / 2 / 1.959963984540054);
    return `${value.mean.toFixed(digits)} [${value.low.toFixed(digits)}, ${value.high.toFixed(digits)}]`;
  };
  const gain = (value) => (value.mean < 0 ? "" : "+") + estimate(value);
  const pValue = (p) => (p >= 0.0001 ? String(Number(p.toPrecision(2))) : "<0.0001");
  const percent = (share) =>
    share > 0 && share < 0.01 ? "<1 %" : share > 0.99 && share < 1 ? ">99 %" : `${(100 * share).toFixed(0)} %`;
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const narrow = () => window.innerWidth < 640;

  const element = (name, text, attributes = {}) => {
    const made = document.createElement(name);
    if (text !== undefined && text !== null) made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const table = (caption, heads, rows) => {
    const made = element("table");
    if (caption) made.append(element("caption", caption));
    const head = made.createTHead().insertRow();
    for (const text of heads) head.append(element("th", text, { scope: "col" }));
    const body = made.createTBody();
    for (const [first, ...rest] of rows) {
      const row = body.insertRow();
      row.append(element("th", first, { scope: "row" }));
      for (const text of rest) row.append(element("td", text));
    }
    return made;
  };
  const scrolling = (content, name) => {
    const box = element("div", null, { class: "scroll", role: "region", tabindex: "0", "aria-label": `Table: ${name}` });
    box.append(content);
    return box;
  };

  // --- plots ---------------------------------------------------------------------------------------------------------
  const layout = (more) => ({
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("ink"), family: "system-ui, sans-serif", size: 12 },
    margin: { l: narrow() ? 52 : 64, r: 12, t: 30, b: narrow() ? 190 : 84 },
    hoverlabel: { bgcolor: color("panel"), bordercolor: color("line"), font: { color: color("ink") }, align: "left" },
    hovermode: "closest",
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    showlegend: true,
    legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", font: { size: 11 } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: color("soft"), activecolor: color("accent") },
    ...more,
  });
  const axis = (title, more = {}) => ({
    title: { text: title, standoff: 8 },
    gridcolor: color("grid"),
    zerolinecolor: color("line"),
    linecolor: color("line"),
    automargin: true,
    ...more,
  });
  const options = {
    displaylogo: false,
    responsive: true,
    displayModeBar: narrow() ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const draw = (id, traces, plan) => {
    const place = byId(id);
    Plotly.react(place, traces, plan, options);
    if (!place.dataset.heard) {
      place.dataset.heard = "yes";
      place.on("plotly_click", (event) => {
        const label = event.points[0].customdata;
        if (typeof label === "string" && points.has(label)) choose(label);
      });
    }
  };

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
  const direction = (task) => (task.lower_is_better ? " (less is better)" : "");
  const described = (point, split) => {
    const on = point.splits[split];
    const lines = tasks.map((task) => `${shown(task.name, 24)}: ${estimate(on.tasks[task.name])}`);
    return [`<b>${shown(point.label)}</b>`, ...lines, `score: ${estimate(on.score)}`, `P(front): ${percent(on.p_front)}`].join("<br>");
  };

  const named = (kind) => ["parent", "base"].includes(kind);
  const whiskers = (value, ink) => ({
    type: "data", symmetric: false, color: ink, thickness: 1.5, width: 4,
    array: [value.high - value.mean], arrayminus: [value.mean - value.low],
  });
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
        hovertext: data.predictions.map((p) => tasks.map((t) => `${shown(t.name, 24)}: ${estimate(p.tasks[t.name])}`).join("<br>") + "<br>predicted, not measured"),
        hoverinfo: "text",
        marker: { symbol: "circle-open-dot", size: 8, color: color("predicted") },
      });
    }
    return traces.concat(marked(split, x, y, chosen));
  };
  // The point under the pointer or chosen, with its intervals.
  const marked = (split, x, y, label) => {
    const point = points.get(label);
    const on = point && point.splits[split];
    const ink = color("chosen");
    if (!on) return { type: "scatter", x: [], y: [], name: "chosen", showlegend: false };
    const [across, up] = [on.tasks[x.name], on.tasks[y.name]];
    return {
      type: "scatter", mode: "markers", name: `chosen: ${shown(label, 24)}`,
      x: [across.mean], y: [up.mean],
      error_x: whiskers(across, ink), error_y: whiskers(up, ink),
      marker: { symbol: "circle-open", size: 16, color: ink, line: { width: 2.5, color: ink } },
      hoverinfo: "skip",
    };
  };

  // All tasks: every axis from the worst to the best score on it, the better end on top.
  const parallel = (split) => {
    const ends = tasks.map((task) => {
      const all = data.points.filter((p) => p.splits[split]).map((p) => p.splits[split].tasks[task.name].mean);
      const [low, high] = [Math.min(...all), Math.max(...all)];
      return task.lower_is_better ? [high, low] : [low, high];
    });
    const height = (point, n) => {
      const [worst, best] = ends[n];
      return best === worst ? 0.5 : (point.splits[split].tasks[tasks[n].name].mean - worst) / (best - worst);
    };
    const lines = (members, style) => ({
      type: "scatter",
      mode: "lines+markers",
      x: members.flatMap(() => [...tasks.keys(), null]),
      y: members.flatMap((point) => [...tasks.map((_, n) => height(point, n)), null]),
      customdata: members.flatMap((point) => [...tasks.map(() => point.label), null]),
      hovertext: members.flatMap((point) => [...tasks.map(() => described(point, split)), null]),
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
    const on = points.get(chosen);
    if (on && on.splits[split]) {
      const ink = color("chosen");
      traces.push(lines([on], { name: `chosen: ${shown(chosen, 24)}`, line: { color: ink, width: 3 }, marker: { size: 9, color: ink } }));
    }
    const ticks = tasks.flatMap((task, n) => [
      { x: n, y: 1, yshift: 12, text: ends[n][1].toPrecision(3), showarrow: false, font: { size: 11, color: color("soft") } },
      { x: n, y: 0, yshift: -12, text: ends[n][0].toPrecision(3), showarrow: false, font: { size: 11, color: color("soft") } },
    ]);
    return [traces, ticks];
  };

  const drawFront = () => {
    if (!byId("front-plot")) return;
    const split = byId("split").value;
    const flat = tasks.length === 2 || byId("view").value === "plane";
    for (const control of document.querySelectorAll("label.plane")) control.hidden = !flat;
    if (flat) {
      const [x, y] = [tasks[byId("across").value], tasks[byId("up").value]];
      draw("front-plot", plane(split, x, y), layout({
        xaxis: axis(shown(x.name) + direction(x), x.lower_is_better ? { autorange: "reversed" } : {}),
        yaxis: axis(shown(y.name) + direction(y), y.lower_is_better ? { autorange: "reversed" } : {}),
      }));
    } else {
      const [traces, annotations] = parallel(split);
      draw("front-plot", traces, layout({
        annotations,
        xaxis: axis("", { tickvals: [...tasks.keys()], ticktext: tasks.map((t) => shown(t.name, narrow() ? 9 : 22) + direction(t)), showgrid: true, gridcolor: color("line"), zeroline: false, range: [-0.25, tasks.length - 0.75] }),
        yaxis: axis("from the worst to the best", { showticklabels: false, showgrid: false, zeroline: false, range: [-0.1, 1.1] }),
      }));
    }
  };

  const drawProgress = () => {
    if (!byId("progress-plot")) return;
    const unit = byId("cost-axis").value;
    const hours = unit === "seconds";
    const at = (value) => (value === null ? null : hours ? value / 3600 : value);
    const cost = data.progress[unit].map(at);
    const title = hours ? "hours" : "evaluations of the search split";
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
        type: "scatter", mode: "lines", name: "best so far", x: cost, y: data.progress.best,
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
        error_y: whiskers(points.get(chosen).splits.search.score, ink), hoverinfo: "skip",
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

  const drawImportance = () => {
    if (!byId("importance-plot")) return;
    const found = data.importance.targets[byId("target").value];
    const place = byId("importance-plot");
    byId("explained").textContent = found.why || `The fit explains ${percent(Math.max(0, found.explained))} of the variance of points left out` +
      (found.explained < 0.3 ? ": too little to rely on." : ".");
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
    byId("importance-table").append(table(null, ["group", "importance", "from", "to", "chance"],
      groups.map((name, n) => [name, ...[found.value, found.low, found.high, found.chance].map((c) => c[n].toPrecision(3))])));
  };

  // --- the chosen point ----------------------------------------------------------------------------------------------
  const ends = (parameter) => {
    let [low, high] = [Infinity, -Infinity];
    for (const { values } of Object.values(data.coefficients.tables)) {
      for (const value of (values[parameter] || []).flat()) [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
    if (low === high) return [low, high];
    return low < 0 ? [-Math.max(-low, high), Math.max(-low, high)] : [Math.min(0, low), high];
  };
  const showCoefficients = (point) => {
    const place = byId("heat");
    for (const old of place.querySelectorAll(".js-plotly-plot")) Plotly.purge(old);
    place.replaceChildren();
    const found = data.coefficients.tables[point.number];
    if (!found) {
      const at = data.coefficients.points[point.number];
      place.append(element("p", at
        ? `Coordinates in the unit cube: ${at.map((value) => value.toPrecision(4)).join(", ")}`
        : "The coefficients of this point are not in this file, which holds those of the front, the finalists, the baselines and the best of the others; its recipe has them.",
      { class: at ? "" : "empty" }));
      return;
    }
    const groups = data.coefficients.layouts[found.layout];
    for (const [parameter, rows] of Object.entries(found.values)) {
      const [least, most] = ends(parameter);
      if (least === most) {
        place.append(element("p", `${parameter} is ${least.toPrecision(4)} for all groups and all points.`));
        continue;
      }
      const columns = rows[0].length === data.coefficients.inputs.length ? data.coefficients.inputs : ["all models"];
      const box = element("div");
      const plot = element("div", null, { role: "img", "aria-label": `Heat map of ${parameter} by group and model; the table below has the numbers.` });
      plot.style.height = `${Math.min(1600, Math.max(150, 22 * groups.length + 110))}px`;
      const numbers = element("details");
      numbers.append(element("summary", `${parameter} as a table`));
      numbers.append(scrolling(table(null, ["group", ...columns], groups.map((name, n) => [name, ...rows[n].map((v) => v.toPrecision(4))])), parameter));
      box.append(plot, numbers);
      place.append(box);
      Plotly.newPlot(plot, [{
        type: "heatmap", z: rows, x: [...columns.keys()], y: [...groups.keys()], zmin: least, zmax: most, xgap: 1, ygap: 1,
        colorscale: least < 0 ? "RdBu" : "Cividis", colorbar: { thickness: 10, tickfont: { size: 10 } },
        texttemplate: rows.length * columns.length <= 120 ? "%{z:.2f}" : "",
        hovertext: rows.map((row, n) => row.map((value, m) => `${shown(groups[n])}<br>${shown(columns[m])}: ${value.toPrecision(4)}`)),
        hoverinfo: "text",
      }], layout({
        title: { text: parameter, x: 0, xref: "paper", font: { size: 13 } },
        xaxis: axis("", { tickvals: [...columns.keys()], ticktext: columns.map((name) => shown(name, 14)), showgrid: false, zeroline: false, side: "top" }),
        yaxis: axis("", { tickvals: [...groups.keys()], ticktext: groups.map((name) => shown(name, 22)), autorange: "reversed", showgrid: false, zeroline: false }),
        margin: { l: 40, r: 8, t: 56, b: 12 }, dragmode: false,
      }), { ...options, displayModeBar: false });
    }
  };

  const code = (text) => {
    const box = element("div", null, { class: "code" });
    box.append(element("pre", text, { tabindex: "0" }), element("button", "copy", { type: "button", class: "copy" }));
    return box;
  };
  const showRecipe = (point) => {
    const place = byId("recipe");
    const found = data.coefficients.recipes[point.number];
    place.replaceChildren();
    place.append(element("p", `Write ${point.label} as a checkpoint, or only its recipe`, { class: "what" }));
    place.append(code(`${data.export} --trial ${point.number} -o merged`));
    place.append(code(`${data.export} --trial ${point.number} --recipe-only -o recipe.yaml`));
    if (found) {
      place.append(element("p", "The recipe", { class: "what" }), code(data.coefficients.heads[found.head] + found.tail));
    } else {
      place.append(element("p", data.coefficients.missing ? "Without the models there is no recipe." : "The recipe is not in this file; the second command writes it.", { class: "empty" }));
    }
  };

  const showScores = (point) => {
    const splits = ["search", "select", "report"].filter((split) => point.splits[split]);
    const rows = [["score", ...splits.map((s) => estimate(point.splits[s].score))]];
    if (tasks.length > 1) {
      for (const task of tasks) rows.push([task.name + direction(task), ...splits.map((s) => estimate(point.splits[s].tasks[task.name]))]);
    }
    byId("chosen-scores").replaceChildren(table(null, ["", ...splits], rows));
    const on = point.splits.search;
    const facts = [`${point.kind}, trial ${point.number}`];
    if (point.label === winner) facts.push("the winner");
    if (on) facts.push(on.on_front ? `on the front, P(front) ${percent(on.p_front)}` : `not on the front, P(front) ${percent(on.p_front)}`);
    if (on && on.shrunk !== null) facts.push(`score likely to repeat ${on.shrunk.toFixed(3)}`);
    byId("chosen-facts").textContent = facts.join(" · ");
    const claims = data.comparisons[point.label];
    byId("chosen-claims").replaceChildren();
    if (claims && claims.claims.length) {
      const warning = claims.split === "search" ? "; it was chosen on these examples, so this is too good" : "";
      const made = table(`Paired differences on the ${claims.split} split, above 0 is better${warning}`,
        ["against", "on", "difference", "p", "p, Holm"],
        claims.claims.map((c) => [c.rival, c.task === null ? "score" : c.task, gain(c), pValue(c.p), pValue(c.holm)]));
      made.className = "claims";
      claims.claims.forEach((c, n) => { if (c.holm < 0.05) made.tBodies[0].rows[n].className = c.mean > 0 ? "better" : "worse"; });
      byId("chosen-claims").append(scrolling(made, "paired differences"));
    }
  };

  const choose = (label) => {
    const point = points.get(label);
    if (!point) return;
    chosen = label;
    byId("point").value = label;
    for (const button of document.querySelectorAll("button.show")) button.setAttribute("aria-pressed", String(button.dataset.label === label));
    showScores(point);
    showCoefficients(point);
    showRecipe(point);
    drawFront();
    drawProgress();
    try {
      history.replaceState(null, "", `#point=${encodeURIComponent(label)}`);
    } catch {
      // Some browsers forbid it for files; the address is a convenience.
    }
  };

  const fillPoints = () => {
    const finalists = new Set(data.luck.finalists.map((row) => row.label));
    const on = (point) => Boolean(point.splits.search && point.splits.search.on_front);
    const groups = [
      ["winner", (p) => p.label === winner],
      ["front", (p) => own.includes(p.kind) && on(p)],
      ["finalists", (p) => own.includes(p.kind) && finalists.has(p.label)],
      ["parents and averages", (p) => !own.includes(p.kind)],
      ["others", () => true],
    ];
    const left = new Set(data.points);
    for (const [name, belongs] of groups) {
      const box = element("optgroup", null, { label: name });
      for (const point of [...left].filter(belongs)) {
        left.delete(point);
        box.append(element("option", point.label, { value: point.label }));
      }
      if (box.children.length) byId("point").append(box);
    }
  };

  // --- theme, copying, keys ------------------------------------------------------------------------------------------
  const system = matchMedia("(prefers-color-scheme: dark)");
  const redraw = () => {
    drawFront();
    drawProgress();
    drawImportance();
    if (chosen) showCoefficients(points.get(chosen));
  };
  const setTheme = (wanted) => {
    document.documentElement.dataset.theme = wanted || (system.matches ? "dark" : "light");
    redraw();
  };
  const copy = async (button) => {
    const pre = button.parentElement.querySelector("pre");
    let done = false;
    try {
      await navigator.clipboard.writeText(pre.textContent);
      done = true;
    } catch {
      getSelection().selectAllChildren(pre);
      done = document.execCommand("copy");
    }
    button.textContent = done ? "copied" : "selected";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.classList.contains("copy")) copy(button);
    if (button.classList.contains("show")) {
      choose(button.dataset.label);
      byId("chosen").scrollIntoView();
      byId("point").focus({ preventScroll: true });
    }
  });
  const hears = (id, action) => byId(id) && byId(id).addEventListener("change", action);
  for (const id of ["split", "view", "across", "up"]) hears(id, drawFront);
  hears("cost-axis", drawProgress);
  hears("target", drawImportance);
  hears("point", () => choose(byId("point").value));
  hears("theme", () => setTheme(byId("theme").value));
  system.addEventListener("change", () => setTheme(byId("theme").value));
  addEventListener("beforeprint", () => setTheme("light"));
  addEventListener("afterprint", () => setTheme(byId("theme").value));

  document.documentElement.dataset.theme = system.matches ? "dark" : "light";
  const asked = new URLSearchParams(location.hash.slice(1)).get("point");
  if (data.points.length) {
    fillPoints();
    choose([asked, winner, data.headline.best, data.points[0].label].find((label) => points.has(label)));
  }
  drawImportance();
  document.documentElement.dataset.ready = "yes";
})();
