// The point that is chosen: scores, comparisons, coefficients, recipe.
const ends = (parameter) => {
  let [low, high] = [Infinity, -Infinity];
  const parts = [data.coefficients, data.coefficients.predicted];
  for (const found of parts.flatMap((part) => Object.values(part.tables))) {
    for (const value of (found.values[parameter] || []).flat()) [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  if (low === high) return [low, high];
  return low < 0 ? [-Math.max(-low, high), Math.max(-low, high)] : [Math.min(0, low), high];
};
const showCoefficients = (point) => {
  const place = byId("heat");
  for (const old of place.querySelectorAll(".js-plotly-plot")) Plotly.purge(old);
  place.replaceChildren();
  const part = foretold.has(point.label) ? data.coefficients.predicted : data.coefficients;
  const found = isMixture(point.label)
    ? mixed(part.tables[point.first.number], part.tables[point.second.number], point.share)
    : part.tables[point.number];
  if (!found) {
    const at = part.points[point.number];
    place.append(element("p", at
      ? `Coordinates in the unit cube: ${at.map((value) => value.toPrecision(4)).join(", ")}`
      : "The coefficients of this point are not in this file, whose size is limited; its recipe has them.",
    { class: at ? "" : "empty" }));
    return;
  }
  const groups = part.layouts[found.layout];
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
const showPrediction = (point) => {
  const same = point.distance === 0;
  const away = `predicted, not measured · nearest measured ${point.nearest}, ${Number(point.distance.toPrecision(3))} away`;
  byId("chosen-facts").textContent = same ? `predicted · the same point as ${point.nearest}, which was measured` : away;
  const near = points.get(point.nearest).splits.search.tasks;
  const rows = tasks.map((task) => [task.name + direction(task, "search"), estimate(point.tasks[task.name]), estimate(near[task.name])]);
  byId("chosen-scores").replaceChildren(table("Expected on the search split, with the prediction error", ["", "predicted", `measured: ${point.nearest}`], rows));
  byId("chosen-claims").replaceChildren();
  const place = byId("recipe");
  place.replaceChildren(
    element("p", `${same ? "Write" : "Not scored yet: write"} its recipe or checkpoint${same ? "" : " to score it"}. The numbering changes with further trials.`, { class: "what" }),
    code(`${data.pick} --predicted ${point.number} -o recipe.yaml`),
    code(`${data.export} --predicted ${point.number} -o merged`),
  );
};
const showRecipe = (point) => {
  const place = byId("recipe");
  const found = data.coefficients.recipes[point.number];
  place.replaceChildren();
  place.append(element("p", `Write ${point.label} as a checkpoint, or only its recipe`, { class: "what" }));
  place.append(code(`${data.export} --trial ${point.number} -o merged`));
  place.append(code(`${data.export} --trial ${point.number} --recipe-only -o recipe.yaml`));
  if (found) {
    place.append(element("p", "Recipe with names instead of paths; the second command writes it with paths", { class: "what" }), code(data.coefficients.heads[found.head] + found.tail));
  } else {
    place.append(element("p", data.coefficients.missing ? "The recipe requires the models." : "The recipe is not in this file; the second command writes it.", { class: "empty" }));
  }
};

const showScores = (point) => {
  const splits = ["search", "select", "report"].filter((split) => point.splits[split]);
  const rows = [["score", ...splits.map((s) => estimate(point.splits[s].score))]];
  if (tasks.length > 1) {
    for (const task of tasks) rows.push([task.name + (task.smooth ? ` (search: ${task.smooth})` : direction(task)), ...splits.map((s) => estimate(point.splits[s].tasks[task.name]))]);
  }
  byId("chosen-scores").replaceChildren(table(null, ["", ...splits], rows));
  const on = point.splits.search;
  const facts = [`${point.kind}, trial ${point.number}`];
  if (point.label === winner) facts.push("the winner");
  if (on) facts.push(on.on_front ? `on the front, P(front) ${percent(on.probability)}` : `not on the front, P(front) ${percent(on.probability)}`);
  if (on && on.shrunk !== null) facts.push(`score corrected for optimism ${on.shrunk.toFixed(3)}`);
  byId("chosen-facts").textContent = facts.join(" · ");
  const claims = data.comparisons[point.label];
  byId("chosen-claims").replaceChildren();
  if (claims && claims.claims.length) {
    const warning = claims.split === "search" ? "; optimistic, since the point was selected on these examples" : "";
    const made = table(`Paired differences on the ${claims.split} split, positive is better${warning}`,
      ["against", "on", "difference", "p", "p, Holm"],
      claims.claims.map((c) => [c.rival, c.task === null ? "score" : c.task, gain(c), pValue(c.p), pValue(c.p_holm)]));
    made.className = "claims";
    claims.claims.forEach((c, n) => { if (c.p_holm < 0.05) made.tBodies[0].rows[n].className = c.mean > 0 ? "better" : "worse"; });
    byId("chosen-claims").append(scrolling(made, "paired differences"));
  }
};

const choose = (label) => {
  const point = known(label);
  if (!point) return;
  chosen = label;
  byId("point").value = label;
  for (const button of document.querySelectorAll("button.show")) button.setAttribute("aria-pressed", String(button.dataset.label === label));
  if (foretold.has(label)) {
    showPrediction(point);
  } else if (isMixture(label)) {
    showMixture(point);
  } else {
    showScores(point);
    showRecipe(point);
  }
  showCoefficients(point);
  follow(label);
  drawFront();
  drawProgress();
  if (isMixture(label)) return; // the address names models only
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
  if (foretold.size) {
    const box = element("optgroup", null, { label: "predicted, not measured" });
    for (const label of foretold.keys()) box.append(element("option", label, { value: label }));
    byId("point").append(box);
  }
};
