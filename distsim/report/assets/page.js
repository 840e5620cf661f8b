"use strict";
// Plots in the reader's colors, a sortable table, tabs, and the timeline on a canvas. Everything is in this file: no request.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const color = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const series = key => typeof key === "number" ? color(`s${key % 8}`) : color(key);
  document.documentElement.classList.add("scripted");

  // ---- plots

  const axis = own => ({
    color: color("soft"), gridcolor: color("grid"), zeroline: false, linecolor: color("rule"), automargin: true,
    ticks: "", ...own, title: { ...own.title, font: { size: 13 }, standoff: 10 },
  });

  function colored(trace) {
    const meta = trace.meta || {};
    const c = meta.color === undefined ? undefined : series(meta.color);
    const own = { ...trace, hoverlabel: { namelength: -1 } };
    if (c && trace.type !== "bar") own.line = { ...trace.line, color: c };
    if (c) own.marker = { ...trace.marker, color: c, line: { ...(trace.marker || {}).line, color: c } };
    if (meta.fill) own.fillcolor = series(meta.fill) + "33";
    return own;
  }

  function draw(place) {
    const { data: traces, layout } = data.plots[place.dataset.plot];
    const shapes = (layout.shapes || []).map(s => ({ ...s, line: { ...s.line, color: color("ink") } }));
    const font = { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: color("soft") };
    const full = {
      ...layout, shapes, font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 8, r: 14, t: 12, b: 8 }, xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis), hovermode: "closest",
      dragmode: false, hoverlabel: { bgcolor: color("card"), bordercolor: color("rule"), font: { color: color("ink") } },
    };
    Plotly.react(place, traces.map(colored), full, { displayModeBar: false, responsive: true });
  }

  const visible = place => place.offsetParent !== null;
  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = () => plots.filter(visible).forEach(draw);

  // ---- tabs, table

  for (const button of document.querySelectorAll("button[data-panel]")) {
    button.addEventListener("click", () => {
      for (const other of button.parentElement.children) {
        other.setAttribute("aria-pressed", String(other === button));
        document.getElementById(other.dataset.panel).hidden = other !== button;
      }
      drawAll();
    });
  }

  for (const more of document.querySelectorAll("button.more")) {
    more.addEventListener("click", () => { more.closest(".results").classList.add("all"); more.remove(); });
  }

  function sort(heading) {
    const headings = [...heading.parentElement.children];
    const column = headings.indexOf(heading);
    const down = heading.getAttribute("aria-sort") === "ascending";
    headings.forEach(h => h.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = heading.closest("table").tBodies[0];
    const key = row => row.cells[column].dataset.sort;
    const number = x => x.trim() !== "" && Number.isFinite(Number(x));
    const compare = (a, b) => number(a) && number(b) ? Number(a) - Number(b) : a.localeCompare(b);
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (down ? -1 : 1));
    const shown = [...body.rows].filter(row => !row.classList.contains("extra")).length;
    rows.forEach((row, i) => { row.classList.toggle("extra", i >= shown); body.append(row); });
  }
  for (const heading of document.querySelectorAll("th[data-key]")) {
    heading.tabIndex = 0;
    heading.addEventListener("click", () => sort(heading));
    heading.addEventListener("keydown", event => { if (event.key === "Enter") sort(heading); });
  }

  // ---- timeline

  const KINDS = ["compute", "communication", "waiting"];
  const WORDS = { compute: "computing", communication: "exposed communication", waiting: "waiting for others" };
  const UNITS = 1e6;

  function unpack(packed) {
    const spans = [];
    for (let i = 0, at = 0; i < packed.length; i += 2) {
      const begun = at + packed[i], ended = begun + packed[i + 1];
      spans.push([begun, ended]);
      at = ended;
    }
    return spans;
  }

  function duration(seconds, step) {
    const [factor, unit] = (step || seconds) < 1e-3 ? [1e6, "us"] : (step || seconds) < 1 ? [1e3, "ms"] : [1, "s"];
    const digits = step ? Math.max(0, -Math.floor(Math.log10(step * factor) + 1e-9)) : undefined;
    const value = seconds * factor;
    return `${digits === undefined ? Number(value.toPrecision(3)) : value.toFixed(digits)} ${unit}`;
  }

  function timeline(canvas) {
    const select = document.querySelector(".controls select");
    const readout = document.getElementById("readout");
    const context = canvas.getContext("2d");
    const LANE = 26, GAP = 5, AXIS = 26;
    let run, lanes, from, to, gutter, width;

    function load() {
      run = data.timelines[Number(select.value)];
      lanes = run.ranks.map(rank => ({ name: rank.name, spans: KINDS.flatMap(kind => unpack(rank[kind]).map(s => [...s, kind])) }));
      lanes.forEach(lane => lane.spans.sort((a, b) => a[0] - b[0]));
      [from, to] = [0, Math.min(UNITS, first(lanes))];
      const cut = run.until < run.seconds ? `The first ${duration(run.until)} of ${duration(run.seconds)} are kept. ` : "";
      readout.textContent = cut + (run.hidden ? `${run.hidden} more ranks are not shown.` : "");
      readout.dataset.rest = readout.textContent;
      paint();
    }

    // Some sixty operations of the busiest rank fill the first view.
    function first(all) {
      const most = Math.max(...all.map(lane => lane.spans.length));
      const lane = all.find(l => l.spans.length === most);
      return most > 60 ? lane.spans[60][0] * 1.02 : UNITS;
    }

    function paint() {
      const height = lanes.length * (LANE + GAP) + AXIS, ratio = devicePixelRatio || 1;
      width = canvas.clientWidth;
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.font = `12.5px ${getComputedStyle(document.body).fontFamily}`;
      context.textBaseline = "middle";
      gutter = Math.ceil(Math.max(...lanes.map(lane => context.measureText(lane.name).width))) + 14;
      const x = t => gutter + (t - from) / (to - from) * (width - gutter);
      const paints = Object.fromEntries(KINDS.map(kind => [kind, color(kind)]));
      lanes.forEach((lane, i) => {
        const y = i * (LANE + GAP);
        context.fillStyle = color("grid");
        context.fillRect(gutter, y, width - gutter, LANE);
        for (const [begun, ended, kind] of lane.spans) {
          if (ended < from || begun > to) continue;
          const left = Math.max(gutter, x(begun)), right = Math.min(width, x(ended));
          context.fillStyle = paints[kind];
          context.fillRect(left, y, Math.max(0.6, right - left - (right - left > 3 ? 0.8 : 0)), LANE);
        }
        context.fillStyle = color("soft");
        context.textAlign = "left";
        context.fillText(lane.name, 0, y + LANE / 2);
      });
      ticks(x, lanes.length * (LANE + GAP));
    }

    function ticks(x, y) {
      const shown = (to - from) / UNITS * run.until;
      const rough = shown / Math.max(2, Math.floor((width - gutter) / 84));
      const decade = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map(n => n * decade).find(n => n >= rough);
      context.fillStyle = color("soft");
      context.strokeStyle = color("muted");
      for (let t = Math.ceil(from / UNITS * run.until / step) * step; ; t += step) {
        const left = x(t / run.until * UNITS);
        if (left > width - 1) break;
        context.beginPath(); context.moveTo(left, y); context.lineTo(left, y + 5); context.stroke();
        const text = t < step / 2 ? "0" : duration(t, step), half = context.measureText(text).width / 2;
        context.textAlign = "center";
        context.fillText(text, Math.min(Math.max(left, gutter + half), width - half), y + 16);
      }
    }

    function zoom(factor, center) {
      const at = center === undefined ? (from + to) / 2 : center;
      const span = Math.min(UNITS, Math.max(50, (to - from) * factor));
      const share = (at - from) / (to - from);
      move(at - share * span, span);
    }
    function move(start, span) {
      from = Math.min(Math.max(0, start), UNITS - span);
      to = from + span;
      paint();
    }
    const time = event => from + (event.offsetX - gutter) / (width - gutter) * (to - from);

    canvas.addEventListener("wheel", event => {
      if (!event.ctrlKey && !event.metaKey) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, time(event));
    }, { passive: false });
    let held = null;
    canvas.addEventListener("pointerdown", event => { held = time(event); canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointerup", () => { held = null; });
    canvas.addEventListener("pointermove", event => {
      if (held !== null) return move(from + held - time(event), to - from);
      const lane = lanes[Math.floor(event.offsetY / (LANE + GAP))], t = time(event);
      const hits = lane && t >= from ? lane.spans.filter(s => s[0] <= t && t <= s[1]) : [];
      const hit = hits[0], scale = run.until / UNITS;
      readout.textContent = hit
        ? `${lane.name}: ${WORDS[hit[2]]}, ${duration((hit[1] - hit[0]) * scale)}, from ${duration(hit[0] * scale)}`
        : readout.dataset.rest;
    });
    canvas.addEventListener("keydown", event => {
      const span = to - from;
      if (event.key === "ArrowLeft") move(from - span / 5, span);
      else if (event.key === "ArrowRight") move(from + span / 5, span);
      else if (event.key === "+") zoom(0.7);
      else if (event.key === "-") zoom(1.4);
      else return;
      event.preventDefault();
    });
    for (const button of document.querySelectorAll("button[data-zoom]")) {
      button.addEventListener("click", () => button.dataset.zoom === "all" ? move(0, UNITS) : zoom(button.dataset.zoom === "in" ? 0.5 : 2));
    }
    select.addEventListener("change", load);
    new ResizeObserver(() => { if (canvas.clientWidth !== width) paint(); }).observe(canvas);
    dark.addEventListener("change", paint);
    load();
  }

  drawAll();
  dark.addEventListener("change", drawAll);
  const canvas = document.getElementById("timeline");
  if (canvas) timeline(canvas);
  document.documentElement.dataset.ready = "yes";
})();
