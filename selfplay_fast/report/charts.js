"use strict";
// Line charts as SVG: nice axes, gaps where a value is not a number, error bars, smoothing, values on hover.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 210, LEFT = 60, RIGHT = 10, TOP = 8, BOTTOM = 24;
  const COLORS = 6, SMOOTH_FROM = 30;

  const html = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const svg = (tag, attributes, parent) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    parent.append(node);
    return node;
  };

  // Round numbers that cover [low, high] in about `count` pieces.
  const ticks = (low, high, count) => {
    const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= raw * 0.999);
    const result = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) result.push(i * step);
    return result;
  };
  const short = (value, step) => {
    const size = Math.abs(value);
    if (size < 1e-12) return "0";
    if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
    if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
    if (size < 1e-3 || step < 1e-6) return value.toExponential(1);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (Math.abs(step / 10 ** Math.floor(Math.log10(step)) - 2.5) < 1e-6 ? 1 : 0));
    return value.toFixed(digits);
  };
  const exact = (value, percent) => {
    if (value === null) return "not a number";
    if (percent) return `${+(100 * value).toFixed(2)} %`;
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(4));
  };

  // Gaussian average, centred so that it does not lag; a gap stays a gap and is not averaged over.
  const smoothed = (values) => {
    const sigma = Math.max(2, values.length / 40), reach = Math.ceil(3 * sigma);
    return values.map((value, i) => {
      if (value === null) return null;
      let sum = 0, weight = 0;
      for (let k = Math.max(0, i - reach); k <= Math.min(values.length - 1, i + reach); k++) {
        if (values[k] === null) continue;
        const w = Math.exp(-0.5 * ((k - i) / sigma) ** 2);
        sum += w * values[k];
        weight += w;
      }
      return sum / weight;
    });
  };
  const path = (xs, ys, px, py) => {
    let d = "", pen = false;
    ys.forEach((y, i) => {
      if (y !== null) d += `${pen ? "L" : "M"}${px(xs[i]).toFixed(1)} ${py(y).toFixed(1)}`;
      pen = y !== null;
    });
    return d;
  };
  const nearest = (xs, x) => {
    let best = 0;
    xs.forEach((value, i) => { if (Math.abs(value - x) < Math.abs(xs[best] - x)) best = i; });
    return best;
  };

  class Chart {
    constructor(spec) {
      this.spec = spec;
      this.hidden = new Set();
      this.root = html("figure", "card chart");
      this.root.style.margin = "0";
      const head = html("figcaption", "chart-head");
      head.append(html("span", "chart-title", spec.title));
      if (spec.note) head.append(html("span", "chart-note", spec.note));
      this.root.append(head);
      this.svg = svg("svg", { role: "img", "aria-label": `${spec.title} by step` }, this.root);
      this.tip = html("div", "tip");
      this.tip.hidden = true;
      this.root.append(this.tip);
      if (spec.series.length > 1) this.root.append(this.legend());
      this.svg.addEventListener("pointermove", (event) => this.hover(event));
      this.svg.addEventListener("pointerdown", (event) => this.hover(event));
      this.svg.addEventListener("pointerleave", () => this.leave());
    }

    legend() {
      const legend = html("div", "legend");
      this.spec.series.forEach((series, i) => {
        const button = html("button", `c${i % COLORS}`, series.name);
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.addEventListener("click", () => {
          if (!this.hidden.delete(i)) this.hidden.add(i);
          button.setAttribute("aria-pressed", String(!this.hidden.has(i)));
          this.draw();
        });
        legend.append(button);
      });
      return legend;
    }

    visible() {
      return this.spec.series.map((series, i) => ({ ...series, i })).filter(({ i }) => !this.hidden.has(i));
    }

    scale(width) {
      const shown = this.visible();
      const xs = this.spec.series.flatMap((s) => s.x);
      let x0 = Math.min(...xs), x1 = Math.max(...xs);
      if (x0 === x1) { x0 -= 1; x1 += 1; }
      const ys = shown.flatMap((s) => s.y.flatMap((y, i) => {
        const e = s.e && s.e[i] !== null ? s.e[i] : 0;
        return y === null ? [] : [y - e, y + e];
      }));
      let y0 = ys.length ? Math.min(...ys) : 0, y1 = ys.length ? Math.max(...ys) : 1;
      if (y1 - y0 < 1e-9 * Math.max(1, Math.abs(y0))) {
        const pad = Math.abs(y0) * 0.1 || 1;
        y0 -= pad; y1 += pad;
      } else {
        const pad = (y1 - y0) * 0.06;
        if (y0 < 0 || y0 - pad > 0) y0 -= pad; else y0 = 0;
        y1 += pad;
      }
      if (this.spec.percent) { y1 = Math.min(y1, 1.004); y0 = Math.max(y0, 0); }
      this.px = (x) => LEFT + ((x - x0) / (x1 - x0)) * (width - LEFT - RIGHT);
      this.py = (y) => TOP + ((y1 - y) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
      return { x0, x1, y0, y1 };
    }

    draw() {
      const width = Math.max(this.svg.clientWidth, 160);
      this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
      this.svg.replaceChildren();
      const { x0, x1, y0, y1 } = this.scale(width);
      const yTicks = ticks(y0, y1, 4), yStep = yTicks[1] - yTicks[0] || 1;
      for (const y of yTicks) {
        const at = this.py(y);
        svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: at, y2: at }, this.svg);
        const label = this.spec.percent ? `${short(100 * y, 100 * yStep)} %` : short(y, yStep);
        svg("text", { x: LEFT - 6, y: at + 4, "text-anchor": "end" }, this.svg).textContent = label.replace("-", "−");
      }
      svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }, this.svg);
      const xTicks = ticks(x0, x1, Math.max(2, Math.floor(width / 64))).filter((x) => Number.isInteger(x));
      for (const x of xTicks) {
        const at = this.px(x), end = at > width - RIGHT - 14;
        svg("line", { class: "axis", x1: at, x2: at, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }, this.svg);
        svg("text", { x: end ? width - RIGHT : at, y: HEIGHT - 6, "text-anchor": end ? "end" : "middle" }, this.svg).textContent = short(x, xTicks[1] - xTicks[0] || 1);
      }
      for (const series of this.visible()) this.line(series);
      this.marks = svg("g", {}, this.svg);
      // The whole plot takes the pointer, not only the thin lines.
      svg("rect", { x: 0, y: 0, width, height: HEIGHT, fill: "transparent" }, this.svg);
      this.leave();
    }

    line({ x, y, e, i }) {
      const color = `c${i % COLORS}`;
      const smooth = document.getElementById("smooth").checked && y.length > SMOOTH_FROM;
      if (e) {
        const d = y.map((value, k) => (value === null || e[k] === null ? "" : `M${this.px(x[k]).toFixed(1)} ${this.py(value - e[k]).toFixed(1)}V${this.py(value + e[k]).toFixed(1)}`)).join("");
        svg("path", { class: `whisker ${color}`, d }, this.svg);
      }
      svg("path", { class: smooth ? `raw ${color}` : color, d: path(x, y, this.px, this.py) }, this.svg);
      if (smooth) svg("path", { class: color, d: path(x, smoothed(y), this.px, this.py) }, this.svg);
      y.forEach((value, k) => {
        const alone = value !== null && (k === 0 || y[k - 1] === null) && (k === y.length - 1 || y[k + 1] === null);
        if (value !== null && (alone || y.length <= 24)) svg("circle", { class: color, cx: this.px(x[k]), cy: this.py(value), r: 2.6 }, this.svg);
      });
    }

    hover(event) {
      const shown = this.visible();
      if (!shown.length) return;
      const box = this.svg.getBoundingClientRect(), at = event.clientX - box.left;
      const all = [...new Set(shown.flatMap((s) => s.x))];
      const step = all[nearest(all.map(this.px), at)];
      this.marks.replaceChildren();
      svg("line", { class: "cross", x1: this.px(step), x2: this.px(step), y1: TOP, y2: HEIGHT - BOTTOM }, this.marks);
      this.tip.replaceChildren(html("div", "", `step ${step}`));
      for (const series of shown) {
        const k = series.x.indexOf(step);
        if (k < 0) continue;
        const value = series.y[k], row = html("div", `tip-row c${series.i % COLORS}`, series.name);
        const error = series.e && series.e[k] !== null ? ` ± ${exact(series.e[k], false)}` : "";
        row.append(html("b", "", exact(value, this.spec.percent).replace("-", "−") + error));
        this.tip.append(row);
        if (value !== null) svg("circle", { class: `c${series.i % COLORS}`, cx: this.px(step), cy: this.py(value), r: 3.6 }, this.marks);
      }
      this.tip.hidden = false;
      const inset = this.svg.offsetLeft || 0, room = this.root.clientWidth - this.tip.offsetWidth - 6;
      const right = inset + this.px(step) + 12;
      this.tip.style.left = `${Math.max(4, right > room ? inset + this.px(step) - this.tip.offsetWidth - 12 : right)}px`;
    }

    leave() {
      this.tip.hidden = true;
      if (this.marks) this.marks.replaceChildren();
    }
  }

  const data = JSON.parse(document.getElementById("run-data").textContent);
  const place = document.getElementById("charts");
  const charts = [];
  for (const section of data.sections) {
    place.append(html("h3", "", section.title));
    const grid = html("div", "cards");
    for (const spec of section.charts) {
      const chart = new Chart(spec);
      charts.push(chart);
      grid.append(chart.root);
    }
    place.append(grid);
  }
  if (!charts.length) place.append(html("p", "empty", "No metrics yet."));
  const drawAll = () => charts.forEach((chart) => chart.draw());
  document.getElementById("smooth").addEventListener("change", drawAll);
  let width = 0;
  new ResizeObserver(() => {
    if (place.clientWidth !== width) { width = place.clientWidth; drawAll(); }
  }).observe(place);
})();
