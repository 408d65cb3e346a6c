// Maximum over windows, and its gradient.
#include "kernel.cuh"

// Stands for "no input pixel".
#define OUTSIDE 0xffffffffu

// `taps` has the first pixel and the number of taps inside the map for each row of windows, then for each column.
// `argmax` may be missing; it counts pixels within the image.
template <typename T>
__device__ void max_pool2d(const T* x, const Index* taps, T* y, Index* argmax, Index height, Index width,
                           Index channels, Index out_height, Index out_width, Index dilation_h, Index dilation_w,
                           Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        const Index* column = taps + 2 * (out_height + rest % out_width);
        rest /= out_width;
        const Index* row = taps + 2 * (rest % out_height);
        const T* image = x + rest / out_height * height * width * channels + c;
        Index rows = row[1], columns = column[1], first = row[0] * width + column[0];
        T best = -T(INFINITY);
        Index at = rows > 0 && columns > 0 ? first : OUTSIDE;
        for (Index ty = 0; ty < rows; ++ty) {
            for (Index tx = 0; tx < columns; ++tx) {
                Index pixel = first + ty * dilation_h * width + tx * dilation_w;
                T value = image[pixel * channels];
                if (value > best || isnan(value)) {
                    best = value;
                    at = pixel;
                }
            }
        }
        y[i] = best;
        if (argmax) argmax[i] = at;
    }
}

// `windows` has for each row and then for each column of pixels the range of windows that may have a tap there.
template <typename T>
__device__ void max_pool2d_gradient(const T* dy, const Index* argmax, const Index* windows, T* dx, Index height,
                                    Index width, Index channels, Index out_height, Index out_width, Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        Index x = rest % width;
        rest /= width;
        Index y = rest % height, n = rest / height;
        const Index *rows = windows + 2 * y, *columns = windows + 2 * (height + x);
        T sum = 0;
        for (Index oy = rows[0]; oy < rows[1]; ++oy) {
            for (Index ox = columns[0]; ox < columns[1]; ++ox) {
                Index at = ((n * out_height + oy) * out_width + ox) * channels + c;
                if (argmax[at] == y * width + x) sum += dy[at];
            }
        }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(max_pool2d,
              (const T* x, const Index* taps, T* y, Index* argmax, Index height, Index width, Index channels,
               Index out_height, Index out_width, Index dilation_h, Index dilation_w, Index count),
              (x, taps, y, argmax, height, width, channels, out_height, out_width, dilation_h, dilation_w, count))
EXPORT_FLOATS(max_pool2d_gradient,
              (const T* dy, const Index* argmax, const Index* windows, T* dx, Index height, Index width,
               Index channels, Index out_height, Index out_width, Index count),
              (dy, argmax, windows, dx, height, width, channels, out_height, out_width, count))
