// Batch normalisation of `(pixels, channels)`. Statistics and sums of gradients are taken in double, in two steps
// whose order depends on the sizes only; what normalises the elements is in the element type.
#include "kernel.cuh"

// A block is 32 channels wide and 8 pixels high.
#define WIDE 32
#define HIGH (THREADS / WIDE)

// Adds up two numbers over the rows of a block; row 0 gets the sums.
__device__ void add_rows(double& first, double& second, double* shared) {
    shared[threadIdx.x] = first;
    shared[THREADS + threadIdx.x] = second;
    __syncthreads();
    if (threadIdx.x < WIDE)
        for (Index i = 1; i < HIGH; ++i) {
            first += shared[i * WIDE + threadIdx.x];
            second += shared[THREADS + i * WIDE + threadIdx.x];
        }
}

// Part `blockIdx.y` of the sums of differences to the first pixel, and of their squares: `partial[part, 2, channels]`.
template <typename T>
__device__ void batch_norm_moments(const T* x, double* partial, Index pixels, Index channels) {
    __shared__ double shared[2 * THREADS];
    Index channel = blockIdx.x * WIDE + threadIdx.x % WIDE, lane = threadIdx.x / WIDE;
    double first = 0, second = 0;
    if (channel < channels) {
        double origin = x[channel];
        for (Index pixel = blockIdx.y * HIGH + lane; pixel < pixels; pixel += gridDim.y * HIGH) {
            double d = double(x[pixel * channels + channel]) - origin;
            first += d;
            second += d * d;
        }
    }
    add_rows(first, second, shared);
    if (lane == 0 && channel < channels) {
        partial[blockIdx.y * 2 * channels + channel] = first;
        partial[(blockIdx.y * 2 + 1) * channels + channel] = second;
    }
}

// Mean, variance and `1 / sqrt(variance + eps)` from the partial sums: `moments[3, channels]`.
template <typename T>
__device__ void batch_norm_moments_finish(const T* x, const double* partial, double* moments, double eps, Index parts,
                                          Index pixels, Index channels) {
    FOR_EACH(channel, channels) {
        double first = 0, second = 0;
        for (Index part = 0; part < parts; ++part) {
            first += partial[part * 2 * channels + channel];
            second += partial[(part * 2 + 1) * channels + channel];
        }
        first /= pixels;
        double variance = second / pixels - first * first;
        // Rounding may leave a tiny negative number; NaN stays.
        if (variance < 0) variance = 0;
        moments[channel] = double(x[channel]) + first;
        moments[channels + channel] = variance;
        moments[2 * channels + channel] = 1.0 / sqrt(variance + eps);
    }
}

// The same from running statistics.
template <typename T>
__device__ void batch_norm_moments_running(const T* mean, const T* variance, double* moments, double eps,
                                           Index channels) {
    FOR_EACH(channel, channels) {
        moments[channel] = mean[channel];
        moments[channels + channel] = variance[channel];
        moments[2 * channels + channel] = 1.0 / sqrt(double(variance[channel]) + eps);
    }
}

// `out = (1 - momentum) running + momentum factor batch`.
template <typename T>
__device__ void batch_norm_move(const T* running, const double* batch, T* out, double momentum, double factor,
                                Index channels) {
    FOR_EACH(channel, channels)
        out[channel] = T((1.0 - momentum) * double(running[channel]) + momentum * factor * batch[channel]);
}

// `(x - mean) inv_std weight + bias (+ residual)`, then ReLU. `weight_bias` is `(2, channels)`.
template <typename T>
__device__ void batch_norm(const T* x, const double* moments, const T* weight_bias, const T* residual, T* y, Index relu,
                           Index channels, Index count) {
    FOR_EACH(i, count) {
        Index channel = i % channels;
        T scale = T(moments[2 * channels + channel] * double(weight_bias[channel]));
        T out = (x[i] - T(moments[channel])) * scale + weight_bias[channels + channel];
        if (residual) out += residual[i];
        y[i] = relu && out <= T(0) ? T(0) : out;
    }
}

// Part `blockIdx.y` of the sums of `dy (x - mean)` and of `dy`, with `dy` behind ReLU: `partial[part, 2, channels]`.
// `y` is null without ReLU.
template <typename T>
__device__ void batch_norm_sums(const T* x, const T* y, const T* dy, const double* moments, double* partial,
                                Index pixels, Index channels) {
    __shared__ double shared[2 * THREADS];
    Index channel = blockIdx.x * WIDE + threadIdx.x % WIDE, lane = threadIdx.x / WIDE;
    double scaled = 0, plain = 0;
    if (channel < channels) {
        double mean = moments[channel];
        for (Index pixel = blockIdx.y * HIGH + lane; pixel < pixels; pixel += gridDim.y * HIGH) {
            Index i = pixel * channels + channel;
            if (y && y[i] <= T(0)) continue;
            double g = dy[i];
            scaled += g * (double(x[i]) - mean);
            plain += g;
        }
    }
    add_rows(scaled, plain, shared);
    if (lane == 0 && channel < channels) {
        partial[blockIdx.y * 2 * channels + channel] = scaled;
        partial[(blockIdx.y * 2 + 1) * channels + channel] = plain;
    }
}

// Gradients of weight and bias from the partial sums: `sums[2, channels]`, and in the element type as `out`.
template <typename T>
__device__ void batch_norm_sums_finish(const double* partial, const double* moments, double* sums, T* out, Index parts,
                                       Index channels) {
    FOR_EACH(channel, channels) {
        double scaled = 0, plain = 0;
        for (Index part = 0; part < parts; ++part) {
            scaled += partial[part * 2 * channels + channel];
            plain += partial[(part * 2 + 1) * channels + channel];
        }
        scaled *= moments[2 * channels + channel];
        sums[channel] = scaled;
        sums[channels + channel] = plain;
        out[channel] = T(scaled);
        out[channels + channel] = T(plain);
    }
}

// The gradient of the input. `sums` are those of everything that the moments came from, null if the moments are
// constants; then `pixels` is not used.
template <typename T>
__device__ void batch_norm_gradient(const T* x, const T* y, const T* dy, const double* moments, const T* weight_bias,
                                    const double* sums, T* dx, double pixels, Index channels, Index count) {
    FOR_EACH(i, count) {
        Index channel = i % channels;
        T g = y && y[i] <= T(0) ? T(0) : dy[i];
        double inv_std = moments[2 * channels + channel], scale = inv_std * double(weight_bias[channel]);
        T out = g * T(scale);
        if (sums) {
            T slope = T(-scale * inv_std * sums[channel] / pixels);
            out += (x[i] - T(moments[channel])) * slope - T(scale * sums[channels + channel] / pixels);
        }
        dx[i] = out;
    }
}

// The gradient of the residual: `dy` where ReLU let values through.
template <typename T>
__device__ void batch_norm_residual(const T* y, const T* dy, T* out, Index count) {
    FOR_EACH(i, count) out[i] = y[i] <= T(0) ? T(0) : dy[i];
}

EXPORT_FLOATS(batch_norm_moments, (const T* x, double* partial, Index pixels, Index channels),
              (x, partial, pixels, channels))
EXPORT_FLOATS(batch_norm_moments_finish,
              (const T* x, const double* partial, double* moments, double eps, Index parts, Index pixels, Index channels),
              (x, partial, moments, eps, parts, pixels, channels))
EXPORT_FLOATS(batch_norm_moments_running,
              (const T* mean, const T* variance, double* moments, double eps, Index channels),
              (mean, variance, moments, eps, channels))
EXPORT_FLOATS(batch_norm_move,
              (const T* running, const double* batch, T* out, double momentum, double factor, Index channels),
              (running, batch, out, momentum, factor, channels))
EXPORT_FLOATS(batch_norm,
              (const T* x, const double* moments, const T* weight_bias, const T* residual, T* y, Index relu,
               Index channels, Index count),
              (x, moments, weight_bias, residual, y, relu, channels, count))
EXPORT_FLOATS(batch_norm_sums,
              (const T* x, const T* y, const T* dy, const double* moments, double* partial, Index pixels, Index channels),
              (x, y, dy, moments, partial, pixels, channels))
EXPORT_FLOATS(batch_norm_sums_finish,
              (const double* partial, const double* moments, double* sums, T* out, Index parts, Index channels),
              (partial, moments, sums, out, parts, channels))
EXPORT_FLOATS(batch_norm_gradient,
              (const T* x, const T* y, const T* dy, const double* moments, const T* weight_bias, const double* sums,
               T* dx, double pixels, Index channels, Index count),
              (x, y, dy, moments, weight_bias, sums, dx, pixels, channels, count))
EXPORT_FLOATS(batch_norm_residual, (const T* y, const T* dy, T* out, Index count), (y, dy, out, count))
