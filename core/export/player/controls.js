function showControls(times) {
  const seconds = secondsOf(motionOf(settings.motion)), loops = motionOf(settings.motion).loops;
  if (!loops && settings.time > seconds && !settings.paused) settings.time = 0;
  const time = loops ? ((settings.time % seconds) + seconds) % seconds : clamp(settings.time, 0, seconds);
  element("timeline").max = seconds;
  element("timeline").value = time;
  element("clock").textContent = `${time.toFixed(2)} / ${seconds.toFixed(2)} s`;
  element("play").querySelector("path").setAttribute("d", settings.paused ? "M7 4l13 8-13 8z" : "M8 5v14M16 5v14");
  element("spin").setAttribute("aria-pressed", settings.spin);
  for (const button of element("motions").children)
    button.setAttribute("aria-pressed", button.textContent === settings.motion);
  if (settings.stats)
    element("stats").textContent = `frame ${times.frame.toFixed(1)} ms\npose ${times.pose.toFixed(2)} ms\n` +
      `sort ${times.sort.toFixed(2)} ms`;
}

function connectControls(show, shown) {
  for (const { name } of description.motions) {
    const button = document.createElement("button");
    button.textContent = name;
    button.onclick = () => show({ motion: name });
    element("motions").append(button);
  }
  const togglePlay = () => show({ paused: !settings.paused });
  const names = Object.keys(BACKGROUNDS);
  element("play").onclick = togglePlay;
  element("spin").onclick = () => show({ spin: !settings.spin });
  element("reset").onclick = canvas.ondblclick = () => show({ ...HOME });
  element("background").onclick = () =>
    show({ background: names[(names.indexOf(settings.background) + 1) % names.length] });
  const timeline = element("timeline");
  let resume = false;
  timeline.onpointerdown = () => { resume = !settings.paused; };
  timeline.oninput = () => show({ time: +timeline.value, paused: true });
  timeline.onchange = () => { if (resume) show({ paused: false }); resume = false; };

  const orbit = (x, y) => show({ azimuth: settings.azimuth - 0.4 * x, elevation: settings.elevation + 0.3 * y });
  const zoom = factor => show({ zoom: settings.zoom * factor });
  const pan = (x, y) => {
    const state = shown(), step = state.metresPerPixel * canvas.height / canvas.clientHeight;
    show({ pan: settings.pan.map((p, k) => p - step * (x * state.camera[k] + y * state.camera[3 + k])) });
  };
  const held = new Map();  // pointers that are down
  canvas.onpointerdown = event => {
    held.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("held");
  };
  canvas.onpointerup = canvas.onpointercancel = event => {
    held.delete(event.pointerId);
    canvas.classList.toggle("held", held.size > 0);
  };
  canvas.onpointermove = event => {
    const last = held.get(event.pointerId);
    if (!last || !shown()) return;
    const x = event.clientX - last.clientX, y = event.clientY - last.clientY;
    if (held.size === 1) (event.buttons & 2 || event.shiftKey ? pan : orbit)(x, y);
    else if (held.size === 2) {
      const other = [...held.values()].find(pointer => pointer.pointerId !== event.pointerId);
      const apart = pointer => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
      zoom(apart(event) / Math.max(apart(last), 1));
      pan(x / 2, y / 2);
    }
    held.set(event.pointerId, event);
  };
  canvas.oncontextmenu = event => event.preventDefault();
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(Math.exp(-0.0012 * event.deltaY * (event.deltaMode ? 16 : 1)));
  }, { passive: false });
  canvas.onkeydown = event => {
    const turns = { ArrowLeft: [20, 0], ArrowRight: [-20, 0], ArrowUp: [0, 15], ArrowDown: [0, -15] };
    if (event.key === " ") togglePlay();
    else if (event.key in turns) orbit(...turns[event.key]);
    else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 1.15 : 1 / 1.15);
    else return;
    event.preventDefault();
  };
}

window.player = start();
window.player.catch(error => { element("message").textContent = error.message; });
