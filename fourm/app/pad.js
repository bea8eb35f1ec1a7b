// A surface to paint on, to draw boxes on, or to choose a place on: what gr.HTML runs when it loads.
//
// props: tool ("paint", "boxes", "place"), side (cells of a painting), inks ([{index, name, color}]),
// picture (below it, a data URL), note (a line above it), says (what it is, for those who do not see it), value.
// A painting is the index of each cell's ink in base64, 255 = bare; boxes and places are JSON of
// shares of the surface's sides and a number that makes each one new.

const BARE = 255, STEP = 1 / 32, FINE = 1 / 128, MOST_UNDO = 20;

const make = (tag, name, text = "") => {
  const made = document.createElement(tag);
  made.className = name;
  made.textContent = text;
  return made;
};

const bar = make("div", "pad-bar"), surface = make("div", "pad-surface"), ground = make("img", "");
const cursor = make("div", "pad-cursor"), frame = make("div", "pad-frame");
const layer = document.createElement("canvas");
surface.append(ground, layer, frame, cursor);
surface.tabIndex = 0;
surface.setAttribute("role", "application");
surface.setAttribute("aria-label", props.says);
surface.style.aspectRatio = String(props.aspect);
surface.dataset.tool = props.tool;
element.querySelector(".pad").append(make("div", "pad-note", props.note), bar, surface);

const at = { x: 0.5, y: 0.5 };
let told = 0;
const tell = (value) => {
  props.value = value;
  trigger("input");
};
const moveTo = (x, y) => {
  at.x = Math.min(1, Math.max(0, x));
  at.y = Math.min(1, Math.max(0, y));
  cursor.style.left = `${100 * at.x}%`;
  cursor.style.top = `${100 * at.y}%`;
};

const painting = () => {
  const side = props.side, cells = new Uint8Array(side * side).fill(BARE), before = [];
  let ink = props.inks[0].index, size = 0.12, last = null;
  layer.width = layer.height = side;
  const show = () => {
    const image = new ImageData(side, side);
    const colors = new Map(props.inks.map(({ index, color }) => [index, color]));
    cells.forEach((cell, i) => {
      if (cell !== BARE) image.data.set(colors.get(cell), 4 * i);
    });
    layer.getContext("2d").putImageData(image, 0, 0);
  };
  const remember = () => {
    before.push(cells.slice());
    before.splice(0, before.length - MOST_UNDO);
  };
  const done = () => {
    last = null;
    show();
    tell(cells.every((cell) => cell === BARE) ? "" : btoa(cells.reduce((s, c) => s + String.fromCharCode(c), "")));
  };
  const dab = (x, y) => {
    const radius = Math.max(0.5, (size * side) / 2);
    const left = Math.floor(x * side - radius), top = Math.floor(y * side - radius);
    for (let r = Math.max(0, top); r <= Math.min(side - 1, top + 2 * radius + 1); r++)
      for (let c = Math.max(0, left); c <= Math.min(side - 1, left + 2 * radius + 1); c++)
        if (Math.hypot(c + 0.5 - x * side, r + 0.5 - y * side) <= radius) cells[r * side + c] = ink;
  };
  const chips = [...props.inks, { index: BARE, name: "rub out", color: null }].map(({ index, name, color }) => {
    const chip = make("button", "pad-chip", name);
    if (color) {
      const swatch = make("i", "");
      swatch.style.background = `rgb(${color.slice(0, 3).join(",")})`;
      chip.prepend(swatch);
    }
    chip.addEventListener("click", () => {
      ink = index;
      chips.forEach((other) => other.setAttribute("aria-pressed", String(other === chip)));
    });
    chip.setAttribute("aria-pressed", String(index === ink));
    return chip;
  });
  const brush = Object.assign(make("input", "pad-size"), { type: "range", min: 2, max: 50, value: 12 });
  brush.setAttribute("aria-label", "size of the brush");
  brush.addEventListener("input", () => (size = brush.value / 100));
  const action = (name, run) => {
    const button = make("button", "pad-chip", name);
    button.addEventListener("click", run);
    return button;
  };
  bar.append(
    ...chips, brush,
    action("fill what is bare", () => { remember(); cells.forEach((c, i) => { if (c === BARE) cells[i] = ink; }); done(); }),
    action("undo", () => { if (before.length) { cells.set(before.pop()); done(); } }),
    action("clear", () => { remember(); cells.fill(BARE); done(); }),
  );
  watch("value", () => { if (!props.value) { cells.fill(BARE); show(); } });
  return {
    down: (x, y) => { remember(); last = [x, y]; dab(x, y); show(); },
    move: (x, y) => {
      const steps = Math.ceil(Math.hypot(x - last[0], y - last[1]) * side) || 1;
      for (let i = 1; i <= steps; i++) dab(last[0] + ((x - last[0]) * i) / steps, last[1] + ((y - last[1]) * i) / steps);
      last = [x, y];
      show();
    },
    up: done,
    key: (x, y) => { remember(); dab(x, y); done(); },
  };
};

const boxes = () => {
  let first = null;
  const show = (x, y) => Object.assign(frame.style, {
    display: "block",
    left: `${100 * Math.min(first[0], x)}%`, top: `${100 * Math.min(first[1], y)}%`,
    width: `${100 * Math.abs(x - first[0])}%`, height: `${100 * Math.abs(y - first[1])}%`,
  });
  const close = (x, y) => {
    const [a, b] = first;
    first = null;
    frame.style.display = "none";
    if (Math.abs(x - a) > 0.01 && Math.abs(y - b) > 0.01)
      tell(JSON.stringify([Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y), ++told]));
  };
  const begin = (x, y) => { first = [x, y]; show(x, y); };
  return { down: begin, move: show, up: close, key: (x, y) => (first ? close(x, y) : begin(x, y)), moved: (x, y) => first && show(x, y) };
};

const place = () => {
  const choose = (x, y) => { surface.classList.add("pad-chosen"); tell(JSON.stringify([x, y, ++told])); };
  return { down: () => {}, move: () => {}, up: choose, key: choose };
};

const tools = { paint: painting, boxes, place, none: () => ({ down() {}, move() {}, up() {}, key() {} }) };
const tool = tools[props.tool]();
let drawing = false;
const spot = (event) => {
  const box = surface.getBoundingClientRect();
  moveTo((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
};
surface.addEventListener("pointerdown", (event) => {
  if (event.button) return;
  drawing = true;
  surface.setPointerCapture(event.pointerId);
  spot(event);
  tool.down(at.x, at.y);
});
surface.addEventListener("pointermove", (event) => { if (drawing) { spot(event); tool.move(at.x, at.y); } });
const end = () => { if (drawing) { drawing = false; tool.up(at.x, at.y); } };
surface.addEventListener("pointerup", end);
surface.addEventListener("pointercancel", () => (drawing = false));
surface.addEventListener("keydown", (event) => {
  const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (way) {
    const step = event.shiftKey ? FINE : STEP;
    moveTo(at.x + way[0] * step, at.y + way[1] * step);
    tool.moved?.(at.x, at.y);
  } else if (event.key === "Enter" || event.key === " ") tool.key(at.x, at.y);
  else return;
  event.preventDefault();
});

const underlay = () => {
  ground.hidden = !props.picture;
  ground.alt = "";
  if (props.picture) ground.src = props.picture;
};
watch("picture", underlay);
underlay();
moveTo(0.5, 0.5);
