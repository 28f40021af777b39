// A figure with sliders: all its states were computed when the page was built. A slider chooses which one is shown.
for (const figure of document.querySelectorAll("figure.sliders")) {
  const states = JSON.parse(figure.querySelector("script").textContent);
  const inputs = [...figure.querySelectorAll("input")];
  const layers = [...figure.querySelectorAll(".front")];
  const update = () => {
    let at = 0;
    for (const input of inputs) {
      const labels = JSON.parse(input.dataset.labels);
      at = at * labels.length + Number(input.value);
      input.nextElementSibling.textContent = labels[input.value];
      input.setAttribute("aria-valuetext", labels[input.value]);
    }
    layers.forEach((layer, i) => { layer.innerHTML = states[at].fronts[i]; });
    figure.querySelector(".note").innerHTML = states[at].note;
  };
  inputs.forEach((input) => input.addEventListener("input", update));
}
