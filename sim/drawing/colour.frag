#version 450
uniform sampler2D image;
uniform sampler2DShadow shadow_map;
uniform vec3 light;  // where it is, metres
uniform vec3 eye;    // where highlights are seen from
in vec4 surface_tint;
in vec2 surface_uv;
in vec3 surface_normal;
in vec4 surface_place;
in vec4 shadow_place;
out vec4 colour;

const float shadow_depth = 0.3;  // how much of the diffuse light a shadow takes away
const float ambient = 0.5;
const float highlight = 0.5;
const float shininess = 41.0;

void main() {
    vec4 texel = surface_tint * texture(image, surface_uv);
    if (surface_tint.a == 0.0) discard;
    vec3 normal = normalize(surface_normal);
    float towards = dot(normal, normalize(light));
    float diffuse = 0.5 + 0.5 * clamp(towards, -1.0, 1.0);
    float specular = 0.0;
    if (towards >= 0.0) {
        vec3 mirrored = reflect(-normalize(light - surface_place.xyz), normal);
        float seen = max(0.0, dot(normalize(eye - surface_place.xyz), mirrored));
        specular = pow(seen, shininess) * highlight;
    }
    float lit = texture(shadow_map, vec3(shadow_place.xy, shadow_place.z / shadow_place.w));
    if (diffuse < 0.5) lit = 0.0;
    diffuse = (1.0 - shadow_depth) * diffuse + shadow_depth * diffuse * lit;
    colour = vec4(texel.rgb * (diffuse * (1.0 - ambient) + ambient + specular * lit), surface_tint.a);
}
