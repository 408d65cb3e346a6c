// Mean over bins that cover the map, and its gradient. Sums are doubles: a bin may be a whole map.
#include "kernel.cuh"

// `bins` has the range of pixels of each row of bins, then of each column. A thread makes a result.
template <typename T>
__device__ void adaptive_avg_pool2d(const T* x, const Index* bins, T* y, Index height, Index width, Index channels,
                                    Index out_height, Index out_width, Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        const Index* columns = bins + 2 * (out_height + rest % out_width);
        rest /= out_width;
        const Index* rows = bins + 2 * (rest % out_height);
        const T* image = x + rest / out_height * height * width * channels + c;
        double sum = 0;
        for (Index row = rows[0]; row < rows[1]; ++row)
            for (Index column = columns[0]; column < columns[1]; ++column)
                sum += double(image[(row * width + column) * channels]);
        y[i] = T(sum / double((rows[1] - rows[0]) * (columns[1] - columns[0])));
    }
}

// The same for large bins: a block shares the pixels of a bin out among its warps, 32 channels at a time.
template <typename T>
__device__ void adaptive_avg_pool2d_wide(const T* x, const Index* bins, T* y, Index height, Index width,
                                         Index channels, Index out_height, Index out_width) {
    __shared__ double sums[THREADS];
    Index c = blockIdx.y * 32 + threadIdx.x % 32, rest = blockIdx.x;
    const Index* columns = bins + 2 * (out_height + rest % out_width);
    rest /= out_width;
    const Index* rows = bins + 2 * (rest % out_height);
    Index wide = columns[1] - columns[0], area = (rows[1] - rows[0]) * wide;
    double sum = 0;
    if (c < channels) {
        const T* image = x + rest / out_height * height * width * channels + c;
        for (Index pixel = threadIdx.x / 32; pixel < area; pixel += THREADS / 32) {
            Index row = rows[0] + pixel / wide, column = columns[0] + pixel % wide;
            sum += double(image[(row * width + column) * channels]);
        }
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= 32 || c >= channels) return;
    for (Index other = threadIdx.x + 32; other < THREADS; other += 32) sum += sums[other];
    y[blockIdx.x * channels + c] = T(sum / double(area));
}

// `pixels` has the range of bins that each row and then each column of pixels lies in.
template <typename T>
__device__ void adaptive_avg_pool2d_gradient(const T* dy, const Index* pixels, const Index* bins, T* dx,
                                             Index height, Index width, Index channels, Index out_height,
                                             Index out_width, Index count) {
    FOR_EACH(i, count) {
        Index c = i % channels, rest = i / channels;
        const Index* columns = pixels + 2 * (height + rest % width);
        rest /= width;
        const Index* rows = pixels + 2 * (rest % height);
        const T* grad = dy + rest / height * out_height * out_width * channels + c;
        T sum = 0;
        for (Index oy = rows[0]; oy < rows[1]; ++oy) {
            Index high = bins[2 * oy + 1] - bins[2 * oy];
            for (Index ox = columns[0]; ox < columns[1]; ++ox) {
                const Index* bin = bins + 2 * (out_height + ox);
                T share = T(1.0 / double(high * (bin[1] - bin[0])));
                sum += grad[(oy * out_width + ox) * channels] * share;
            }
        }
        dx[i] = sum;
    }
}

EXPORT_FLOATS(adaptive_avg_pool2d,
              (const T* x, const Index* bins, T* y, Index height, Index width, Index channels, Index out_height,
               Index out_width, Index count),
              (x, bins, y, height, width, channels, out_height, out_width, count))
EXPORT_FLOATS(adaptive_avg_pool2d_wide,
              (const T* x, const Index* bins, T* y, Index height, Index width, Index channels, Index out_height,
               Index out_width),
              (x, bins, y, height, width, channels, out_height, out_width))
EXPORT_FLOATS(adaptive_avg_pool2d_gradient,
              (const T* dy, const Index* pixels, const Index* bins, T* dx, Index height, Index width, Index channels,
               Index out_height, Index out_width, Index count),
              (dy, pixels, bins, dx, height, width, channels, out_height, out_width, count))
