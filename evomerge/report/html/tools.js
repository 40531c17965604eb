"use strict";
// The data of the page, numbers as text, elements, and how plots look. The files of this folder are one script.
const data = JSON.parse(document.getElementById("data").textContent);
const tasks = data.study.tasks;
const points = new Map(data.points.map((point) => [point.label, point]));
const foretold = new Map(data.predictions.map((prediction) => [prediction.label, prediction]));
// A position between two scored merges of the front, if that was turned to last.
let mixture = null;
const isMixture = (label) => mixture !== null && mixture.label === label;
const isKnown = (label) => points.has(label) || foretold.has(label) || isMixture(label);
const known = (label) => points.get(label) || foretold.get(label) || (isMixture(label) ? mixture : undefined);
// The scored models that a label stands for in plots: of a mixture both neighbors.
const marks = (label) => (isMixture(label) ? [mixture.first.label, mixture.second.label] : [label]);
// Scores by task; predicted points have them on the search split alone.
const tasksOn = (label, split) => {
  const point = points.get(label);
  if (point) return point.splits[split] && point.splits[split].tasks;
  return split === "search" && foretold.has(label) ? foretold.get(label).tasks : undefined;
};
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
// The ends of an interval to show; a single value, or equal values, have none.
const bounds = ({ mean, interval }) =>
  interval && (interval[1] - interval[0]) / 2 > 1e-12 * Math.abs(mean) ? interval : null;
const estimate = (value) => {
  if (!value || value.mean === null) return "-";
  const interval = bounds(value);
  if (!interval) return String(Number(value.mean.toPrecision(6)));
  const digits = decimals((interval[1] - interval[0]) / 2 / 1.959963984540054);
  const fixed = (number) => number.toFixed(digits).replace(/^-(0\.0*)$/, "$1");
  return `${fixed(value.mean)} [${interval.map(fixed).join(", ")}]`;
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

// Twelve rows of a long table and a button for the others; printed, and without scripts, there are all of them.
const shorten = (made) => {
  const box = made.closest(".scroll");
  if (box.nextElementSibling && box.nextElementSibling.matches("button.all")) box.nextElementSibling.remove();
  const rows = made.tBodies.length ? made.tBodies[0].rows.length : 0;
  made.classList.toggle("short", rows > 12);
  if (rows > 12) box.after(element("button", `show all ${rows} rows`, { type: "button", class: "all" }));
};

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
  // All that there is: no button that sends a plot anywhere.
  modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"], ["toImage"]],
  showSendToCloud: false,
  plotlyServerURL: "",
};
const draw = (id, traces, plan) => {
  const place = byId(id);
  Plotly.react(place, traces, plan, options);
  if (!place.dataset.heard) {
    place.dataset.heard = "yes";
    place.on("plotly_click", (event) => {
      const label = event.points[0].customdata;
      if (typeof label === "string" && isKnown(label)) choose(label);
    });
    if (id !== "front-plot") return;
    place.on("plotly_hover", (event) => peek(event.points[0].customdata));
    place.on("plotly_unhover", () => peek(chosen));
  }
};
