"use strict";
const { styles, charts } = JSON.parse(document.getElementById("data").textContent);
const INK = "var(--ink)";
const pen = document.createElement("canvas").getContext("2d");
const colour = (name) => styles[name].colour || INK;

function make(name, attributes = {}, parent = null, text = null) {
  const isShape = /^(svg|g|path|line|rect|circle|polygon|text)$/.test(name);
  const node = isShape ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

function widthOf(text) {
  pen.font = "bold 12px system-ui, sans-serif"; // the charts' type
  return pen.measureText(text).width;
}

// Numbers

function short(value) {
  for (const [unit, size] of [["M", 1e6], ["k", 1e3]]) if (Math.abs(value) >= size) return +(value / size).toPrecision(4) + unit;
  return String(+value.toPrecision(4));
}

function linear(low, high, from, to) {
  const scale = (value) => from + (to - from) * (value - low) / (high - low || 1);
  scale.limits = [low, high];
  scale.ticks = (most) => {
    const rough = (high - low) / most, power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at++) ticks.push([at * step, short(at * step)]);
    return ticks;
  };
  return scale;
}

function logarithmic(low, high, from, to) {
  const inner = linear(Math.log10(low), Math.log10(high), from, to);
  const scale = (value) => inner(Math.log10(value));
  scale.limits = [low, high];
  scale.ticks = (most) => {
    if (high / low < 6) return linear(low, high, from, to).ticks(most);
    const ticks = [], factors = high / low < 1000 ? [1, 2, 5] : [1];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const factor of factors) {
        const value = factor * 10 ** power;
        if (value >= low && value <= high) ticks.push([value, short(value)]);
      }
    return ticks;
  };
  return scale;
}

// Numbers beside the pointer, a finger or the focus

const tip = document.getElementById("tip");

function say(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - width - 4)) + "px";
  tip.style.top = (y + height + 20 > innerHeight ? y - height - 10 : y + 14) + "px";
}

function hush() { tip.hidden = true; }

function told(node, text) {
  node.setAttribute("tabindex", "0");
  node.setAttribute("aria-label", text);
  node.addEventListener("pointermove", (event) => say(text, event.clientX, event.clientY));
  node.addEventListener("pointerleave", hush);
  node.addEventListener("focus", () => { const box = node.getBoundingClientRect(); say(text, box.right, box.bottom); });
  node.addEventListener("blur", hush);
  return node;
}

// Shapes

function polygon(num, x, y, radius, turn) {
  return Array.from({ length: num }, (_, place) => {
    const angle = turn + 2 * Math.PI * place / num;
    return `${(x + radius * Math.sin(angle)).toFixed(1)},${(y - radius * Math.cos(angle)).toFixed(1)}`;
  }).join(" ");
}

function marker(parent, name, x, y, shape = styles[name].shape, radius = 5) {
  const paint = { stroke: colour(name), "stroke-width": 1.6, fill: styles[name].hollow ? "var(--paper)" : colour(name) };
  if (shape === "o") return make("circle", { cx: x, cy: y, r: radius - 0.5, ...paint }, parent);
  if (shape === "x") {
    const path = `M${x - 4} ${y - 4}L${x + 4} ${y + 4}M${x - 4} ${y + 4}L${x + 4} ${y - 4}`;
    return make("path", { d: path, ...paint, "stroke-width": 2 }, parent);
  }
  const [num, turn] = { D: [4, 0], d: [4, 0], s: [4, Math.PI / 4], p: [5, 0], P: [4, Math.PI / 4],
    "<": [3, -Math.PI / 2], ">": [3, Math.PI / 2], "^": [3, 0], v: [3, Math.PI] }[shape] || [6, 0];
  return make("polygon", { points: polygon(num, x, y, radius + 0.5, turn), ...paint }, parent);
}

function path(points, x, y) {
  return points.map(([a, b], place) => `${place ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
}

function line(parent, x1, y1, x2, y2, attributes) {
  return make("line", { x1, y1, x2, y2, ...attributes }, parent);
}

// Axes: a frame of {left, right, top, bottom} inside the drawing

function axisBelow(svg, frame, x, label, ticks) {
  for (const [value, text] of ticks || x.ticks(Math.max(3, (frame.right - frame.left) / 90))) {
    line(svg, x(value), frame.top, x(value), frame.bottom, { class: "grid" });
    make("text", { x: x(value), y: frame.bottom + 16, "text-anchor": "middle", class: "soft" }, svg, text);
  }
  const middle = (frame.left + frame.right) / 2, words = label.split(" "), lines = [""];
  for (const word of words) {
    if (widthOf(`${lines.at(-1)} ${word}`) > frame.width - 8) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  lines.forEach((text, place) => make("text", { x: frame.width / 2 > middle ? middle : frame.width / 2, y: frame.bottom + 34 + 14 * place,
    "text-anchor": "middle" }, svg, text));
}

function axisLeft(svg, frame, y, label) {
  for (const [value, text] of y.ticks(6)) {
    line(svg, frame.left, y(value), frame.right, y(value), { class: "grid" });
    make("text", { x: frame.left - 6, y: y(value) + 4, "text-anchor": "end", class: "soft" }, svg, text);
  }
  make("text", { x: 0, y: 12 }, svg, label);
}

function drawing(width, height) {
  return make("svg", { viewBox: `0 0 ${width} ${height}`, role: "group" });
}

// The three kinds of charts; each returns its drawing for a width and what is shown

function rowsChart(chart, width) {
  const longest = (texts) => Math.max(0, ...texts.map(widthOf));
  const names = longest(chart.rows.map((row) => row.variant)) + 12, notes = longest(chart.rows.map((row) => row.note)) + 18;
  const isNarrow = width < names + notes + 320, step = isNarrow ? 44 : 26;
  const frame = { width, left: isNarrow ? 10 : names, right: width - (isNarrow ? 10 : notes), top: 6, bottom: 10 + step * chart.rows.length };
  const svg = drawing(width, frame.bottom + (isNarrow ? 56 : 42)), x = linear(...chart.limits, frame.left, frame.right);
  const [low, high] = chart.limits, clip = (value) => Math.min(high, Math.max(low, value));
  axisBelow(svg, frame, x, chart.label);
  if (chart.band) make("rect", { x: x(clip(chart.band[0])), width: x(clip(chart.band[1])) - x(clip(chart.band[0])), y: frame.top,
    height: frame.bottom - frame.top, class: "shade" }, svg);
  if (chart.zero) line(svg, x(0), frame.top, x(0), frame.bottom, { class: "axis" });
  chart.rows.forEach((row, place) => {
    const y = frame.top + (isNarrow ? step * place + 26 : step * (place + 0.5)), group = make("g", {}, svg), stroke = { stroke: colour(row.variant), "stroke-width": 1.8 };
    const above = isNarrow ? y - 13 : y + 4;
    make("text", { x: isNarrow ? frame.left : frame.left - 8, y: above, "text-anchor": isNarrow ? "start" : "end",
      "font-weight": styles[row.variant].colour ? 400 : 700 }, group, row.variant);
    make("text", { x: isNarrow ? frame.right : frame.right + 14, y: above, "text-anchor": isNarrow ? "end" : "start", class: "soft" }, group, row.note);
    if (row.tip) told(make("rect", { x: frame.left, y: y - 12, width: frame.right - frame.left, height: 24, class: "hit" }, group), row.tip);
    if (row.interval) {
      const [start, end] = row.interval;
      line(group, x(clip(start)), y, x(clip(end)), y, { ...stroke, "pointer-events": "none" });
    }
    const ends = [...(row.interval || []), ...row.points.map((point) => point.x)];
    if (Math.min(...ends) < low) marker(group, row.variant, x(low), y, "<");
    if (Math.max(...ends) > high) marker(group, row.variant, x(high), y, ">");
    if (row.mean !== undefined) line(group, x(row.mean), y - 10, x(row.mean), y + 10, { ...stroke, "stroke-width": 2.5 });
    row.points.forEach((point, each) => {
      const lift = row.interval !== undefined ? 0 : 3 * (each - (row.points.length - 1) / 2) * Math.min(1, 6 / row.points.length);
      if (point.x >= low && point.x <= high) told(marker(group, row.variant, x(point.x), y + lift, point.shape, row.interval ? 5.5 : 4), point.tip);
    });
  });
  return svg;
}

function extent(values) {
  const low = Math.min(...values), high = Math.max(...values), padding = 0.05 * (high - low) || 1;
  return [low - padding, high + padding];
}

function linesChart(chart, width, state) {
  const shown = chart.series.filter((each) => state.shown.has(each.variant));
  const height = Math.max(280, Math.min(420, 0.55 * width)), frame = { width, left: 44, right: width - 12, top: 24, bottom: height - 42 };
  const svg = drawing(width, height + (width < 560 ? 14 : 0)), all = shown.length ? shown : chart.series;
  const xs = [...new Set(chart.series.flatMap((each) => each.line.map(([a]) => a)))].sort((a, b) => a - b);
  if (!xs.length) return svg;
  const sides = chart.x.log ? [xs[0] / 1.1, xs.at(-1) * 1.1] : [0, xs.at(-1) * 1.02];
  const x = (chart.x.log ? logarithmic : linear)(...sides, frame.left, frame.right);
  const lines = all.flatMap((each) => [...each.line, ...(state.seeds.has(each.variant) ? each.seeds.flatMap((seed) => seed.line) : [])]);
  const ends = all.flatMap((each) => (each.bars || each.band || []).filter(Boolean).flatMap(([, low, high]) => [low, high]));
  const fixed = [...(chart.y.band || []), ...(chart.y.line === undefined ? [] : [chart.y.line])];
  const middles = lines.map(([, b]) => b), most = 2.5 * Math.max(...middles.map(Math.abs)); // wide intervals must not hide the rest
  const y = linear(...extent([...middles, ...fixed, ...ends.filter((end) => !chart.y.band || Math.abs(end) <= most)]), frame.bottom, frame.top);
  axisBelow(svg, frame, x, chart.x.label, chart.x.ticks);
  axisLeft(svg, frame, y, chart.y.label);
  const [low, high] = y.limits, clip = (value) => Math.min(high, Math.max(low, value));
  if (chart.y.band) {
    const [from, to] = chart.y.band;
    make("rect", { x: frame.left, width: frame.right - frame.left, y: y(to), height: y(from) - y(to), class: "shade" }, svg);
    line(svg, frame.left, y(0), frame.right, y(0), { class: "axis" });
  }
  if (chart.y.line !== undefined) line(svg, frame.left, y(chart.y.line), frame.right, y(chart.y.line), { class: "axis", "stroke-dasharray": "2 3" });
  shown.forEach((each, place) => {
    const stroke = { stroke: colour(each.variant), "stroke-dasharray": styles[each.variant].dash, fill: "none" };
    const shift = 6 * (place - (shown.length - 1) / 2), group = make("g", { "data-variant": each.variant }, svg);
    for (const [at, start, end] of (each.bars || []).filter(Boolean)) // set apart, so that intervals do not hide each other
      line(group, x(at) + shift, y(clip(start)), x(at) + shift, y(clip(end)), { stroke: colour(each.variant), "stroke-width": 1.2 });
    const band = (each.band || []).filter(Boolean);
    if (state.seeds.has(each.variant))
      for (const seed of each.seeds)
        make("path", { d: path(seed.line, x, y), ...stroke, "stroke-width": 0.9, opacity: 0.7, "data-seed": seed.seed }, group);
    else if (band.length)
      make("path", { d: path([...band.map(([a, , b]) => [a, b]), ...band.map(([a, b]) => [a, b]).reverse()], x, y) + "Z",
        fill: colour(each.variant), opacity: 0.13 }, group);
    const moved = each.bars ? (value) => x(value) + shift : x;
    make("path", { d: path(each.line, moved, y), ...stroke, "stroke-width": 2 }, group);
    if (each.bars) for (const [a, b] of each.line) marker(group, each.variant, moved(a), y(b), undefined, 4);
  });
  const cursor = line(svg, 0, frame.top, 0, frame.bottom, { class: "axis", visibility: "hidden" });
  const field = make("rect", { x: frame.left, y: frame.top, width: frame.right - frame.left, height: frame.bottom - frame.top, class: "hit" }, svg);
  field.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) * width / box.width;
    const nearest = xs.reduce((best, each) => Math.abs(x(each) - at) < Math.abs(x(best) - at) ? each : best);
    cursor.setAttribute("x1", x(nearest));
    cursor.setAttribute("x2", x(nearest));
    cursor.setAttribute("visibility", "visible");
    const rows = shown.flatMap((each) => {
      const point = each.line.find(([a]) => a === nearest), ends = (each.bars || each.band || []).find((bar) => bar && bar[0] === nearest);
      return point ? [[point[1], `${each.variant}: ${point[1].toFixed(2)}${ends ? ` (${ends[1].toFixed(2)} to ${ends[2].toFixed(2)})` : ""}`]] : [];
    });
    const text = rows.sort(([a], [b]) => b - a).map(([, row]) => row);
    say([`after ${nearest.toLocaleString("en")} images`, ...text].join("\n"), event.clientX, event.clientY);
  });
  field.addEventListener("pointerleave", () => { hush(); cursor.setAttribute("visibility", "hidden"); });
  return svg;
}

function scatterChart(chart, width) {
  const height = Math.max(300, Math.min(440, 0.6 * width)), frame = { width, left: 44, right: width - 14, top: 26, bottom: height - 42 };
  const svg = drawing(width, height), x = logarithmic(...chart.x.limits, frame.left, frame.right), y = linear(...chart.y.limits, frame.bottom, frame.top);
  axisBelow(svg, frame, x, chart.x.label);
  axisLeft(svg, frame, y, chart.y.label);
  const [low, high] = chart.y.limits, clip = (value) => Math.min(high, Math.max(low, value));
  const steps = chart.front.flatMap(([a, b], place) => place ? [[a, chart.front[place - 1][1]], [a, b]] : [[a, b]]);
  if (steps.length) make("path", { d: path([...steps, [chart.x.limits[1], steps.at(-1)[1]]].map(([a, b]) => [a, clip(b)]), x, y), class: "axis", fill: "none" }, svg);
  for (const point of chart.points) {
    if (point.y === null) continue;
    const group = make("g", { "data-variant": point.variant }, svg);
    if (point.interval) line(group, x(point.x), y(clip(point.interval[0])), x(point.x), y(clip(point.interval[1])), { stroke: colour(point.variant), "stroke-width": 1.2 });
    const shape = point.y < low ? "v" : point.y > high ? "^" : undefined;
    told(marker(group, point.variant, x(point.x), y(clip(point.y)), shape, 5.5), point.tip);
  }
  return svg;
}

// Charts on the page: a legend, and a drawing that is made again when its width changes

const KINDS = { rows: rowsChart, lines: linesChart, scatter: scatterChart };

function sample(name, isLine) {
  const svg = make("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" });
  if (isLine) line(svg, 0, 6, 26, 6, { stroke: colour(name), "stroke-width": 2, "stroke-dasharray": styles[name].dash });
  else marker(svg, name, 13, 6, undefined, 4.5);
  return svg;
}

function toggle(set, name) { set.has(name) ? set.delete(name) : set.add(name); }

function put(figure) {
  const chart = charts[figure.dataset.chart], state = { shown: new Set(chart.shown), seeds: new Set() };
  const place = make("div", { class: "drawing" }), legend = make("div", { class: "legend", role: "group", "aria-label": "Variants" });
  let width = 0;
  const draw = () => {
    width = Math.round(Math.min(figure.clientWidth || 720, 992));
    place.replaceChildren(KINDS[chart.kind](chart, width, state));
  };
  if (chart.kind === "lines") {
    const buttons = [];
    const refresh = () => { for (const [button, isOn] of buttons) button.setAttribute("aria-pressed", isOn()); draw(); };
    const button = (parent, text, isOn, act, title) => {
      const node = make("button", { type: "button", title }, parent, text);
      node.addEventListener("click", () => { act(); refresh(); });
      if (isOn) buttons.push([node, isOn]);
      return node;
    };
    button(legend, "all", null, () => chart.series.forEach((each) => state.shown.add(each.variant)), "show all variants").className = "bulk";
    button(legend, "none", null, () => state.shown.clear(), "hide all variants").className = "bulk";
    for (const each of chart.series) {
      const name = each.variant, pair = make("span", {}, legend);
      button(pair, styles[name].label, () => state.shown.has(name), () => toggle(state.shown, name), `show or hide ${name}`).prepend(sample(name, true));
      if (each.seeds) button(pair, "seeds", () => state.seeds.has(name), () => { toggle(state.seeds, name); state.shown.add(name); }, `each seed of ${name}`);
    }
    refresh();
  } else if (chart.kind === "scatter") {
    for (const { variant } of chart.points) {
      const button = make("button", { type: "button" }, legend, styles[variant].label);
      button.prepend(sample(variant, false));
      const fade = (isOn) => figure.querySelectorAll("g[data-variant]").forEach((group) => group.classList.toggle("faded", isOn && group.dataset.variant !== variant));
      for (const [event, isOn] of [["pointerenter", true], ["focus", true], ["pointerleave", false], ["blur", false]]) button.addEventListener(event, () => fade(isOn));
    }
  }
  figure.prepend(...(legend.childNodes.length ? [legend] : []), place);
  draw();
  const redraw = () => { if (figure.clientWidth && Math.round(Math.min(figure.clientWidth, 992)) !== width) draw(); };
  new ResizeObserver(() => requestAnimationFrame(redraw)).observe(figure);
}

document.querySelectorAll("figure[data-chart]").forEach(put);

// Tables: a press on a heading sorts, first upwards, then downwards, then as it was

function value(cell) {
  const text = cell.textContent.replace(/[[\],\s]/g, "");
  if (text.startsWith("∞")) return Infinity;
  const number = parseFloat(text.replace(/^[<>+]+/, ""));
  return Number.isNaN(number) ? null : text.startsWith("<") ? number / 2 : number;
}

document.querySelectorAll("table").forEach((table) => {
  const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const direction = { ascending: "descending", descending: "" }[head.ariaSort] ?? "ascending";
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    if (direction) head.setAttribute("aria-sort", direction);
    const cells = original.map((row) => row.cells[column]), filled = cells.filter((cell) => /[^–\s]/.test(cell.textContent));
    const areNumbers = column > 0 && filled.every((cell) => value(cell) !== null), sign = direction === "descending" ? -1 : 1;
    const compare = (a, b) => {
      const [one, other] = [a, b].map((row) => row.cells[column]);
      if (!areNumbers) return sign * one.textContent.localeCompare(other.textContent, "en", { numeric: true });
      const [first, second] = [value(one), value(other)];
      return first === null || second === null ? (first === null) - (second === null) : sign * (first === second ? 0 : first < second ? -1 : 1);
    };
    body.append(...(direction ? [...original].sort(compare) : original));
  }));
});

// Folded sections open for those who follow a link into them, and for print

const sections = [...document.querySelectorAll("details.section")];
const open = (isOpen) => sections.forEach((section) => { section.open = isOpen; });
document.getElementById("unfold").addEventListener("click", () => open(true));
document.getElementById("fold").addEventListener("click", () => open(false));
const follow = () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.closest("details")) target.closest("details").open = true;
};
addEventListener("hashchange", follow);
follow();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
document.querySelectorAll("nav a").forEach((link) => link.addEventListener("click", () => setTimeout(follow)));
if (innerWidth <= 960) document.querySelector("nav details")?.removeAttribute("open");

const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const seen = new Set();
const watch = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) isIntersecting ? seen.add(target.id) : seen.delete(target.id);
  const first = [...links.keys()].find((id) => seen.has(id));
  links.forEach((link, id) => link.classList.toggle("here", id === first));
});
for (const id of links.keys()) watch.observe(document.getElementById(id));
