"use strict";
// Without JavaScript, or in a browser that cannot unpack the library, the page shows drawn curves and the last step.

for (const part of document.querySelectorAll(".samples")) {
  const slider = part.querySelector("input"), said = part.querySelector("output");
  if (!slider) continue;
  slider.closest("p").hidden = false;
  const steps = part.querySelector(".grids").dataset.steps.split(" ");
  slider.addEventListener("input", () => {
    said.textContent = Number(steps[slider.value]).toLocaleString("en");
    for (const one of part.querySelectorAll("[data-step]")) one.hidden = one.dataset.step !== slider.value;
  });
}

// Says of each table that is wider than its frame that there is more.
const fits = new ResizeObserver((entries) => {
  for (const {target} of entries) {
    const hint = target.previousElementSibling;
    if (hint?.matches(".more")) hint.hidden = target.scrollWidth <= target.clientWidth + 1;
  }
});
for (const frame of document.querySelectorAll(".wide")) fits.observe(frame);

const HEIGHT = 230, FAINT = 0.1, BAND = 0.16;
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = [];
let chosen = null;

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const known = (value) => value !== null && value !== undefined;

function number(value) {
  if (!known(value)) return "diverged";
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en");
  return Number.isInteger(value) ? String(value) : value.toPrecision(4);
}

function time(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60), two = (rest) => String(rest).padStart(2, "0");
  if (minutes < 60) return `${minutes} min ${two(Math.round(seconds % 60))} s`;
  return `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
}

const place = (axis, x) => (axis === "seconds" ? time(x) : Math.round(x).toLocaleString("en"));

// A symmetric logarithm keeps losses of both signs on one axis; its ticks are powers of ten.
const scaled = (panel, y) => (!known(y) ? NaN : panel.scale === "symlog" ? Math.sign(y) * Math.log10(1 + Math.abs(y)) : y);

// The ticks of a logarithmic axis: 1, 2 and 5 of each decade, of many decades only the powers of ten.
function decades(panel) {
  const exponents = panel.curves.flatMap((curve) => curve.mean.filter((value) => value > 0).map(Math.log10));
  const [first, last] = [Math.floor(Math.min(...exponents)), Math.ceil(Math.max(...exponents))];
  const powers = Array.from({length: last - first + 1}, (_, i) => 10 ** (first + i));
  return last - first > 3 ? powers : powers.flatMap((power) => [power, 2 * power, 5 * power]);
}

class Chart {
  constructor(section, panel, home) {
    Object.assign(this, {section, panel, home, axis: Object.keys(section.axes)[0]});
    this.drawn = null;
  }

  show(axis) {
    this.axis = axis;
    if (this.drawn) this.draw();
  }

  draw() {
    this.home.querySelector(".plot").replaceChildren();
    const source = () => new Bokeh.ColumnDataSource({data: {}});
    this.drawn = {bands: source(), lines: source(), marks: source(), ends: source(), readout: source()};
    this.figure = this.frame();
    this.glyphs();
    this.fill();
    this.style();
    Bokeh.Plotting.show(this.figure, this.home.querySelector(".plot"));
  }

  frame() {
    const {panel} = this;
    const figure = Bokeh.Plotting.figure({
      height: HEIGHT, sizing_mode: "stretch_width", tools: "", toolbar_location: null,
      y_axis_type: panel.scale === "log" ? "log" : "linear",
      title: null, name: panel.metric, min_border: 4,
    });
    const box = new Bokeh.BoxZoomTool({dimensions: "both"});
    figure.add_tools(box, new Bokeh.ResetTool());
    figure.toolbar.active_drag = box;
    figure.on_event?.("doubletap", () => figure.reset.emit());
    return figure;
  }

  glyphs() {
    const {figure, drawn} = this, all = {selection_alpha: 0, nonselection_alpha: 0};
    const each = (name) => ({field: name});
    figure.patches({source: drawn.bands, xs: each("xs"), ys: each("ys"), fill_color: each("colour"), fill_alpha: each("alpha"), line_alpha: 0});
    figure.multi_line({
      source: drawn.lines, xs: each("xs"), ys: each("ys"), line_color: each("colour"), line_alpha: each("alpha"),
      line_width: each("width"), line_dash: each("dash"), nonselection_line_alpha: each("alpha"), line_join: "round",
    });
    figure.scatter({source: drawn.marks, x: each("x"), y: each("y"), size: 4.5, color: each("colour"), alpha: each("alpha")});
    figure.scatter({
      source: drawn.ends, x: each("x"), y: each("y"), size: 9, marker: "x", line_width: 2, color: each("colour"), alpha: each("alpha"),
    });
    const wide = figure.multi_line({source: drawn.lines, xs: each("xs"), ys: each("ys"), line_alpha: 0, line_width: 13, ...all});
    const tap = new Bokeh.TapTool({renderers: [wide]});
    const read = figure.line({source: drawn.readout, x: each("x"), y: each("y"), line_alpha: 0});
    this.hover = new Bokeh.HoverTool({renderers: [read], mode: "vline", line_policy: "nearest", point_policy: "follow_mouse", limit: 1});
    const cross = new Bokeh.CrosshairTool({dimensions: "height", line_alpha: 0.4, line_color: colour("--soft")});
    figure.add_tools(tap, this.hover, cross);
    figure.toolbar.active_tap = tap;
    drawn.lines.selected.change.connect(() => {
      const [row] = drawn.lines.selected.indices;
      if (row === undefined) return;
      drawn.lines.selected.indices = [];
      single(drawn.lines.data.label[row]);
    });
  }

  // The curves to draw: the chosen one in full, the others faint; the best on top, the grey ones below.
  curves() {
    const {section, axis} = this;
    const found = this.panel.curves.filter((curve) => curve.x[axis].length).map((curve) => {
      const group = section.groups[curve.group], faint = chosen !== null && group.label !== chosen;
      const plain = group.others && group.label === chosen;
      const at = [];
      curve.x[axis].forEach((x, i) => known(x) && at.push(i));
      return {
        curve, group, faint, at, label: group.label, x: at.map((i) => curve.x[axis][i]),
        colour: plain ? colour("--ink") : group.colours[dark.matches ? 1 : 0],
        alpha: faint ? FAINT : 1,
      };
    });
    const depth = (one) => (one.label === chosen ? 2 : one.group.others ? 0 : 1);
    return found.reverse().sort((one, other) => depth(one) - depth(other));
  }

  fill() {
    const {panel, drawn} = this, found = this.curves();
    const column = (of, make) => of.map(make);
    const y = (one, name) => one.at.map((i) => scaled(panel, one.curve[name][i]));
    const finite = (one) => one.at.flatMap((i, k) => (known(one.curve.mean[i]) ? [k] : []));
    const looks = (of) => ({colour: column(of, (one) => one.colour), alpha: column(of, (one) => one.alpha)});
    drawn.lines.data = {
      xs: column(found, (one) => one.x), ys: column(found, (one) => y(one, "mean")), ...looks(found),
      label: column(found, (one) => one.label), dash: column(found, (one) => one.group.dash),
      width: column(found, (one) => (one.group.others && one.label !== chosen ? 0.9 : 1.8)),
    };
    const banded = found.filter((one) => one.curve.low && !one.group.others);
    const around = (one, low, high) => [...finite(one).map(low), ...finite(one).reverse().map(high)];
    drawn.bands.data = {
      xs: column(banded, (one) => around(one, (k) => one.x[k], (k) => one.x[k])),
      ys: column(banded, (one) => around(one, (k) => y(one, "low")[k], (k) => y(one, "high")[k])),
      ...looks(banded), alpha: column(banded, (one) => (one.faint ? FAINT * BAND : BAND)),
    };
    const points = (of, ks) => {
      const rows = of.flatMap((one) => ks(one).map((k) => ({...one, px: one.x[k], py: y(one, "mean")[k]})));
      return {x: column(rows, (row) => row.px), y: column(rows, (row) => row.py), ...looks(rows)};
    };
    drawn.marks.data = points(panel.marked ? found : [], finite);
    const cut = found.filter((one) => finite(one).length && finite(one).length < one.at.length);
    drawn.ends.data = points(cut, (one) => finite(one).slice(-1));
    this.read(found);
  }

  // One invisible line through all positions holds, at each, the values of the runs there as text.
  read(found) {
    const {panel, drawn, axis} = this;
    const said = found.filter((one) => (chosen === null ? !one.group.others : !one.faint)).reverse();
    const xs = [...new Set(said.flatMap((one) => one.x))].sort((a, b) => a - b);
    const middle = found.flatMap((one) => one.at.map((i) => scaled(panel, one.curve.mean[i]))).find(Number.isFinite);
    const data = {x: xs, y: xs.map(() => middle), at: xs.map((x) => place(axis, x))};
    said.forEach((one, n) => {
      data[`label${n}`] = xs.map(() => one.label);
      data[`value${n}`] = xs.map((x) => this.value(one, x));
    });
    drawn.readout.data = data;
    const row = (one, n) =>
      `<tr><td><span style="display:inline-block;width:1.2em;border-top:3px ${one.group.dash} ${one.colour};vertical-align:middle"></span></td>`
      + `<td style="padding:0 .8em 0 .5em">@label${n}</td><td style="text-align:right">@value${n}</td></tr>`;
    this.hover.tooltips = `<div style="font:12px/1.35 system-ui,sans-serif;max-width:26em">`
      + `<div style="color:var(--soft)">${this.section.axes[axis]} @at</div><table>${said.map(row).join("")}</table></div>`;
  }

  // The value at the recorded position nearest to x, where the curve reaches so far.
  value(one, x) {
    const {curve, at} = one;
    if (x < one.x[0] || x > one.x[one.x.length - 1]) return "";
    let best = 0;
    one.x.forEach((there, k) => { if (Math.abs(there - x) < Math.abs(one.x[best] - x)) best = k; });
    const mean = number(curve.mean[at[best]]);
    return curve.low && known(curve.mean[at[best]])
      ? `${mean} (${number(curve.low[at[best]])} to ${number(curve.high[at[best]])})` : mean;
  }

  style() {
    const {figure, panel, axis} = this, soft = colour("--soft"), rule = colour("--rule");
    Object.assign(figure, {
      background_fill_color: null, border_fill_color: null, outline_line_color: null,
    });
    for (const one of [...figure.xaxes, ...figure.yaxes]) {
      Object.assign(one, {
        axis_line_color: soft, major_tick_line_color: soft, major_tick_in: 0, minor_tick_line_color: null, major_label_text_color: soft,
        axis_label_text_color: soft, major_label_text_font_size: "11px", axis_label_text_font_size: "11px",
        axis_label_text_font_style: "normal", axis_label_text_font: "system-ui, sans-serif", major_label_text_font: "system-ui, sans-serif",
      });
    }
    for (const one of [...figure.xgrids, ...figure.ygrids]) one.grid_line_color = rule;
    const [x] = figure.xaxes, [y] = figure.yaxes;
    const last = Math.max(...this.panel.curves.flatMap((curve) => curve.x[axis].filter(known)));
    const unit = axis !== "seconds" ? null : [[3600, "hours"], [60, "minutes"]].find(([size]) => last > 3 * size) ?? [1, "seconds"];
    x.axis_label = unit ? `${this.section.axes[axis]} (${unit[1]})` : this.section.axes[axis];
    x.formatter = new Bokeh.NumeralTickFormatter({format: axis === "images" ? "0.[0]a" : "0,0.[0]"});
    if (unit) {
      const step = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1200, 2000].find((size) => last / unit[0] / size <= 6) ?? last / unit[0] / 5;
      const ticks = Array.from({length: Math.floor(last / unit[0] / step) + 1}, (_, i) => i * step);
      x.ticker = new Bokeh.FixedTicker({ticks: ticks.map((tick) => tick * unit[0])});
      x.major_label_overrides = new Map(ticks.map((tick) => [tick * unit[0], tick.toLocaleString("en")]));
    }
    if (panel.scale === "symlog") {
      const powers = [0, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e8, 1e10];
      const ticks = [...powers.slice(1).map((tick) => -tick), ...powers];
      y.ticker = new Bokeh.FixedTicker({ticks: ticks.map((tick) => scaled(panel, tick))});
      y.major_label_overrides = new Map(ticks.map((tick) => [scaled(panel, tick), tick.toLocaleString("en")]));
    } else {
      if (panel.scale === "log") y.ticker = new Bokeh.FixedTicker({ticks: decades(panel)});
      y.formatter = new Bokeh.NumeralTickFormatter({format: "0,0.[000]"});
    }
    for (const one of figure.xgrids) one.ticker = x.ticker;
    for (const one of figure.ygrids) one.ticker = y.ticker;
  }
}

// Singles out a run by its label in all charts, tables and grids; the same one again, or null, shows all.
function single(label) {
  chosen = label === chosen ? null : label;
  document.body.classList.toggle("single", chosen !== null);
  for (const one of document.querySelectorAll("[data-run]")) {
    one.classList.toggle("chosen", one.dataset.run === chosen);
    if (one.matches("button")) one.setAttribute("aria-pressed", String(one.dataset.run === chosen));
  }
  for (const chart of charts) if (chart.drawn) chart.fill();
}

function panelHome(panel) {
  const home = document.createElement("figure"), title = document.createElement("figcaption"), plot = document.createElement("div");
  title.textContent = panel.metric + (panel.better ? ` (${panel.better} is better)` : "");
  plot.className = "plot";
  plot.style.minHeight = `${HEIGHT}px`;
  home.append(title, plot);
  return home;
}

async function start(packed) {
  const {library, sections} = await unpacked(packed.content.textContent);
  const script = document.createElement("script");
  script.textContent = library;
  document.head.append(script);
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      charts.find((chart) => chart.home === entry.target).draw();
    }
  }, {rootMargin: "600px"});
  for (const place of document.querySelectorAll(".panels")) {
    const section = sections[place.dataset.section], part = place.closest(".curves"), own = [];
    place.replaceChildren();
    for (const panel of section.panels) {
      const chart = new Chart(section, panel, panelHome(panel));
      own.push(chart);
      place.append(chart.home);
      seen.observe(chart.home);
    }
    charts.push(...own);
    for (const control of part.querySelectorAll(".switch, .hint")) control.hidden = false;
    part.querySelector(".switch").addEventListener("change", (event) => own.forEach((chart) => chart.show(event.target.value)));
    for (const key of part.querySelectorAll("button.key")) {
      key.disabled = false;
      key.setAttribute("aria-pressed", "false");
      key.addEventListener("click", () => single(key.dataset.run));
    }
  }
  dark.addEventListener("change", () => charts.forEach((chart) => chart.drawn && chart.draw()));
  addEventListener("keydown", (event) => { if (event.key === "Escape" && chosen !== null) single(null); });
}

const packed = document.getElementById("packed");
if (packed && "DecompressionStream" in window) start(packed);
