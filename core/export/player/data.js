"use strict";
const element = id => document.getElementById(id);
const description = JSON.parse(element("description").textContent);
const JOINTS = description.parents.length, RANK = description.arrays.correctives.shape[1];
const ROW = 1024;  // texels in a row of a texture that holds a list

// ---- Data -------------------------------------------------------------------------------------------------------

async function readArrays() {
  const bytes = Uint8Array.from(atob(element("data").textContent), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  const types = { uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int16: Int16Array, float32: Float32Array };
  return Object.fromEntries(Object.entries(description.arrays).map(([name, { type, shape, start }]) =>
    [name, new types[type](buffer, start, shape.reduce((a, b) => a * b, 1))]));
}

// Gaussians in the rest pose: centres and vertices for sorting, and three texels of four words each for drawing.
function unpackGaussians(arrays) {
  const { counts, offsets, quats, scales, opacities, colors, vertices } = arrays, count = opacities.length;
  const { offset_limit: limit, offset_knee: knee, log_scales: [lowScale, highScale] } = description;
  const [low, high] = description.vertex_bounds, steepness = Math.log1p(limit / knee) / 127;
  const length = new Float32Array(128).map((_, code) => knee * Math.expm1(code * steepness));
  const size = new Float32Array(256).map((_, code) => Math.exp(lowScale + code / 255 * (highScale - lowScale)));
  const centers = new Float32Array(3 * count), vertexIds = new Uint16Array(count);
  const words = new Uint32Array(12 * count), floats = new Float32Array(words.buffer);
  for (let vertex = 0, i = 0; vertex < counts.length; vertex++) {
    for (const end = i + counts[vertex]; i < end; i++) {
      vertexIds[i] = vertex;
      for (let k = 0; k < 3; k++) {
        const code = offsets[3 * i + k], corner = low[k] + vertices[3 * vertex + k] / 65535 * (high[k] - low[k]);
        centers[3 * i + k] = floats[12 * i + k] = corner + Math.sign(code) * length[Math.abs(code)];
        floats[12 * i + 8 + k] = size[scales[3 * i + k]];
      }
      const norm = Math.hypot(...quats.subarray(4 * i, 4 * i + 4));
      for (let k = 0; k < 4; k++) floats[12 * i + 4 + k] = quats[4 * i + k] / norm;
      words[12 * i + 3] = colors[3 * i] | colors[3 * i + 1] << 8 | colors[3 * i + 2] << 16 | opacities[i] << 24;
      words[12 * i + 11] = vertex;
    }
  }
  return { count, centers, vertexIds, words };
}
