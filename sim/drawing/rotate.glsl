// Rotations by unit quaternions (x, y, z, w), with the roundings of Bullet's shaders: a vector is
// turned by two full products of quaternions.
vec4 product(vec4 a, vec4 b) {
    vec3 axis = a.w * b.xyz + a.xyz * b.w + cross(a.xyz, b.xyz);
    return vec4(axis, dot(a * b, vec4(-1, -1, -1, 1)));
}

vec4 rotated(vec3 v, vec4 q) {
    return product(product(q, vec4(v, 0)), vec4(-q.xyz, q.w));
}
