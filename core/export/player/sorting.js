// ---- Order of depth -----------------------------------------------------------------------------------------------

// Runs in a worker. The depth of a skinned point is linear in the point, so each vertex needs one row of four numbers,
// blended from those of its joints. Correctives are ignored: they change depths by millimetres.
function createSorter({ centers, vertexIds, joints, weights }) {
  const count = vertexIds.length, vertexCount = joints.length / 4, BUCKETS = 65536;
  const blended = new Float32Array(4 * vertexCount), depths = new Float32Array(count);
  const keys = new Uint16Array(count), starts = new Uint32Array(BUCKETS + 1);
  return (rows, order) => {
    for (let v = 0; v < vertexCount; v++) {
      let a = 0, b = 0, c = 0, d = 0;
      for (let k = 4 * v; k < 4 * v + 4; k++) {
        const w = weights[k] / 65535, r = 4 * joints[k];
        a += w * rows[r]; b += w * rows[r + 1]; c += w * rows[r + 2]; d += w * rows[r + 3];
      }
      blended[4 * v] = a; blended[4 * v + 1] = b; blended[4 * v + 2] = c; blended[4 * v + 3] = d;
    }
    let near = Infinity, far = -Infinity;
    for (let i = 0; i < count; i++) {
      const r = 4 * vertexIds[i];
      const z = blended[r] * centers[3 * i] + blended[r + 1] * centers[3 * i + 1] + blended[r + 2] * centers[3 * i + 2]
        + blended[r + 3];
      depths[i] = z;
      if (z < near) near = z;
      if (z > far) far = z;
    }
    const factor = (BUCKETS - 1) / Math.max(far - near, 1e-9);  // the farthest comes first
    starts.fill(0);
    for (let i = 0; i < count; i++) {
      keys[i] = (far - depths[i]) * factor;
      starts[keys[i] + 1]++;  // an assignment's value would not be rounded down
    }
    for (let k = 0; k < BUCKETS; k++) starts[k + 1] += starts[k];
    for (let i = 0; i < count; i++) order[starts[keys[i]]++] = i;
  };
}

function startSorting(scene, onSorted) {
  const work = (sort, rows, order) => {
    const begin = performance.now();
    sort(rows, order);
    return { order, milliseconds: performance.now() - begin };
  };
  try {
    const source = `const createSorter = ${createSorter}, work = ${work}; let sort;
      onmessage = ({ data }) => {
        if (data.scene) { sort = createSorter(data.scene); return; }
        const result = work(sort, data.rows, data.order);
        postMessage(result, [result.order.buffer]);
      };`;
    const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
    worker.postMessage({ scene });
    worker.onmessage = ({ data }) => onSorted(data);
    return (rows, order) => worker.postMessage({ rows, order }, [order.buffer]);
  } catch {  // where the site forbids workers
    const sort = createSorter(scene);
    return (rows, order) => Promise.resolve().then(() => onSorted(work(sort, rows, order)));
  }
}
