// ---- Drawing ------------------------------------------------------------------------------------------------------

// The rotation nearest to the blended matrices is the dominant eigenvector of sum w q q^T over quaternions q.
const SKINNING = `
  for (int k = 0; k < ${RANK}; k++)
    point += coefficients[k] * 127.0 * texelFetch(correctives, place(vertex * ${RANK} + k), 0).xyz;
  uvec4 influence = texelFetch(influences, place(vertex), 0);
  uvec4 joint = (uvec4(influence.x) >> uvec4(0, 8, 16, 24)) & 255u;
  vec4 weight = vec4(influence.y & 65535u, influence.y >> 16, influence.z & 65535u, influence.z >> 16) / 65535.0;
  vec3 moved = vec3(0);
  vec4 blend = weight.x * quats[joint.x];
  for (int k = 0; k < 4; k++) {
    moved += weight[k] * (turn(quats[joint[k]], point) + shifts[joint[k]].xyz);
    if (k > 0) blend += weight[k] * quats[joint[k]] * (dot(quats[joint[k]], quats[joint.x]) < 0.0 ? -1.0 : 1.0);
  }
  for (int step = 0; step < 3; step++) {
    vec4 sum = vec4(0);
    for (int k = 0; k < 4; k++) sum += weight[k] * dot(quats[joint[k]], blend) * quats[joint[k]];
    blend = normalize(sum);
  }
  vec4 quat = product(blend, rest);`;

// Pass 1, once per Gaussian in the order of depth: skins and projects it. The results become attributes of pass 2.
// Without skinning it only projects the rest pose: what a player of still splats does.
const skinShader = skinned => `#version 300 es
precision highp float; precision highp usampler2D; precision highp sampler2D;
in uint index;
uniform usampler2D gaussians, influences;
uniform sampler2D correctives;
uniform vec4 quats[${JOINTS}], shifts[${JOINTS}];
uniform float coefficients[${RANK}];
uniform mat3 camera;  // world to camera: x right, y down, z forward
uniform vec3 eye;
uniform vec3 lens;  // focal length, width and height of the image in pixels
out vec2 center;  // in pixels from the middle of the image
out vec3 axes;  // lower triangle of the matrix that maps the unit disc to the visible ellipse, in pixels
flat out uint paint;
vec3 turn(vec4 q, vec3 v) { return v + 2.0 * cross(q.yzw, cross(q.yzw, v) + q.x * v); }
vec4 product(vec4 a, vec4 b) {
  return vec4(a.x * b.x - dot(a.yzw, b.yzw), a.x * b.yzw + b.x * a.yzw + cross(a.yzw, b.yzw));
}
ivec2 place(int i) { return ivec2(i % ${ROW}, i / ${ROW}); }
void main() {
  int first = 3 * int(index);
  uvec4 a = texelFetch(gaussians, place(first), 0), c = texelFetch(gaussians, place(first + 2), 0);
  vec4 rest = uintBitsToFloat(texelFetch(gaussians, place(first + 1), 0));
  vec3 point = uintBitsToFloat(a.xyz), scales = uintBitsToFloat(c.xyz);
  int vertex = int(c.w);
${skinned ? SKINNING : "  vec3 moved = point;\n  vec4 quat = rest;"}
  vec3 seen = camera * (moved - eye);
  float opacity = float(a.w >> 24) / 255.0;
  paint = a.w;
  axes = vec3(0);
  center = lens.x * seen.xy / seen.z;
  if (seen.z < 0.01) { center = vec2(0); return; }
  vec2 tangent = clamp(seen.xy / seen.z, -0.65 * lens.yz / lens.x, 0.65 * lens.yz / lens.x);
  vec3 u = vec3(0), v = vec3(0);
  for (int k = 0; k < 3; k++) {
    vec3 axis = camera * turn(quat, vec3(k == 0, k == 1, k == 2)) * scales[k];
    u[k] = lens.x / seen.z * (axis.x - tangent.x * axis.z);
    v[k] = lens.x / seen.z * (axis.y - tangent.y * axis.z);
  }
  vec3 minors = cross(u, v);
  float xx = dot(u, u) + 0.3, yy = dot(v, v) + 0.3, xy = dot(u, v);
  float determinant = dot(minors, minors) + 0.3 * (dot(u, u) + dot(v, v)) + 0.09;
  float radius = sqrt(2.0 * log(max(255.0 * opacity, 1.0)));  // where alpha is 1/255
  axes = radius * vec3(sqrt(xx), xy / sqrt(xx), sqrt(determinant / xx));
}`;

const EMPTY = `#version 300 es
void main() {}`;

const SPLAT = `#version 300 es
precision highp float;
in vec2 center; in vec3 axes; in uint paint;
uniform vec3 lens;
out vec2 corner; flat out vec4 color;
void main() {
  corner = vec2(gl_VertexID & 1, gl_VertexID >> 1) * 2.0 - 1.0;
  color = vec4((uvec4(paint) >> uvec4(0, 8, 16, 24)) & 255u) / 255.0;
  vec2 pixel = center + vec2(axes.x * corner.x, axes.y * corner.x + axes.z * corner.y);
  gl_Position = vec4(2.0 * pixel / lens.yz * vec2(1, -1), 0, 1);
}`;

const BLEND = `#version 300 es
precision highp float;
in vec2 corner; flat in vec4 color;
out vec4 result;
void main() {
  float square = dot(corner, corner);
  if (square > 1.0) discard;
  float alpha = min(0.999, color.a * exp(-log(255.0 * color.a) * square));
  result = vec4(color.rgb * alpha, alpha);
}`;

const SCREEN = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0, 1); }`;

// Averages the image in blocks and composes it on the background, with soft shadows below pelvis and feet on the floor.
const COMPOSE = `#version 300 es
precision highp float; precision highp sampler2D;
uniform sampler2D image;
uniform int supersampling;
uniform vec4 background;
uniform mat3 camera;
uniform vec3 eye, lens;
uniform vec4 shadows[3];  // x, z, strength, inverse of the radius
out vec4 result;
void main() {
  vec4 sum = vec4(0);
  ivec2 first = ivec2(gl_FragCoord.xy) * supersampling;
  for (int y = 0; y < supersampling; y++)
    for (int x = 0; x < supersampling; x++) sum += texelFetch(image, first + ivec2(x, y), 0);
  sum /= float(supersampling * supersampling);
  vec2 pixel = gl_FragCoord.xy * float(supersampling) - 0.5 * lens.yz;
  vec3 ray = vec3(pixel.x, -pixel.y, lens.x) * camera;  // transposed: camera to world
  float light = 1.0;
  if (ray.y < 0.0 && eye.y > 0.0) {
    vec2 floorPoint = (eye - ray * (eye.y / ray.y)).xz;
    for (int k = 0; k < 3; k++) {
      vec2 far = (floorPoint - shadows[k].xy) * shadows[k].w;
      light *= 1.0 - shadows[k].z * exp(-dot(far, far));
    }
  }
  vec4 behind = vec4(background.rgb * background.a * light, 1.0 - (1.0 - background.a) * light);
  result = sum + (1.0 - sum.a) * behind;
}`;
