// ---- Skeleton: quaternions are (w, x, y, z) -----------------------------------------------------------------------

function multiply(out, o, a, p, b, q) {
  const w = a[p], x = a[p + 1], y = a[p + 2], z = a[p + 3], s = b[q], t = b[q + 1], u = b[q + 2], v = b[q + 3];
  out[o] = w * s - x * t - y * u - z * v;
  out[o + 1] = w * t + x * s + y * v - z * u;
  out[o + 2] = w * u - x * v + y * s + z * t;
  out[o + 3] = w * v + x * u - y * t + z * s;
}

function rotate(q, o, x, y, z) {
  const w = q[o], a = q[o + 1], b = q[o + 2], c = q[o + 3];
  const s = 2 * (b * z - c * y), t = 2 * (c * x - a * z), u = 2 * (a * y - b * x);
  return [x + w * s + b * u - c * t, y + w * t + c * s - a * u, z + w * u + a * t - b * s];
}

// Rotations relative to the parents between two frames, along great arcs, and the translation, linearly.
function interpolate(arrays, motion, time) {
  let position = time * motion.fps;
  if (motion.loops) position = ((position % motion.frames) + motion.frames) % motion.frames;
  else position = Math.min(Math.max(position, 0), motion.frames - 1);
  const left = Math.floor(position) % motion.frames, share = position - Math.floor(position);
  const right = motion.loops ? (left + 1) % motion.frames : Math.min(left + 1, motion.frames - 1);
  const local = new Float32Array(4 * JOINTS), from = arrays.rotations, start = motion.start;
  for (let j = 0; j < JOINTS; j++) {
    const a = 4 * ((start + left) * JOINTS + j), b = 4 * ((start + right) * JOINTS + j);
    slerp(local, 4 * j, from, a, from, b, share);
  }
  const shift = [0, 1, 2].map(k => {
    const a = arrays.translations[3 * (start + left) + k], b = arrays.translations[3 * (start + right) + k];
    return a + share * (b - a);
  });
  return { local, shift };
}

function slerp(out, o, a, p, b, q, share) {
  let dot = 0, aa = 0, bb = 0;
  for (let k = 0; k < 4; k++) { dot += a[p + k] * b[q + k]; aa += a[p + k] ** 2; bb += b[q + k] ** 2; }
  const sign = dot < 0 ? -1 : 1, angle = Math.acos(Math.min(1, sign * dot / Math.sqrt(aa * bb)));
  const sine = Math.sin(angle), small = sine < 1e-4;
  const u = small ? 1 - share : Math.sin((1 - share) * angle) / sine, v = small ? share : Math.sin(share * angle) / sine;
  let norm = 0;
  for (let k = 0; k < 4; k++) {
    out[o + k] = u * a[p + k] / Math.sqrt(aa) + v * sign * b[q + k] / Math.sqrt(bb);
    norm += out[o + k] ** 2;
  }
  for (let k = 0; k < 4; k++) out[o + k] /= Math.sqrt(norm);
}

// Forward kinematics: a point p of joint j moves to rotate(quats[j], p) + shifts[j]. And the weights of the correctives.
function poseBody(arrays, { local, shift }) {
  const rest = arrays.rest_joints, quats = new Float32Array(4 * JOINTS), shifts = new Float32Array(4 * JOINTS);
  const places = new Float32Array(3 * JOINTS), coefficients = new Float32Array(RANK);
  for (let j = 0; j < JOINTS; j++) {
    const parent = description.parents[j], at = rest.subarray(3 * j, 3 * j + 3);
    if (parent < 0) {
      quats.set(local.subarray(0, 4));
      for (let k = 0; k < 3; k++) places[k] = at[k] + shift[k];
    } else {
      multiply(quats, 4 * j, quats, 4 * parent, local, 4 * j);
      const bone = [0, 1, 2].map(k => at[k] - rest[3 * parent + k]), moved = rotate(quats, 4 * parent, ...bone);
      for (let k = 0; k < 3; k++) places[3 * j + k] = places[3 * parent + k] + moved[k];
      const columns = [rotate(local, 4 * j, 1, 0, 0), rotate(local, 4 * j, 0, 1, 0), rotate(local, 4 * j, 0, 0, 1)];
      for (let e = 0; e < 9; e++) {
        const feature = columns[e % 3][Math.floor(e / 3)] - (e % 4 === 0 ? 1 : 0), row = ((j - 1) * 9 + e) * RANK;
        for (let k = 0; k < RANK; k++) coefficients[k] += feature * arrays.corrective_weights[row + k];
      }
    }
    const turned = rotate(quats, 4 * j, ...at);
    for (let k = 0; k < 3; k++) shifts[4 * j + k] = places[3 * j + k] - turned[k];
  }
  return { quats, shifts, places, coefficients };
}
