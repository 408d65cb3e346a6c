// Deformable convolution as a product of matrices: rows are output pixels, columns what their taps read.
#include "corners.cuh"

// Sizes by value; the launching side writes them in this order. `rows` output pixels from `first` on are worked on.
#define PARAMS \
    Index first, Index rows, Index height, Index width, Index channels, Index out_height, Index out_width, \
        Index kernel_h, Index kernel_w, Index groups, Index offset_groups, Index masked, Index clamped, \
        Index stride_h, Index stride_w, int pad_h, int pad_w, Index dilation_h, Index dilation_w, Index count
#define ARGS \
    first, rows, height, width, channels, out_height, out_width, kernel_h, kernel_w, groups, offset_groups, masked, \
        clamped, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, count

// What one tap of one output pixel reads, and the derivatives of the position by the offsets: 0 where it was clamped.
template <typename T>
struct Place {
    Corners<T> corners;
    T mask, slope_y, slope_x;
};

// Moves a coordinate to the border if the rule says so. Whether it is anywhere.
template <typename T>
__device__ bool inside(T& at, T& slope, Index pixels, Index clamped) {
    T size = T(pixels), last = size - T(1);
    slope = T(1);
    if (!clamped) return !(at < T(-1) || at >= size);
    // Unlike its opposite this holds for no NaN.
    bool here = at >= T(0) && at < size;
    if (here && at >= last) {
        at = last;
        slope = T(0);
    }
    return here;
}

template <typename T>
__device__ Place<T> find(const T* places, Index pixel, Index tap, Index group, PARAMS) {
    Index taps = kernel_h * kernel_w, index = group * taps + tap;
    const T* numbers = places + pixel * (offset_groups * taps * (masked ? 3 : 2));
    Index row = pixel / out_width % out_height, column = pixel % out_width;
    T y = T(int(row * stride_h + tap / kernel_w * dilation_h) - pad_h) + numbers[2 * index];
    T x = T(int(column * stride_w + tap % kernel_w * dilation_w) - pad_w) + numbers[2 * index + 1];
    Place<T> place;
    place.mask = masked ? numbers[2 * taps * offset_groups + index] : T(1);
    bool here = inside(y, place.slope_y, height, clamped), there = inside(x, place.slope_x, width, clamped);
    if (here && there) {
        place.corners = corners_around(y, x, height, width);
    } else {
        place.corners = corners_nowhere<T>();
        place.slope_y = place.slope_x = T(0);
    }
    return place;
}

// `(groups, rows, taps, channels of a group)`.
template <typename T>
__device__ void deform_conv2d_columns(const T* input, const T* places, T* columns, PARAMS) {
    Index taps = kernel_h * kernel_w, group_in = channels / groups;
    FOR_EACH(i, count) {
        Index within = i % group_in, rest = i / group_in;
        Index tap = rest % taps;
        rest /= taps;
        Index c = rest / rows * group_in + within, pixel = first + rest % rows;
        Place<T> place = find(places, pixel, tap, c / (channels / offset_groups), ARGS);
        const T* image = input + pixel / (out_height * out_width) * height * width * channels + c;
        columns[i] = place.corners.sample(image, width, channels, place.mask);
    }
}

// The gradients of offsets and masks from those of the columns: a warp for each of `count` samples `(rows, taps, offset
// groups)` adds up over channels.
template <typename T>
__device__ void deform_conv2d_places(const T* input, const T* places, const T* column_grads, T* out, PARAMS) {
    Index sample = blockIdx.x * (THREADS / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (sample >= count) return;
    Index taps = kernel_h * kernel_w, group_in = channels / groups, shared = channels / offset_groups;
    Index group = sample % offset_groups, line = sample / offset_groups;
    Index tap = line % taps, pixel = first + line / taps;
    Place<T> place = find(places, pixel, tap, group, ARGS);
    const T* image = input + pixel / (out_height * out_width) * height * width * channels;
    T sums[4];
    for (int corner = 0; corner < 4; ++corner) {
        T sum = 0;
        if (place.corners.has(corner)) {
            const T* values = image + place.corners.pixel(corner, width) * channels;
            for (Index c = group * shared + lane; c < (group + 1) * shared; c += 32)
                sum += column_grads[(c / group_in * rows * taps + line) * group_in + c % group_in] * values[c];
        }
        sums[corner] = warp_sum(sum);
    }
    if (lane > 0) return;
    T along_y, along_x, weights[4], unmasked = 0;
    place.corners.slopes(sums, along_y, along_x);
    place.corners.weights(T(1), weights);
    for (int corner = 0; corner < 4; ++corner) unmasked += sums[corner] * weights[corner];
    T* to = out + pixel * (offset_groups * taps * (masked ? 3 : 2));
    Index index = group * taps + tap;
    to[2 * index] = along_y * place.slope_y * place.mask;
    to[2 * index + 1] = along_x * place.slope_x * place.mask;
    if (masked) to[2 * taps * offset_groups + index] = unmasked;
}

// The cells and weights of `count` samples of whole images; `none` is the cell of those without pixels.
template <typename T>
__device__ void deform_conv2d_cells(const T* places, Index* cells, T* weights, Index none, PARAMS) {
    Index taps = kernel_h * kernel_w, area = out_height * out_width;
    FOR_EACH(sample, count) {
        Index group = sample % offset_groups, line = sample / offset_groups;
        Place<T> place = find(places, first + line / taps, line % taps, group, ARGS);
        cells[sample] = place.corners.cell(line / taps / area * offset_groups + group, height, width, none);
        place.corners.weights(place.mask, weights + 4 * sample);
    }
}

// Weights `(O, C / groups * taps)`, with a bias behind each row if `row_len` has room, as `(O, taps, C / groups)`.
template <typename T>
__device__ void deform_conv2d_pack(const T* weight, T* packed, Index taps, Index group_in, Index row_len, Index count) {
    FOR_EACH(i, count) {
        Index c = i % group_in, rest = i / group_in;
        packed[i] = weight[rest / taps * row_len + c * taps + rest % taps];
    }
}

// The reverse; `bias` may be missing.
template <typename T>
__device__ void deform_conv2d_unpack(const T* packed, const T* bias, T* weight, Index taps, Index group_in,
                                     Index row_len, Index count) {
    FOR_EACH(i, count) {
        Index o = i / row_len, at = i % row_len;
        weight[i] = at == taps * group_in ? bias[o] : packed[(o * taps + at % taps) * group_in + at / taps];
    }
}

// `(rows, groups, len)` to `(groups, rows, len)`, which is its own reverse with the first two sizes exchanged.
template <typename T>
__device__ void deform_conv2d_exchange(const T* x, T* y, Index rows, Index groups, Index len, Index count) {
    FOR_EACH(i, count) {
        Index at = i % len, rest = i / len;
        y[i] = x[(rest % rows * groups + rest / rows) * len + at];
    }
}

// Adds the last number of each row of `weight` to each of `channels` channels.
template <typename T>
__device__ void deform_conv2d_bias(T* out, const T* weight, Index channels, Index row_len, Index count) {
    FOR_EACH(i, count) out[i] += weight[(i % channels + 1) * row_len - 1];
}

EXPORT_FLOATS(deform_conv2d_columns, (const T* input, const T* places, T* columns, PARAMS),
              (input, places, columns, ARGS))
EXPORT_FLOATS(deform_conv2d_places, (const T* input, const T* places, const T* column_grads, T* out, PARAMS),
              (input, places, column_grads, out, ARGS))
EXPORT_FLOATS(deform_conv2d_cells, (const T* places, Index* cells, T* weights, Index none, PARAMS),
              (places, cells, weights, none, ARGS))
EXPORT_FLOATS(deform_conv2d_pack,
              (const T* weight, T* packed, Index taps, Index group_in, Index row_len, Index count),
              (weight, packed, taps, group_in, row_len, count))
EXPORT_FLOATS(deform_conv2d_unpack,
              (const T* packed, const T* bias, T* weight, Index taps, Index group_in, Index row_len, Index count),
              (packed, bias, weight, taps, group_in, row_len, count))
EXPORT_FLOATS(deform_conv2d_exchange, (const T* x, T* y, Index rows, Index groups, Index len, Index count),
              (x, y, rows, groups, len, count))
EXPORT_FLOATS(deform_conv2d_bias, (T* out, const T* weight, Index channels, Index row_len, Index count),
              (out, weight, channels, row_len, count))
