// Pictures that ECharts draws in the page's colours: curves of runs, and the map of where a head looks.
import { echarts } from "nicegui-echart";

const ZOOM_DELAY = 300; // ms without a further notch of the wheel, after which finer points are asked for
const SMALLEST_SPAN = 0.05; // of the largest value: the least that a vertical axis shows
const SYMBOLS = ["circle", "rect", "triangle", "diamond", "pin", "arrow"];
const MOST_DOTS = 60;
const MOST_TICKS = 8;
const MULTIPLES = [[1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8], [1, 2, 5], [1]];
const LETTER = 0.62; // width of a letter, as a part of its height
const DASHES = [6, 4];

const colour = (name) => getComputedStyle(document.body).getPropertyValue(`--${name}`).trim();
const number = (value) => Number(value.toPrecision(4)).toLocaleString("en");
const measured = (value) =>
  value.toLocaleString("en", { minimumSignificantDigits: 4, maximumSignificantDigits: 4 });
const whole = (value) => Math.round(value).toLocaleString("en");

function element(kind, attributes, ...children) {
  const isDrawn = kind === "svg" || kind === "line";
  const made = isDrawn ? document.createElementNS("http://www.w3.org/2000/svg", kind) : document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children); // strings become text, never HTML
  return made;
}

function swatch(curve) {
  const stroke = { stroke: colour(`curve-${curve.shade}`), "stroke-width": 3 };
  if (curve.what === "validation") stroke["stroke-dasharray"] = DASHES;
  return element("svg", { width: 24, height: 8 }, element("line", { x1: 0, y1: 4, x2: 24, y2: 4, ...stroke }));
}

// Return a curve's value at x, and the place that it is of: validation is measured at some steps only.
function valueAt(curve, x) {
  const points = curve.points.filter((point) => point[1] !== null);
  const behind = points.findIndex((point) => point[0] >= x);
  if (points.length === 0) return null;
  const [low, high] = [points.at(behind > 0 ? behind - 1 : behind), points.at(behind)];
  const part = high[0] > low[0] ? (x - low[0]) / (high[0] - low[0]) : 0;
  if (curve.what !== "validation" && 0 <= part && part <= 1)
    return { y: low[1] + part * (high[1] - low[1]), x: behind < 0 || x < low[0] ? low[0] : x };
  const nearest = part < 0.5 ? low : high;
  return { y: nearest[1], x: nearest[0] };
}

// Return ticks for an axis of logarithms.
function ticksBetween(low, high) {
  for (const multiples of MULTIPLES) {
    const found = [];
    for (let power = Math.floor(low); power <= high; power++)
      found.push(...multiples.map((multiple) => Math.log10(multiple) + power));
    const inside = found.filter((tick) => low <= tick && tick <= high);
    if (inside.length <= MOST_TICKS || multiples.length === 1) return inside;
  }
}

// Widen a span that would magnify noise.
function limits({ min, max }) {
  const span = SMALLEST_SPAN * Math.max(Math.abs(min), Math.abs(max));
  if (max - min >= span) return [null, null];
  const step = 10 ** Math.floor(Math.log10(span));
  return [Math.floor((min + max - span) / 2 / step) * step, Math.ceil((min + max + span) / 2 / step) * step];
}

// `shown` says of each kind of curve whether the legend shows it.
function curvesOption({ curves, x, isLogarithmic, isLarge, span }, shown) {
  const axis = {
    axisLabel: { color: colour("soft"), hideOverlap: true },
    axisLine: { lineStyle: { color: colour("edge") } },
    splitLine: { lineStyle: { color: colour("edge") } },
    nameTextStyle: { color: colour("soft") },
  };
  const onAxis = (y) => (!isLogarithmic ? y : y > 0 ? Math.log10(y) : null);
  const yAxis = { ...axis, type: "value", scale: true, min: (e) => limits(e)[0], max: (e) => limits(e)[1] };
  if (isLogarithmic) {
    const ys = curves.flatMap((curve) => curve.points.map((point) => onAxis(point[1]))).filter((y) => y !== null);
    [yAxis.min, yAxis.max] = [Math.min(...ys) - 0.01, Math.max(...ys) + 0.01];
    const customValues = ticksBetween(yAxis.min, yAxis.max);
    yAxis.axisTick = { customValues };
    yAxis.axisLabel = { ...axis.axisLabel, customValues, formatter: (y) => number(10 ** y) };
  }
  const tooltip = (params) => {
    const at = params[0].axisValue;
    const rows = curves
      .filter((curve) => curve.what !== "each step" && shown[curve.what] !== false)
      .map((curve) => [curve, valueAt(curve, at)])
      .filter(([, value]) => value !== null)
      .sort((one, other) => other[1].y - one[1].y)
      .map(([curve, value]) => {
        const name = [curve.run, curve.what].filter(Boolean).join(", ");
        const where = number(value.x) === number(at) ? "" : ` (at ${number(value.x)})`;
        return element("tr", {}, element("td", {}, swatch(curve)), element("td", {}, name + where),
          element("td", {}, measured(value.y)));
      });
    return [element("div", { class: "tip-at" }, `${x} ${number(at)}`), element("table", { class: "tip" }, ...rows)];
  };
  const isCompared = curves.some((curve) => curve.number > 1);
  return {
    animation: false,
    grid: { left: 6, right: 22, top: isLarge ? 34 : 14, bottom: 22, containLabel: true },
    legend: {
      show: isLarge, top: 0, left: 0, itemWidth: 28, textStyle: { color: colour("soft") },
      inactiveColor: colour("edge"),
      data: ["each step", "training", "validation"].map((name) => ({
        name, itemStyle: name === "validation" ? {} : { opacity: 0 },
      })),
    },
    tooltip: {
      trigger: "axis", confine: true, backgroundColor: colour("card"), borderColor: colour("edge"),
      textStyle: { color: colour("ink"), fontSize: 12 }, formatter: tooltip,
    },
    xAxis: {
      ...axis, type: "value", min: 0, max: "dataMax", name: x, nameLocation: "middle", nameGap: 26,
      minInterval: x === "step" ? 1 : 0, splitLine: { show: false },
      axisLabel: { ...axis.axisLabel, showMaxLabel: false, formatter: x === "step" ? whole : number },
    },
    yAxis,
    dataZoom: [{
      type: "inside", start: 100 * span[0], end: 100 * span[1], zoomOnMouseWheel: "ctrl", moveOnMouseWheel: false,
    }],
    toolbox: { itemSize: 0, feature: { dataZoom: { yAxisIndex: "none" } } }, // for choosing a part with the mouse
    series: curves.map((curve) => {
      const shade = colour(`curve-${curve.shade}`);
      const isFaint = curve.what === "each step";
      const opacity = isFaint ? 0.25 : 1;
      return {
        type: "line",
        name: curve.what || curve.run,
        data: isLogarithmic ? curve.points.map(([at, y]) => [at, y === null ? null : onAxis(y)]) : curve.points,
        lineStyle: {
          color: shade, opacity, width: isFaint || !isLarge ? 1.2 : 2,
          type: curve.what === "validation" ? DASHES : "solid",
        },
        itemStyle: { color: shade, opacity },
        symbol: curve.what === "validation" ? SYMBOLS[(curve.number - 1) % SYMBOLS.length] : "none",
        symbolSize: 7,
        showSymbol: curve.points.length <= MOST_DOTS,
        endLabel: { show: isCompared && !isFaint && curve.what !== "validation", color: shade, formatter: `${curve.number}` },
        labelLayout: { moveOverlap: "shiftY" },
      };
    }),
  };
}

function mapOption({ labels, weights }, chart) {
  const cells = weights.flatMap((row, at) =>
    row.flatMap((weight, to) => (weight === null ? [] : [[to, at, Math.sqrt(weight), weight]])), // roots: small ones show
  );
  const cell = chart.getWidth() / (labels.length + 4);
  const fontSize = Math.max(8, Math.min(13, Math.floor(cell) - 1));
  const longest = Math.max(...labels.map((label) => [...label].length), 0);
  const axis = {
    type: "category",
    data: labels,
    axisTick: { show: false },
    axisLine: { show: false },
    axisLabel: { color: colour("soft"), fontFamily: "monospace", fontSize, interval: 0, margin: 4 },
  };
  const isTurned = longest * LETTER * fontSize > cell;
  return {
    animation: false,
    grid: { left: 4, right: 4, top: 4, bottom: 4, containLabel: true },
    xAxis: { ...axis, position: "top", axisLabel: { ...axis.axisLabel, rotate: isTurned ? 90 : 0 } },
    yAxis: { ...axis, inverse: true },
    tooltip: {
      confine: true, backgroundColor: colour("card"), borderColor: colour("edge"),
      textStyle: { color: colour("ink"), fontSize: 13 },
      formatter: ({ value: [to, at, , weight] }) =>
        [element("div", {}, `${labels[at]} looks at ${labels[to]}: ${(100 * weight).toFixed(1)}%`)],
    },
    visualMap: {
      show: false, min: 0, max: 1, dimension: 2,
      inRange: { color: ["card", "heat-1", "heat-2", "heat-3"].map(colour) },
    },
    series: [{ type: "heatmap", data: cells, progressive: 0 }],
  };
}

export default {
  template: "<div></div>",
  props: { options: Object },
  emits: ["zoom"],
  async mounted() {
    await new Promise((resolve) => setTimeout(resolve, 0)); // until the page has its style
    this.chart = echarts.init(this.$el);
    this.shown = {};
    this.chart.on("legendselectchanged", ({ selected }) => Object.assign(this.shown, selected));
    this.chart.on("datazoom", this.zoomed);
    this.chart.getZr().on("dblclick", () => this.$emit("zoom", [0, 1]));
    this.resizes = new ResizeObserver(() => {
      if (this.chart.getWidth() !== this.$el.offsetWidth) this.chart.resize();
      if (!this.isDrawn || this.options.labels) this.draw(); // letters depend on the size
    });
    this.resizes.observe(this.$el);
    this.colours = new MutationObserver(() => this.isDrawn && this.card !== colour("card") && this.draw());
    this.colours.observe(document.body, { attributeFilter: ["class"] });
    this.draw();
  },
  beforeUnmount() {
    clearTimeout(this.pending);
    this.chart?.dispose();
    this.resizes?.disconnect();
    this.colours?.disconnect();
  },
  methods: {
    update_chart() {
      this.chart && this.draw();
    },
    draw() {
      if (this.$el.offsetWidth === 0) return (this.isDrawn = false); // until it is shown
      if (this.chart.getWidth() !== this.$el.offsetWidth) this.chart.resize();
      this.card = colour("card");
      if (this.options.labels) this.chart.setOption(mapOption(this.options, this.chart), true);
      if (this.options.curves) this.drawCurves();
      this.isDrawn = Boolean(this.options.labels || this.options.curves);
    },
    drawCurves() {
      const option = curvesOption(this.options, this.shown);
      if (this.pending) delete option.dataZoom; // it is just being changed
      this.chart.setOption(option, { replaceMerge: ["series"] });
      if (!this.isDrawn && !matchMedia("(pointer: coarse)").matches)
        this.chart.dispatchAction({ type: "takeGlobalCursor", key: "dataZoomSelect", dataZoomSelectActive: true });
    },
    zoomed() {
      clearTimeout(this.pending);
      this.pending = setTimeout(() => {
        this.pending = null;
        const { start, end } = this.chart.getOption().dataZoom[0];
        this.$emit("zoom", [start / 100, end / 100]);
      }, ZOOM_DELAY);
    },
    save(name) {
      const href = this.chart.getDataURL({ pixelRatio: 2, backgroundColor: colour("card") });
      element("a", { href, download: name }).click();
    },
  },
};
