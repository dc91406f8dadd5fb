// Which triangle is seen at each pixel, and the light's depth map. Included once per instruction
// set, inside a namespace of its own: no include guard.

// Triangles up to this size, in 1/256 pixel, are set up in 32 bits without overflow.
constexpr int kSmall = 22000;

struct Window {
  const int32_t *x, *y, *outside;
};

// World positions of a shape's distinct corners.
inline void place(const Mesh& mesh, Shape& shape) {
  const float* __restrict px = mesh.x.data();
  const float* __restrict py = mesh.y.data();
  const float* __restrict pz = mesh.z.data();
  float* __restrict x = shape.x.data();
  float* __restrict y = shape.y.data();
  float* __restrict z = shape.z.data();
  float q[4], p[3];
  std::memcpy(q, shape.turn, sizeof q);
  std::memcpy(p, shape.position, sizeof p);
  const int count = padded(mesh.position_count);
  for (int i = 0; i < count; ++i) {
    float r[3];
    rotate(q, px[i], py[i], pz[i], r);
    x[i] = p[0] + r[0];
    y[i] = p[1] + r[1];
    z[i] = p[2] + r[2];
  }
}

// Window coordinates in 1/256 pixel, and which corners lie outside the view volume. Returns the
// planes that all corners lie beyond in the low bits, those that any lies beyond in the high ones.
inline int32_t project(const Shape& shape, int count, const float* matrix, const Viewport& port,
                       int32_t* __restrict wx, int32_t* __restrict wy, int32_t* __restrict out) {
  const float* __restrict px = shape.x.data();
  const float* __restrict py = shape.y.data();
  const float* __restrict pz = shape.z.data();
  float m[16];
  std::memcpy(m, matrix, sizeof m);
  const float sx = port.scale[0], sy = port.scale[1], tx = port.shift[0], ty = port.shift[1];
  int32_t any = 0, all = -1;
  for (int i = 0; i < count; ++i) {
    const float x = transform(m, 0, px[i], py[i], pz[i]);
    const float y = transform(m, 1, px[i], py[i], pz[i]);
    const float z = transform(m, 2, px[i], py[i], pz[i]);
    const float w = transform(m, 3, px[i], py[i], pz[i]);
    const float oow = 1.0f / w;
    wx[i] = nearest((fused(x * oow, sx, tx) - 0.5f) * 256.0f);
    wy[i] = nearest((fused(y * oow, sy, ty) - 0.5f) * 256.0f);
    const int32_t o = outside_of(x, y, z, w);
    out[i] = o;
    any |= o;
    all &= o;
  }
  return (any << 8) | (all & 0xff);
}

inline int32_t min3(int32_t a, int32_t b, int32_t c) {
  const int32_t m = a < b ? a : b;
  return m < c ? m : c;
}
inline int32_t max3(int32_t a, int32_t b, int32_t c) {
  const int32_t m = a > b ? a : b;
  return m > c ? m : c;
}

// Triangles that may touch a pixel's centre and turn the right way, or must be clipped.
template <bool kClipped>
inline int select(const int32_t* __restrict a, const int32_t* __restrict b,
                  const int32_t* __restrict c, int count, const Window& window,
                  int32_t* __restrict chosen) {
  const int32_t* __restrict wx = window.x;
  const int32_t* __restrict wy = window.y;
  const int32_t* __restrict out = window.outside;
  int found = 0;
  for (int start = 0; start < count; start += kBlock) {
    int32_t keep[kBlock];
    for (int i = 0; i < kBlock; ++i) {
      const int32_t ia = a[start + i], ib = b[start + i], ic = c[start + i];
      const int32_t x0 = wx[ia], x1 = wx[ib], x2 = wx[ic];
      const int32_t y0 = wy[ia], y1 = wy[ib], y2 = wy[ic];
      const int32_t lx = min3(x0, x1, x2), hx = max3(x0, x1, x2);
      const int32_t ly = min3(y0, y1, y2), hy = max3(y0, y1, y2);
      const uint32_t area = static_cast<uint32_t>(x0 - x1) * static_cast<uint32_t>(y2 - y0) -
                            static_cast<uint32_t>(x2 - x0) * static_cast<uint32_t>(y0 - y1);
      const int32_t large = int32_t(((hx - lx) > kSmall) | ((hy - ly) > kSmall));
      const int32_t hit = int32_t(((lx + 255) >> 8) <= (hx >> 8)) &
                          int32_t(((ly + 255) >> 8) <= (hy >> 8));
      int32_t kept = hit & (int32_t(static_cast<int32_t>(area) > 0) | large);
      if (kClipped) {
        const int32_t any = out[ia] | out[ib] | out[ic], all = out[ia] & out[ib] & out[ic];
        kept = any ? int32_t(all == 0) : kept;
      }
      keep[i] = kept;
    }
    const int last = count - start < kBlock ? count - start : kBlock;
    for (int i = 0; i < last; ++i) {
      chosen[found] = start + i;
      found += keep[i];
    }
  }
  return found;
}

// A triangle in the window: fixed-point corners, and the plane of its depth.
struct Triangle {
  int32_t x[3], y[3];
  float z0, zx, zy;
};

struct Slopes {
  float x0, y0, dx01, dy01, dx20, dy20;  // the last four divided by twice the area
};

inline Slopes slopes(float xa, float ya, float xb, float yb, float xc, float yc) {
  Slopes s;
  s.dx01 = xa - xb, s.dy01 = ya - yb, s.dx20 = xc - xa, s.dy20 = yc - ya;
  const float over = 1.0f / (s.dx01 * s.dy20 - s.dy01 * s.dx20);
  s.dx01 *= over, s.dy01 *= over, s.dx20 *= over, s.dy20 *= over;
  s.x0 = xa - 0.5f, s.y0 = ya - 0.5f;
  return s;
}

inline Slopes slopes(const Corner* v) {
  return slopes(v[0].x, v[0].y, v[1].x, v[1].y, v[2].x, v[2].y);
}

inline void plane(const Slopes& s, float v0, float v1, float v2, float* a0, float* dx, float* dy) {
  const float v01 = v0 - v1, v20 = v2 - v0;
  *dx = v01 * s.dy20 - v20 * s.dy01;
  *dy = v20 * s.dx01 - v01 * s.dx20;
  *a0 = v0 - (*dx * s.x0 + *dy * s.y0);
}

inline int32_t snapped(float value) { return nearest((value - 0.5f) * 256.0f); }

inline void prepare(const Corner* v, Triangle* t) {
  for (int i = 0; i < 3; ++i) t->x[i] = snapped(v[i].x), t->y[i] = snapped(v[i].y);
  plane(slopes(v), v[0].z, v[1].z, v[2].z, &t->z0, &t->zx, &t->zy);
}

// Whether a triangle turns the side to us that is drawn.
inline bool faces(const Triangle& t) {
  return int64_t(t.x[0] - t.x[1]) * (t.y[2] - t.y[0]) >
         int64_t(t.x[2] - t.x[0]) * (t.y[0] - t.y[1]);
}

inline float depth_at(const Triangle& t, float x, float y) {
  return fused(t.zy, y, fused(t.zx, x, t.z0));
}

inline int32_t depth16(float z) { return unorm16(z); }
inline int32_t depth24(float z) { return int32_t(z * 16777215.0f + 0.5f); }

// Where triangles are drawn. The image keeps depth and triangle, the light's map only depth; the
// map's rows run upwards, which moves the pixels on an edge to the other triangle.
struct ImageTarget {
  static constexpr bool kUpwards = false;
  int left, top, width, height;
  uint32_t *depth, *ids;
  bool deep;  // 24 bits of depth instead of 16
  uint32_t id;

  template <int32_t (*kRound)(float)>
  void put(const Triangle& t, int y, int from, int to) const {
    uint32_t* __restrict d = depth + size_t(y - top) * size_t(width);
    uint32_t* __restrict n = ids + size_t(y - top) * size_t(width);
    const Triangle plane = t;
    const uint32_t number = id;
    const float fy = float(y);
    for (int x = from; x < to; ++x) {
      const uint32_t k = uint32_t(kRound(depth_at(plane, float(x), fy)));
      const uint32_t before = d[x], shown = n[x];
      const bool nearer = k < before;
      d[x] = nearer ? k : before;
      n[x] = nearer ? number : shown;
    }
  }
  void row(const Triangle& t, int y, int from, int to) const {
    if (deep)
      put<depth24>(t, y, from, to);
    else
      put<depth16>(t, y, from, to);
  }
};

struct MapTarget {
  static constexpr bool kUpwards = true;
  int left, top, width, height;
  uint16_t* depth;

  void row(const Triangle& t, int y, int from, int to) const {
    uint16_t* __restrict d = depth + size_t(y - top) * size_t(width) - left;
    for (int x = from; x < to; ++x) {
      const uint16_t k = uint16_t(unorm16(depth_at(t, float(x), float(y))));
      d[x] = k < d[x] ? k : d[x];
    }
  }
};

// The three edges of a triangle as functions that are positive inside.
template <typename Int>
struct Edges {
  Int value[3], right[3], down[3];  // at the first pixel, and how they change

  Edges(const Triangle& t, bool upwards, int column, int line) {
    for (int i = 0; i < 3; ++i) {
      const int j = i == 2 ? 0 : i + 1;
      const Int dx = Int(t.y[i]) - t.y[j], dy = Int(t.x[i]) - t.x[j];
      const bool own = dx < 0 || (dx == 0 && (upwards ? dy < 0 : dy >= 0));
      value[i] = dx * (Int(t.x[i]) - column * 256) - dy * (Int(t.y[i]) - line * 256) + Int(own);
      right[i] = -dx * 256;
      down[i] = dy * 256;
    }
  }
  void next_row() {
    for (int i = 0; i < 3; ++i) value[i] += down[i];
  }
};

// The pixels of a row that are inside one edge, as a range that shrinks.
inline void narrow(int64_t value, int64_t step, int64_t* first, int64_t* last) {
  if (step > 0) {
    const int64_t from = value > 0 ? 0 : -value / step + 1;
    *first = from > *first ? from : *first;
  } else if (value <= 0) {
    *last = -1;
  } else if (step < 0) {
    const int64_t to = (value - 1) / -step;
    *last = to < *last ? to : *last;
  }
}

template <typename Target>
inline void fill_wide(const Triangle& t, const Target& target, const int* box) {
  Edges<int64_t> edges(t, Target::kUpwards, box[0], box[2]);
  for (int y = box[2]; y <= box[3]; ++y, edges.next_row()) {
    int64_t first = 0, last = box[1] - box[0];
    for (int i = 0; i < 3; ++i) narrow(edges.value[i], edges.right[i], &first, &last);
    if (first <= last) target.row(t, y, box[0] + int(first), box[0] + int(last) + 1);
  }
}

template <typename Target>
inline void fill_narrow(const Triangle& t, const Target& target, const int* box) {
  Edges<int32_t> edges(t, Target::kUpwards, box[0], box[2]);
  for (int y = box[2]; y <= box[3]; ++y, edges.next_row()) {
    int32_t e0 = edges.value[0] - 1, e1 = edges.value[1] - 1, e2 = edges.value[2] - 1;
    for (int x = box[0]; x <= box[1]; ++x) {
      if ((e0 | e1 | e2) >= 0) target.row(t, y, x, x + 1);
      e0 += edges.right[0], e1 += edges.right[1], e2 += edges.right[2];
    }
  }
}

constexpr int kNarrow = 16;  // pixels up to which looking at each costs less than dividing

template <typename Target>
inline void fill(const Triangle& t, const Target& target) {
  const int32_t lx = min3(t.x[0], t.x[1], t.x[2]), hx = max3(t.x[0], t.x[1], t.x[2]);
  const int32_t ly = min3(t.y[0], t.y[1], t.y[2]), hy = max3(t.y[0], t.y[1], t.y[2]);
  int box[4] = {(lx + 255) >> 8, hx >> 8, (ly + 255) >> 8, hy >> 8};
  const int right = target.left + target.width - 1, bottom = target.top + target.height - 1;
  box[0] = box[0] > target.left ? box[0] : target.left;
  box[1] = box[1] < right ? box[1] : right;
  box[2] = box[2] > target.top ? box[2] : target.top;
  box[3] = box[3] < bottom ? box[3] : bottom;
  if (box[0] > box[1] || box[2] > box[3] || !faces(t)) return;
  if (box[1] - box[0] < kNarrow && hx - lx <= kSmall && hy - ly <= kSmall)
    fill_narrow(t, target, box);
  else
    fill_wide(t, target, box);
}

// A corner's place in the window, its clip-space position and nothing else.
inline void window_corner(const float* m, const Viewport& port, float x, float y, float z,
                          Corner* corner) {
  const F4 clip = transformed(m, x, y, z);
  std::memcpy(corner->clip, &clip, sizeof clip);
  corner->oow = 1.0f / corner->clip[3];
  corner->x = fused(corner->clip[0] * corner->oow, port.scale[0], port.shift[0]);
  corner->y = fused(corner->clip[1] * corner->oow, port.scale[1], port.shift[1]);
  corner->z = fused(corner->clip[2] * corner->oow, port.scale[2], port.shift[2]);
}

inline float plane_distance(const Corner& corner, int plane) {
  const float* p = corner.clip;
  const float sign = plane == 0 || plane == 2 || plane == 5 ? -1.0f : 1.0f;
  return sign * p[plane / 2] + p[3];
}

// A new corner between two, `t` of the way from `out` to `in`.
inline Corner between(const Corner& out, const Corner& in, float t, const Viewport& port) {
  Corner n;
  for (int i = 0; i < 4; ++i) n.clip[i] = out.clip[i] + t * (in.clip[i] - out.clip[i]);
  n.oow = 1.0f / n.clip[3];
  n.x = n.clip[0] * n.oow * port.scale[0] + port.shift[0];
  n.y = n.clip[1] * n.oow * port.scale[1] + port.shift[1];
  n.z = n.clip[2] * n.oow * port.scale[2] + port.shift[2];
  for (int i = 0; i < kChannels; ++i)
    n.attributes[i] = out.attributes[i] + t * (in.attributes[i] - out.attributes[i]);
  return n;
}

// Where the edge from `a` (distance da) to `b` (distance db) meets a plane. The arithmetic starts
// at the farther corner, as the driver's clipper does.
inline Corner meet(const Corner& a, float da, const Corner& b, float db, const Viewport& port) {
  const float span = db - da;
  const bool from_b = db < 0.0f ? -db < da : !(-da < db);
  return from_b ? between(b, a, db / span, port) : between(a, b, -da / span, port);
}

constexpr int kMaxCorners = 16;

// Cuts a triangle to the view volume; returns the number of corners of what is left.
inline int clip(const Corner* triangle, int planes, const Viewport& port, Corner* result) {
  Corner other[kMaxCorners];
  Corner *in = result, *out = other;
  int count = 3;
  std::memcpy(in, triangle, 3 * sizeof(Corner));
  for (int p = 0; p < 6 && count >= 3; ++p) {
    if (!(planes >> p & 1)) continue;
    int left = 0;
    float before = plane_distance(in[0], p);
    for (int i = 1; i <= count; ++i) {
      const Corner &a = in[i - 1], &b = in[i == count ? 0 : i];
      const float now = plane_distance(b, p);
      if (!(std::fabs(before) < 1e30f && std::fabs(now) < 1e30f)) return 0;
      if (before >= 0.0f) out[left++] = a;
      if ((before >= 0.0f) == (now < 0.0f)) out[left++] = meet(a, before, b, now, port);
      before = now;
    }
    Corner* t = in;
    in = out, out = t;
    count = left;
  }
  if (in != result) std::memcpy(result, in, size_t(count) * sizeof(Corner));
  return count;
}
