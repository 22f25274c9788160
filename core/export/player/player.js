// ---- Camera and controls ------------------------------------------------------------------------------------------

const BACKGROUNDS = { white: [1, 1, 1, 1], grey: [0.5, 0.5, 0.5, 1], black: [0.06, 0.07, 0.09, 1], transparent: [0, 0, 0, 0] };
const HOME = { azimuth: 20, elevation: 8, zoom: 1, pan: [0, 0, 0] };
const MAX_ELEVATION = 85, ZOOMS = [0.3, 12], TRAINED_SIZE = 512, FADE_SECONDS = 0.3, SPIN_DEGREES = 30;
const settings = { motion: description.motions[0].name, time: 0, paused: false, background: "white", shadow: true,
  spin: false, size: 0, ui: true, stats: false, ...HOME };
const canvas = element("view");
description.motions.reduce((start, motion) => (motion.start = start) + motion.frames, 0);
const motionOf = name => description.motions.find(motion => motion.name === name);
const secondsOf = motion => Math.max(motion.frames - (motion.loops ? 0 : 1), 1) / motion.fps;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1)), wanted = {};
  for (const [name, text] of given) {
    if (name === "motion" && motionOf(text)) wanted.motion = text;
    else if (name === "background" && text in BACKGROUNDS) wanted.background = text;
    else if (["paused", "shadow", "spin", "ui", "stats"].includes(name)) wanted[name] = text !== "0";
    else if (["time", "azimuth", "elevation", "zoom", "size"].includes(name) && isFinite(text)) wanted[name] = +text;
  }
  return wanted;
}

// World axes of a camera that orbits the avatar, and its place; it follows the pelvis horizontally.
function placeCamera(pelvis, focal, lift) {
  const azimuth = settings.azimuth * Math.PI / 180, elevation = settings.elevation * Math.PI / 180;
  const distance = description.view.distance / settings.zoom;
  const away = [Math.sin(azimuth) * Math.cos(elevation), Math.sin(elevation), Math.cos(azimuth) * Math.cos(elevation)];
  const right = [Math.cos(azimuth), 0, -Math.sin(azimuth)];
  const down = [away[0] * away[1], -(away[0] ** 2 + away[2] ** 2), away[1] * away[2]].map(x => x / Math.cos(elevation));
  const target = [pelvis[0], description.view.height, pelvis[2]];
  const eye = target.map((x, k) => x + settings.pan[k] + distance * away[k] + lift * distance / focal * down[k]);
  return { axes: [right, down, away.map(x => -x)], eye, metresPerPixel: distance / focal };
}

function rowsOfDepth({ quats, shifts }, forward, eye) {
  const rows = new Float32Array(4 * JOINTS);
  for (let j = 0; j < JOINTS; j++) {
    const [w, x, y, z] = quats.subarray(4 * j, 4 * j + 4);
    rows.set(rotate([w, -x, -y, -z], 0, ...forward), 4 * j);
    rows[4 * j + 3] = forward.reduce((sum, f, k) => sum + f * (shifts[4 * j + k] - eye[k]), 0);
  }
  return rows;
}

function shadowsOf(places) {
  const spot = (joint, strength, radius) => {
    const [x, y, z] = places.subarray(3 * joint, 3 * joint + 3);
    return [x, z, settings.shadow ? strength * Math.exp(-Math.max(y - 0.05, 0) * 2.5) : 0, 1 / radius];
  };
  return new Float32Array([spot(0, 1.2, 0.5), spot(10, 0.35, 0.16), spot(11, 0.35, 0.16)].flat());  // pelvis, feet
}

function resizeCanvas() {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  canvas.style.width = canvas.style.height = settings.size ? `${settings.size / (window.devicePixelRatio || 1)}px` : "";
  canvas.width = settings.size || Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = settings.size || Math.max(1, Math.round(canvas.clientHeight * ratio));
}

async function start() {
  const gl = canvas.getContext("webgl2", { antialias: false, depth: false, premultipliedAlpha: true });
  if (!gl) throw new Error("This page needs WebGL 2.");
  const arrays = await readArrays(), gaussians = unpackGaussians(arrays);
  let renderer = createRenderer(gl, arrays, gaussians);
  const scene = { centers: gaussians.centers, vertexIds: gaussians.vertexIds, joints: arrays.joints, weights: arrays.weights };
  const times = { pose: 0, sort: 0, frame: 0 };
  let dirty = true, sorting = null, sorted = null, shown = null, begun = 0, fade = null, before = performance.now();
  const spares = [0, 1].map(() => new Uint32Array(gaussians.count));  // one order is shown while the next is computed
  let waiting = [];

  const sort = startSorting(scene, ({ order, milliseconds }) => {
    sorted = { ...sorting, order };
    sorting = null;
    times.sort = milliseconds;
  });

  function currentPose() {
    const pose = interpolate(arrays, motionOf(settings.motion), settings.time);
    if (fade && fade.share < 1)
      for (let j = 0; j < 4 * JOINTS; j += 4) slerp(pose.local, j, fade.from, j, pose.local.slice(), j, fade.share);
    return pose;
  }

  function currentState() {
    const begin = performance.now(), pose = currentPose(), body = poseBody(arrays, pose);
    const { width, height } = canvas, supersampling = Math.max(1, Math.ceil(TRAINED_SIZE / Math.min(width, height)));
    const covered = settings.ui && !settings.size ? element("bar").offsetHeight * height / canvas.clientHeight : 0;
    const free = Math.max(Math.min(width, height - 1.2 * covered), 0.3 * height);
    const focal = free / 2 / Math.tan(description.fov / 2) * supersampling;
    const camera = placeCamera(body.places, focal, 0.6 * covered * supersampling);
    times.pose = performance.now() - begin;
    return { id: ++begun, local: pose.local, body, supersampling, camera: camera.axes.flat(), eye: camera.eye, ...{
      lens: [focal, width * supersampling, height * supersampling], metresPerPixel: camera.metresPerPixel * supersampling,
      background: BACKGROUNDS[settings.background], shadows: shadowsOf(body.places) } };
  }

  function draw(state) {
    if (shown && shown.order !== state.order) spares.push(shown.order);
    shown = state;
    renderer.skinAll(state, state.order);
    renderer.composite(state);
    const done = waiting.filter(({ id }) => id <= state.id);
    waiting = waiting.filter(({ id }) => id > state.id);
    done.forEach(({ resolve }) => resolve());
  }

  // Order and pose of a drawn frame belong together: the next state waits until the worker has sorted the last one.
  function frame(now) {
    requestAnimationFrame(frame);
    const seconds = Math.min(now - before, 100) / 1000;
    times.frame += 0.1 * (now - before - times.frame);
    before = now;
    if (!settings.paused) settings.time += seconds;
    if (settings.spin) settings.azimuth = (settings.azimuth + SPIN_DEGREES * seconds) % 360;
    if (fade) fade.share = Math.min(fade.share + seconds / FADE_SECONDS, 1);
    dirty ||= !settings.paused || settings.spin || (fade && fade.share < 1);
    if (sorted) { draw(sorted); sorted = null; }
    if (dirty && !sorting) {
      dirty = Boolean(fade && fade.share < 1);
      if (fade?.share === 1) fade = null;
      sorting = currentState();
      sort(rowsOfDepth(sorting.body, sorting.camera.slice(6), sorting.eye), spares.pop());
    }
    showControls(times);
  }

  // Applies settings, and resolves when they are drawn.
  function show(wanted = {}) {
    if (wanted.motion && wanted.motion !== settings.motion) {
      if (!("time" in wanted)) {
        settings.time = 0;
        if (shown) fade = { from: shown.local, share: 0 };
      }
    }
    if ("time" in wanted) fade = null;
    Object.assign(settings, wanted);
    settings.elevation = clamp(settings.elevation, -MAX_ELEVATION, MAX_ELEVATION);
    settings.zoom = clamp(settings.zoom, ...ZOOMS);
    element("bar").hidden = document.querySelector("h1").hidden = !settings.ui;
    element("stats").hidden = !settings.stats;
    document.documentElement.classList.toggle("dark", settings.background === "black");
    canvas.classList.toggle("checker", settings.background === "transparent");
    resizeCanvas();
    dirty = true;
    return new Promise(resolve => waiting.push({ id: begun + 1, resolve }));
  }

  // The last frame as the address of a PNG image.
  function capture() {
    draw(shown);
    return canvas.toDataURL();
  }

  // Medians in milliseconds of each stage of a frame, the graphics commands included, and of projecting without skinning.
  async function benchmark(frames = 30) {
    const pixel = new Uint8Array(4), samples = { pose: [], sort: [], skin: [], project: [], draw: [] };
    const still = createRenderer(gl, arrays, gaussians, false);
    const timed = work => {
      const begin = performance.now();
      work();
      gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);  // waits until it is drawn
      return performance.now() - begin;
    };
    for (let k = 0; k < frames; k++) {
      await show({ paused: true, time: k / 30, azimuth: 12 * k });
      timed(() => {});
      samples.pose.push(times.pose);
      samples.sort.push(times.sort);
      samples.project.push(timed(() => still.skinAll(shown, shown.order)));
      samples.skin.push(timed(() => renderer.skinAll(shown, shown.order)));
      samples.draw.push(timed(() => renderer.composite(shown)));
    }
    return Object.fromEntries(Object.entries(samples).map(([name, x]) => [name, x.sort((a, b) => a - b)[x.length >> 1]]));
  }

  connectControls(show, () => shown);
  canvas.addEventListener("webglcontextlost", event => event.preventDefault());
  canvas.addEventListener("webglcontextrestored", () => { renderer = createRenderer(gl, arrays, gaussians); dirty = true; });
  new ResizeObserver(() => show()).observe(document.documentElement);
  addEventListener("hashchange", () => show(readHash()));
  requestAnimationFrame(frame);
  await show(readHash());
  return { show, capture, benchmark, settings, description, gaussians };
}
