// Charts of metrics: each asks for its series when it comes into sight, at the width it is shown, and again as
// a running run goes on. Series are downsampled by the server; colours are the theme's, as in the rows' swatches.

const charts = new Map(); // element → what is drawn in it
const POINTS_A_PIXEL = 1;

function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function figure(value) {
  if (value == null) return "";
  const size = Math.abs(value);
  if (value !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return Number(value.toPrecision(5)).toString();
}

async function series(spec, width) {
  const address = new URL(spec.url, location.href);
  address.searchParams.set("points", String(Math.max(50, Math.round(width * POINTS_A_PIXEL))));
  const answer = await fetch(address, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const { points } = await answer.json();
  return points.map(({ step, at, value }) => ({ step, time: Date.parse(at) / 1000, value: Number.isFinite(value) ? value : null }));
}

/** Columns for uPlot: by step, or by time where a script gave no steps. */
function columns(all) {
  const stepless = all.every((points) => points.every((p) => p.step === points[0].step)) && all.some((p) => p.length > 1);
  const tables = all.map((points) => {
    const byX = new Map(); // the last value of a step counts
    for (const p of points) byX.set(stepless ? p.time : p.step, p.value);
    const xs = [...byX.keys()].sort((a, b) => a - b);
    return [xs, xs.map((x) => byX.get(x))];
  });
  return { stepless, data: tables.length === 1 ? tables[0] : uPlot.join(tables) };
}

function draw(plot, state) {
  const { specs, data, stepless } = state;
  const quiet = colour("muted");
  const grid = { stroke: colour("line"), width: 1 };
  const axis = { stroke: quiet, grid, ticks: { show: false }, font: "11px Inter, system-ui, sans-serif" };
  const value = plot.closest(".chart").querySelector(".value");
  state.drawn?.destroy();
  state.drawn = new uPlot(
    {
      width: plot.clientWidth,
      height: plot.clientHeight,
      legend: { show: false },
      cursor: { y: false, points: { size: 6 }, drag: { x: true, y: false } },
      scales: { x: { time: stepless } },
      axes: [
        { ...axis, size: 28, space: 60 },
        { ...axis, size: 52, space: 36, values: (_, ticks) => ticks.map(figure) },
      ],
      series: [
        {},
        ...specs.map((spec) => ({
          label: spec.name,
          stroke: colour(`c${spec.colour}`),
          width: 1.5,
          spanGaps: true,
          points: { show: data[0].length < 30, size: 5 },
        })),
      ],
      hooks: {
        setCursor: [
          (u) => {
            const at = u.cursor.idx;
            if (at == null) return void (value.textContent = stepless ? "time" : "step");
            const where = stepless ? new Date(data[0][at] * 1000).toLocaleTimeString() : `step ${data[0][at]}`;
            const values = specs.map((_, i) => figure(data[i + 1][at])).filter(Boolean);
            value.textContent = `${where}: ${values.join(", ")}`;
          },
        ],
      },
    },
    data,
    plot,
  );
}

async function load(plot) {
  const state = charts.get(plot);
  if (!state || state.loading || !plot.clientWidth) return;
  state.loading = true;
  const none = plot.closest(".chart").querySelector(".none");
  try {
    const all = await Promise.all(state.specs.map((spec) => series(spec, plot.clientWidth)));
    const { stepless, data } = columns(all);
    Object.assign(state, { stepless, data });
    none.hidden = data[0].length > 0;
    none.textContent = "No points yet.";
    if (data[0].length) draw(plot, state);
    plot.dataset.points = String(data[0].length);
  } catch (error) {
    none.hidden = false;
    none.textContent = `The points cannot be read (${error.message}).`;
  } finally {
    state.loading = false;
  }
}

const seen = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const state = charts.get(target);
    if (!state) continue;
    state.visible = isIntersecting;
    if (isIntersecting && !state.drawn) load(target);
  }
});
const sized = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const state = charts.get(target);
    if (state?.drawn && target.clientWidth) state.drawn.setSize({ width: target.clientWidth, height: target.clientHeight });
  }
});

/** Take up the plots of the page as it is now, and let go of those that are gone or show something else. */
function find() {
  for (const [plot, state] of charts) {
    if (plot.isConnected && plot.dataset.series === state.text) continue;
    state.drawn?.destroy();
    seen.unobserve(plot);
    sized.unobserve(plot);
    charts.delete(plot);
  }
  for (const plot of document.querySelectorAll(".plot")) {
    if (charts.has(plot)) continue;
    charts.set(plot, { text: plot.dataset.series, specs: JSON.parse(plot.dataset.series), visible: false });
    seen.observe(plot);
    sized.observe(plot);
  }
}

document.addEventListener("themechange", () => {
  for (const [plot, state] of charts) if (state.drawn) draw(plot, state);
});
document.addEventListener("refreshed", () => {
  find();
  for (const [plot, state] of charts) if (state.visible && state.drawn) load(plot);
});
document.addEventListener("htmx:afterSettle", find);
find();
