// Curves tell the values nearest to the pointer: each line has its points in data-points.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg");
  const told = chart.querySelector("output");
  const lines = [...svg.querySelectorAll("polyline")].map((line) => ({
    name: line.dataset.name,
    points: JSON.parse(line.dataset.points),
    drawn: line.getAttribute("points").split(" ").map((pair) => Number(pair.split(",")[0])),
  }));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const near = lines.map((line) => {
      let best = 0;
      line.drawn.forEach((at, i) => {
        if (Math.abs(at - x) < Math.abs(line.drawn[best] - x)) best = i;
      });
      return [line.name, line.points[best]];
    });
    const values = near.map(([name, point]) => `${name} ${point[1].toPrecision(4)}`);
    told.textContent = `step ${near[0][1][0]}: ${values.join(", ")}`;
  });
  svg.addEventListener("pointerleave", () => (told.textContent = ""));
}
