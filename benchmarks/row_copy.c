/* The two limits that gather_throughput.py compares with, in plain C. */

#include <stdint.h>
#include <string.h>

/* Cut the periodic neighborhood of every center: rows copied in two segments at most. */
void row_copy(const float *restrict fields, int64_t channels, int64_t mesh,
              const int64_t *restrict centers, int64_t n, int64_t radius, float *restrict out)
{
    const int64_t width = 2 * radius + 1;
    for (int64_t m = 0; m < n; m++) {
        int64_t first[3];
        for (int axis = 0; axis < 3; axis++) {
            first[axis] = (centers[3 * m + axis] - radius) % mesh;
            if (first[axis] < 0)
                first[axis] += mesh;
        }
        const int64_t inside = mesh - first[2];
        const int64_t before_face = inside < width ? inside : width;
        const int64_t past_face = width - before_face;
        for (int64_t channel = 0; channel < channels; channel++) {
            for (int64_t a = 0; a < width; a++) {
                const int64_t x = first[0] + a < mesh ? first[0] + a : first[0] + a - mesh;
                for (int64_t b = 0; b < width; b++) {
                    const int64_t y = first[1] + b < mesh ? first[1] + b : first[1] + b - mesh;
                    const float *row = fields + ((channel * mesh + x) * mesh + y) * mesh;
                    memcpy(out, row + first[2], before_face * sizeof(float));
                    if (past_face > 0)
                        memcpy(out + before_face, row, past_face * sizeof(float));
                    out += width;
                }
            }
        }
    }
}

/* Copy what is there already. */
void contiguous_copy(const float *restrict source, int64_t n_values, float *restrict out)
{
    memcpy(out, source, n_values * sizeof(float));
}
