function createRenderer(gl, arrays, gaussians, skinned = true) {
  function program(vertex, fragment, names, captured) {
    const made = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost())
        throw new Error(gl.getShaderInfoLog(shader));
    }
    if (captured) gl.transformFeedbackVaryings(made, captured, gl.INTERLEAVED_ATTRIBS);
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost())
      throw new Error(gl.getProgramInfoLog(made));
    return { made, at: Object.fromEntries(names.map(name => [name, gl.getUniformLocation(made, name)])) };
  }

  function list(format, layout, type, Words, values, perTexel) {
    const rows = Math.ceil(values.length / perTexel / ROW), padded = new Words(rows * ROW * perTexel);
    padded.set(values);
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
    gl.texImage2D(gl.TEXTURE_2D, 0, format, ROW, rows, 0, layout, type, padded);
    nearest();
    return texture;
  }

  function nearest() {
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
  }

  const influences = new Uint32Array(4 * (arrays.joints.length / 4));
  for (let v = 0; v < influences.length / 4; v++) {
    const [a, b, c, d] = arrays.joints.subarray(4 * v, 4 * v + 4), w = arrays.weights.subarray(4 * v, 4 * v + 4);
    influences.set([a | b << 8 | c << 16 | d << 24, w[0] | w[1] << 16, w[2] | w[3] << 16, 0], 4 * v);
  }
  const textures = {
    gaussians: list(gl.RGBA32UI, gl.RGBA_INTEGER, gl.UNSIGNED_INT, Uint32Array, gaussians.words, 4),
    influences: list(gl.RGBA32UI, gl.RGBA_INTEGER, gl.UNSIGNED_INT, Uint32Array, influences, 4),
    correctives: list(gl.RGB8_SNORM, gl.RGB, gl.BYTE, Int8Array, arrays.correctives, 3),
  };
  const shared = ["camera", "eye", "lens"];
  const skin = program(skinShader(skinned), EMPTY, [...Object.keys(textures), "quats", "shifts", "coefficients", ...shared],
    ["center", "axes", "paint"]);
  const splat = program(SPLAT, BLEND, ["lens"]);
  const compose = program(SCREEN, COMPOSE, ["image", "supersampling", "background", "shadows", ...shared]);

  const indices = gl.createBuffer(), splats = gl.createBuffer(), STRIDE = 24;
  const skinInput = gl.createVertexArray(), splatInput = gl.createVertexArray(), feedback = gl.createTransformFeedback();
  gl.bindVertexArray(skinInput);
  gl.bindBuffer(gl.ARRAY_BUFFER, indices);
  gl.bufferData(gl.ARRAY_BUFFER, 4 * gaussians.count, gl.DYNAMIC_DRAW);
  const index = gl.getAttribLocation(skin.made, "index");
  gl.enableVertexAttribArray(index);
  gl.vertexAttribIPointer(index, 1, gl.UNSIGNED_INT, 4, 0);
  gl.bindVertexArray(splatInput);
  gl.bindBuffer(gl.ARRAY_BUFFER, splats);
  gl.bufferData(gl.ARRAY_BUFFER, STRIDE * gaussians.count, gl.DYNAMIC_COPY);
  for (const [name, size, start] of [["center", 2, 0], ["axes", 3, 8], ["paint", 1, 20]]) {
    const location = gl.getAttribLocation(splat.made, name);
    gl.enableVertexAttribArray(location);
    gl.vertexAttribDivisor(location, 1);
    if (name === "paint") gl.vertexAttribIPointer(location, size, gl.UNSIGNED_INT, STRIDE, start);
    else gl.vertexAttribPointer(location, size, gl.FLOAT, false, STRIDE, start);
  }
  gl.bindVertexArray(null);
  gl.bindBuffer(gl.ARRAY_BUFFER, null);

  // Sums of many faint splats need more than eight bits.
  const precise = gl.getExtension("EXT_color_buffer_float") || gl.getExtension("EXT_color_buffer_half_float");
  const target = { frame: gl.createFramebuffer(), image: gl.createTexture(), width: 0, height: 0 };

  function resizeTarget(width, height) {
    if (target.width === width && target.height === height) return;
    gl.deleteTexture(target.image);
    Object.assign(target, { image: gl.createTexture(), width, height });
    gl.bindTexture(gl.TEXTURE_2D, target.image);
    gl.texStorage2D(gl.TEXTURE_2D, 1, precise ? gl.RGBA16F : gl.RGBA8, width, height);
    nearest();
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, target.image, 0);
  }

  function setCamera({ at }, state) {
    gl.uniformMatrix3fv(at.camera, true, state.camera);
    gl.uniform3fv(at.eye, state.eye);
    gl.uniform3fv(at.lens, state.lens);
  }

  // The Gaussians of a state, in an order of depth, become splats.
  function skinAll(state, order) {
    gl.useProgram(skin.made);
    gl.bindVertexArray(skinInput);
    gl.bindBuffer(gl.ARRAY_BUFFER, indices);
    gl.bufferSubData(gl.ARRAY_BUFFER, 0, order);
    gl.bindBuffer(gl.ARRAY_BUFFER, null);
    Object.entries(textures).forEach(([name, texture], unit) => {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.uniform1i(skin.at[name], unit);
    });
    gl.uniform4fv(skin.at.quats, state.body.quats);
    gl.uniform4fv(skin.at.shifts, state.body.shifts);
    gl.uniform1fv(skin.at.coefficients, state.body.coefficients);
    setCamera(skin, state);
    gl.bindTransformFeedback(gl.TRANSFORM_FEEDBACK, feedback);
    gl.bindBufferBase(gl.TRANSFORM_FEEDBACK_BUFFER, 0, splats);
    gl.enable(gl.RASTERIZER_DISCARD);
    gl.beginTransformFeedback(gl.POINTS);
    gl.drawArrays(gl.POINTS, 0, gaussians.count);
    gl.endTransformFeedback();
    gl.disable(gl.RASTERIZER_DISCARD);
    gl.bindBufferBase(gl.TRANSFORM_FEEDBACK_BUFFER, 0, null);
    gl.bindTransformFeedback(gl.TRANSFORM_FEEDBACK, null);
  }

  function composite(state) {
    const [, width, height] = state.lens;
    gl.activeTexture(gl.TEXTURE0);
    resizeTarget(width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.frame);
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.useProgram(splat.made);
    gl.bindVertexArray(splatInput);
    gl.uniform3fv(splat.at.lens, state.lens);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, gaussians.count);
    gl.disable(gl.BLEND);

    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
    gl.useProgram(compose.made);
    gl.bindVertexArray(null);
    gl.bindTexture(gl.TEXTURE_2D, target.image);
    gl.uniform1i(compose.at.image, 0);
    gl.uniform1i(compose.at.supersampling, state.supersampling);
    gl.uniform4fv(compose.at.background, state.background);
    gl.uniform4fv(compose.at.shadows, state.shadows);
    setCamera(compose, state);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }
  return { skinAll, composite };
}
