// The knob: a slider along the front, from the best merge on one task to the best on another.

// A merge within half a step of the slider is taken as it was scored.
const STEP = 0.01;
// The merge at a position: a scored one, or the mixture of its neighbors, where these can be interpolated.
const settingAt = (knob, t) => {
  const nearest = knob.stops.reduce((best, stop) => (Math.abs(stop.t - t) < Math.abs(best.t - t) ? stop : best));
  if (Math.abs(nearest.t - t) <= STEP / 2) return { label: nearest.label, stop: nearest };
  const after = knob.stops.findIndex((stop) => stop.t > t);
  if (!knob.joined[after - 1]) return { label: nearest.label, stop: nearest, moved: true };
  const [first, second] = knob.stops.slice(after - 1, after + 1);
  return { label: `knob ${t}`, t, knob, first, second, share: (t - first.t) / (second.t - first.t) };
};
// The coefficients between two tables of the same groups; nothing for any others.
const mixed = (first, second, share) => {
  if (!first || !second || first.layout !== second.layout) return undefined;
  const values = {};
  for (const [name, rows] of Object.entries(first.values)) {
    values[name] = rows.map((row, n) => row.map((value, m) => (1 - share) * value + share * second.values[name][n][m]));
  }
  return { layout: first.layout, values };
};
const parts = ({ first, second, share }) => `${(1 - share).toFixed(2)} of ${first.label} and ${share.toFixed(2)} of ${second.label}`;

const currentKnob = () => {
  if (!byId("knob")) return undefined;
  const wanted = byId("knob-tasks").value;
  return data.knobs.find((knob) => knob.split === byId("split").value && knob.tasks.join(" to ") === wanted);
};
const scoresOf = (label, split) => {
  const on = points.get(label).splits[split].tasks;
  return tasks.map((task) => `${task.name} ${estimate(on[task.name])}`).join(", ");
};
// Say what is at the position of the slider; returns its label.
const turn = () => {
  const knob = currentKnob();
  byId("knob").disabled = !knob;
  if (!knob) {
    byId("knob-facts").textContent = "On this split, fewer than two merges of the front are points of the search space.";
    byId("knob-command").replaceChildren();
    return undefined;
  }
  const setting = settingAt(knob, Number(byId("knob").value));
  const { label, stop } = setting;
  if (stop) {
    const there = setting.moved ? "the nearest scored merge, since its neighbors cannot be interpolated" : "scored";
    byId("knob-facts").textContent = `${label}, ${there}: ${scoresOf(label, knob.split)}`;
  } else {
    mixture = setting;
    const near = [setting.first, setting.second].map((side) => `${side.label}: ${scoresOf(side.label, knob.split)}`);
    byId("knob-facts").textContent = `${parts(setting)}, interpolated and not scored. Scored neighbors: ${near.join("; ")}`;
  }
  byId("knob-command").replaceChildren(code(`${data.export}${choiceAt(setting)} -o merged`));
  return label;
};
const choiceAt = ({ stop, t, knob }) => (stop ? ` --trial ${stop.number}` : ` --knob ${t}${knob.options}`);
// Move the slider to a merge that was chosen in another way.
const follow = (label) => {
  const knob = currentKnob();
  const stop = knob && knob.stops.find((each) => each.label === label);
  if (stop) byId("knob").value = stop.t;
  if (stop || (knob && label !== (mixture && mixture.label))) turn();
};
const drawTicks = () => {
  const knob = currentKnob();
  byId("knob-stops").replaceChildren(...(knob ? knob.stops.map((stop) => element("option", null, { value: stop.t })) : []));
};
const showMixture = (setting) => {
  byId("chosen-facts").textContent = `${parts(setting)} · interpolated, not scored`;
  const sides = [setting.first, setting.second];
  const on = sides.map((side) => points.get(side.label).splits[setting.knob.split].tasks);
  const rows = tasks.map((task) => [task.name + direction(task, setting.knob.split), ...on.map((each) => estimate(each[task.name]))]);
  const caption = `Scores of the two neighbors on the ${setting.knob.split} split; those of the mixture are unknown`;
  byId("chosen-scores").replaceChildren(table(caption, ["", ...sides.map((side) => side.label)], rows));
  byId("chosen-claims").replaceChildren();
  byId("recipe").replaceChildren(
    element("p", "Not scored yet: write its recipe or checkpoint to score it. Further trials change the front and the knob.", { class: "what" }),
    code(`${data.pick}${choiceAt(setting)} -o recipe.yaml`),
    code(`${data.export}${choiceAt(setting)} -o merged`),
  );
};
