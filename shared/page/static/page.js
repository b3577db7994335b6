"use strict";
// What a page does by itself: clocks that go on, curves, and a word when the connection is lost.
(() => {
  const all = (query) => document.querySelectorAll(query);

  function words(seconds) {
    if (seconds < 0) return "any moment";
    if (seconds < 100) return `${Math.round(seconds)} s`;
    return seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  function tick() {
    const now = Date.now();
    for (const each of all("[data-since]")) each.textContent = words((now - Date.parse(each.dataset.since)) / 1000);
    for (const each of all("[data-until]")) each.textContent = words((Date.parse(each.dataset.until) - now) / 1000);
  }

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  const drawn = new Map();

  async function draw(box) {
    const answer = await fetch(box.dataset.url, { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    const found = await answer.json();
    drawn.get(box)?.plot.destroy();
    const names = Object.keys(found.lines);
    const style = (name) => (name === found.worst
      ? { label: name, stroke: colour("worst"), width: 2.5 }
      : { label: name, stroke: colour("curve"), width: 1 });
    const series = [{}, ...names.map(style), { label: "mean", stroke: colour("mean"), width: 2.5 }];
    const few = found.rounds.length < 30;
    for (const each of series.slice(1)) Object.assign(each, { spanGaps: true, points: { show: few, size: 5, fill: colour("card") } });
    const axis = { stroke: colour("soft"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const near = box.parentElement.querySelector(".near");
    const options = {
      width: box.clientWidth, height: 260, series, legend: { show: false }, padding: [8, 8, 0, 0],
      scales: { x: { time: false }, y: { range: (_, low, high) => [Math.max(0, low - 0.03), high + 0.03] } },
      axes: [{ ...axis, size: 32, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500] }, { ...axis, size: 46, values: (_, ticks) => ticks.map((tick) => tick.toFixed(2)) }],
      focus: { alpha: 0.35 }, cursor: { focus: { prox: 24 }, drag: { x: false, y: false } },
      hooks: { setSeries: [(plot, index) => show(plot, index)], setCursor: [(plot) => show(plot, plot.focused)] },
    };
    function show(plot, index) {
      plot.focused = index;
      const at = plot.cursor.idx;
      const value = index && at != null ? plot.data[index][at] : null;
      near.textContent = value == null ? "" : `${plot.series[index].label}, round ${plot.data[0][at]}: ${value.toFixed(3)}`;
    }
    const data = [found.rounds, ...names.map((name) => found.lines[name]), found.mean];
    box.replaceChildren();
    drawn.set(box, { plot: new uPlot(options, data, box) });
  }

  function drawAll() {
    for (const box of all(".chart[data-url]")) draw(box);
  }

  let rounds = null;
  function look() {
    tick();
    const now = document.querySelector("[data-rounds]")?.dataset.rounds ?? null;
    if (now !== rounds) { rounds = now; drawAll(); }
  }

  document.addEventListener("htmx:sse:after:message", look);
  document.addEventListener("htmx:sse:error", () => { document.getElementById("lost").hidden = false; });
  document.addEventListener("htmx:sse:after:connection", () => { document.getElementById("lost").hidden = true; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let resizing;
  addEventListener("resize", () => {
    clearTimeout(resizing);
    resizing = setTimeout(() => { for (const [box, { plot }] of drawn) plot.setSize({ width: box.clientWidth, height: 260 }); }, 150);
  });
  look();
  setInterval(tick, 1000);
})();
