// The part of cuDNN that convolutions call, as plain loops over what the descriptors say.
//
// The lists of algorithms begin with ones that must not be taken: a fast one that is not deterministic, and one that
// rounds factors. Taking them, or leaving TF32 on, stops the program. CUDA_ON_CPU_NO_CUDNN=1 leaves nothing else in the
// lists, as for sizes that cuDNN cannot do.
#include <cudnn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

struct cudnnTensorStruct { cudnnDataType_t type; int dims[4]; int64_t strides[4]; };
struct cudnnFilterStruct { cudnnDataType_t type; int dims[4]; int64_t strides[4]; };
struct cudnnConvolutionStruct {
    int padding[2], stride[2], dilation[2];
    cudnnConvolutionMode_t mode;
    cudnnDataType_t type;
    cudnnMathType_t math;
    int groups;
};

namespace {
[[noreturn]] void fail(const char* problem) {
    std::fprintf(stderr, "cuda-on-cpu: cuDNN: %s\n", problem);
    std::abort();
}

// Elements lie channels last if the format says so.
bool lay_out(cudnnTensorFormat_t format, const int* dims, int64_t* strides) {
    for (int i = 0; i < 4; ++i) if (dims[i] <= 0) return false;
    int64_t c = dims[1], h = dims[2], w = dims[3];
    if (format == CUDNN_TENSOR_NHWC) {
        int64_t all[4] = {h * w * c, 1, w * c, c};
        std::memcpy(strides, all, sizeof(all));
    } else if (format == CUDNN_TENSOR_NCHW) {
        int64_t all[4] = {c * h * w, h * w, w, 1};
        std::memcpy(strides, all, sizeof(all));
    } else {
        return false;
    }
    return true;
}

// What cuDNN asks of three descriptors that belong together.
cudnnStatus_t agree(cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t y) {
    if (!x || !w || !c || !y) return CUDNN_STATUS_BAD_PARAM;
    if (x->type != w->type || x->type != y->type) return CUDNN_STATUS_BAD_PARAM;
    if (c->mode != CUDNN_CROSS_CORRELATION || c->groups < 1 || x->dims[0] != y->dims[0]) return CUDNN_STATUS_BAD_PARAM;
    if (w->dims[1] * c->groups != x->dims[1] || w->dims[0] != y->dims[1] || w->dims[0] % c->groups) return CUDNN_STATUS_BAD_PARAM;
    for (int axis = 0; axis < 2; ++axis) {
        int reach = (w->dims[2 + axis] - 1) * c->dilation[axis] + 1;
        int room = x->dims[2 + axis] + 2 * c->padding[axis] - reach;
        if (room < 0 || y->dims[2 + axis] != room / c->stride[axis] + 1) return CUDNN_STATUS_BAD_PARAM;
    }
    // It has no kernels for double precision with the channels last, and nothing else is asked for here.
    if (x->type != CUDNN_DATA_FLOAT) return CUDNN_STATUS_NOT_SUPPORTED;
    return CUDNN_STATUS_SUCCESS;
}

// A size for the workspace that depends on the convolution, so that a wrong one shows.
size_t room(cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w) { return 4 * size_t(w->dims[0] + x->dims[2] * x->dims[3]); }

void check(cudnnConvolutionDescriptor_t c, bool deterministic, void* workspace, size_t bytes, size_t wanted, const void* alpha, const void* beta) {
    if (!deterministic) fail("an algorithm that is not deterministic was taken");
    if (c->math != CUDNN_FMA_MATH) fail("factors may be rounded to TF32");
    if (bytes < wanted || !workspace) fail("the workspace is too small");
    if (*static_cast<const float*>(alpha) != 1.0f || *static_cast<const float*>(beta) != 0.0f) fail("only whole results are there");
    std::memset(workspace, 0xa5, bytes);
}

template <typename Perf, typename Algorithm>
cudnnStatus_t list(int wanted, int* found, Perf* out, Algorithm fast, Algorithm steady, cudnnStatus_t status, size_t memory) {
    *found = 0;
    if (status != CUDNN_STATUS_SUCCESS) return status;
    static const bool none = std::getenv("CUDA_ON_CPU_NO_CUDNN");
    struct { Algorithm algorithm; cudnnStatus_t status; cudnnDeterminism_t determinism; cudnnMathType_t math; } all[] = {
        {fast, CUDNN_STATUS_SUCCESS, CUDNN_NON_DETERMINISTIC, CUDNN_FMA_MATH},
        {steady, CUDNN_STATUS_SUCCESS, CUDNN_DETERMINISTIC, CUDNN_TENSOR_OP_MATH},
        {fast, CUDNN_STATUS_NOT_SUPPORTED, CUDNN_DETERMINISTIC, CUDNN_FMA_MATH},
        {steady, CUDNN_STATUS_SUCCESS, CUDNN_DETERMINISTIC, CUDNN_FMA_MATH},
    };
    for (int i = 0; i < (none ? 3 : 4) && *found < wanted; ++i) {
        std::memset(&out[*found], 0, sizeof(Perf));
        out[*found].algo = all[i].algorithm;
        out[*found].status = all[i].status;
        out[*found].determinism = all[i].determinism;
        out[*found].mathType = all[i].math;
        out[*found].memory = memory;
        ++*found;
    }
    return CUDNN_STATUS_SUCCESS;
}

// Calls `pair` with the elements of map, weights and result that every product is made of.
template <typename F>
void products(cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t y, F pair) {
    const int group_out = w->dims[0] / c->groups, group_in = w->dims[1];
    for (int n = 0; n < x->dims[0]; ++n) for (int o = 0; o < w->dims[0]; ++o)
    for (int oy = 0; oy < y->dims[2]; ++oy) for (int ox = 0; ox < y->dims[3]; ++ox)
    for (int i = 0; i < group_in; ++i) for (int ky = 0; ky < w->dims[2]; ++ky) for (int kx = 0; kx < w->dims[3]; ++kx) {
        int iy = oy * c->stride[0] - c->padding[0] + ky * c->dilation[0], ix = ox * c->stride[1] - c->padding[1] + kx * c->dilation[1];
        if (iy < 0 || ix < 0 || iy >= x->dims[2] || ix >= x->dims[3]) continue;
        int channel = o / group_out * group_in + i;
        pair(n * x->strides[0] + channel * x->strides[1] + iy * x->strides[2] + ix * x->strides[3],
             o * w->strides[0] + i * w->strides[1] + ky * w->strides[2] + kx * w->strides[3],
             n * y->strides[0] + o * y->strides[1] + oy * y->strides[2] + ox * y->strides[3]);
    }
}

template <typename D>
int64_t elements(D d) { return int64_t(d->dims[0]) * d->dims[1] * d->dims[2] * d->dims[3]; }

// Sums in double precision, one for each element of `to`.
template <typename F>
void sums(void* to, int64_t count, F each) {
    double* all = static_cast<double*>(std::calloc(count, sizeof(double)));
    each(all);
    for (int64_t i = 0; i < count; ++i) static_cast<float*>(to)[i] = float(all[i]);
    std::free(all);
}
void forward(cudnnTensorDescriptor_t xd, const void* x, cudnnFilterDescriptor_t wd, const void* w, cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t yd, void* y) {
    sums(y, elements(yd), [&](double* all) {
        products(xd, wd, c, yd, [&](int64_t i, int64_t j, int64_t k) { all[k] += double(((const float*)x)[i]) * double(((const float*)w)[j]); });
    });
}
void backward_data(cudnnTensorDescriptor_t xd, void* dx, cudnnFilterDescriptor_t wd, const void* w, cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t yd, const void* dy) {
    sums(dx, elements(xd), [&](double* all) {
        products(xd, wd, c, yd, [&](int64_t i, int64_t j, int64_t k) { all[i] += double(((const float*)dy)[k]) * double(((const float*)w)[j]); });
    });
}
void backward_weight(cudnnTensorDescriptor_t xd, const void* x, cudnnFilterDescriptor_t wd, void* dw, cudnnConvolutionDescriptor_t c, cudnnTensorDescriptor_t yd, const void* dy) {
    sums(dw, elements(wd), [&](double* all) {
        products(xd, wd, c, yd, [&](int64_t i, int64_t j, int64_t k) { all[j] += double(((const float*)x)[i]) * double(((const float*)dy)[k]); });
    });
}
}  // namespace

extern "C" {
size_t cudnnGetVersion() { return CUDNN_VERSION; }
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) { *handle = reinterpret_cast<cudnnHandle_t>(1); return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroy(cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t) { return handle ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM; }

cudnnStatus_t cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* out) { *out = new cudnnTensorStruct(); return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { delete d; return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t d, cudnnTensorFormat_t format, cudnnDataType_t type, int n, int c, int h, int w) {
    int dims[4] = {n, c, h, w};
    d->type = type;
    std::memcpy(d->dims, dims, sizeof(dims));
    return lay_out(format, d->dims, d->strides) ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}
cudnnStatus_t cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* out) { *out = new cudnnFilterStruct(); return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) { delete d; return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type, cudnnTensorFormat_t format, int k, int c, int h, int w) {
    int dims[4] = {k, c, h, w};
    d->type = type;
    std::memcpy(d->dims, dims, sizeof(dims));
    return lay_out(format, d->dims, d->strides) ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}
cudnnStatus_t cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* out) {
    *out = new cudnnConvolutionStruct();
    (*out)->groups = 1;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) { delete d; return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t d, int pad_h, int pad_w, int u, int v, int dilation_h, int dilation_w,
                                              cudnnConvolutionMode_t mode, cudnnDataType_t type) {
    if (pad_h < 0 || pad_w < 0 || u < 1 || v < 1 || dilation_h < 1 || dilation_w < 1) return CUDNN_STATUS_BAD_PARAM;
    d->padding[0] = pad_h, d->padding[1] = pad_w, d->stride[0] = u, d->stride[1] = v, d->dilation[0] = dilation_h, d->dilation[1] = dilation_w;
    d->mode = mode;
    d->type = type;
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t math) { d->math = math; return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t d, int groups) { d->groups = groups; return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnGetConvolutionForwardAlgorithm_v7(cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c,
                                                     cudnnTensorDescriptor_t y, int wanted, int* found, cudnnConvolutionFwdAlgoPerf_t* out) {
    return list(wanted, found, out, CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD, CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, agree(x, w, c, y), room(x, w));
}
cudnnStatus_t cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnnHandle_t, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t y, cudnnConvolutionDescriptor_t c,
                                                          cudnnTensorDescriptor_t x, int wanted, int* found, cudnnConvolutionBwdDataAlgoPerf_t* out) {
    return list(wanted, found, out, CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, agree(x, w, c, y), room(x, w));
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t y, cudnnConvolutionDescriptor_t c,
                                                            cudnnFilterDescriptor_t w, int wanted, int* found, cudnnConvolutionBwdFilterAlgoPerf_t* out) {
    return list(wanted, found, out, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, agree(x, w, c, y), room(x, w));
}
cudnnStatus_t cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnFilterDescriptor_t w, cudnnConvolutionDescriptor_t c,
                                                      cudnnTensorDescriptor_t y, cudnnConvolutionFwdAlgo_t, size_t* bytes) {
    *bytes = room(x, w);
    return agree(x, w, c, y);
}
cudnnStatus_t cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t, cudnnFilterDescriptor_t w, cudnnTensorDescriptor_t y, cudnnConvolutionDescriptor_t c,
                                                           cudnnTensorDescriptor_t x, cudnnConvolutionBwdDataAlgo_t, size_t* bytes) {
    *bytes = room(x, w);
    return agree(x, w, c, y);
}
cudnnStatus_t cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t, cudnnTensorDescriptor_t x, cudnnTensorDescriptor_t y, cudnnConvolutionDescriptor_t c,
                                                             cudnnFilterDescriptor_t w, cudnnConvolutionBwdFilterAlgo_t, size_t* bytes) {
    *bytes = room(x, w);
    return agree(x, w, c, y);
}

cudnnStatus_t cudnnConvolutionForward(cudnnHandle_t, const void* alpha, cudnnTensorDescriptor_t xd, const void* x, cudnnFilterDescriptor_t wd, const void* w,
                                      cudnnConvolutionDescriptor_t c, cudnnConvolutionFwdAlgo_t how, void* workspace, size_t bytes, const void* beta,
                                      cudnnTensorDescriptor_t yd, void* y) {
    cudnnStatus_t status = agree(xd, wd, c, yd);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    check(c, how == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM, workspace, bytes, room(xd, wd), alpha, beta);
    forward(xd, x, wd, w, c, yd, y);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionBackwardData(cudnnHandle_t, const void* alpha, cudnnFilterDescriptor_t wd, const void* w, cudnnTensorDescriptor_t yd, const void* dy,
                                           cudnnConvolutionDescriptor_t c, cudnnConvolutionBwdDataAlgo_t how, void* workspace, size_t bytes, const void* beta,
                                           cudnnTensorDescriptor_t xd, void* dx) {
    cudnnStatus_t status = agree(xd, wd, c, yd);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    check(c, how == CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, workspace, bytes, room(xd, wd), alpha, beta);
    backward_data(xd, dx, wd, w, c, yd, dy);
    return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnConvolutionBackwardFilter(cudnnHandle_t, const void* alpha, cudnnTensorDescriptor_t xd, const void* x, cudnnTensorDescriptor_t yd, const void* dy,
                                             cudnnConvolutionDescriptor_t c, cudnnConvolutionBwdFilterAlgo_t how, void* workspace, size_t bytes, const void* beta,
                                             cudnnFilterDescriptor_t wd, void* dw) {
    cudnnStatus_t status = agree(xd, wd, c, yd);
    if (status != CUDNN_STATUS_SUCCESS) return status;
    check(c, how == CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, workspace, bytes, room(xd, wd), alpha, beta);
    backward_weight(xd, x, wd, dw, c, yd, dy);
    return CUDNN_STATUS_SUCCESS;
}
}
