// Arithmetic in the order and with the rounding that llvmpipe has. Included once per instruction
// set, inside a namespace of its own: no include guard.

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer

inline int32_t bits_of(float value) {
  int32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

// Nearest integer, ties to even, for |value| below 2^22; garbage beyond, but no trap.
inline int32_t nearest(float value) {
  return static_cast<int32_t>(static_cast<uint32_t>(bits_of(value + kMagic)) -
                              static_cast<uint32_t>(bits_of(kMagic)));
}

// Four numbers that are computed with together, or the three of a point.
typedef float F4 __attribute__((vector_size(16)));

inline F4 yzx(F4 v) { return F4{v[1], v[2], v[0], v[3]}; }
inline F4 zxy(F4 v) { return F4{v[2], v[0], v[1], v[3]}; }

// `v` turned by the quaternion `q`, as the product q v q' in Bullet's shader.
inline F4 turned(F4 q, F4 v) {
  const F4 t = q[3] * v + (yzx(q) * zxy(v) - zxy(q) * yzx(v));
  const float w = (-(q[2] * v[2]) - q[1] * v[1]) - q[0] * v[0];
  return (w * -q + t * q[3]) + (yzx(t) * -zxy(q) - zxy(t) * -yzx(q));
}

inline void rotate(const float* q, float x, float y, float z, float* out) {
  const float tx = q[3] * x + (q[1] * z - q[2] * y);
  const float ty = q[3] * y + (q[2] * x - q[0] * z);
  const float tz = q[3] * z + (q[0] * y - q[1] * x);
  const float tw = (-(q[2] * z) - q[1] * y) - q[0] * x;
  out[0] = (tw * -q[0] + tx * q[3]) + (ty * -q[2] - tz * -q[1]);
  out[1] = (tw * -q[1] + ty * q[3]) + (tz * -q[0] - tx * -q[2]);
  out[2] = (tw * -q[2] + tz * q[3]) + (tx * -q[1] - ty * -q[0]);
}

// Row `row` of matrix (by columns) times (x, y, z, 1).
inline float transform(const float* m, int row, float x, float y, float z) {
  return ((m[row] * x + m[4 + row] * y) + m[8 + row] * z) + m[12 + row];
}

// The matrix (by columns) times (x, y, z, 1).
inline F4 transformed(const float* m, float x, float y, float z) {
  F4 columns[4];
  std::memcpy(columns, m, sizeof columns);
  return ((columns[0] * x + columns[1] * y) + columns[2] * z) + columns[3];
}

// Bits of the planes x <= w, x >= -w, then y, near and far, beyond which a corner lies.
inline int32_t outside_of(float x, float y, float z, float w) {
  return int32_t(x > w) | int32_t(x + w < 0.0f) << 1 | int32_t(y > w) << 2 |
         int32_t(y + w < 0.0f) << 3 | int32_t(z + w < 0.0f) << 4 | int32_t(z > w) << 5;
}

// Unsigned normalised integer of a value in 0..1.
inline int32_t unorm16(float value) {
  return bits_of(value * (65535.0f / 65536.0f) + 128.0f) & 0xffff;
}

inline int32_t unorm8(float value) {
  return bits_of(value * (255.0f / 256.0f) + 32768.0f) & 0xff;
}

inline float power(float base, float exponent) {
  // log2: polynomial in ((m - 1) / (m + 1))^2 of the mantissa m.
  const int32_t i = bits_of(base);
  const float e = static_cast<float>(((i & 0x7f800000) >> 23) - 127);
  const float m = float_of((i & 0x007fffff) | 0x3f800000);
  const float y = (m - 1.0f) / (m + 1.0f), z = y * y, z2 = z * z;
  const float le = fused(z2, fused(z2, 0.406718052498846252698f, 0.577440339438736392009f),
                         2.88539009343309178325f);
  const float lo = fused(z2, 0.403343858251329912514f, 0.961791550404184197881f);
  const float logarithm = fused(y, fused(lo, z, le), e);
  // exp2: integer part in the exponent, polynomial of the rest.
  float x = logarithm * exponent;
  x = x < 128.0f ? x : 128.0f;
  x = x > -126.99999f ? x : -126.99999f;
  const float whole = __builtin_floorf(x), f = x - whole, f2 = f * f;
  const float scale = float_of((static_cast<int32_t>(whole) + 127) << 23);
  const float ee = fused(f2, fused(f2, 0.00898934009049466391101f, 0.240153617044375388211f), 1.0f);
  const float eo = fused(f2, fused(f2, 0.00187757667519147912699f, 0.0558263180532956664775f),
                         0.693153073200168932794f);
  const float result = scale * fused(eo, f, ee);
  return base == 0.0f ? 0.0f : result;
}
